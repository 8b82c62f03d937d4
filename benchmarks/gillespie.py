"""Exact simulation of jump processes: sciflow through its one sampler, a plain Python loop, and GillesPy2.

System: the discrete flashing ratchet, V = r = b = 1, from its stationary law (fim_mjp.md, section 8a), 2.87 jumps per
unit time. All sides return every path on 11 equal times; sciflow and the loop record all jumps as well.

- loop: one path after the other, numpy, tables made beforehand, two calls of the generator per event.
- GillesPy2 (Python): `NumPySSASolver`; (C++): `SSACSolver`, compiled before the clock starts, its processes included.
- sciflow Gillespie: all paths at once, one call of the rates per round of events; `Fresh` noise and `PerSample` (the
  numbers of a path depend on its index alone). sciflow Uniformisation: the exact moves of a chain with known rates.

Times are CPU seconds of this process and its children, the best of three runs where a run is below a second. The
mean number of jumps of each side stands beside its time: they simulate the same law.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/gillespie.py [--peers SITE_PACKAGES_WITH_GILLESPY2]
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import platform
import resource
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sciflow.core.grids import Physical
from sciflow.core.markov import generator, stationary
from sciflow.core.noise import Fresh, Noise, PerSample
from sciflow.core.sampler import Sampler
from sciflow.core.solver import Solver
from sciflow.core.state import Layout, State
from sciflow.processes.jump import Chain, KnownRates
from sciflow.solvers.gillespie import Gillespie
from sciflow.solvers.uniformisation import Uniformisation

STATES, POINTS = 6, 11
Run = Callable[[int, float], tuple[np.ndarray, float]]  # paths, end -> states (paths, POINTS), jumps per path (or nan)


def ratchet(v: float = 1.0) -> torch.Tensor:
    """Generator with r = b = 1."""
    rates = torch.zeros(STATES, STATES, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            rates[i, j], rates[3 + i, 3 + j] = math.exp(-v * (j - i) / 2), 1.0
        rates[i, 3 + i] = rates[3 + i, i] = 1.0
    return generator(rates)


def ours(solver: Solver, noise: Callable[[int], Noise], seed: int) -> Run:
    """The sampler with known rates."""
    process = Chain(ratchet().tolist())

    def run(paths: int, end: float) -> tuple[np.ndarray, float]:
        start = torch.multinomial(
            stationary(process.generator), paths, True, generator=torch.Generator().manual_seed(seed)
        )
        sampler = Sampler({"s": process}, {"s": solver}, Physical(0.0, end))
        state = State({"s": start}, {"s": Layout(paths)})
        solution = sampler.run(state, KnownRates(process, process.generator), noise(seed), steps=1)
        recorded = solution.memory["s"].paths()
        grid = torch.linspace(0, end, POINTS, dtype=torch.float64)
        return recorded.on_grid(grid).numpy(), float((recorded.lengths - 2).double().mean())

    return run


def plain_loop(seed: int) -> Run:
    """One path after the other."""
    F = ratchet().numpy()
    total = -F.diagonal()
    cumulative = np.cumsum(np.where(np.eye(STATES, dtype=bool), 0, F) / total[:, None], axis=1)
    law = stationary(ratchet()).numpy()

    def run(paths: int, end: float) -> tuple[np.ndarray, float]:
        rng, jumps = np.random.default_rng(seed), 0
        grid, states = np.linspace(0, end, POINTS), np.empty((paths, POINTS), dtype=np.int64)
        for path in range(paths):
            x = int(rng.choice(STATES, p=law))
            t, times, visited = 0.0, [0.0], [x]
            while True:
                t += rng.exponential() / total[x]
                if t > end:
                    break
                x = int(np.searchsorted(cumulative[x], rng.random()))
                times.append(t)
                visited.append(x)
            jumps += len(times) - 1
            states[path] = np.asarray(visited)[np.searchsorted(times, grid, side="right") - 1]
        return states, jumps / paths

    return run


def peer(compiled: bool, seed: int) -> Run:
    """GillesPy2: a species for each state, one molecule; as many runs per starting state as its law says."""
    gillespy2: Any = importlib.import_module("gillespy2")
    solvers: Any = importlib.import_module("gillespy2.solvers")
    F, law = ratchet(), stationary(ratchet())

    def model(start: int, end: float) -> Any:
        one = gillespy2.Model(name="ratchet")
        species = [
            gillespy2.Species(name=f"s{i}", initial_value=int(i == start), mode="discrete") for i in range(STATES)
        ]
        one.add_species(species)
        for i, j in F.nonzero().tolist():
            if i != j:
                rate = gillespy2.Parameter(name=f"k{i}{j}", expression=float(F[i, j]))
                one.add_parameter(rate)
                ends = {"reactants": {species[i]: 1}, "products": {species[j]: 1}}
                one.add_reaction(gillespy2.Reaction(name=f"r{i}{j}", rate=rate, **ends))
        one.timespan(gillespy2.TimeSpan.linspace(t=end, num_points=POINTS))
        return one

    made: dict[tuple[int, float], Any] = {}

    def run(paths: int, end: float) -> tuple[np.ndarray, float]:
        rng, parts = np.random.default_rng(seed), []
        for start, count in enumerate(rng.multinomial(paths, law / law.sum())):
            if count == 0:
                continue
            key = (start, end)
            if key not in made:
                kind = solvers.SSACSolver if compiled else solvers.NumPySSASolver
                made[key] = kind(model=model(start, end))
            for one in made[key].run(number_of_trajectories=int(count), seed=seed + 1 + start):
                parts.append(np.stack([one[f"s{i}"] for i in range(STATES)]).argmax(0))
        return np.stack(parts) if parts else np.empty((0, POINTS)), math.nan

    run(1, 2.5)  # says now if it cannot be built
    return run


def cpu() -> float:
    """CPU seconds of this process and its children."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


def timed(run: Run, paths: int, end: float) -> tuple[float, np.ndarray, float]:
    """CPU seconds (best of three below a second), states and jumps per path."""
    best = math.inf
    run(min(paths, 1000), end)  # builds what is built once
    for _ in range(3):
        start = cpu()
        states, jumps = run(paths, end)
        best = min(best, cpu() - start)
        if best > 1:
            break
    return best, states, jumps


def sides(seed: int) -> dict[str, Run | str]:
    """Name -> run, or why there is none."""
    found: dict[str, Run | str] = {
        "plain loop": plain_loop(seed),
        "sciflow Gillespie, Fresh": ours(Gillespie(record=True), Fresh, seed),
        "sciflow Gillespie, PerSample": ours(Gillespie(record=True), PerSample, seed),
        "sciflow Uniformisation, Fresh": ours(Uniformisation(record=True), Fresh, seed),
    }
    for name, compiled in (("GillesPy2 (Python)", False), ("GillesPy2 (C++)", True)):
        try:
            found[name] = peer(compiled, seed)
        except ImportError as error:
            found[name] = f"not importable: {error}; pip install gillespy2"
        except Exception as error:  # its build of C++ fails in many ways
            found[name] = f"does not build: {str(error).splitlines()[0]}"
    return found


def main() -> None:
    """Print one row for each side and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="directory to append to the module path")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.peers:
        sys.path.append(arguments.peers)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), arguments.peers]))
    torch.set_num_threads(1)
    runs = sides(arguments.seed)
    version = getattr(sys.modules.get("gillespy2"), "__version__", "-")
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, 1 thread, CPU s, seed {arguments.seed}"
    )
    print(
        f"python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, gillespy2 {version}\n"
    )
    print("| paths x time | side | CPU s | us per path | loop / side | jumps per path | states at the end, z |")
    print("|---|---|---|---|---|---|---|")
    law = stationary(ratchet()).numpy()
    for paths, end in ((1, 2.5), (1000, 2.5), (60_000, 2.5), (1, 5000.0)):
        reference = math.nan
        for name, run in runs.items():
            if isinstance(run, str):
                print(f"| {paths} x {end:g} | {name} | - | - | - | - | {run} |")
                continue
            if name == "GillesPy2 (Python)" and paths > 1000:
                continue
            seconds, states, jumps = timed(run, paths, end)
            reference = seconds if name == "plain loop" else reference
            share = np.bincount(states[:, -1], minlength=STATES) / len(states)
            z = np.abs(share - law) / np.sqrt(law * (1 - law) / len(states))
            checks = f"{'-' if math.isnan(jumps) else f'{jumps:.2f}'} | {f'{z.max():.1f}' if paths > 1 else '-'}"
            figures = f"{seconds:.4f} | {1e6 * seconds / paths:.4g} | {reference / seconds:.3g} | {checks}"
            print(f"| {paths} x {end:g} | {name} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
