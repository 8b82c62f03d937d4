r"""Stochastic interpolants (Albergo, Boffi & Vanden-Eijnden 2023) between data x0 (t = 0) and any start x1 (t = 1).

x_t = (1 - t) x0 + t x1 + gamma(t) z with gamma^2 = noise t (1 - t). The fields that a network learns are the velocity
b = E[dx_t/dt | x_t] and eta = E[z | x_t]; the score is -eta/gamma. For any epsilon >= 0 chosen AFTER training

    dx = (b - epsilon score) dt + sqrt(2 epsilon) dW,   dt < 0,

has the same marginals; epsilon = 0 is the flow. (The paper's clock runs the other way: its b is minus ours.)
gamma vanishes at both ends, so a grid for the SDE must stay inside, e.g. from 0.999 to 0.001.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.kernels import Gaussian
from sciflow.core.process import Prediction, Process
from sciflow.core.spaces import Euclidean
from sciflow.core.state import Layout


class StochasticInterpolant(Process):
    """Linear interpolant with Brownian-bridge noise.

    The network's output for this field is b and eta stacked on a new last dimension: (rows, ..., 2).

    Args:
        noise: c in gamma^2 = c t (1 - t).
        diffusion: epsilon of the generating SDE.
        space: Geometry.
    """

    kind = "interpolant"
    kinds: ClassVar[tuple[str, ...]] = ("interpolant",)
    joins_ends: ClassVar[bool] = True

    def __init__(self, noise: float = 1.0, diffusion: float = 1.0, space: Euclidean | None = None) -> None:
        super().__init__()
        if noise <= 0 or diffusion < 0:
            raise UserError(f"noise must be positive and diffusion non-negative, got {noise} and {diffusion}")
        self.noise, self.diffusion = noise, diffusion
        self.space = space if space is not None else Euclidean()

    def provides(self) -> frozenset[str]:
        """All but the marginal: it is pinned at x1, which a solver does not know, so nothing can be re-perturbed."""
        return super().provides() - {"marginal"}

    def gamma(self, t: Tensor) -> Tensor:
        """sqrt(c t (1 - t))."""
        return (self.noise * t * (1 - t)).clamp_min(0).sqrt()

    def prior(self, like: Tensor, layout: Layout) -> Gaussian:
        """Standard normal, the usual start; any other start may be given to the sampler instead."""
        return Gaussian(torch.zeros_like(like), torch.ones_like(like), self.space, layout)

    def marginal(self, x0: Tensor, t: Tensor, layout: Layout, x1: Tensor | None = None) -> Gaussian:
        """q(x_t | x0, x1).

        Raises:
            UserError: x1 is missing.
        """
        if x1 is None:
            raise UserError(
                "an interpolant joins two points: its marginal needs x1 (train with a coupling that gives it)"
            )
        mean = self.space.add(x0, layout.rows(t, x0) * self.space.diff(x0, x1))
        return Gaussian(mean, layout.rows(self.gamma(t), x0), self.space, layout)

    def target(self, x0: Tensor, x1: Tensor, x_t: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """(dx_t/dt, z) of one path, stacked: the regression target of the network. (rows, ..., 2)."""
        mean = self.marginal(x0, t, layout, x1).location
        residual = self.space.diff(mean, x_t)  # gamma z
        rate = layout.rows(self.noise * (1 - 2 * t) / 2 / self.gamma(t) ** 2, x_t)  # gamma' / gamma
        return torch.stack([self.space.diff(x0, x1) + rate * residual, residual / layout.rows(self.gamma(t), x_t)], -1)

    def velocity(self, x: Tensor, pred: Prediction, t: Tensor, layout: Layout) -> Tensor:
        """b."""
        return pred.value[..., 0]

    def sde(self, x: Tensor, pred: Prediction, t: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """b - epsilon score and sqrt(2 epsilon)."""
        score = -pred.value[..., 1] / layout.rows(self.gamma(t), x)
        g = torch.full_like(t, 2 * self.diffusion).sqrt()
        return pred.value[..., 0] - self.diffusion * score, layout.rows(g, x)
