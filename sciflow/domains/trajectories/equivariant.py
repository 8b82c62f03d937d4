r"""A network of irreps for trajectories that tells a molecule from its mirror image (optional library e3nn).

EGTN sees distances only, so that it cannot know left from right. Here features are irreps of O(3) of degree 0 and 1,

    h = scalars 0e (S), pseudo-scalars 0o (Q), vectors 1o (V), axial vectors 1e (A):  (N, T, S + Q + 3 V + 3 A),

which products and linear maps keep apart; ONE map C per spatial layer adds pseudo-scalars to scalars. With C = 0 the
network is equivariant under reflections, with it under rotations only.

Spatial layer, per frame, on the directed edges j -> i, r = |x_i - x_j|, Y = (1, sqrt(3) (x_i - x_j)/r) (Tensor Field
Networks, Thomas et al. 2018; depth-wise as in NequIP, Batzner et al. 2022):

    m_i = n_i^(-1/2) sum_j w(r, e_ij, scalars of h_i and h_j) h_j (x) Y,    z = L m_i + L' h_i,
    z_0o <- z_0o + a . (b x c)  for the directions a, b, c of vectors L'' m_i,    z_0e <- z_0e + C z_0o,
    h_i <- h_i + gate(z),    x_i <- x_i + (a vector of gate(z)).

The signed volumes a . (b x c) show handedness to the first layer already; products alone need three. w is a network
of the eight functions sin(n pi u)/u, u = r/(r + reach): Bessel functions of the bounded u, which vanish at infinity
like 1/r. Any cutoff would hide far bodies from each other in systems where all pairs interact.

Temporal layer, per atom, q, k and v linear in h, psi and its factorised form as in `network_layers`:

    a_ts = softmax_s c (q_t . k_s + q0_t . psi(t - s)),   h_t <- h_t + o_t,   x_t <- x_t + (a vector of o_t),
    o_t = sum_s a_ts (v_s + psi(t - s) + g(v_s) (x_t - x_s)),

with inner products over all irreps, psi in the scalars and one vector per channel of g. Both layers read h / sqrt(1 +
mean square) per kind: without it products of products overflow after six layers. The solid harmonic x_t - x_s,
unlike its direction, makes the last sum x_t (sum_s a_ts g_s) - sum_s a_ts g_s x_s: nothing of size T x T x H is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from sciflow.core.errors import UserError, require
from sciflow.core.state import State
from sciflow.domains.trajectories.anchors import Anchor, ResidualScale
from sciflow.domains.trajectories.network import EGTN, ClockCode
from sciflow.domains.trajectories.network_layers import Frames, Graph

RADIAL = 8
ROWS = 1024  # edges x frames of one block on a CPU
Widths = tuple[int, int, int, int]  # channels of 0e, 0o, 1o, 1e


def irreps(widths: Widths) -> str:
    """Text that e3nn reads."""
    return "+".join(f"{width}x{name}" for width, name in zip(widths, ("0e", "0o", "1o", "1e"), strict=True))


def sizes(widths: Widths) -> list[int]:
    """Numbers of entries of the four kinds, whose sum is the size of h."""
    return [widths[0], widths[1], 3 * widths[2], 3 * widths[3]]


class RadialBasis(nn.Module):
    """sin(n pi u)/u, n = 1 .. 8, of u = r/(r + reach).

    Args:
        reach: Distance at which u = 1/2, in the unit of the positions.
    """

    def __init__(self, reach: float) -> None:
        super().__init__()
        self.reach = reach

    def forward(self, r: Tensor) -> Tensor:
        """(..., 1) -> (..., 8)."""
        u = (r / (r + self.reach)).clamp_min(1e-4)
        return (math.pi * torch.arange(1, RADIAL + 1, dtype=r.dtype, device=r.device) * u).sin() / u


def depthwise(widths: Widths) -> nn.Module:
    """Products of every channel with Y, one weight each: (h, Y, weights) -> irreps of degree 0 and 1."""
    o3 = require("e3nn.o3", "e3nn")
    first, second = o3.Irreps(irreps(widths)), o3.Irreps("0e+1o")
    paths = [
        (i, k, multiplicity, kind)
        for i, (multiplicity, a) in enumerate(first)
        for k, (_, b) in enumerate(second)
        for kind in a * b
        if kind.l <= 1
    ]
    out, place, _ = o3.Irreps([(multiplicity, kind) for *_, multiplicity, kind in paths]).sort()
    instructions = [(i, k, place[n], "uvu", True) for n, (i, k, *_) in enumerate(paths)]
    return o3.TensorProduct(first, second, out, instructions, shared_weights=False, internal_weights=False)


class SpatialIrreps(nn.Module):
    """Tensor products with the neighbours' directions, frame by frame.

    Args:
        widths: Channels of 0e, 0o, 1o and 1e.
        pair_features: Number E of edge features.
        reach: See `RadialBasis`.
        zero_init: Coordinates stay where they are at first.
    """

    def __init__(self, widths: Widths, pair_features: int, reach: float, zero_init: bool) -> None:
        super().__init__()
        o3 = require("e3nn.o3", "e3nn")
        scalars, pseudo, vectors, axial = self.widths = widths
        self.product, self.basis = depthwise(widths), RadialBasis(reach)
        self.weight_in = nn.Linear(2 * scalars + RADIAL + pair_features, scalars)
        self.weight_out = nn.Linear(scalars, self.product.weight_numel)  # type: ignore[arg-type]
        nn.init.normal_(self.weight_out.weight, std=3 * scalars**-0.5)  # messages of order 1 (default: 0.05)
        inner = irreps((scalars + vectors + axial, pseudo, vectors, axial))
        self.gather = o3.Linear(self.product.irreps_out, inner)
        self.own = o3.Linear(irreps(widths), inner, biases=True)
        self.sides = o3.Linear(self.product.irreps_out, f"{3 * pseudo}x1o")
        self.handed = nn.Linear(pseudo, scalars + vectors + axial, bias=False)
        self.head = _head(vectors, zero_init)

    def forward(self, h: Tensor, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """New (h, x)."""
        scalars, pseudo, vectors, axial = self.widths
        known = bounded(h, self.widths)
        message = self._messages(known, x, graph)
        mixed = self.gather(message) + self.own(known)
        even, odd, polar, spin = mixed.split(sizes((scalars + vectors + axial, pseudo, vectors, axial)), -1)
        sides = self.sides(message).unflatten(-1, (3, pseudo, 3))
        a, b, c = (sides * (sides.square().sum(-1, keepdim=True) + 0.01).rsqrt()).unbind(-3)
        odd = odd + (a * torch.linalg.cross(b, c)).sum(-1)
        even = even + self.handed(odd)  # here left and right part
        even, gate = even.split([scalars, vectors + axial], -1)
        gated = torch.cat([polar, spin], -1).unflatten(-1, (-1, 3)) * gate.sigmoid()[..., None]
        h = h + torch.cat([functional.silu(even), odd.tanh(), gated.flatten(-2)], -1)
        return h, x + self.head(gated[..., :vectors, :].mT)[..., 0]

    def _messages(self, h: Tensor, x: Tensor, graph: Graph) -> Tensor:
        """m (N, T, products), along blocks of edges that fit the cache of a CPU."""
        scalars, edges = self.widths[0], len(graph.receivers)
        start, end, radial, edge = self.weight_in.weight.split([scalars, scalars, RADIAL, graph.features.shape[-1]], 1)
        static = functional.linear(graph.features, edge, self.weight_in.bias)[:, None]
        start, end = (functional.linear(h[..., :scalars], part) for part in (start, end))
        total = h.new_zeros(len(h), h.shape[1] * self.product.irreps_out.dim)  # type: ignore[union-attr, operator]
        for part in torch.arange(edges, device=h.device).split(max(1, ROWS // h.shape[1]) if h.is_cpu else edges):
            i, j = graph.receivers[part], graph.senders[part]
            step = x[i] - x[j]
            r = (step.square().sum(-1, keepdim=True) + 1e-12).sqrt()
            inner = functional.linear(self.basis(r), radial) + start[i] + end[j] + static[part]
            harmonics = functional.pad(math.sqrt(3) * step / r, (1, 0), value=1.0)
            message = self.product(h[j], harmonics, self.weight_out(functional.silu(inner)))
            total.index_add_(0, i, message.flatten(1))
        return total.unflatten(1, (h.shape[1], -1)) / graph.degree.sqrt()


class TemporalIrreps(nn.Module):
    """Attention over the frames of an atom by time differences, by the inner products of all irreps.

    Args:
        widths: Channels of 0e, 0o, 1o and 1e.
        waves: Number 2w of sinusoids of the time difference.
        zero_init: Coordinates stay where they are at first.
    """

    def __init__(self, widths: Widths, waves: int, zero_init: bool) -> None:
        super().__init__()
        o3 = require("e3nn.o3", "e3nn")
        self.widths, self.dim = widths, sum(sizes(widths))
        self.qkv = nn.ModuleList(o3.Linear(irreps(widths), irreps(widths), biases=True) for _ in range(3))
        self.relative = nn.Linear(waves, widths[0], bias=False)  # a bias would be one of v
        self.weigh = nn.Linear(widths[0], widths[2])
        self.head = _head(widths[2], zero_init)

    def forward(self, h: Tensor, x: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        """New (h, x)."""
        scalars, pseudo, vectors, _ = self.widths
        known = bounded(h, self.widths)
        query, key, value = (part(known) for part in self.qkv)
        query = query * self.dim**-0.5
        spread = turned(functional.linear(query[..., :scalars], self.relative.weight.T), frames.waves)
        logits = torch.baddbmm(query @ key.mT, spread, frames.waves.mT)
        if frames.bias is not None:
            logits = logits + frames.bias
        weight = self.weigh(functional.silu(value[..., :scalars]))
        placed = (weight[..., None] * x[..., None, :]).flatten(-2)
        moved = logits.softmax(-1) @ torch.cat([frames.waves, value, weight, placed], -1)
        waves, value, weight, placed = moved.split([frames.waves.shape[-1], self.dim, vectors, 3 * vectors], -1)
        even, odd, polar, spin = value.split(sizes(self.widths), -1)
        even = even + self.relative(turned(waves, frames.waves))
        polar = polar + (weight[..., None] * x[..., None, :]).flatten(-2) - placed
        push = self.head(polar.unflatten(-1, (vectors, 3)).mT)[..., 0]
        return h + torch.cat([even, odd, polar, spin], -1), x + push


class BlockIrreps(nn.Module):
    """A spatial and a temporal layer; arguments as there."""

    def __init__(self, widths: Widths, pair_features: int, waves: int, reach: float, zero_init: bool) -> None:
        super().__init__()
        self.spatial = SpatialIrreps(widths, pair_features, reach, zero_init)
        self.temporal = TemporalIrreps(widths, waves, zero_init)

    def forward(self, h: Tensor, x: Tensor, graph: Graph, frames: Frames) -> tuple[Tensor, Tensor]:
        """New (h, x)."""
        h, x = self.spatial(h, x, graph)
        return self.temporal(h, x, frames)


class IrrepsNet(EGTN):
    """EGTN with layers of irreps: the same inputs, anchors, scale and output, in three dimensions only.

    Args:
        atoms: Number of atom features; None: taken from the data.
        pairs: Number of pair features; None: taken from the data.
        anchor: Anchor of conditional models; None: unconditional, predictions have zero mean.
        scale: Residual scale; None: 1.
        scalars: Channels of scalars (0e).
        pseudo: Channels of pseudo-scalars (0o).
        vectors: Channels of vectors (1o).
        axial: Channels of axial vectors (1e).
        layers: Number of blocks.
        waves: Sinusoids of time differences.
        clock: Code of the clock.
        reach: Distance at which half of the radial range is used up, in the unit of the positions.
        zero_init: Predicts no motion at first.
        flag: Atoms of observed frames are marked.
        bonded: Messages only along pairs with a feature that is not zero.

    Raises:
        UserError: e3nn is not installed, or a width is less than 1.
    """

    def __init__(
        self,
        atoms: int | None = None,
        pairs: int | None = None,
        anchor: Anchor | None = None,
        scale: ResidualScale | None = None,
        scalars: int = 64,
        pseudo: int = 16,
        vectors: int = 32,
        axial: int = 16,
        layers: int = 4,
        waves: int = 32,
        clock: ClockCode | None = None,
        reach: float = 1.0,
        zero_init: bool = True,
        flag: bool = True,
        bonded: bool = False,
    ) -> None:
        require("e3nn", "e3nn")
        super().__init__(None, None, anchor, scale, scalars, layers, waves, clock, None, True, zero_init, flag, bonded)
        self.widths, self.reach = (scalars, pseudo, vectors, axial), reach
        if min(self.widths) < 1:
            raise UserError(f"scalars, pseudo, vectors, axial: got {self.widths}, expected at least 1 channel of each")
        if atoms is not None and pairs is not None:
            self._make(atoms, pairs)

    def _make(self, atoms: int, pairs: int) -> None:
        scalars, layers, *_, zero_init = self.shape
        self.embed = nn.Linear(atoms + self.flag + self.clock.size, scalars)
        self.blocks = nn.ModuleList(
            BlockIrreps(self.widths, pairs, self.waves, self.reach, zero_init) for _ in range(layers)
        )

    def forward(self, state: State, signals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As `EGTN.forward`.

        Raises:
            UserError: Positions are not three-dimensional.
        """
        if state["pos"].shape[-1] != 3:
            raise UserError(f"IrrepsNet: got positions in {state['pos'].shape[-1]} dimensions, expected 3; use EGTN")
        return super().forward(state, signals)

    def _features(self, state: State, clock: Tensor, sample: Tensor) -> Tensor:
        """Input features (N, T, S + Q + 3 V + 3 A): scalars only."""
        return functional.pad(super()._features(state, clock, sample), (0, sum(sizes(self.widths)[1:])))


def bounded(h: Tensor, widths: Widths) -> Tensor:
    """Each kind divided by sqrt(1 + its mean square over channels); what is small, like rounding errors, stays so."""
    parts = zip(h.split(sizes(widths), -1), widths, strict=True)
    return torch.cat([v * (1 + v.square().sum(-1, keepdim=True) / width).rsqrt() for v, width in parts], -1)


def turned(value: Tensor, waves: Tensor) -> Tensor:
    """[a, b], [sin wt, cos wt] -> [b sin wt - a cos wt, a sin wt + b cos wt].

    Its product with f_s is [a, b] . f(t - s), and of [a, b] = sum_s a_ts f_s it makes sum_s a_ts f(t - s).
    """
    (a, b), (sin, cos) = value.chunk(2, -1), waves.chunk(2, -1)
    return torch.cat([b * sin - a * cos, a * sin + b * cos], -1)


def _head(vectors: int, zero_init: bool) -> nn.Linear:
    """Weights of the vectors that move the coordinates, at first 0 if so wished."""
    head = nn.Linear(vectors, 1, bias=False)
    if zero_init:
        nn.init.zeros_(head.weight)
    return head
