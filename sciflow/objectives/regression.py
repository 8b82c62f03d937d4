r"""Regression losses: squared error of a prediction in a stated kind.

The minimiser is the conditional mean of that kind's target, for every weight. Weights relate the kinds (C08 of the
catalog): |x0 - x0'|^2 = (sigma/alpha)^2 |z - z'|^2 = (sigma^2/alpha)^2 |s - s'|^2.
"""

from __future__ import annotations

from torch import Tensor

from sciflow.core.objective import Example, Objective
from sciflow.core.process import Prediction


class Regression(Objective):
    """Sum over the free coordinates of (prediction - target)^2, divided by their number if `per_entry`.

    `Regression("noise")` is denoising score matching with weight sigma^2 (Song et al. 2021).

    Args:
        kind: Kind in which the error is measured.
        per_entry: Mean instead of sum over the coordinates of a sample, so that large samples do not dominate.
    """

    def __init__(self, kind: str = "noise", per_entry: bool = True) -> None:
        self.kind, self.per_entry = kind, per_entry

    def weight(self, pred: Prediction) -> Tensor:
        """Weight of the squared errors, broadcastable to the field."""
        return pred.x.new_ones(())

    def __call__(self, pred: Prediction, example: Example) -> Tensor:
        """(B,) losses."""
        process, layout, x = pred.process, pred.layout, pred.x
        target = process.from_data(example.x0, self.kind, x, pred.t, layout)
        space = process.space
        error = space.diff(target, pred.to(self.kind)) ** 2  # type: ignore[union-attr, operator]
        error = space.reduce(self.weight(pred) * error, layout)  # type: ignore[union-attr, operator]
        return error / space.dim(x, layout).clamp_min(1) if self.per_entry else error  # type: ignore[union-attr, operator]


class LikelihoodWeighted(Regression):
    """Score matching weighted with g(t)^2, which bounds the likelihood (Song, Durkan, Murray & Ermon 2021).

    Args:
        per_entry: As in `Regression`.
    """

    def __init__(self, per_entry: bool = True) -> None:
        super().__init__("score", per_entry)

    def weight(self, pred: Prediction) -> Tensor:
        """g^2."""
        return pred.process.score_step(pred.t, pred.layout, pred.x)[1]  # type: ignore[operator]
