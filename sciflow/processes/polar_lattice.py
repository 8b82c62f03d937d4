r"""Lattices without orientation: Gaussian process on the logarithm of the symmetric polar factor.

Every lattice matrix L (rows a, b, c) is P Q with P = (L L^T)^(1/2) symmetric positive and Q orthogonal. The crystal
does not depend on Q, so the six numbers k of log P in an orthonormal basis of the symmetric matrices describe it (Jiao
et al. 2024, DiffCSP++):

    k = (S_11, S_22, S_33, sqrt2 S_12, sqrt2 S_13, sqrt2 S_23),   S = log P - mean I,

divided by `std`. Volumes are positive by construction, and unlike the nine numbers of L under rotation-equivariant
networks, k has a mean that a network can predict from no information at all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.kernels import Gaussian
from sciflow.core.schedules import Schedule
from sciflow.core.state import Layout
from sciflow.processes.gaussian import GaussianProcess

ROWS, COLUMNS = (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)


class PolarLattice(GaussianProcess):
    """Noising of (B, 3, 3) lattices as (B, 6) vectors k.

    Args:
        schedule: alpha and sigma for k.
        mean: Typical log edge length of the data, in the units of the lattices given to `encode`.
        std: Typical spread of log edge lengths; k is O(1) for typical data.
        kind: What the network predicts.

    Raises:
        UserError: std is not positive.
    """

    def __init__(
        self, schedule: Schedule | None = None, mean: float = 0.0, std: float = 1.0, kind: str = "data"
    ) -> None:
        super().__init__(schedule, kind=kind)
        if std <= 0:
            raise UserError(f"std must be positive, got {std}")
        self.mean, self.std = mean, std

    def encode(self, x: Tensor) -> Tensor:
        """Lattices (B, 3, 3) -> k (B, 6). In float64: the Gram matrix squares the condition number."""
        values, vectors = torch.linalg.eigh(x.double() @ x.double().transpose(1, 2))
        logs = 0.5 * values.clamp_min(1e-300).log()
        symmetric = (vectors * logs[:, None, :]) @ vectors.transpose(1, 2)
        return ((symmetric[:, ROWS, COLUMNS] - self._offset(symmetric)) * self._factor(symmetric)).to(x)

    def decode(self, x: Tensor, data: Tensor | None) -> Tensor:
        """k (B, 6) -> symmetric lattices P (B, 3, 3)."""
        entries = x.double() / self._factor(x) + self._offset(x)
        symmetric = entries.new_zeros(len(x), 3, 3)
        symmetric[:, ROWS, COLUMNS] = symmetric[:, COLUMNS, ROWS] = entries
        return torch.linalg.matrix_exp(symmetric).to(x)

    def prior(self, like: Tensor, layout: Layout) -> Gaussian:
        """The law at t = 1. `like` is shaped like the data, (B, 3, 3)."""
        return super().prior(like.new_zeros(len(like), 6), layout)

    def _offset(self, like: Tensor) -> Tensor:
        return torch.tensor([self.mean] * 3 + [0.0] * 3, dtype=torch.float64, device=like.device)

    def _factor(self, like: Tensor) -> Tensor:
        factor = torch.tensor([1.0] * 3 + [math.sqrt(2)] * 3, dtype=torch.float64, device=like.device)
        return factor / self.std
