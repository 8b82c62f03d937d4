"""Cost of sampling masked sequences: network rows and seconds of each way to fill 200 masked positions.

A row is one sequence shown to the network once. The plain loop (ancestral, N moves) shows every sequence N times. In a
move that unmasks nothing a sequence stays as it was, with probability (1 - 1/N)^L; `RowCache` does not evaluate it
again, and evaluates the equal rows of the first call once. Any-order sampling needs L/k rows for k tokens per move, and
first-hitting (the exact jump process) L.

The network is the dilated CNN of DRAKES with random weights: the number of rows does not depend on what it says. Times
are CPU seconds of one thread.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/sequence_sampling.py [--hidden 64] [--stacks 2] [--batch 16]
"""

from __future__ import annotations

import argparse
import platform
import time

import torch

from sciflow.core.denoiser import Denoiser
from sciflow.core.grids import Uniform
from sciflow.core.noise import PerSample
from sciflow.core.row_cache import RowCache
from sciflow.core.sampler import Sampler
from sciflow.core.solver import Solver
from sciflow.core.state import Layout, State
from sciflow.domains.sequences.network import SequenceCNN
from sciflow.processes.masked import Masked
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.any_order import AnyOrder
from sciflow.solvers.first_hitting import FirstHitting

LETTERS = 4


def runs(length: int) -> list[tuple[str, Solver, int, bool]]:
    """(name, solver, moves, with a row cache)."""
    plain = [(f"ancestral, N = {n}", Ancestral(), n, False) for n in (128, 512)]
    cached = [(f"ancestral, N = {n}, row cache", Ancestral(), n, True) for n in (128, 512)]
    events = [(f"any-order, {k} per move", AnyOrder(), -(-length // k), False) for k in (1, 2, 4)]
    return [*plain, *cached, ("first-hitting", FirstHitting(), 1, False), *events]


def expected_saving(moves: int, length: int, batch: int) -> float:
    """Share of the rows: all later calls with probability (1 - 1/moves)^length; the first call evaluates one row."""
    return (moves - 1) / moves * (1 - 1 / moves) ** length + (1 - 1 / batch) / moves


def main() -> None:
    """Print one row for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("hidden", 64), ("stacks", 2), ("batch", 16), ("length", 200), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    batch, length = arguments.batch, arguments.length
    process = {"seq": Masked(LETTERS)}
    denoiser = Denoiser(SequenceCNN(LETTERS, arguments.hidden, arguments.stacks).eval(), process)
    state = State({"seq": torch.full((batch, length), LETTERS)}, {"seq": Layout(batch)})
    print(f"{platform.machine()}, 1 thread, CPU time; torch {torch.__version__}")
    print(f"{batch} sequences of length {length}; hidden {arguments.hidden}, {arguments.stacks} stacks\n")
    print("| method | calls | rows per sequence | rows per token | saved, % | expected, % | s per sequence |")
    print("|---|---|---|---|---|---|---|")
    for name, solver, moves, cached in runs(length):
        cache = RowCache(clock_free=True)
        sampler = Sampler(process, {"seq": solver}, Uniform(1.0, 0.0), hooks=[cache] if cached else [])
        start = time.process_time()
        solution = sampler.run(state, denoiser, PerSample(arguments.seed), steps=moves)
        seconds = (time.process_time() - start) / batch
        assert int(solution.state["seq"].max()) < LETTERS
        rows = cache.evaluated / batch if cached else solution.evaluations
        saved, expected = "-", "-"
        if cached:
            saved = f"{100 * (1 - rows / moves):.1f}"
            expected = f"{100 * expected_saving(moves, length, batch):.1f}"
        figures = f"{solution.evaluations} | {rows:.1f} | {rows / length:.2f} | {saved} | {expected} | {seconds:.3f}"
        print(f"| {name} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
