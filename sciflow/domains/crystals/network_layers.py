r"""Parts of CSPNet: message passing in factorised form, and how fields are read and predicted.

A layer of CSPNet (Jiao et al. 2023, DiffCSP, equations 6 to 8) sends along every directed edge i -> j of a crystal,
self loops included,

    e_ij = phi([h_i, h_j, lattice features, sin(k d_ij), cos(k d_ij)]),   h_i <- h_i + psi([h_i, mean_j e_ij]),

with d_ij = x_j - x_i in radians. The first linear map of phi is a sum of blocks W_i h_i + W_j h_j + W_L l +
W_s sin(k d) + W_c cos(k d), so W_i h and W_j h are computed per atom, W_L l per crystal, and since d_ji = -d_ij flips
the sine only, the Fourier products p_c and p_s once per unordered pair: p_c + p_s for (i, j), p_c - p_s for (j, i).
Self loops have d = 0: the row sums of W_c. Same function, 39 % of the products per edge (H = 512, 128 frequencies).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sciflow.core.config import Configurable
from sciflow.networks.pairs import Pairs

CLOCK_FREQUENCIES = 16
PAIRS = 1024  # pairs of one block
EPSILON = 1e-7  # concentration of no knowledge


class MessageLayer(nn.Module):
    """One layer; the parameters are those of the unfactorised form, `edge_in` maps [h_i, h_j, lattice, sin, cos].

    Args:
        hidden: Width H.
        lattice: Number L of lattice features.
        frequencies: k = 0 .. frequencies - 1, on three axes each.
    """

    def __init__(self, hidden: int, lattice: int, frequencies: int) -> None:
        super().__init__()
        self.blocks = [hidden, hidden, lattice, 3 * frequencies, 3 * frequencies]
        self.norm = nn.LayerNorm(hidden)
        self.edge_in, self.edge_out = nn.Linear(sum(self.blocks), hidden), nn.Linear(hidden, hidden)
        self.node_in, self.node_out = nn.Linear(2 * hidden, hidden), nn.Linear(hidden, hidden)

    def forward(self, h: Tensor, lattice: Tensor, sine: Tensor, cosine: Tensor, pairs: Pairs) -> Tensor:
        """New h (N, H) from h, lattice (B, L), sine and cosine (P, 3 frequencies) of the pairs."""
        x = self.norm(h)
        source, target, crystal, odd, even = self.edge_in.weight.split(self.blocks, 1)
        start = functional.linear(x, source) + functional.linear(lattice, crystal, self.edge_in.bias)[pairs.crystal]
        end = functional.linear(x, target)
        messages = self.message(start + end + even.sum(1))  # self loops
        half_sum, half_difference = (start + end) / 2, (start - end) / 2
        # The two directions of a pair are p + q and p - q; in place and in blocks: large arrays are bound by memory.
        for part in blocks(pairs.first):
            first, second = pairs.first[part], pairs.second[part]
            p = functional.linear(cosine[part], even)
            p += half_sum.index_select(0, first)
            p += half_sum.index_select(0, second)
            q = functional.linear(sine[part], odd)
            q += half_difference.index_select(0, first)
            q -= half_difference.index_select(0, second)
            messages = messages.index_add_(0, first, self.message(p + q))
            messages = messages.index_add_(0, second, self.message(p.sub_(q)))
        messages = messages / pairs.counts[pairs.crystal][:, None]
        update = functional.silu(self.node_in(torch.cat([x, messages.to(x.dtype)], 1)))
        return h + functional.silu(self.node_out(update))

    def message(self, edge_in: Tensor) -> Tensor:
        """e (edges, H) from the first linear map of phi, which is overwritten."""
        return functional.silu(self.edge_out(functional.silu(edge_in, inplace=True)), inplace=True)


def blocks(pairs: Tensor) -> list[slice]:
    """Blocks of pairs: on a CPU arrays of some megabytes, which the allocator reuses, on other devices one."""
    size = PAIRS if pairs.device.type == "cpu" else max(1, len(pairs))
    return [slice(i, i + size) for i in range(0, len(pairs), size)]


def fourier(angle: Tensor, pairs: Pairs, frequencies: int) -> tuple[Tensor, Tensor]:
    """sin and cos of k (x_j - x_i) for angles (N, 3): two tensors (P, 3 frequencies)."""
    k = torch.arange(frequencies, dtype=angle.dtype, device=angle.device)
    phase = ((angle[pairs.second] - angle[pairs.first])[:, :, None] * k).flatten(1)
    return phase.sin(), phase.cos()


def clock_code(clock: Tensor, batch: int) -> Tensor:
    """cos and sin of k pi t / 2, k = 1 .. 16, for clocks () or (B,): (B, 32)."""
    k = torch.arange(1, CLOCK_FREQUENCIES + 1, dtype=clock.dtype, device=clock.device) * (math.pi / 2)
    phase = clock.expand(batch)[:, None] * k
    return torch.cat([phase.cos(), phase.sin()], 1)


class PlanarCoordinates(Configurable):
    """Beliefs as planar vectors (N, 3, 2) (`PlanarBFN`): direction and length are read, planar vectors predicted.

    The output is a complex multiple of the believed direction, so that a shift of all coordinates shifts it too.
    """

    features: int = 3
    outputs: int = 6

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Angles (N, 3) and confidences (N, 3), here the length of the belief."""
        return torch.atan2(x[..., 1], x[..., 0]), x.norm(dim=-1)

    def predict(self, out: Tensor, x: Tensor) -> Tensor:
        """Outputs (N, 6) of the network -> planar vectors (N, 3, 2); 0 outputs give the believed direction."""
        angle = torch.atan2(x[..., 1], x[..., 0])
        along, across = out.to(x).unflatten(1, (3, 2)).unbind(-1)
        along = 1 + along
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([cos * along - sin * across, sin * along + cos * across], -1)


class ConcentrationCoordinates(PlanarCoordinates):
    """Von Mises beliefs c (cos m, sin m) (`VonMisesBFN`): the logarithm of c is read, 0 for no knowledge, 1 at the end.

    Args:
        accuracy: Final concentration beta of the process.
    """

    def __init__(self, accuracy: float = 1e3) -> None:
        self.accuracy = accuracy

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Angles (N, 3) and (log(c + eps) - log eps)/(log beta - log eps), eps = 1e-7 (Wu et al. 2025)."""
        angle, length = super().read(x)
        return angle, ((length + EPSILON).log() - math.log(EPSILON)) / (math.log(self.accuracy) - math.log(EPSILON))


class TorusCoordinates(Configurable):
    """Fractional coordinates (N, 3) on the torus: scores, velocities or noises are predicted, which no shift changes.

    Args:
        stacked: Number of predictions per coordinate; more than one are stacked on a last dimension (interpolants).
    """

    features: int = 0

    def __init__(self, stacked: int = 1) -> None:
        self.stacked, self.outputs = stacked, 3 * stacked

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Angles (N, 3); no confidence."""
        return 2 * math.pi * x, x[:, :0]

    def predict(self, out: Tensor, x: Tensor) -> Tensor:
        """The outputs, (N, 3) or (N, 3, stacked)."""
        return out.to(x).unflatten(1, (3, self.stacked)) if self.stacked > 1 else out.to(x)


class GramLattice(Configurable):
    """Nine numbers (B, 3, 3): rotations act on the right, so L L^T is read and a matrix M, giving M L, predicted.

    Args:
        stacked: Number of predictions, as in `TorusCoordinates`.
    """

    features: int = 9

    def __init__(self, stacked: int = 1) -> None:
        self.stacked, self.outputs = stacked, 9 * stacked

    def read(self, x: Tensor) -> Tensor:
        """Gram matrix of the rows: (B, 9)."""
        return (x @ x.transpose(1, 2)).flatten(1)

    def predict(self, out: Tensor, x: Tensor) -> Tensor:
        """M x: (B, 3, 3), or (B, 3, 3, stacked)."""
        matrices = out.to(x).reshape(-1, self.stacked, 3, 3) @ x[:, None]
        return matrices.movedim(1, -1) if self.stacked > 1 else matrices[:, 0]


class InvariantLattice(Configurable):
    """Six numbers without orientation (`PolarLattice`): read and predicted as they are."""

    features: int = 6
    outputs: int = 6

    def read(self, x: Tensor) -> Tensor:
        """(B, 6)."""
        return x

    def predict(self, out: Tensor, x: Tensor) -> Tensor:
        """(B, 6)."""
        return out.to(x)
