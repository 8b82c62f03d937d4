"""The GDSS golden vectors, and their formula weights for the official state-dict layout."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import torch
from torch import Tensor

GOLDEN = json.loads((Path(__file__).parent / "golden" / "gdss_golden.json").read_text())


def official_shapes(params: dict) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of an official state dict in storage order (gdss.md section 15)."""
    shapes: list[tuple[str, tuple[int, ...]]] = []
    features, nhid = params["max_feat_num"], params["nhid"]

    def convolution(name: str, width_in: int, width_out: int) -> None:
        shapes.extend([(f"{name}.weight", (width_in, width_out)), (f"{name}.bias", (width_out,))])

    def mlp(name: str, layers: int, width_in: int, hidden: int, width_out: int) -> None:
        widths = [width_in] + [hidden] * (layers - 1) + [width_out]
        for k, (a, b) in enumerate(itertools.pairwise(widths)):
            shapes.extend([(f"{name}.linears.{k}.weight", (b, a)), (f"{name}.linears.{k}.bias", (b,))])

    depth = params.get("depth", params.get("num_layers"))
    width = features + depth * nhid
    if params["model_type"] == "ScoreNetworkX":
        for layer in range(depth):
            convolution(f"layers.{layer}", nhid if layer else features, nhid)
        mlp("final", 3, width, 2 * width, features)
        return shapes
    channels = [params["c_init"]] + [params["c_hid"]] * (depth - 1) + [params["c_final"]]
    for layer in range(depth):
        width_in, attention = (nhid, params["adim"]) if layer else (features, nhid)
        for c in range(channels[layer]):
            for side, width_out in (("q", attention), ("k", attention), ("v", nhid)):
                name = f"layers.{layer}.attn.{c}.gnn_{side}"
                if params["conv"] == "MLP" and side != "v":
                    mlp(name, 2, width_in, 2 * attention, attention)
                else:
                    convolution(name, width_in, width_out)
        hidden = 2 * max(channels[layer], channels[layer + 1])
        mlp(f"layers.{layer}.mlp", params["num_linears"], 2 * channels[layer], hidden, channels[layer + 1])
        mlp(f"layers.{layer}.multi_channel", 2, channels[layer] * nhid, hidden, nhid)
    if params["model_type"] == "ScoreNetworkA":
        mlp("final", 3, sum(channels), 2 * sum(channels), 1)
    else:
        mlp("final", 3, width, 2 * width, features)
    return shapes


def formula_weights(params: dict) -> dict[str, Tensor]:
    """0.2 sin(0.7 k + 0.3) with one counter k over all elements (gdss.md section 14)."""
    weights, start = {}, 0
    for name, shape in official_shapes(params):
        k = torch.arange(start, start + math.prod(shape), dtype=torch.float64)
        weights[name] = (0.2 * torch.sin(0.7 * k + 0.3)).float().view(shape)
        start += len(k)
    return weights
