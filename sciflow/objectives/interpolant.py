"""Losses of stochastic interpolants: |b - b'|^2 + |eta - eta'|^2 against the path's velocity and noise (Albergo et
al. 2023).

Regressing eta = E[z | x_t] instead of the score keeps the loss finite at both ends.
"""

from __future__ import annotations

from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.objective import Example, Objective
from sciflow.core.process import Prediction


class InterpolantMatching(Objective):
    """Squared errors of velocity and noise, averaged over coordinates."""

    def __call__(self, pred: Prediction, example: Example) -> Tensor:
        """(B,) losses; the example must carry x1."""
        if example.x1 is None:
            raise UserError("interpolant matching needs the prior end x1; train with a coupling")
        process, layout = pred.process, pred.layout
        target = process.target(example.x0, example.x1, pred.x, pred.t, layout)  # type: ignore[operator]
        error = ((pred.value - target) ** 2).sum(-1)
        return process.space.reduce(error, layout) / process.space.dim(pred.x, layout)  # type: ignore[union-attr, operator]
