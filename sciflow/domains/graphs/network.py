"""The three score networks of GDSS, and the pair of them that the core calls.

J. Jo, S. Lee, S. J. Hwang, "Score-based Generative Modeling of Graphs via the System of Stochastic Differential
Equations", ICML 2022. The arithmetic is that of the released code (its checkpoints load through
`convert_official_weights`), the arrangement is described in `network_layers`. None of these networks is told the
clock: they see the noisy graph only.

Tensors: x (B, N, F) node features, adj (B, N, N) symmetric with zero diagonal, mask (B, N, 1) of zeros and ones with
the real nodes first; x and adj are zero outside the mask. `sizes` are the node counts on the host: with them the
graphs run in blocks of similar size, without them padded; the results agree to rounding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.core.state import State
from sciflow.domains.graphs.network_layers import (
    MLP,
    AttentionLayer,
    Neighbourhood,
    by_size,
    symmetric,
    to_matrices,
    to_pairs,
    uniform_,
)

Sizes = tuple[int, ...] | None


class GCN(nn.Module):
    """Weights of one graph convolution (r M r X) W + b; W (in, out) starts Glorot uniform, b zero."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = uniform_(torch.empty(width_in, width_out), math.sqrt(6 / (width_in + width_out)))
        self.bias = nn.Parameter(torch.zeros(width_out))


class ScoreNetworkX(Configurable, nn.Module):
    """Node network of graph convolutions: H_{k+1} = tanh(GCN_k(H_k, adj)), then an MLP of [H_0 .. H_depth].

    Argument names are those of the released checkpoints.

    Args:
        max_feat_num: Node features F.
        depth: Number of graph convolutions.
        nhid: Width of their outputs.
    """

    def __init__(self, max_feat_num: int, depth: int, nhid: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GCN(nhid if k else max_feat_num, nhid) for k in range(depth))
        width = max_feat_num + depth * nhid
        self.final = MLP(3, width, 2 * width, max_feat_num)

    def forward(self, x: Tensor, adj: Tensor, mask: Tensor, sizes: Sizes = None) -> Tensor:
        """Raw output (B, N, F), zero outside the mask."""
        return by_size(self._block, x, adj, mask, sizes, like=x)

    def _block(self, x: Tensor, adj: Tensor, mask: Tensor | None) -> Tensor:
        adj = symmetric(adj, mask)
        adj.diagonal(dim1=1, dim2=2).fill_(1)
        near, collected = Neighbourhood.of(adj), [x]
        for layer in cast("list[GCN]", self.layers):
            collected.append((near.aggregate(collected[-1]) @ layer.weight + layer.bias).tanh())
        score = self.final(torch.cat(collected, -1))
        return score if mask is None else score * mask


class ScoreNetworkXGMH(Configurable, nn.Module):
    """Node network of attention layers: H_{k+1} = tanh(layer_k(H_k)), then an MLP of [H_0 .. H_depth].

    Argument names are those of the released checkpoints (model type ScoreNetworkX_GMH).

    Args:
        max_feat_num: Node features F.
        depth: Number of attention layers (>= 2).
        nhid: Node features between layers.
        num_linears: Linear layers of each edge MLP.
        c_init: Edge channels at the input: adj, adj^2, ... adj^c_init.
        c_hid: Edge channels between layers.
        c_final: Edge channels after the last layer (they only set the width of its hidden node layer).
        adim: Width of queries and keys (nhid in the first layer), a multiple of num_heads.
        num_heads: Attention heads.
        conv: What makes queries and keys: "GCN" or "MLP".
    """

    def __init__(
        self,
        max_feat_num: int,
        depth: int,
        nhid: int,
        num_linears: int,
        c_init: int,
        c_hid: int,
        c_final: int,
        adim: int,
        num_heads: int = 4,
        conv: str = "GCN",
    ) -> None:
        super().__init__()
        channels = [c_init] + [c_hid] * (depth - 1) + [c_final]
        self.layers = _attention_layers(max_feat_num, nhid, num_linears, channels, adim, num_heads, conv, last_of="x")
        self.c_init = c_init
        width = max_feat_num + depth * nhid
        self.final = MLP(3, width, 2 * width, max_feat_num)

    def forward(self, x: Tensor, adj: Tensor, mask: Tensor, sizes: Sizes = None) -> Tensor:
        """Raw output (B, N, F), zero outside the mask."""
        layers = cast("list[AttentionLayer]", self.layers)
        weights = [layer.node_weights() for layer in layers]

        def block(x: Tensor, adj: Tensor, mask: Tensor | None) -> Tensor:
            edges, pair_weight = _edge_input(adj, mask, self.c_init)
            collected = [x]
            for layer, node_weights in zip(layers, weights):
                x, edges = layer(x, edges, node_weights, pair_weight)
                x = x.tanh()
                collected.append(x)
            score = self.final(torch.cat(collected, -1))
            return score if mask is None else score * mask

        return by_size(block, x, adj, mask, sizes, like=x)


class ScoreNetworkA(Configurable, nn.Module):
    """Adjacency network: attention layers, then an MLP of all edge channels that arose on the way.

    Argument names are those of the released checkpoints.

    Args:
        max_feat_num: Node features F.
        nhid: Node features between layers.
        num_layers: Number of attention layers (>= 2).
        num_linears: Linear layers of each edge MLP.
        c_init: Edge channels at the input: adj, adj^2, ... adj^c_init.
        c_hid: Edge channels between layers.
        c_final: Edge channels after the last layer.
        adim: Width of queries and keys (nhid in the first layer), a multiple of num_heads.
        num_heads: Attention heads.
        conv: What makes queries and keys: "GCN" or "MLP".
    """

    def __init__(
        self,
        max_feat_num: int,
        nhid: int,
        num_layers: int,
        num_linears: int,
        c_init: int,
        c_hid: int,
        c_final: int,
        adim: int,
        num_heads: int = 4,
        conv: str = "GCN",
    ) -> None:
        super().__init__()
        channels = [c_init] + [c_hid] * (num_layers - 1) + [c_final]
        self.layers = _attention_layers(max_feat_num, nhid, num_linears, channels, adim, num_heads, conv, last_of="adj")
        self.c_init = c_init
        self.final = MLP(3, sum(channels), 2 * sum(channels), 1)

    def forward(self, x: Tensor, adj: Tensor, mask: Tensor, sizes: Sizes = None) -> Tensor:
        """Raw output (B, N, N), symmetric, zero on the diagonal and outside the mask."""
        layers = cast("list[AttentionLayer]", self.layers)
        weights = [layer.node_weights() for layer in layers]

        def block(x: Tensor, adj: Tensor, mask: Tensor | None) -> Tensor:
            edges, pair_weight = _edge_input(adj, mask, self.c_init)
            collected = [edges]
            for layer, node_weights in zip(layers, weights):
                x, edges = layer(x, edges, node_weights, pair_weight)
                collected.append(edges)
            features = torch.cat(collected).view(-1, edges.shape[1] * edges.shape[2])
            score = self.final.columns(features).view(edges.shape[1:])
            score = to_matrices(score, x.shape[1], diagonal=0.0)
            return score if mask is None else score * mask * mask.transpose(1, 2)

        return by_size(block, x, adj, mask, sizes, like=adj)


class GraphScores(Configurable, nn.Module):
    """The two networks under the one network signature of the core.

    Args:
        x: Node network, a `ScoreNetworkX` or `ScoreNetworkXGMH`.
        adj: Adjacency network, a `ScoreNetworkA`.
    """

    def __init__(self, x: nn.Module, adj: nn.Module) -> None:
        super().__init__()
        self.x, self.adj = x, adj

    def forward(self, state: State, signals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raw outputs {"x": (B, N, F), "adj": (B, N, N)}. The signals are ignored: the networks are not told the time.

        Args:
            state: Fields `x` and `adj`; the layout of `x` holds the node mask (B, N, 1) and, if known, the sizes.
            signals: Not read.
        """
        layout, x, adj = state.layouts["x"], state["x"], state["adj"]
        mask = x.new_ones(*x.shape[:2], 1) if layout.mask is None else layout.mask.to(x.dtype)
        return {"x": self.x(x, adj, mask, layout.sizes), "adj": self.adj(x, adj, mask, layout.sizes)}


def _attention_layers(
    features: int, nhid: int, linears: int, channels: list[int], adim: int, heads: int, conv: str, last_of: str
) -> nn.ModuleList:
    """Layers over the given edge channels; the first takes the node features and has attention width nhid."""
    layers = nn.ModuleList()
    for index, (channels_in, channels_out) in enumerate(zip(channels[:-1], channels[1:])):
        width_in, attention = (nhid, adim) if index else (features, nhid)
        last = last_of if index == len(channels) - 2 else None
        layers.append(AttentionLayer(linears, width_in, attention, nhid, channels_in, channels_out, heads, conv, last))
    return layers


def _edge_input(adj: Tensor, mask: Tensor | None, c_init: int) -> tuple[Tensor, Tensor | float]:
    """Edge channels adj, adj^2, ... as pairs (c_init, b, P), and the weight of each pair in `AttentionLayer`."""
    adj = symmetric(adj, mask)
    powers = [adj]
    while len(powers) < c_init:
        powers.append(powers[-1] @ adj)
    pair_weight = 2.0 if mask is None else 2 * to_pairs(mask * mask.transpose(1, 2))
    return to_pairs(torch.stack(powers)), pair_weight


MODEL_TYPES = {"ScoreNetworkX": ScoreNetworkX, "ScoreNetworkX_GMH": ScoreNetworkXGMH, "ScoreNetworkA": ScoreNetworkA}


def network_from_params(params: Mapping[str, Any]) -> nn.Module:
    """The network that `params_x` or `params_adj` of an official checkpoint describes, with fresh weights.

    `max_node_num` is dropped: no weight depends on the padding.

    Raises:
        UserError: Unknown `model_type`, or arguments that do not fit it.
    """
    arguments = {name: value for name, value in params.items() if name not in ("model_type", "max_node_num")}
    if params.get("model_type") not in MODEL_TYPES:
        raise UserError(f"got model_type {params.get('model_type')!r}; expected one of {[*MODEL_TYPES]}")
    try:
        return MODEL_TYPES[params["model_type"]](**arguments)
    except TypeError as error:
        raise UserError(f"arguments of {params['model_type']} do not fit: {error}") from error


def convert_official_weights(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names and shapes of an official state dict -> those of the networks here.

    Attention modules `layers.{l}.attn.{c}.gnn_{q,k,v}` are stacked over their channels c (queries before keys along the
    last dimension; Linear weights of conv "MLP" are transposed to in-by-out); all other entries keep their names.
    A leading `module.` (DataParallel) is dropped. Networks without attention pass unchanged.
    """
    official = {name.removeprefix("module."): value for name, value in official.items()}
    pattern = re.compile(r"(layers\.\d+)\.attn\.(\d+)\.")
    matches = [match for match in map(pattern.match, official) if match]
    converted = {name: value for name, value in official.items() if not pattern.match(name)}
    for layer in dict.fromkeys(match[1] for match in matches):
        channels = range(1 + max(int(match[2]) for match in matches if match[1] == layer))

        def stack(name: str, layer: str = layer, channels: range = channels) -> Tensor:
            return torch.stack([official[f"{layer}.attn.{c}.{name}"] for c in channels])

        for part in ("weight", "bias"):
            converted[f"{layer}.value.{part}"] = stack(f"gnn_v.{part}")
            if f"{layer}.attn.0.gnn_q.{part}" in official:
                query_key = torch.cat([stack(f"gnn_q.{part}"), stack(f"gnn_k.{part}")], -1)
                converted[f"{layer}.query_key.{part}"] = query_key
                continue
            # conv "MLP": two nn.Linear per side, whose weights are stored out-by-in
            hidden, last = ([stack(f"gnn_{side}.linears.{k}.{part}") for side in "qk"] for k in (0, 1))
            if part == "weight":
                hidden, last = ([v.transpose(1, 2) for v in values] for values in (hidden, last))
            converted[f"{layer}.query_key.hidden_{part}"] = torch.cat(hidden, -1)
            converted[f"{layer}.query_key.{part}"] = torch.stack(last, 1)
    return converted
