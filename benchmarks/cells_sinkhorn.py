"""Static Schroedinger problems of real intervals: `sciflow.couplings.sinkhorn` beside POT's solvers, at the same cost.

Brownian reference, temperature 1. `gap` is the median over cells of the least cost, in nats: large means stiff. For
each solver CPU seconds of one thread and the L1 error of the marginals; POT stops at 1e-6 or after 5000 sweeps. The
last column is the largest difference between our coupling and POT's log-domain one, times the number of cells.

    SCIFLOW_DATA=data OMP_NUM_THREADS=1 python benchmarks/cells_sinkhorn.py [--data FOLDER]
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ot
import torch

from sciflow.couplings.sinkhorn import sinkhorn

INTERVALS = [  # file, snapshots, sigma, duration
    ("lv_published", (0, 2), 0.1, 2.0),
    ("gom_vortex_large", (0, 2), 0.1, 2.0),
    ("hesc_pca5", (0, 2), 0.05, 1.0),
    ("hesc_pca5", (2, 4), 0.05, 2.0),
    ("eb_pca5", (0, 2), 0.1, 1.0),
    ("eb_pca5", (2, 4), 0.1, 1.0),
]


def timed(solve: Callable[[], Any]) -> tuple[np.ndarray, float]:
    """A coupling and its CPU seconds."""
    start = time.process_time()
    coupling = solve()
    return coupling, time.process_time() - start


def error(coupling: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """L1 error of both marginals."""
    return float(np.abs(coupling.sum(1) - a).sum() + np.abs(coupling.sum(0) - b).sum())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("SCIFLOW_DATA", "data"), help="folder that holds singlecell/")
    folder = Path(parser.parse_args().data) / "singlecell"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    options = {"stopThr": 1e-6, "numItermax": 5000}
    print(f"torch {torch.__version__}, POT {ot.__version__}, one thread, {time.strftime('%Y-%m-%d')}\n")
    print("| interval | cells | gap | sciflow CPU-s, error | POT log | POT epsilon scaling | difference |")
    print("|---" * 7 + "|")
    for name, (first, last), sigma, duration in INTERVALS:
        with np.load(folder / f"{name}.npz") as file:
            x, y = (file[f"X{k}"].astype(float) for k in (first, last))
        cost = np.asarray(ot.dist(x, y)) / (2 * sigma**2 * duration)
        a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
        inputs = [torch.from_numpy(v) for v in (cost, a, b)]
        solvers: list[Callable[[], Any]] = [
            lambda inputs=inputs: sinkhorn(*inputs).log.exp().numpy(),
            lambda a=a, b=b, cost=cost: ot.bregman.sinkhorn_log(a, b, cost, 1.0, **options),
            lambda a=a, b=b, cost=cost: ot.bregman.sinkhorn_epsilon_scaling(a, b, cost, 1.0, **options),
        ]
        couplings, seconds = zip(*map(timed, solvers), strict=True)
        cells = [f"{s:.3f}, {error(c, a, b):.0e}" for c, s in zip(couplings, seconds, strict=True)]
        apart = np.abs(couplings[0] - couplings[1]).max() * len(x)
        gap = float(np.median(cost.min(1)))
        print(
            f"| {name} {first}-{last} | {len(x)} x {len(y)} | {gap:.0f} | {' | '.join(cells)} | {apart:.0e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
