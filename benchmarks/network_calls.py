"""Quality against the number of network calls: one trained model, several solvers and step counts.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/network_calls.py [--model qm9-gdss] [--num 2000] [--seed 0]

FCD falls with the number of samples: compare it with the floor (random training molecules of the same number).
"""

from __future__ import annotations

import argparse
import platform
import time

import torch

from sciflow.domains.molecules.data import molecule_dataset
from sciflow.domains.molecules.metrics import evaluate_molecules, qm9_test_statistics
from sciflow.model import load

RUNS = [("Ancestral", n) for n in (25, 50, 100, 200)] + [("DPMpp2M", n) for n in (25, 50, 100)]
FIGURES = ("validity_without_correction", "uniqueness", "nspdk_mmd", "fcd")


def main() -> None:
    """Print one row for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qm9-gdss")
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, split = load(arguments.model), molecule_dataset("qm9")
    print(f"{platform.machine()}, 1 thread, CPU time; torch {torch.__version__}")
    print(f"{arguments.num} samples, seed {arguments.seed}\n")
    print("| solver | network calls | valid without correction, % | unique, % | NSPDK MMD | FCD | ms per molecule |")
    print("|---|---|---|---|---|---|---|")
    for solver, steps in RUNS:
        start = time.process_time()
        molecules = model.sample(arguments.num, arguments.seed, steps=steps, solver=solver)
        milliseconds = (time.process_time() - start) / arguments.num * 1e3
        found = evaluate_molecules(
            molecules, split.test.smiles, split.train.smiles, reference_statistics=qm9_test_statistics()
        )["metrics"]
        valid, unique, nspdk, fcd = (found[name]["value"] for name in FIGURES)
        figures = f"{100 * valid:.1f} | {100 * unique:.1f} | {nspdk:.5f} | {fcd:.2f} | {milliseconds:.1f}"
        print(f"| {solver} | {steps} | {figures} |", flush=True)
    floors = [found[name].get("floor", float("nan")) for name in FIGURES]
    shown = f"{100 * floors[0]:.1f} | {100 * floors[1]:.1f} | {floors[2]:.5f} | {floors[3]:.2f}"
    print(f"| training molecules | - | {shown} | - |")


if __name__ == "__main__":
    main()
