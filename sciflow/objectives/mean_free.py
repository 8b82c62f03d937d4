r"""Losses of periodic coordinates that leave out the rigid shift of a sample (FlowMM, Miller et al. 2024; OMatG 2025).

A network of coordinate differences cannot know in which direction a crystal drifts as a whole, and need not: crystals
that differ by a shift are the same. The mean of the error over the rows of a sample is subtracted before it is squared.
"""

from __future__ import annotations

from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.objective import Example, Objective
from sciflow.core.process import Prediction
from sciflow.core.spaces import ZeroCoM


class MeanFreeMatching(Objective):
    """|v - v'|^2 against the velocity (and noise) of one path, without the mean over each sample."""

    def __call__(self, pred: Prediction, example: Example) -> Tensor:
        """(B,) losses, averaged over coordinates; the example must carry x1."""
        if example.x1 is None:
            raise UserError("matching needs the prior end x1; the process must join two ends")
        target = pred.process.target(example.x0, example.x1, pred.x, pred.t, pred.layout)  # type: ignore[operator]
        error = ZeroCoM().project((pred.value - target).flatten(1), pred.layout) ** 2
        return pred.layout.per_sample(error) / pred.layout.counts(pred.x)


class WrappedScore(Objective):
    """Denoising score matching on the torus: sigma^2 |s - grad log q(x_t | x0)|^2 with the score of the wrapped normal.

    DiffCSP (Jiao et al. 2023, equation 9). The nearest image alone, which `Regression` takes, is wrong where sigma is
    not small against the period. For networks that predict noise = -sigma score or any kind that converts to it.
    """

    def __call__(self, pred: Prediction, example: Example) -> Tensor:
        """(B,) losses, averaged over coordinates."""
        process, layout, x = pred.process, pred.layout, pred.x
        sigma, _ = process.score_step(pred.t, layout, x)  # type: ignore[operator]
        alpha = layout.rows(process.schedule.alpha(pred.t), x)  # type: ignore[union-attr, operator]
        score = process.space.gaussian_score(x, alpha * example.x0, sigma)  # type: ignore[union-attr, operator]
        error = (pred.to("noise") + sigma * score) ** 2
        return layout.per_sample(error) / layout.counts(x)
