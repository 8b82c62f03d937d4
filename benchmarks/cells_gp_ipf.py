"""Engine gp_ipf, the published SBIRR algorithm, on the published Lotka-Volterra snapshots.

First W1 at the middle and at the end of interval 1 after each IPF iteration, with the Brownian and with the true
reference. Then the refinement (each round four intervals, each theta-step 20 full-batch Adam steps at 0.05):
parameters, J and held-out W1 after every round, beside the values stored in the published notebook. CPU seconds of one
thread.

    OMP_NUM_THREADS=1 SCIFLOW_DATA=... python benchmarks/cells_gp_ipf.py [--rounds 10] [--seed 0] [--folder RUN]

`--folder` keeps the state after every round; an interrupted run goes on from there.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sciflow.metrics.transport import wasserstein
from sciflow.networks.references import Brownian, LotkaVolterra, Reference
from sciflow.training.schrodinger.alternation import Round, alternate
from sciflow.training.schrodinger.engine import Problem
from sciflow.training.schrodinger.gp_ipf import GaussianProcessIPF
from sciflow.training.schrodinger.snapshots import Snapshots
from sciflow.training.schrodinger.theta import AdamSteps

TRUTH = (1.0, 0.4, 0.4, 0.1)  # alpha, beta, gamma, delta
STORED = (1.156, 0.456, 0.312, 0.079)  # by the published notebook, one run
SIGMA, DT = 0.1, 0.02


def snapshots() -> Snapshots:
    """The published array, times 0 to 8."""
    file = np.load(Path(os.environ["SCIFLOW_DATA"]) / "singlecell" / "lv_published.npz")
    return Snapshots.of([file[f"X{k}"] for k in range(9)], file["times"])


def first_interval(data: Snapshots, references: dict[str, Reference], iterations: int, seed: int) -> None:
    """W1 at times 1 and 2 of paths from the snapshot at 0, after each IPF iteration."""
    print("| reference | iterations | W1 at 1 (held out) | W1 at 2 (end) | CPU s |\n" + "|---" * 5 + "|", flush=True)
    train, _ = Snapshots(data.times[:3], data.points[:3], data.weights[:3]).split([1.0])
    for name, reference in references.items():
        for count in range(1, iterations + 1):
            start = time.process_time()
            engine = GaussianProcessIPF(iterations=count)
            law = engine.bridge(Problem(train, SIGMA, DT, seed), reference, {})
            paths = law.through(0, torch.as_tensor(train.points[0]), torch.Generator().manual_seed(seed))
            middle = wasserstein(paths[:, paths.shape[1] // 2].numpy(), data.points[1])
            end = wasserstein(paths[:, -1].numpy(), data.points[2])
            print(f"| {name} | {count} | {middle:.3f} | {end:.3f} | {time.process_time() - start:.1f} |", flush=True)


def refine(data: Snapshots, rounds: int, iterations: int, seed: int, folder: Path | None) -> None:
    """The alternation, a line per round."""
    train, held = data.split([1, 3, 5, 7])

    def line(done: Round) -> None:
        n = sum(train.sizes)
        paths = done.law.sample(n, torch.as_tensor(held.times), torch.Generator().manual_seed(seed)).numpy()
        score = [wasserstein(paths[:, i], cloud) for i, cloud in enumerate(held.points)]
        cells = [done.number, *(f"{x:.3f}" for x in done.theta), f"{done.law.objective:.1f}"]
        cells += [*(f"{x:.3f}" for x in score), f"{np.mean(score):.3f}", f"{done.seconds:.0f}"]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)

    print("\n| round | alpha | beta | gamma | delta | J | W1 at 1 | 3 | 5 | 7 | mean | CPU s |\n" + "|---" * 12 + "|")
    engine, step = GaussianProcessIPF(iterations), AdamSteps(20, 0.05, None)
    settings: dict[str, Any] = {"sigma": SIGMA, "dt": DT, "rounds": rounds, "theta_step": step, "tolerance": 0.0}
    alternate(train, LotkaVolterra(), engine, **settings, seed=seed, folder=folder, told=line)
    for name, values in (("stored in the published notebook", STORED), ("truth", TRUTH)):
        print(f"| {name} | " + " | ".join(f"{x:.3f}" for x in values) + " |" + " |" * 7)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=10, help="IPF iterations in each interval of the refinement")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = snapshots()
    first_interval(data, {"Brownian": Brownian(), "truth": LotkaVolterra(*TRUTH)}, 4, options.seed)
    refine(data, options.rounds, options.iterations, options.seed, options.folder)


if __name__ == "__main__":
    main()
