"""Layers of the GDSS networks (Jo et al., ICML 2022; arithmetic as in the released code), arranged for speed.

Everything works on a block of b graphs with n nodes each, real nodes first. Three identities keep the work small:

* Edge channels are symmetric and their diagonal never matters, so a channel is the vector of its P = n(n-1)/2 pairs
  i < j, stored channels first as (C, b, P): an edge MLP is then one product of a small matrix with a wide one.
* With M the adjacency (unit diagonal) and r = max(1, rowsum M)^(-1/2), the graph convolution
  r M r (X W) + b equals (r M r X) W + b: all convolutions of a channel share the aggregate r M r X.
* The values V only enter the linear first layer of the node MLP, so both matrices are multiplied beforehand.

Padding never leaks: edges of padded nodes are zeroed after every layer, hence no aggregate of a real node sees them and
the nodes themselves need no mask before the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, reduce
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

GraphFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def elu(x: Tensor) -> Tensor:
    """ELU, max(x, exp(min(x, 0)) - 1). Torch's own CPU kernel takes twice as long but stores less for the gradient."""
    if x.requires_grad or x.device.type != "cpu":
        return functional.elu(x)
    return torch.maximum(x, x.clamp(max=0).exp_().sub_(1))


class MLP(nn.Module):
    """Linear layers with ELU between them (none after the last).

    Args:
        layers: Number of linear layers (>= 1).
        width_in: Input width.
        hidden: Width of all layers but the last.
        width_out: Output width.
    """

    def __init__(self, layers: int, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        widths = [width_in] + [hidden] * (layers - 1) + [width_out]
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:]))

    def forward(self, x: Tensor) -> Tensor:
        """Features last: (..., width_in) -> (..., width_out)."""
        for index, linear in enumerate(self.linears):
            x = linear(elu(x) if index else x)
        return x

    def columns(self, x: Tensor) -> Tensor:
        """Features first: (width_in, columns) -> (width_out, columns)."""
        for index, linear in enumerate(cast("list[nn.Linear]", self.linears)):
            x = torch.addmm(linear.bias[:, None], linear.weight, elu(x) if index else x)
        return x


class Pairs(NamedTuple):
    """Where the pairs i < j of an n x n matrix lie in its n^2 entries, and back."""

    upper: Tensor
    """(P,) flat position of (i, j)."""
    lower: Tensor
    """(P,) flat position of (j, i)."""
    pair: Tensor
    """(n^2,) pair of every entry; 0 on the diagonal, whose value the caller overwrites."""


@lru_cache(maxsize=512)
def pairs_of(n: int, device: torch.device) -> Pairs:
    """The pairs of n nodes. A single node gets itself as a dummy pair, which no result depends on."""
    with torch.inference_mode(False):  # cached tensors must also serve a later call that needs gradients
        i, j = torch.triu_indices(n, n, offset=min(1, n - 1))
        pair = torch.zeros(n, n, dtype=torch.long)
        pair[i, j] = pair[j, i] = torch.arange(len(i))
        return Pairs(*(v.to(device) for v in (i * n + j, j * n + i, pair.flatten())))


def to_pairs(matrices: Tensor) -> Tensor:
    """Pairs i < j of symmetric matrices: (..., n, n) -> (..., P)."""
    *lead, n, _ = matrices.shape
    return matrices.reshape(-1, n * n).index_select(1, pairs_of(n, matrices.device).upper).view(*lead, -1)


def to_matrices(edges: Tensor, n: int, diagonal: float) -> Tensor:
    """Symmetric matrices with a constant diagonal: (..., P) -> (..., n, n)."""
    *lead, count = edges.shape
    matrices = edges.reshape(-1, count).index_select(1, pairs_of(n, edges.device).pair).view(*lead, n, n)
    matrices.diagonal(dim1=-2, dim2=-1).fill_(diagonal)
    return matrices


class Neighbourhood(NamedTuple):
    """The normalised adjacency r M r of several channels, kept as its factors."""

    adj: Tensor
    """M (C, b, n, n), unit diagonal."""
    scale: Tensor
    """r (C, b, n, 1)."""

    @staticmethod
    def of(adj: Tensor) -> Neighbourhood:
        """From matrices (C, b, n, n) with unit diagonal."""
        return Neighbourhood(adj, adj.sum(-1, keepdim=True).clamp(min=1).rsqrt())

    def aggregate(self, x: Tensor) -> Tensor:
        """R M r X of every channel: (b, n, F) or (C, b, n, F) -> (C, b, n, F)."""
        return torch.matmul(self.adj, self.scale * x) * self.scale


def uniform_(parameter: Tensor, limit: float) -> nn.Parameter:
    """A parameter drawn from U(-limit, limit)."""
    return nn.Parameter(parameter.uniform_(-limit, limit))


class QueryKeyGCN(nn.Module):
    """Queries and keys of all channels, each a graph convolution on its channel's adjacency."""

    def __init__(self, channels: int, width_in: int, width: int) -> None:
        super().__init__()
        self.weight = uniform_(torch.empty(channels, width_in, 2 * width), math.sqrt(6 / (width_in + width)))  # Glorot
        self.bias = nn.Parameter(torch.zeros(channels, 2 * width))

    def forward(self, x: Tensor, aggregate: Tensor) -> Tensor:
        """(b, n, F) node features and their (C, b n, F) aggregate -> (C, b n, 2 width), queries first."""
        return torch.baddbmm(self.bias[:, None], aggregate, self.weight)


class QueryKeyMLP(nn.Module):
    """Queries and keys of all channels, each a two-layer tanh MLP of the node's own features."""

    def __init__(self, channels: int, width_in: int, width: int) -> None:
        super().__init__()
        first, second = 1 / math.sqrt(width_in), 1 / math.sqrt(2 * width)  # torch's default for nn.Linear
        self.hidden_weight = uniform_(torch.empty(channels, width_in, 4 * width), first)
        self.hidden_bias = uniform_(torch.empty(channels, 4 * width), first)
        self.weight = uniform_(torch.empty(channels, 2, 2 * width, width), second)
        self.bias = uniform_(torch.empty(channels, 2, width), second)

    def forward(self, x: Tensor, aggregate: Tensor) -> Tensor:
        """(b, n, F) node features -> (C, b n, 2 width), queries first; the aggregate is not used."""
        rows = x.reshape(1, -1, x.shape[-1]).expand(len(self.weight), -1, -1)
        query, key = torch.baddbmm(self.hidden_bias[:, None], rows, self.hidden_weight).tanh().chunk(2, -1)
        query = torch.baddbmm(self.bias[:, :1], query, self.weight[:, 0])
        return torch.cat([query, torch.baddbmm(self.bias[:, 1:], key, self.weight[:, 1])], -1)


QUERY_KEYS = {"GCN": QueryKeyGCN, "MLP": QueryKeyMLP}


class Value(nn.Module):
    """Weights of the value convolutions of all channels."""

    def __init__(self, channels: int, width_in: int, width: int) -> None:
        super().__init__()
        self.weight = uniform_(torch.empty(channels, width_in, width), math.sqrt(6 / (width_in + width)))
        self.bias = nn.Parameter(torch.zeros(channels, width))


class AttentionLayer(nn.Module):
    """One graph multi-head attention layer (gdss.md sections 5.5 and 5.6).

    Per channel and head S = tanh(Q K^T / sqrt(width_out)), averaged over heads and symmetrised; the edge MLP maps
    [S, adjacency] of a pair to the new channels, the node MLP maps the values of all channels to the new features.

    Args:
        linears: Linear layers of the edge MLP.
        width_in: Node features in.
        attention: Width of queries and keys, a multiple of `heads`.
        width_out: Node features out.
        channels_in: Edge channels in.
        channels_out: Edge channels out.
        heads: Number of heads.
        conv: What makes queries and keys, "GCN" or "MLP".
        last_of: For the last layer of a network, the only output that network reads: "x" or "adj". The weights of
            the other output exist (official checkpoints hold them) but are frozen.
    """

    def __init__(
        self,
        linears: int,
        width_in: int,
        attention: int,
        width_out: int,
        channels_in: int,
        channels_out: int,
        heads: int,
        conv: str,
        last_of: str | None = None,
    ) -> None:
        super().__init__()
        if attention % heads or conv not in QUERY_KEYS:
            raise ValueError(
                f"got attention width {attention}, {heads} heads, conv {conv!r}; expected a width that is a multiple "
                f"of the heads, and conv one of {[*QUERY_KEYS]}"
            )
        hidden = 2 * max(channels_in, channels_out)
        self.heads, self.score_scale, self.last_of = heads, 1 / math.sqrt(width_out), last_of
        self.query_key = QUERY_KEYS[conv](channels_in, width_in, attention)
        self.value = Value(channels_in, width_in, width_out)
        self.mlp = MLP(linears, 2 * channels_in, hidden, channels_out)
        self.multi_channel = MLP(2, channels_in * width_out, hidden, width_out)
        unused = {"x": [self.query_key, self.mlp], "adj": [self.value, self.multi_channel], None: []}[last_of]
        for module in unused:
            module.requires_grad_(False)

    def node_weights(self) -> tuple[Tensor, Tensor]:
        """Value convolutions and first node layer as one product: weight (C, F, hidden), bias (hidden,)."""
        first = cast(nn.Linear, self.multi_channel.linears[0])
        channels, _, width = self.value.weight.shape
        mixing = first.weight.view(-1, channels, width).permute(1, 2, 0)
        return self.value.weight @ mixing, first.bias + (self.value.bias[:, None] @ mixing).sum((0, 1))

    def forward(
        self, x: Tensor, edges: Tensor, node_weights: tuple[Tensor, Tensor], pair_weight: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """One layer on a block of graphs.

        Args:
            x: Node features (b, n, F).
            edges: Edge channels (C_in, b, P).
            node_weights: From `node_weights()`; computed once for all blocks.
            pair_weight: (b, P), 2 on real pairs (a pair plus its transpose) and 0 elsewhere, or 2.

        Returns:
            New node features (b, n, width_out) and edge channels (C_out, b, P); an output nobody reads (`last_of`)
            is returned as it came in.
        """
        batch, n, _ = x.shape
        near = Neighbourhood.of(to_matrices(edges, n, diagonal=1.0))
        aggregate = near.aggregate(x).view(len(edges), batch * n, -1)
        new_edges = edges if self.last_of == "x" else self.edges(x, aggregate, edges, pair_weight)
        if self.last_of != "adj":
            x = self.nodes(aggregate, node_weights).view(batch, n, -1)
        return x, new_edges

    def nodes(self, aggregate: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
        """New node features from the aggregate (C, b n, F): (b n, width_out)."""
        hidden = elu(torch.bmm(aggregate, weights[0]).sum(0) + weights[1])
        return self.multi_channel.linears[1](hidden).tanh()

    def edges(self, x: Tensor, aggregate: Tensor, edges: Tensor, pair_weight: Tensor | float) -> Tensor:
        """New edge channels (C_out, b, P)."""
        (channels, batch, count), n = edges.shape, x.shape[1]
        query, key = self.query_key(x, aggregate).view(channels * batch, n, -1).chunk(2, -1)
        query = query * self.score_scale
        heads = zip(query.chunk(self.heads, -1), key.chunk(self.heads, -1))
        # head by head: no copy into a head-major layout, and the running sum stays in cache
        total = reduce(torch.add, (torch.bmm(q, k.transpose(1, 2)).tanh_() for q, k in heads)).flatten(1)
        pairs = pairs_of(n, x.device)
        attention = (total.index_select(1, pairs.upper) + total.index_select(1, pairs.lower)) / (2 * self.heads)
        features = torch.cat([attention.view(channels, -1), edges.reshape(channels, -1)])
        return self.mlp.columns(features).view(-1, batch, count) * pair_weight


def symmetric(adj: Tensor, mask: Tensor | None) -> Tensor:
    """The symmetric part of adj (b, n, n), zero outside the mask: adj itself, but its gradient comes out symmetric."""
    adj = (adj + adj.transpose(1, 2)) / 2
    return adj if mask is None else adj * mask * mask.transpose(1, 2)


# Cost model of one block, in entries of its n x n matrices: launching the block's operations costs as much as LAUNCH
# entries, a block holds at most LARGEST of them (activations stay in cache), and a graph of fewer than SMALLEST nodes
# costs as much as one of SMALLEST (products of tiny matrices are all overhead). Measured on one CPU core; flat optimum.
LAUNCH = {"cpu": 1500, "other": 200_000}
LARGEST = {"cpu": 10_000, "other": 2_000_000}
SMALLEST = 8


class Blocks(NamedTuple):
    """A batch cut into blocks of graphs of similar size."""

    order: Tensor | None
    """(B,) graphs by ascending size; None: as they are."""
    inverse: Tensor | None
    """(B,) the way back."""
    blocks: tuple[tuple[int, int, int, bool], ...]
    """(start, stop, n, padded): graphs start..stop-1 in that order, run with n nodes; padded: some have fewer."""


def group_sizes(counts: list[tuple[int, int]], launch: int) -> list[int]:
    """Cut ascending (size, number of graphs) into runs of least total cost, every run padded to its largest size.

    Returns:
        Index after the last entry of each run.
    """
    best: list[tuple[int, list[int]]] = [(0, [])]
    for stop in range(1, len(counts) + 1):
        area, graphs, options = max(counts[stop - 1][0], SMALLEST) ** 2, 0, []
        for start in range(stop - 1, -1, -1):
            graphs += counts[start][1]
            options.append((best[start][0] + launch + graphs * area, best[start][1]))
        cost, cuts = min(options, key=lambda option: option[0])
        best.append((cost, [*cuts, stop]))
    return best[-1][1]


@lru_cache(maxsize=256)
def plan_blocks(sizes: tuple[int, ...] | None, batch: int, nodes: int, device: torch.device) -> Blocks:
    """The blocks of a batch with these node counts; without node counts all graphs run padded."""
    kind = device.type if device.type in LAUNCH else "other"
    known = (nodes,) * batch if sizes is None else sizes
    if len(known) != batch or max(known, default=0) > nodes:
        largest = max(known, default=0)
        raise ValueError(f"got {len(known)} sizes up to {largest}; expected {batch} sizes of at most {nodes} nodes")
    order = sorted(range(batch), key=known.__getitem__)
    distinct = sorted(set(known))
    counts = [(size, known.count(size)) for size in distinct]
    blocks, start, entry = [], 0, 0
    for cut in group_sizes(counts, LAUNCH[kind]):
        stop = start + sum(number for _, number in counts[entry:cut])
        pieces = math.ceil((stop - start) * distinct[cut - 1] ** 2 / LARGEST[kind])
        step = math.ceil((stop - start) / max(pieces, 1))
        for first in range(start, stop, step):
            last = min(first + step, stop)
            n = min(max(known[order[last - 1]], SMALLEST), nodes)
            blocks.append((first, last, n, sizes is None or known[order[first]] < n))
        start, entry = stop, cut
    if len(blocks) == 1 or order == list(range(batch)):
        return Blocks(None, None, tuple(blocks))
    with torch.inference_mode(False):  # as in pairs_of
        forth = torch.tensor(order, device=device)
        return Blocks(forth, forth.argsort(), tuple(blocks))


def by_size(
    function: GraphFunction, x: Tensor, adj: Tensor, mask: Tensor, sizes: tuple[int, ...] | None, like: Tensor
) -> Tensor:
    """Evaluate a graph function block by block.

    Args:
        function: (x (b, n, F), adj (b, n, n), mask (b, n, 1) or None where nothing is padded) -> a tensor whose sizes
            are those of `like` with b for B and n for N.
        x: Node features (B, N, F).
        adj: Symmetric adjacency (B, N, N).
        mask: (B, N, 1), real nodes first.
        sizes: Node counts; None: one size N for all.
        like: Tensor of the shape of the result, `x` or `adj`.
    """
    plan = plan_blocks(sizes, len(x), x.shape[1], x.device)
    if plan.order is not None:
        x, adj, mask = (v.index_select(0, plan.order) for v in (x, adj, mask))
    result = torch.zeros_like(like)
    for start, stop, n, padded in plan.blocks:
        part = function(x[start:stop, :n], adj[start:stop, :n, :n], mask[start:stop, :n] if padded else None)
        result[start:stop, : part.shape[1], : part.shape[2]] = part
    return result if plan.inverse is None else result.index_select(0, plan.inverse)
