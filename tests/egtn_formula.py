"""EGTN by the formulas of its paper and the released arithmetic: relative tables of size T x T x H, no factorisation.

A twin of `sciflow.domains.trajectories.network.EGTN` that reads the weights of one, and the map from the names of
`geotdm_golden.npz` to ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sciflow.core.state import Layout, State
from sciflow.domains.trajectories.network import EGTN

SPATIAL = {"edge_mlp": "edge", "coord_mlp": "coord", "node_mlp": "node"}


def golden_weights(arrays: Mapping[str, np.ndarray], prefix: str, layers: int, anchor_layers: int) -> dict[str, Tensor]:
    """Arrays "<prefix>/..." under our names: weights, or gradients, of an `EGTN`."""
    found = {
        name.removeprefix(prefix + "/"): torch.from_numpy(v) for name, v in arrays.items() if name.startswith(prefix)
    }
    out = {}
    for ours, suffix, count in (("", "", layers), ("anchor.", "_ref", anchor_layers)):
        if not count:
            continue
        for part in ("weight", "bias"):
            out[f"{ours}embed.{part}"] = found[f"input_linear{suffix}.{part}"]
            for i in range(count):
                spatial, temporal = f"s_modules{suffix}.{i}", f"t_modules{suffix}.{i}"
                for theirs, name in SPATIAL.items():
                    for k, end in ((0, "in"), (2, "out")):
                        out[f"{ours}blocks.{i}.spatial.{name}_{end}.{part}"] = found[
                            f"{spatial}.{theirs}.actions.{k}.{part}"
                        ]
                block = f"{ours}blocks.{i}.temporal"
                out[f"{block}.qkv_in.{part}"] = torch.cat(
                    [found[f"{temporal}.{c}_mlp.actions.0.{part}"] for c in "qkv"]
                )
                for c in "qkv":
                    out[f"{block}.{c}_out.{part}"] = found[f"{temporal}.{c}_mlp.actions.2.{part}"]
                for k, end in ((0, "in"), (2, "out")):
                    out[f"{block}.x_{end}.{part}"] = found[f"{temporal}.x_mlp.actions.{k}.{part}"]
                out[f"{block}.relative.{part}"] = found[f"{temporal}.time_emb.{part}"]
    if anchor_layers:
        out["anchor.weights.weight"] = found["ws"]
    return out


def golden_state(arrays: Mapping[str, np.ndarray], observed: int) -> State:
    """The inputs of the golden file as a state: the first `observed` frames are given, pos is the clean data."""
    x = torch.from_numpy(arrays["x"]).transpose(1, 2).contiguous()  # (N, T, D)
    index, h = torch.from_numpy(arrays["batch"]), torch.from_numpy(arrays["h"])
    value = {
        (int(i), int(j)): float(v) for (i, j), v in zip(arrays["edge_index"].T, arrays["edge_attr"][:, 0], strict=True)
    }
    order = [(0, 1), (0, 2), (1, 2), (3, 4)]
    pairs = torch.tensor([[[value[i, j]], [value[j, i]]] for i, j in order])
    seen = (torch.arange(x.shape[1]) < observed).float().expand(2, -1)
    mask = None if not observed else (1 - seen)[index][:, :, None]
    plain = Layout(2, index, sizes=(3, 2))
    layouts = {
        "pos": Layout(2, index, mask, (3, 2)),
        "observed": plain,
        "atoms": plain,
        "pairs": Layout(2, torch.tensor([0, 0, 0, 1])),
    }
    given = x * seen[index][:, :, None]
    times = torch.arange(x.shape[1], dtype=torch.float64).expand(2, -1)
    fields = {"pos": x, "observed": given, "atoms": h, "pairs": pairs}
    return State(fields, layouts, {"times": times, "seen": seen})


def sinusoid(value: Tensor, size: int) -> Tensor:
    """[sin, cos] of value * 10000^(-j/(size/2 - 1))."""
    half = size // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1))
    angle = value[..., None] * rates
    return torch.cat([angle.sin(), angle.cos()], -1).to(value)


def linear(x: Tensor, layer: Any) -> Tensor:
    """A linear map of the channels of (N, C, T): time is last, so it is transposed before and after."""
    return functional.linear(x.transpose(1, 2), layer.weight, layer.bias).transpose(1, 2)


def mlp(x: Tensor, inner: Any, outer: Any) -> Tensor:
    """Linear, SiLU, Linear."""
    return linear(functional.silu(linear(x, inner)), outer)


def spatial(layer: Any, h: Tensor, x: Tensor, rows: Tensor, columns: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """EGCL as written, per directed edge (row receives): h (N, H, T), x (N, D, T)."""
    step = x[rows] - x[columns]
    d = step.square().sum(1, keepdim=True)
    inputs = torch.cat([h[rows], h[columns], d, features[:, :, None].expand(-1, -1, x.shape[-1])], 1)
    m = functional.silu(mlp(inputs, layer.edge_in, layer.edge_out))
    total = torch.zeros_like(h).index_add(0, rows, m)
    push = mlp(m, layer.coord_in, layer.coord_out) * (step / ((d + 1e-8).sqrt() + 1))
    count = torch.zeros(len(x)).to(x).index_add(0, rows, torch.ones(len(rows)).to(x)).clamp_min(1)
    moved = x + torch.zeros_like(x).index_add(0, rows, push) / count[:, None, None]
    out = mlp(torch.cat([h, total], 1), layer.node_in, layer.node_out)
    return h + out if layer.residual else out, moved


def temporal(layer: Any, h: Tensor, x: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Attention as written, times (T,) the same for all, every pair of frames of every atom on its own.

    As in the released code, relative embeddings, keys and values are arrays of N x H x T x T, contracted by `einsum`.
    """
    inner = functional.silu(linear(h, layer.qkv_in)).chunk(3, 1)
    q, k, v = linear(inner[0], layer.q_out), linear(inner[1], layer.k_out), linear(inner[2], layer.v_out)
    code = sinusoid(times[:, None] - times[None, :], layer.relative.in_features).to(h)
    psi = layer.relative(code).permute(2, 0, 1).repeat(len(h), 1, 1, 1)  # (N, H, T, T)
    frames = len(times)
    keys = k[:, :, None, :].repeat(1, 1, frames, 1) + psi
    values = v[:, :, None, :].repeat(1, 1, frames, 1) + psi
    attention = (torch.einsum("nht,nhts->nts", q, keys) * layer.logit_scale).softmax(-1)
    pull = attention[:, None] * (x[:, :, :, None] - x[:, :, None, :])
    moved = x + (pull * mlp(v, layer.x_in, layer.x_out)[:, :, None, :]).sum(-1)
    return h + torch.einsum("nts,nhts->nht", attention, values), moved


def reference(
    network: EGTN, state: State, signals: Mapping[str, Tensor], graph: tuple[Tensor, Tensor, Tensor] | None = None
) -> Tensor:
    """Predicted motion of pos by the formulas, before mask and projection, in units of length.

    All samples must have the same frame times. Arrays are laid out as in the released code, (N, channels, T).
    `graph` is what `edges` returned.
    """
    pos, layout = state["pos"], state.layouts["pos"]
    index: Tensor = layout.index  # type: ignore[assignment]
    rows, columns, features = graph if graph is not None else edges(state, network.bonded)
    code, frames = network.clock, pos.shape[1]
    step = sinusoid(code.factor * signals["pos"].to(pos) + code.offset, code.size).expand(state.batch, -1)
    flag = state.cond["seen"].to(pos)[index][:, None]
    parts = [state["atoms"][:, :, None].expand(-1, -1, frames), flag, step[index][:, :, None].expand(-1, -1, frames)]
    h = linear(torch.cat(parts if network.flag else [parts[0], parts[2]], 1), network.embed)
    x, times = pos.transpose(1, 2), state.cond["times"][0].to(pos)
    for block in network.blocks:
        h, x = spatial(block.spatial, h, x, rows, columns, features)
        h, x = temporal(block.temporal, h, x, times)
    return x.transpose(1, 2) - pos


def edges(state: State, bonded: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, columns, features) of the directed edges within samples, by enumeration."""
    start, pairs = 0, []
    for size in state.layouts["pos"].sizes or ():
        pairs += [(start + i, start + j) for i in range(size) for j in range(i + 1, size)]
        start += size
    first, second = torch.tensor(pairs).T
    features = state["pairs"]
    both = (features, features) if features.ndim == 2 else features.unbind(1)
    if bonded:
        keep = features.flatten(1).any(1)
        first, second, both = first[keep], second[keep], [part[keep] for part in both]
    return torch.cat([first, second]), torch.cat([second, first]), torch.cat(list(both))
