"""Diffusions in physical time, dX = b(X, t) dt + sigma dW: the prediction IS the drift b; simulated with s > t."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.process import Prediction, Process
from sciflow.core.spaces import Euclidean
from sciflow.core.state import Layout


class Drift(Process):
    """Diffusion with a learned or parametric drift and constant noise; without noise, an ordinary flow.

    Args:
        sigma: Noise >= 0, in units of x per square root of time. 0: deterministic, any solver of velocities fits.

    Raises:
        UserError: sigma < 0.
    """

    kind = "drift"
    physical: ClassVar[bool] = True  # the clock runs forward and the network knows the forward drift

    def __init__(self, sigma: float) -> None:
        super().__init__()
        if not sigma >= 0:
            raise UserError(f"sigma: got {sigma}, expected a number >= 0")
        self.sigma, self.space = float(sigma), Euclidean()

    def provides(self) -> frozenset[str]:
        """A velocity only without noise: the flow of the drift alone has other marginals than the diffusion."""
        return super().provides() - ({"velocity"} if self.sigma else set())

    def sde(self, x: Tensor, pred: Prediction, t: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """(b, sigma)."""
        return pred.to("drift"), torch.tensor(self.sigma, dtype=x.dtype, device=x.device)

    def velocity(self, x: Tensor, pred: Prediction, t: Tensor, layout: Layout) -> Tensor:
        """b."""
        return pred.to("drift")
