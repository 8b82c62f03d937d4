"""Bridges: from a given point x1 at t = 1 to data at t = 0, under a Gaussian reference process.

The marginal pinned at both ends is the posterior of the reference seen from t = 1. Given x0, the path from x_t to
x_s no longer depends on x1, so generation uses the reference's posterior and reverse SDE unchanged, started from data
x1 (Liu et al. 2023, I2SB; Li et al. 2023, BBDM). There is no prior: the start must be given.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.kernels import Gaussian
from sciflow.core.process import Prediction, Process
from sciflow.core.state import Layout
from sciflow.processes.gaussian import GaussianProcess


class Bridge(Process):
    """Diffusion bridge under the reference `base`.

    Args:
        base: Reference process, e.g. a `GaussianProcess` with a `Brownian` or `OU` schedule; its kind must be "data".
    """

    kinds: ClassVar[tuple[str, ...]] = ("data",)
    joins_ends: ClassVar[bool] = True

    def __init__(self, base: GaussianProcess) -> None:
        super().__init__()
        if base.kind != "data":
            raise UserError(f"a bridge predicts its data end: expected a base of kind 'data', got '{base.kind}'")
        self.base, self.space = base, base.space

    def marginal(self, x0: Tensor, t: Tensor, layout: Layout, x1: Tensor | None = None) -> Gaussian:
        """q(x_t | x0, x1).

        Raises:
            UserError: x1 is missing.
        """
        if x1 is None:
            raise UserError(
                "a bridge is pinned at both ends: its marginal needs x1 (train with a coupling that gives it)"
            )
        return self.base.marginal(x0, t, layout, x1)

    def posterior(self, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, layout: Layout) -> Gaussian:
        """q(x_s | x_t, x0) of the reference."""
        return self.base.posterior(x_t, x0, t, s, layout)

    def sde(self, x: Tensor, pred: Prediction, t: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Reverse SDE of the reference pinned at the predicted x0: f x - g^2 grad log q(x_t | x0)."""
        drift, g = self.base.noise_sde(x, t, layout)
        score = self.base.from_data(pred.to("data"), "score", x, t, layout)
        return drift - g**2 * score, g
