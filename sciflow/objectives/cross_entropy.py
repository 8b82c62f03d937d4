"""Cross-entropy of a predicted distribution over classes.

For one-hot data under Gaussian noise the minimiser is p(class | x_t), whose vector of probabilities IS E[x0 | x_t]: the
same data prediction that squared error finds, with stronger gradients (Dieleman et al. 2022, CDCD). For tokens it is
the usual denoising cross-entropy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciflow.core.objective import Example, Objective
from sciflow.core.process import Prediction


class CrossEntropy(Objective):
    """-log p(true class), averaged over the free entries of a sample.

    The prediction of kind "data" holds probabilities (rows, ..., K); x0 is one-hot (rows, ..., K) or int64 (rows, ...).
    """

    def __call__(self, pred: Prediction, example: Example) -> Tensor:
        """(B,) losses."""
        probs, x0, layout = pred.to("data"), example.x0, pred.layout
        log_probs = probs.clamp_min(torch.finfo(probs.dtype).tiny).log()
        if not x0.is_floating_point():
            losses = -log_probs.gather(-1, x0[..., None])[..., 0]
            return layout.per_sample(losses) / layout.counts(losses).clamp_min(1)
        space = pred.process.space
        losses = -(x0 * log_probs)  # masked entries have x0 = 0
        count = space.dim(x0, layout) / x0.shape[-1]  # type: ignore[union-attr, operator]
        return space.reduce(losses, layout) / count.clamp_min(1)  # type: ignore[union-attr, operator]
