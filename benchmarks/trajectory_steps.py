"""Errors of a trajectory model against the number of network calls, for several solvers, on test windows of a set.

The reference is the ancestral chain of `--reference` moves over the same clocks. One sample per window; sample i starts
from the same draw of the prior under every solver, so that differences are paired: each line gives the ratio of its
mean ADE to that of the reference and the standard error of that ratio over the windows. A solver with two calls per
move (Heun) makes half as many moves. CPU seconds of one thread. First the naive forecasts of the same windows, for
n-body systems also true physics from a 3-point velocity; means over single samples are what GeoTDM reports.

    OMP_NUM_THREADS=1 python benchmarks/trajectory_steps.py CKPT --data springs --num 100 [--observed 10] [--store FILE]

`--store` keeps the errors of every line in an npz and takes those that are there, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sciflow
from sciflow.core.grids import Grid, LogSNR, Power, Uniform
from sciflow.core.schedules import Schedule
from sciflow.core.solver import Solver
from sciflow.core.state import State
from sciflow.domains.trajectories.baselines import naive_forecasts, true_dynamics
from sciflow.domains.trajectories.datamodule import TrajectoryData
from sciflow.domains.trajectories.metrics import ade, fde
from sciflow.model import Model
from sciflow.sampling import SamplingPlan
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.dpmpp import DDIM, DPMpp2M
from sciflow.solvers.heun import Heun

SOLVERS: dict[str, Solver] = {"Ancestral": Ancestral(), "DDIM": DDIM(), "DPMpp2M": DPMpp2M(), "Heun": Heun()}


def grids(schedule: Schedule, start: float, end: float) -> dict[str, Grid]:
    """The grids by name."""
    return {
        "uniform": Uniform(start, end),
        "log_snr": LogSNR(schedule, start, end),
        "power": Power(start, end, 2.0),
    }


def errors(model: Model, windows: State, solver: Solver, grid: Grid, moves: int, seed: int) -> tuple[Tensor, Tensor]:
    """(ADE, FDE) of one sample of each window: (B,) each, in the units of the data."""
    plan = SamplingPlan({"pos": solver}, grid, moves)
    drawn = model.generate(torch.arange(windows.batch), seed, plan=plan, template=windows)
    layout = windows.layouts["pos"]
    index: Tensor = layout.index  # type: ignore[assignment]
    free: Tensor = layout.mask[..., 0]  # type: ignore[index]
    distance = (drawn["pos"] - windows["pos"]).norm(dim=-1)  # (atoms, T)
    rows = torch.stack([(distance * free).sum(1) / free.sum(1), distance[:, -1]], 1).double()
    total = rows.new_zeros(windows.batch, 3).index_add(
        0, index, torch.cat([rows, torch.ones(len(rows), 1)], 1).double()
    )
    return total[:, 0] / total[:, 2], total[:, 1] / total[:, 2]


def print_naive(model: Model, batches: list[State], system: str) -> None:
    """ADE, FDE and median ADE of what needs no model."""
    codec: Any = model.codec
    ones = [one for batch in batches for one in codec.to_objects(batch)]
    truth = np.stack([one.positions for one in ones])
    nodes, links = np.stack([one.features[:, 0] for one in ones]), np.stack([one.pairs[..., 0] for one in ones])
    seen = np.asarray(batches[0].cond["seen"][0]) > 0
    times = ones[0].times - ones[0].times[0]
    for name, one in naive_forecasts(truth, seen, times, true_dynamics(system, nodes, links)).items():
        errors = ade(one[:, None, ~seen], truth[:, ~seen]), fde(one[:, None, ~seen], truth[:, ~seen])
        print(f"{name}: ADE {errors[0].mean():.4f} (median {np.median(errors[0]):.4f}), FDE {errors[1].mean():.4f}")
    print()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--data", default="springs")
    parser.add_argument("--num", type=int, default=100, help="test windows, evenly spaced")
    parser.add_argument("--observed", type=int, default=10)
    parser.add_argument("--calls", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("--reference", type=int, default=1000)
    parser.add_argument("--grids", nargs="+", default=["uniform"])
    parser.add_argument("--ends", type=float, nargs=2, default=[0.999, 0.001])
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = sciflow.load(options.checkpoint)
    data = TrajectoryData(options.data, observed=options.observed)
    test = data.read()["test"]
    chosen = np.linspace(0, len(test) - 1, options.num).astype(int)
    batches = [test.batch(part.tolist()) for part in np.array_split(chosen, -(-options.num // options.batch))]
    stored = dict(np.load(options.store)) if options.store and options.store.exists() else {}
    known = grids(model.processes["pos"].base.schedule, *options.ends)  # type: ignore[union-attr]
    lines = [("Ancestral", "uniform", options.reference)]
    lines += [(name, grid, calls) for grid in options.grids for calls in options.calls for name in SOLVERS]
    print(f"{options.num} windows of {options.data}, clocks {options.ends[0]} to {options.ends[1]}, seed 0\n")
    print_naive(model, batches, options.data)
    print("| solver | grid | calls | ADE | FDE | ADE / reference | CPU s |\n" + "|---" * 7 + "|", flush=True)
    reference = None
    for name, grid, calls in lines:
        key, solver = f"{name}-{grid}-{calls}-{options.ends}-{options.num}", SOLVERS[name]
        if key not in stored:
            start = time.process_time()
            moves = max(1, calls // solver.evaluations)
            found = [errors(model, batch, solver, known[grid], moves, i) for i, batch in enumerate(batches)]
            seconds = torch.full((options.num,), time.process_time() - start)
            stored[key] = torch.stack([*(torch.cat(part) for part in zip(*found, strict=True)), seconds]).numpy()
            if options.store:
                np.savez(options.store, **stored)
        ade, fde, seconds = stored[key]
        reference = ade if reference is None else reference
        ratio = ade.mean() / reference.mean()
        spread = (ade - ratio * reference).std(ddof=1) / len(ade) ** 0.5 / reference.mean()
        print(
            f"| {name} | {grid} | {calls} | {ade.mean():.4f} | {fde.mean():.4f} | {ratio:.3f} +- {spread:.3f} "
            f"| {seconds[0]:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
