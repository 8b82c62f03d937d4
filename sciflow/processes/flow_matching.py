r"""Flow matching on straight lines (Lipman et al. 2023; Liu et al. 2023; Chen & Lipman 2024 on the torus).

x_t = exp_{x0}(t log_{x0} x1): geodesics of the space between data x0 (t = 0) and a start x1 (t = 1). The network learns
the velocity v = E[log_{x0} x1 | x_t] = dx/dt; generation follows it from t = 1 to 0. It is the stochastic interpolant
without noise.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.kernels import Dirac, Gaussian
from sciflow.core.process import Prediction, Process
from sciflow.core.spaces import Euclidean
from sciflow.core.state import Layout


class FlowMatching(Process):
    """Geodesic paths between data and a standard normal start (on the torus: wrapped, uniform to 1e-8 for period 1).

    Args:
        space: Geometry.
    """

    kind = "velocity"
    kinds: ClassVar[tuple[str, ...]] = ("velocity", "data")
    joins_ends: ClassVar[bool] = True
    noise: ClassVar[float] = 0.0

    def __init__(self, space: Euclidean | None = None) -> None:
        super().__init__()
        self.space = space if space is not None else Euclidean()

    def provides(self) -> frozenset[str]:
        """All but the marginal, which is pinned at x1."""
        return super().provides() - {"marginal"}

    def prior(self, like: Tensor, layout: Layout) -> Gaussian:
        """Standard normal of the space."""
        return Gaussian(torch.zeros_like(like), torch.ones_like(like), self.space, layout)

    def marginal(self, x0: Tensor, t: Tensor, layout: Layout, x1: Tensor | None = None) -> Dirac:
        """The point of the path.

        Raises:
            UserError: x1 is missing.
        """
        if x1 is None:
            raise UserError("a flow joins two points: its marginal needs x1 (train with a coupling that gives it)")
        return Dirac(self.space.add(x0, layout.rows(t, x0) * self.space.diff(x0, x1)))

    def target(self, x0: Tensor, x1: Tensor, x_t: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """dx_t/dt of one path."""
        return self.space.diff(x0, x1)

    def velocity(self, x: Tensor, pred: Prediction, t: Tensor, layout: Layout) -> Tensor:
        """What the network predicts."""
        return pred.value

    def to_data(self, value: Tensor, kind: str, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """x0 = x - t v."""
        if kind != "velocity":
            return super().to_data(value, kind, x, t, layout)
        return self.space.add(x, -layout.rows(t, x) * value)

    def from_data(self, data: Tensor, kind: str, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """v = (x - x0)/t."""
        if kind != "velocity":
            return super().from_data(data, kind, x, t, layout)
        return self.space.diff(data, x) / layout.rows(t, x)
