"""Fast GDSS networks against a twin that does the arithmetic of gdss.md section 5 module by module.

The twin is the baseline: every channel owns three graph convolutions that each clone and normalise the same adjacency,
every head of every pair is evaluated (both triangles, padding included), and the node output of the last layer is
computed and thrown away. Both sides hold the SAME weights (`convert_official_weights`) and see the same inputs: node
counts drawn from the real data set, Gaussian features, symmetric Gaussian adjacencies.

One call on one thread in `inference_mode`; the sides alternate in the same run. Times are CPU seconds of the calling
thread, so that other processes on the machine do not count; the ratio of wall times is printed beside them.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/gdss_network.py [--data ../shared/data/graphs] [--repeats 9]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sciflow.domains.graphs.network import ScoreNetworkA, ScoreNetworkX, convert_official_weights

HEADS = 4


class TwinMLP(nn.Module):
    """Section 5.2."""

    def __init__(self, layers: int, width_in: int, hidden: int, width_out: int):
        super().__init__()
        widths = [width_in] + [hidden] * (layers - 1) + [width_out]
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        for linear in self.linears[:-1]:
            x = functional.elu(linear(x))
        return self.linears[-1](x)


class TwinGCN(nn.Module):
    """Section 5.1: normalises its own clone of the adjacency."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_in, width_out))
        self.bias = nn.Parameter(torch.zeros(width_out))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        adj = adj.clone()
        diagonal = torch.arange(adj.shape[-1])
        adj[:, diagonal, diagonal] = 1
        scale = adj.sum(-1).clamp(min=1).pow(-0.5)
        return (scale[:, :, None] * adj * scale[:, None, :]) @ (x @ self.weight) + self.bias


class TwinAttention(nn.Module):
    """Section 5.5, one channel."""

    def __init__(self, width_in: int, width_attention: int, width_out: int):
        super().__init__()
        self.gnn_q = TwinGCN(width_in, width_attention)
        self.gnn_k = TwinGCN(width_in, width_attention)
        self.gnn_v = TwinGCN(width_in, width_out)
        self.width_head, self.scale = width_attention // HEADS, width_out**0.5

    def forward(self, x: Tensor, adj: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value = self.gnn_q(x, adj), self.gnn_k(x, adj), self.gnn_v(x, adj)
        query = torch.cat(query.split(self.width_head, 2), 0)
        key = torch.cat(key.split(self.width_head, 2), 0)
        scores = torch.tanh(query.bmm(key.transpose(1, 2)) / self.scale)
        scores = scores.view(HEADS, *adj.shape).mean(0)
        return value, (scores + scores.transpose(-1, -2)) / 2


class TwinLayer(nn.Module):
    """Section 5.6."""

    def __init__(
        self, linears: int, width_in: int, width_attention: int, width_out: int, channels_in: int, channels_out: int
    ):
        super().__init__()
        hidden = 2 * max(channels_in, channels_out)
        self.attn = nn.ModuleList(TwinAttention(width_in, width_attention, width_out) for _ in range(channels_in))
        self.mlp = TwinMLP(linears, 2 * channels_in, hidden, channels_out)
        self.multi_channel = TwinMLP(2, channels_in * width_out, hidden, width_out)

    def forward(self, x: Tensor, adj: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        values, scores = zip(*(attention(x, adj[:, c]) for c, attention in enumerate(self.attn)), strict=True)
        x = torch.tanh(self.multi_channel(torch.cat(values, -1)) * mask)
        pairs = torch.cat([torch.stack(scores, 1), adj], 1).permute(0, 2, 3, 1)
        edges = self.mlp(pairs).permute(0, 3, 1, 2).contiguous()  # a tenth faster for the twin than strided channels
        edges = edges + edges.transpose(-1, -2)
        return x, edges * mask[:, None] * mask[:, None].transpose(-1, -2)


class TwinScoreNetworkA(nn.Module):
    """Section 5.7."""

    def __init__(
        self, features: int, nhid: int, layers: int, linears: int, c_init: int, c_hid: int, c_final: int, adim: int
    ):
        super().__init__()
        self.c_init = c_init
        self.layers = nn.ModuleList([TwinLayer(linears, features, nhid, nhid, c_init, c_hid)])
        for index in range(1, layers):
            self.layers.append(TwinLayer(linears, nhid, adim, nhid, c_hid, c_hid if index < layers - 1 else c_final))
        width = c_init + c_hid * (layers - 1) + c_final
        self.final = TwinMLP(3, width, 2 * width, 1)

    def forward(self, x: Tensor, adj: Tensor, mask: Tensor) -> Tensor:
        powers = [adj]
        for _ in range(self.c_init - 1):
            powers.append(powers[-1] @ adj)
        edges = torch.stack(powers, 1)
        collected = [edges]
        for layer in self.layers:
            x, edges = layer(x, edges, mask)
            collected.append(edges)
        score = self.final(torch.cat(collected, 1).permute(0, 2, 3, 1))[..., 0]
        score = score * (1 - torch.eye(score.shape[-1]))
        return score * mask * mask.transpose(1, 2)


class TwinScoreNetworkX(nn.Module):
    """Section 5.3."""

    def __init__(self, features: int, depth: int, nhid: int):
        super().__init__()
        self.layers = nn.ModuleList(TwinGCN(nhid if k else features, nhid) for k in range(depth))
        width = features + depth * nhid
        self.final = TwinMLP(3, width, 2 * width, features)

    def forward(self, x: Tensor, adj: Tensor, mask: Tensor) -> Tensor:
        collected = [x]
        for layer in self.layers:
            collected.append(torch.tanh(layer(collected[-1], adj)))
        return self.final(torch.cat(collected, -1)) * mask


CASES = {  # gdss.md section 10: batch, N_max, features, x depth, adjacency layers, required ratio
    "community_small": (128, 20, 10, 3, 5, 2.3),
    "ego_small": (128, 18, 17, 2, 5, 4.0),
    "ENZYMES": (64, 125, 10, 5, 7, 15.0),
}
SEED = 0


def graph_batch(path: Path, batch: int, nodes: int, features: int) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...]]:
    """x, adj, mask, sizes of a batch whose node counts are drawn with replacement from the training graphs."""
    data = np.load(path)
    counts = np.diff(data["node_ptr"])[data["train_idx"]]
    sizes = tuple(int(n) for n in np.random.default_rng(SEED).choice(counts, batch))
    generator = torch.Generator().manual_seed(SEED)
    mask = (torch.arange(nodes) < torch.tensor(sizes)[:, None]).float()[..., None]
    x = torch.randn(batch, nodes, features, generator=generator) * mask
    adj = torch.randn(batch, nodes, nodes, generator=generator).triu(1)
    return x, (adj + adj.transpose(1, 2)) * mask * mask.transpose(1, 2), mask, sizes


def compare(name: str, twin: nn.Module, fast: nn.Module, inputs: tuple, required: float | None, repeats: int) -> None:
    """Times both sides alternately and prints one line of the table."""
    fast.load_state_dict(convert_official_weights(twin.state_dict()))
    x, adj, mask, sizes = inputs
    calls: dict[str, Callable[[], Tensor]] = {
        "twin": lambda: twin(x, adj, mask),
        "fast": lambda: fast(x, adj, mask, sizes),
        "padded": lambda: fast(x, adj, mask),
    }
    cpu: dict[str, list[float]] = {side: [] for side in calls}
    wall: dict[str, list[float]] = {side: [] for side in calls}
    with torch.inference_mode():
        expected, found, _ = (call() for call in calls.values())  # also the warm-up
        for _ in range(repeats):
            for side, call in calls.items():
                start = time.perf_counter(), time.thread_time()
                call()
                wall[side].append(time.perf_counter() - start[0])
                cpu[side].append(time.thread_time() - start[1])
    error = ((expected - found).abs().max() / expected.abs().max()).item()
    median = {side: statistics.median(times) for side, times in cpu.items()}
    ratio = median["twin"] / median["fast"]
    at_least = min(cpu["twin"]) / min(cpu["fast"])
    reached = "" if required is None else f"{required} {'ok' if ratio >= required and error <= 2e-5 else 'MISSED'}"
    print(
        f"| {name:<17} | {1e3 * median['twin']:8.1f} | {1e3 * median['fast']:6.1f} | {ratio:5.1f} | {at_least:5.1f} "
        f"| {statistics.median(wall['twin']) / statistics.median(wall['fast']):5.1f} "
        f"| {median['twin'] / median['padded']:5.1f} | {error:.0e} | {reached:<8} |",
        flush=True,
    )


def processor() -> str:
    """Name of the processor, where the system tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


def load() -> str:
    """Load average, to judge the figures by."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("SCIFLOW_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "graphs"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", choices=[*CASES], help="one data set instead of all three")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {processor()}, 1 thread, seed {SEED}, {options.repeats} repeats, load {load()}")
    print("| network, B         | twin ms | fast ms | ratio | minima | wall | without sizes | difference | required |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, (batch, nodes, features, depth, layers, required) in CASES.items():
        if options.only not in (None, name):
            continue
        torch.manual_seed(SEED)
        inputs = graph_batch(options.data / f"{name}.npz", batch, nodes, features)
        twin = TwinScoreNetworkA(features, 32, layers, 2, 2, 8, 4, 32)
        fast = ScoreNetworkA(features, 32, layers, num_linears=2, c_init=2, c_hid=8, c_final=4, adim=32)
        compare(f"{name} A, {batch}", twin, fast, inputs, required, options.repeats)
        twin_x, fast_x = TwinScoreNetworkX(features, depth, 32), ScoreNetworkX(features, depth, 32)
        compare(f"{name} X, {batch}", twin_x, fast_x, inputs, None, options.repeats)


if __name__ == "__main__":
    main()
