"""Held-out snapshots by sciflow's three engines and by peers: one table, same data, same machine.

W1 and W2 of 500 draws at each held-out time against the held-out cells (protocols of SBIRR, arXiv 2408.06277), means
over these times, and CPU seconds of one thread from the arrays to the draws, imports excluded (those of moscot hold its
compilation). POT: log-domain Sinkhorn with regulariser 2 sigma^2 T and Brownian bridges; exact OT with straight lines.
The floor is the distance between random halves of the held-out cells (mean of 20): halves have fewer cells, so it is
pessimistic.

    OMP_NUM_THREADS=1 SCIFLOW_DATA=... python benchmarks/cells_peers.py --peers-python VENV/bin/python \\
        [--data lv_published eb_pca5 ...] [--methods bridge ...] [--store peers.json]

moscot and torchcfm run in the Python given (pip install moscot torchcfm; torchcfm breaks an environment with lightning)
and are left out, with the reason, where it lacks them. `--store` keeps finished lines; an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ot
import torch
from cells_targets import TASKS, Task, load, small_field

from sciflow.core.files import write_text
from sciflow.metrics.transport import wasserstein
from sciflow.networks.references import Brownian, LotkaVolterra, Reference, Vortex
from sciflow.training.schrodinger.alternation import alternate
from sciflow.training.schrodinger.bridge_matching import BridgeMatching
from sciflow.training.schrodinger.engine import Engine
from sciflow.training.schrodinger.gaussian_process import NystromGP
from sciflow.training.schrodinger.gp_ipf import GaussianProcessIPF
from sciflow.training.schrodinger.kernel_bridge import KernelBridge
from sciflow.training.schrodinger.snapshots import Held, Snapshots
from sciflow.training.schrodinger.theta import AdamSteps

SAMPLES = 500
WORKER = Path(__file__).with_name("cells_peers_worker.py")
DATA = ("lv_published", "gom_vortex_small", "eb_pca5", "hesc_pca5")
FAMILIES: dict[str, tuple[Callable[[], Reference], int]] = {
    "lv": (LotkaVolterra, 10),
    "gom": (Vortex, 10),
    "eb": (small_field, 4),
    "hesc": (small_field, 4),
}
Draws = Callable[[str, Snapshots, Held, Task, int], list[np.ndarray]]


def sciflow(engine: Engine, refined: bool) -> Draws:
    """An engine with the Brownian reference, or with the family of the set refined."""

    def draws(name: str, train: Snapshots, held: Held, task: Task, seed: int) -> list[np.ndarray]:
        family, rounds = FAMILIES[name.split("_")[0]] if refined else (Brownian, 0)
        step = AdamSteps(400) if family is small_field else None
        settings: dict[str, Any] = {
            "sigma": task.sigma,
            "dt": task.dt,
            "rounds": rounds,
            "theta_step": step,
            "seed": seed,
        }
        paths = alternate(train, family(), engine, **settings).sample(SAMPLES, held.times, seed)
        return [paths[:, i] for i in range(len(held))]

    return draws


def static(noisy: bool) -> Draws:
    """POT between neighbouring snapshots: Sinkhorn and Brownian bridges, or the exact plan and straight lines."""

    def draws(name: str, train: Snapshots, held: Held, task: Task, seed: int) -> list[np.ndarray]:
        draw, found = np.random.default_rng(seed), []
        for t in held.times:
            k = int(np.searchsorted(train.times, t)) - 1
            (x, y), gap = train.points[k : k + 2], train.times[k + 1] - train.times[k]
            cost, u = ot.dist(x, y), (t - train.times[k]) / gap
            words: dict[str, Any] = {"method": "sinkhorn_log", "numItermax": 2000, "warn": False}
            plan = ot.sinkhorn([], [], cost, 2 * task.sigma**2 * gap, **words) if noisy else ot.emd([], [], cost)
            pairs = draw.choice(plan.size, size=SAMPLES, p=plan.ravel() / plan.sum())
            points = (1 - u) * x[pairs // len(y)] + u * y[pairs % len(y)]
            std = task.sigma * np.sqrt(gap * u * (1 - u)) if noisy else 0.0
            found.append(points + std * draw.normal(size=points.shape))
        return found

    return draws


METHODS: dict[str, Draws] = {
    "sciflow kernel_bridge, vanilla": sciflow(KernelBridge(), False),
    "sciflow kernel_bridge, refined": sciflow(KernelBridge(), True),
    "sciflow bridge_matching, vanilla": sciflow(BridgeMatching(), False),
    "sciflow bridge_matching, refined": sciflow(BridgeMatching(steps=500), True),
    "sciflow gp_ipf (Nystrom), vanilla": sciflow(GaussianProcessIPF(regressor=NystromGP()), False),
    "sciflow gp_ipf (exact), vanilla": sciflow(GaussianProcessIPF(iterations=4), False),
    "POT Sinkhorn + Brownian bridge": static(True),
    "POT exact OT, straight lines": static(False),
}
PEERS = ("moscot", "torchcfm OT-CFM", "torchcfm [SF]2M")
LARGE = 8000  # points (cells x steps) of an interval beyond which the exact GP is left out: 10 CPU minutes and more


def peer(python: str, method: str, problem: Path, result: Path) -> str | None:
    """Run a peer; the reason if it could not."""
    try:
        words = [python, str(WORKER), method, str(problem), str(result)]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"JAX_PLATFORMS": "cpu"}
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        done = subprocess.run(words, capture_output=True, text=True, env=environment | {"XLA_FLAGS": flags})
    except OSError as error:
        return f"{python}: {error.strerror}"
    return None if done.returncode == 0 else (done.stderr.strip() or "no message").splitlines()[-1]


def measured(name: str, method: str, folder: Path, python: str, seed: int) -> dict[str, object]:
    """One line: W1 and W2 at each held-out time and CPU seconds, or the reason why there is none."""
    train, held = load(folder, name)
    task, versions = TASKS[name.split("_")[0]], ""
    largest = max(train.sizes) * max(np.diff(train.times)) / task.dt
    if "(exact)" in method and largest > LARGE:
        return {"skipped": f"{largest:.0f} points in an interval: cubic time"}
    if method in METHODS:
        start = time.process_time()
        clouds = METHODS[method](name, train, held, task, seed)
        seconds = time.process_time() - start
    else:
        with tempfile.TemporaryDirectory() as scratch:
            problem, result = Path(scratch) / "problem.npz", Path(scratch) / "result.npz"
            points: dict[str, Any] = {f"X{k}": x for k, x in enumerate(train.points)}
            settings: dict[str, Any] = {"sigma": task.sigma, "samples": SAMPLES, "seed": seed}
            np.savez(problem, times=train.times, held=held.times, **settings, **points)
            if reason := peer(python, method, problem, result):
                return {"skipped": reason}
            with np.load(result) as file:
                clouds = [file[f"Y{i}"] for i in range(len(held))]
                seconds, versions = float(file["seconds"]), str(file["versions"])
    pairs = list(zip(clouds, held.points, strict=True))
    w1, w2 = ([wasserstein(a, b, order) for a, b in pairs] for order in (1, 2))
    return {"w1": w1, "w2": w2, "seconds": seconds, "versions": versions}


def floor(name: str, folder: Path, seed: int) -> dict[str, object]:
    """Distance between random halves of the held-out cells."""
    _, held = load(folder, name)
    draw, found = np.random.default_rng(seed), np.zeros((2, len(held)))
    for i, cells in enumerate(held.points):
        for _ in range(20):
            order = draw.permutation(len(cells))
            halves = cells[order[: len(cells) // 2]], cells[order[len(cells) // 2 :]]
            found[:, i] += [wasserstein(*halves, order=p) / 20 for p in (1, 2)]
    return {"w1": found[0].tolist(), "w2": found[1].tolist(), "seconds": float("nan"), "versions": ""}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=DATA)
    parser.add_argument("--methods", nargs="+", default=[""], help="only methods whose name holds one of these words")
    parser.add_argument("--peers-python", default="python")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(os.environ["SCIFLOW_DATA"]) / "singlecell"
    stored = json.loads(options.store.read_text()) if options.store and options.store.exists() else {}
    names = [m for m in (*METHODS, *PEERS, "floor") if any(word in m for word in options.methods)]
    print(f"torch {torch.__version__}, POT {ot.__version__}, numpy {np.__version__}, seed {options.seed}, 1 thread\n")
    print("| set | method | W1 at the held-out times | mean W1 | mean W2 | CPU s |\n" + "|---" * 6 + "|", flush=True)
    for name in options.data:
        for method in names:
            key = f"{name}, {method}, seed {options.seed}"
            if key not in stored or "skipped" in stored[key]:
                line = (name, method, folder, options.peers_python, options.seed)
                stored[key] = floor(name, folder, options.seed) if method == "floor" else measured(*line)
                if options.store:
                    write_text(options.store, json.dumps(stored, indent=1))
            row = stored[key]
            if "skipped" in row:
                print(f"| {name} | {method} | skipped: {row['skipped']} | | | |", flush=True)
                continue
            each, title = " ".join(f"{x:.3f}" for x in row["w1"]), f"{method} ({row['versions']})".replace(" ()", "")
            means = f"{np.mean(row['w1']):.3f} | {np.mean(row['w2']):.3f}"
            print(f"| {name} | {title} | {each} | {means} | {row['seconds']:.1f} |".replace("nan", ""), flush=True)


if __name__ == "__main__":
    main()
