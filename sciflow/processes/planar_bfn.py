r"""Periodic Bayesian flow with additive accuracy: angles as points of the unit circle, Gaussian beliefs in the plane.

A coordinate F in [0, 1) is u = (cos 2 pi F, sin 2 pi F). The belief about u is an isotropic Gaussian N(mu, I/rho), so
that precisions add up and everything is the Gaussian process with the schedule of Bayesian flows ("Periodic Bayesian
Flow Networks with Additive Accuracy", ICML 2026; Graves et al. 2023, section 4):

    mu | u ~ N(gamma u, gamma (1 - gamma) I),   gamma(t) = 1 - sigma_1^(2 (1 - t)).

The direction of mu is the believed coordinate, its length the confidence. The network predicts u (kind "data").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciflow.core.kernels import Gaussian
from sciflow.core.schedules import BFN
from sciflow.core.state import Layout
from sciflow.processes.gaussian import GaussianProcess


class PlanarBFN(GaussianProcess):
    """Bayesian flow of periodic coordinates (rows, d), noised as planar vectors (rows, d, 2).

    Args:
        sigma_data: sigma_1, standard deviation of the belief at t = 0 in radians.
    """

    def __init__(self, sigma_data: float = math.sqrt(1e-3)) -> None:
        super().__init__(BFN(sigma_data), kind="data")

    def encode(self, x: Tensor) -> Tensor:
        """Coordinates in units of the period (rows, d) -> unit vectors (rows, d, 2)."""
        return unit_vectors(2 * math.pi * x)

    def decode(self, x: Tensor, data: Tensor | None) -> Tensor:
        """Direction of the vectors (rows, d, 2) -> coordinates in [0, 1): (rows, d)."""
        return fractions(x)

    def prior(self, like: Tensor, layout: Layout) -> Gaussian:
        """No knowledge: the origin. `like` is shaped like the data, (rows, d)."""
        return super().prior(self.encode(like), layout)


def unit_vectors(angle: Tensor) -> Tensor:
    """(cos, sin) on a new last dimension."""
    return torch.stack([torch.cos(angle), torch.sin(angle)], -1)


def fractions(x: Tensor) -> Tensor:
    """Direction of planar vectors (..., 2) in units of the full turn, in [0, 1); 0 for the zero vector."""
    fraction = torch.remainder(torch.atan2(x[..., 1], x[..., 0]) / (2 * math.pi), 1.0)
    return torch.where(fraction >= 1, torch.zeros_like(fraction), fraction)  # -1e-9 rounds to 1 in float32
