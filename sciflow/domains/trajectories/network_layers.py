r"""Layers of EGTN (Han et al. 2024, GeoTDM, section 4.1) in factorised form: features (N, T, H), coordinates (N, T, D).

Spatial layer, per frame, on the directed edges j -> i, d = |x_i - x_j|^2:

    m_ij = silu(MLP_e[h_i, h_j, d, e_ij]),   x_i <- x_i + mean_j phi(m_ij) (x_i - x_j)/(sqrt(d + 1e-8) + 1),
    h_i <- [h_i +] MLP_h[h_i, sum_j m_ij].

The first map of MLP_e is a sum of blocks: those of h_i and h_j are computed per atom, that of d is of rank one, that of
e_ij does not depend on the frame.

Temporal layer, per atom, psi(u) = W [sin w u, cos w u] + b for the time difference u = t - s:

    a_ts = softmax_s c q_t . (k_s + psi(t - s)),   h_t <- h_t + sum_s a_ts (v_s + psi(t - s)),
    x_t <- x_t + sum_s a_ts g(v_s) (x_t - x_s).

With f_s = [sin w s, cos w s] the rules of angle addition give q_t . psi(t - s) = R_t(q_t W) . f_s + const and
sum_s a_ts psi(t - s) = W R'_t(sum_s a_ts f_s) + b, where R and R' turn pairs (sin, cos) by w t. So any real frame times
cost one attention with 2 w more channels; nothing of size T x T x H, nor T x T x 2w, is ever made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sciflow.core.state import Layout
from sciflow.domains.trajectories.edge_messages import ROWS, EdgeMessages
from sciflow.networks.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Graph:
    """Directed edges of all samples of a batch: first every pair (i, j) with i receiving, then backwards.

    Attributes:
        first: (P,) atom i.
        second: (P,) atom j.
        receivers: (2 P,) atom that gets the message.
        senders: (2 P,) atom that it comes from.
        features: (2 P, E) features of the edges.
        degree: (N, 1, 1) number of messages per atom, at least 1.
    """

    first: Tensor
    second: Tensor
    receivers: Tensor
    senders: Tensor
    features: Tensor
    degree: Tensor

    @staticmethod
    def of(layout: Layout, features: Tensor, bonded: bool = False) -> Graph:
        """The graph of a ragged layout.

        Args:
            layout: Rows are atoms.
            features: (P, E) of the pairs in the order of `Pairs.of(layout)`, or (P, 2, E) if they differ by direction
                (i receives, j receives).
            bonded: Keep only pairs with a feature that is not zero.
        """
        pairs = Pairs.of(layout)
        first, second = pairs.first, pairs.second
        if features.ndim == 2:
            features = features[:, None].expand(-1, 2, -1)
        if bonded:
            keep = features.flatten(1).any(1)
            first, second, features = first[keep], second[keep], features[keep]
        receivers, senders = torch.cat([first, second]), torch.cat([second, first])
        degree = torch.zeros_like(pairs.crystal).index_add(0, receivers, torch.ones_like(receivers))
        edges = features.transpose(0, 1).flatten(0, 1)
        return Graph(first, second, receivers, senders, edges, degree.clamp_min(1)[:, None, None])

    def sum(self, messages: Tensor) -> Tensor:
        """Sum over the edges of each receiver: (2 P, T, C) -> (N, T, C)."""
        total = messages.new_zeros(len(self.degree), messages.shape[1] * messages.shape[2])
        return total.index_add(0, self.receivers, messages.flatten(1)).unflatten(1, messages.shape[1:])


def frequencies(size: int) -> Tensor:
    """10000^(-j/(size/2 - 1)), j = 0 .. size/2 - 1: (size/2,) float64."""
    half = size // 2
    return torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float64) / max(half - 1, 1))


def sinusoids(value: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """[sin w value, cos w value] for values (...): (..., size), computed in float64."""
    phase = value.double()[..., None] * frequencies(size).to(value.device)
    return torch.cat([phase.sin(), phase.cos()], -1).to(dtype)


class SpatialLayer(nn.Module):
    """EGCL on every frame by itself; the blocks of `edge_in` read h_i, h_j, d and e_ij, those of `node_in` h and m.

    Args:
        hidden: Width H.
        pair_features: Number E of edge features.
        residual: h is added to the new features.
        zero_init: Coordinates stay where they are at first.
    """

    def __init__(self, hidden: int, pair_features: int, residual: bool, zero_init: bool) -> None:
        super().__init__()
        self.residual, self.blocks = residual, [hidden, hidden, 1, pair_features]
        self.edge_in, self.edge_out = nn.Linear(2 * hidden + 1 + pair_features, hidden), nn.Linear(hidden, hidden)
        self.coord_in, self.coord_out = nn.Linear(hidden, hidden), _head(hidden, zero_init)
        self.node_in, self.node_out = nn.Linear(2 * hidden, hidden), nn.Linear(hidden, hidden)

    def forward(self, h: Tensor, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """New (h, x)."""
        start, end, square, edge = self.edge_in.weight.split(self.blocks, 1)
        step = x.index_select(0, graph.first) - x.index_select(0, graph.second)
        distance = step.square().sum(-1, keepdim=True)
        messages, weight = EdgeMessages.apply(
            functional.linear(h, start),
            functional.linear(h, end),
            functional.linear(graph.features, edge, self.edge_in.bias),
            torch.cat([distance, distance]),
            square[:, 0].contiguous(),  # a strided vector would be eight times slower to add
            *(v for layer in (self.edge_out, self.coord_in, self.coord_out) for v in (layer.weight, layer.bias)),
            graph.receivers,
            graph.senders,
            torch.is_grad_enabled(),
        )
        unit = step / ((distance + 1e-8).sqrt() + 1)
        push = torch.cat([unit, -unit]) * weight
        node, message = self.node_in.weight.split(h.shape[-1], 1)
        update = functional.linear(h, node, self.node_in.bias) + functional.linear(messages, message)
        update = self.node_out(functional.silu(update, inplace=not torch.is_grad_enabled()))
        return h + update if self.residual else update, x + graph.sum(push) / graph.degree


@dataclass(frozen=True, eq=False)
class Frames:
    """When the frames of every atom are.

    Attributes:
        waves: (N, T, 2w) f_s = [sin w s, cos w s] of the frame times.
        bias: (N, 1, T) 0 for frames that may be looked at, -inf for padding; None: all may.
    """

    waves: Tensor
    bias: Tensor | None = None

    def split(self, atoms: int) -> list[Frames]:
        """Blocks of this many atoms."""
        waves = self.waves.split(atoms)
        biases = [None] * len(waves) if self.bias is None else self.bias.split(atoms)
        return [Frames(wave, bias) for wave, bias in zip(waves, biases, strict=True)]


@dataclass(frozen=True, eq=False)
class Keys:
    """What a temporal layer sees of frames.

    Attributes:
        key: (N, S, H) inner values of the keys.
        value: (N, S, H).
        table: (N, S, 2w + 1 + D) f_s, g(v_s) and g(v_s) x_s.
        bias: (N, 1, S) as in `Frames`.
    """

    key: Tensor
    value: Tensor
    table: Tensor
    bias: Tensor | None = None

    def split(self, atoms: int) -> list[Keys]:
        """Blocks of this many atoms."""
        parts = zip(self.key.split(atoms), self.value.split(atoms), self.table.split(atoms), strict=True)
        biases = [None] * -(-len(self.key) // atoms) if self.bias is None else self.bias.split(atoms)
        return [Keys(*part, bias) for part, bias in zip(parts, biases, strict=True)]

    def beside(self, other: Keys) -> Keys:
        """These frames and then the others."""
        bias = None
        if self.bias is not None or other.bias is not None:
            free = (keys.key.new_zeros(len(keys.key), 1, keys.key.shape[1]) for keys in (self, other))
            bias = torch.cat([b if k.bias is None else k.bias for k, b in zip((self, other), free, strict=True)], 2)
        pairs = ((self.key, other.key), (self.value, other.value), (self.table, other.table))
        return Keys(*(torch.cat(pair, 1) for pair in pairs), bias)  # type: ignore[call-arg]


class TemporalLayer(nn.Module):
    """Attention over the frames of an atom by time differences; `qkv_in` maps to the three hidden layers of q, k and v.

    Args:
        hidden: Width H.
        waves: Number 2w of sinusoids of the time difference.
        logit_scale: Factor c of the logits; None: 1/sqrt(H).
        zero_init: Coordinates stay where they are at first.
    """

    def __init__(self, hidden: int, waves: int, logit_scale: float | None, zero_init: bool) -> None:
        super().__init__()
        self.logit_scale = hidden**-0.5 if logit_scale is None else logit_scale
        self.qkv_in = nn.Linear(hidden, 3 * hidden)
        self.q_out, self.k_out, self.v_out = (nn.Linear(hidden, hidden) for _ in range(3))
        self.x_in, self.x_out = nn.Linear(hidden, hidden), _head(hidden, zero_init)
        self.relative = nn.Linear(waves, hidden)

    def forward(self, h: Tensor, x: Tensor, frames: Frames, context: Keys | None = None) -> tuple[Tensor, Tensor]:
        """New (h, x); frames see each other and, if given, those of a `context` of the same atoms."""
        atoms = max(1, ROWS // h.shape[1]) if h.device.type == "cpu" else len(h)  # blocks that fit the cache
        contexts = [None] * -(-len(h) // atoms) if context is None else context.split(atoms)
        blocks = zip(h.split(atoms), x.split(atoms), frames.split(atoms), contexts, strict=True)
        moved = [self._attend(h, x, frames, context) for h, x, frames, context in blocks]
        return torch.cat([h for h, _ in moved]), torch.cat([x for _, x in moved])

    def read(self, h: Tensor, x: Tensor, frames: Frames) -> tuple[Tensor, Keys]:
        """Inner values of the queries, and what is seen of the frames."""
        inplace = not torch.is_grad_enabled()
        q, k, v = functional.silu(self.qkv_in(h), inplace=inplace).chunk(3, -1)
        value = self.v_out(v)
        weight = self.x_out(functional.silu(self.x_in(value), inplace=inplace))
        return q, Keys(k, value, torch.cat([frames.waves, weight, weight * x], -1), frames.bias)

    def _attend(self, h: Tensor, x: Tensor, frames: Frames, context: Keys | None) -> tuple[Tensor, Tensor]:
        q, keys = self.read(h, x, frames)
        keys = keys if context is None else context.beside(keys)
        # (Q q + b) . (K k + const) = (K^T (Q q + b)) . k + const: one product of matrices for keys and time differences
        maps = torch.cat([self.k_out.weight, self.relative.weight], 1).T * self.logit_scale
        query = functional.linear(q, maps @ self.q_out.weight, maps @ self.q_out.bias)
        waves = frames.waves.shape[-1]
        query, u_sin, u_cos = query.split([q.shape[-1], waves // 2, waves // 2], -1)
        sin, cos = frames.waves.chunk(2, -1)
        turned = torch.cat([u_cos * sin - u_sin * cos, u_sin * sin + u_cos * cos], -1)
        logits = torch.baddbmm(query @ keys.key.mT, turned, keys.table[..., :waves].mT)
        if keys.bias is not None:
            logits = logits + keys.bias
        attention = logits.softmax(-1)
        seen = attention @ keys.table
        s_sin, s_cos, total, pull = seen.split([waves // 2, waves // 2, 1, x.shape[-1]], -1)
        relative = self.relative(torch.cat([sin * s_cos - cos * s_sin, cos * s_cos + sin * s_sin], -1))
        return torch.baddbmm(h + relative, attention, keys.value), x + x * total - pull


class Block(nn.Module):
    """A spatial and a temporal layer.

    Args:
        hidden: Width H.
        pair_features: Number E of edge features.
        waves: Number of sinusoids of the time difference.
        logit_scale: As in `TemporalLayer`.
        residual: As in `SpatialLayer`.
        zero_init: As in both.
    """

    def __init__(
        self, hidden: int, pair_features: int, waves: int, logit_scale: float | None, residual: bool, zero_init: bool
    ) -> None:
        super().__init__()
        self.spatial = SpatialLayer(hidden, pair_features, residual, zero_init)
        self.temporal = TemporalLayer(hidden, waves, logit_scale, zero_init)

    def forward(
        self, h: Tensor, x: Tensor, graph: Graph, frames: Frames, context: Keys | None = None
    ) -> tuple[Tensor, Tensor]:
        """New (h, x)."""
        h, x = self.spatial(h, x, graph)
        return self.temporal(h, x, frames, context)


def _head(hidden: int, zero_init: bool) -> nn.Linear:
    """Linear map to one number, at first 0 if so wished."""
    head = nn.Linear(hidden, 1)
    if zero_init:
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    return head
