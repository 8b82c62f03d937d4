"""Engine bridge_matching on made-up cells: CPU seconds per cell, peak memory and quality against the number of cells.

Three lineages that branch and bend in 50 coordinates with a decaying spectrum, seen at five times; cells are split
evenly over the times. Vanilla bridge (Brownian reference), Adam steps in proportion to the cells, one process per
number of cells. Quality: W2 of 1000 bridge samples to 1000 true cells at the held-out time 1.5, beside 1000 other
true cells (the sampling floor), the nearest snapshot, and exact OT of 1000 cells (POT) with Brownian bridges, which is
the static vanilla bridge where the noise is small against distances.

    OMP_NUM_THREADS=1 python benchmarks/cells_scale.py [--cells 10000 30000 100000] [--plot cells_scale.png]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from sciflow.core.files import replacing
from sciflow.metrics.transport import wasserstein
from sciflow.networks.references import Brownian
from sciflow.training.schrodinger.alternation import alternate
from sciflow.training.schrodinger.bridge_matching import BridgeMatching
from sciflow.training.schrodinger.snapshots import Snapshots

TIMES, HELD, DIM, SIGMA, DT = (0.0, 1.0, 2.0, 3.0, 4.0), 1.5, 50, 0.3, 0.05
BATCH, WIDTH, SCORED = 512, 256, 1000


def population(n: int, t: float, seed: int) -> np.ndarray:
    """`n` cells (n, DIM) at time t: three Gaussians in equal shares whose means run on curves."""
    shape = np.random.default_rng(0)  # the curves are the same for all seeds
    spectrum = 2.0 * (1 + np.arange(DIM)) ** -0.7
    ways, bends = shape.normal(size=(2, 3, DIM)) * spectrum
    means = 1.5 * t * ways.mean(0) + max(t - 0.5, 0) * ways + np.sin(t) * bends
    draw = np.random.default_rng([seed, round(1000 * t)])
    return means[draw.permutation(n) % 3] + 0.4 * spectrum * draw.normal(size=(n, DIM))


def one(cells: int, passes: int, seed: int) -> dict[str, float]:
    """Fit and score with that many cells in all."""
    torch.set_num_threads(1)
    data = Snapshots.of([population(cells // len(TIMES), t, seed) for t in TIMES], TIMES)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    engine = BridgeMatching(steps=passes * cells // BATCH, batch=BATCH, width=WIDTH)
    start, wall = time.process_time(), time.perf_counter()
    bridge = alternate(data, Brownian(), engine, sigma=SIGMA, dt=DT, rounds=0, seed=seed)
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    start = time.process_time()
    paths = bridge.sample(SCORED, [HELD], seed)[:, 0]
    sampling = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    truth = population(SCORED, HELD, seed + 1)
    figures = {"cells": cells, "seconds": seconds, "wall": wall, "sampling": sampling, "base": base, "peak": peak}
    return figures | {"w2": wasserstein(paths, truth, 2)}


def baselines(seed: int) -> dict[str, float]:
    """W2 at the held-out time of the floor, the nearest snapshot, and static OT with Brownian bridges."""
    import ot

    truth, draw = population(SCORED, HELD, seed + 1), np.random.default_rng(seed)
    start = time.process_time()
    x, y = population(SCORED, 1.0, seed), population(SCORED, 2.0, seed)
    rows = ot.emd([], [], ot.dist(x, y)).argmax(1)
    middle = (x + y[rows]) / 2 + SIGMA / 2 * draw.normal(size=x.shape)
    seconds = time.process_time() - start
    floor, nearest = population(SCORED, HELD, seed + 2), population(SCORED, 1.0, seed + 2)
    named = {"floor (1000 other true cells)": floor, "snapshot at time 1": nearest}
    named |= {f"POT exact OT + Brownian bridge, 1000 cells ({seconds:.1f} CPU s)": middle}
    return {name: wasserstein(points, truth, 2) for name, points in named.items()}


def plot(rows: list[dict[str, float]], path: Path) -> None:
    """CPU milliseconds per cell and peak memory against cells."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cells = [row["cells"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    left.plot(cells, [1000 * row["seconds"] / row["cells"] for row in rows], "o-")
    left.set(xscale="log", xlabel="cells (50 coordinates, 5 times)", ylabel="CPU ms per cell")
    left.set_ylim(0, 1.2 * left.get_ylim()[1])
    right.plot(cells, [row["peak"] for row in rows], "o-")
    right.set(xscale="log", xlabel="cells", ylabel="peak memory, GiB")
    right.set_ylim(0, 1.2 * right.get_ylim()[1])
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def main() -> None:
    """Print the table, write the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--passes", type=int, default=20, help="points of bridges that are fitted, per cell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, default=Path("cells_scale.png"))
    parser.add_argument("--alone", action="store_true", help="one number of cells in this process; prints JSON")
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(one(options.cells[0], options.passes, options.seed)))
        return
    print("| cells | CPU s | ms per cell | wall s | peak GiB | before the fit | W2 at 1.5 |\n" + "|---" * 7 + "|")
    rows, fixed = [], ["--alone", "--passes", str(options.passes), "--seed", str(options.seed), "--cells"]
    for cells in options.cells:
        done = subprocess.run(
            [sys.executable, __file__, *fixed, str(cells)], capture_output=True, text=True, check=True
        )
        row = json.loads(done.stdout)
        rows.append(row)
        print(
            f"| {cells} | {row['seconds']:.0f} | {1000 * row['seconds'] / cells:.2f} | {row['wall']:.0f} "
            f"| {row['peak']:.2f} | {row['base']:.2f} | {row['w2']:.3f} |",
            flush=True,
        )
    plot(rows, options.plot)
    print("\n| at time 1.5 | W2 |\n|---|---|")
    for name, value in baselines(options.seed).items():
        print(f"| {name} | {value:.3f} |", flush=True)


if __name__ == "__main__":
    main()
