"""EGTN against the same network by its formulas (tests/egtn_formula.py: the released arithmetic), same weights.

Each line is a network call (no gradients) and a training step (forward and backward) of one batch of trajectories with
T = 30 frames, H = 128, 6 layers, 32 sinusoids, the first 10 frames observed. One thread, CPU seconds of the calling
thread, minimum over repeats; peak memory (resident set minus that before the call) of each side in a fresh process.
Then a whole conditional training step, 16 trajectories of 5 bodies with a learned anchor of 2 layers, and 100 futures
of such bodies by ancestral sampling (1 000 moves take minutes).

    OMP_NUM_THREADS=1 PYTHONPATH=.:tests python benchmarks/trajectory_network.py [--batch 16] [--moves 50 1000]
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import egtn_formula
import torch
from egtn_toy import walks
from torch import Tensor

from sciflow.core.denoiser import Denoiser
from sciflow.core.grids import Uniform
from sciflow.core.noise import Fresh
from sciflow.core.objective import Example
from sciflow.core.sampler import Sampler
from sciflow.core.schedules import VP
from sciflow.core.state import State
from sciflow.domains.trajectories.anchors import ConstantVelocity, LearnedAnchor, ResidualScale
from sciflow.domains.trajectories.network import EGTN
from sciflow.objectives.regression import Regression
from sciflow.processes.anchored import Anchored
from sciflow.processes.gaussian import GaussianProcess
from sciflow.solvers.ancestral import Ancestral

CASES = {  # name: (atoms, share of linked pairs)
    "n-body, all pairs": (5, 1.0),
    "ethanol, bonds <= 3": (9, 66 / 72),
    "aspirin, bonds <= 3": (21, 180 / 420),
}


def case(name: str, batch: int) -> tuple[EGTN, State, dict[str, Tensor]]:
    """(network, state, clocks)."""
    atoms, share = CASES[name]
    torch.manual_seed(0)
    state = walks((atoms,) * batch, 30, (torch.arange(30) < 10).float(), atoms=30, pairs=4, bonds=share)
    return EGTN(30, 4, zero_init=False, bonded=True), state, {"pos": torch.rand(batch)}


def calls(name: str, batch: int) -> dict[str, Callable[[], Tensor]]:
    """Network call of each side."""
    network, state, clocks = case(name, batch)
    edges = egtn_formula.edges(state, True)  # enumerated once: not what is measured
    mask: Tensor = state.layouts["pos"].mask  # type: ignore[assignment]
    return {
        "formulas": lambda: egtn_formula.reference(network, state, clocks, edges) * mask,
        "sciflow": lambda: network(state, clocks)["pos"],
    }


def measured(call: Callable[[], Tensor], train: bool, repeats: int) -> float:
    """Smallest CPU seconds."""
    best = float("inf")
    for _ in range(repeats):
        start = time.thread_time()
        if train:
            call().square().mean().backward()
        else:
            with torch.inference_mode():
                call()
        best = min(best, time.thread_time() - start)
    return best


def megabytes(name: str, side: str, train: bool, batch: int) -> float:
    """Growth of the peak resident set by one call in a fresh process."""
    command = [sys.executable, __file__, "--child", json.dumps([name, side, train, batch])]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def child(name: str, side: str, train: bool, batch: int) -> None:
    """Print the growth in MB."""
    call = calls(name, batch)[side]
    before = peak()
    measured(call, train, 1)
    print(peak() - before)


def peak() -> float:
    """Largest resident set of this process so far, MB (Linux; `getrusage` would count the parent's)."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def conditional(batch: int) -> tuple[EGTN, Denoiser, State]:
    """(network, denoiser, state) of conditional models at n-body size."""
    torch.manual_seed(0)
    state = walks((5,) * batch, 30, (torch.arange(30) < 10).float(), atoms=1, pairs=1)
    network = EGTN(1, 1, LearnedAnchor(1, 1, ConstantVelocity()), ResidualScale()).train()
    return network, Denoiser(network, {"pos": Anchored(GaussianProcess(VP(), kind="v"))}), state


def sampling(moves: int, number: int = 100) -> float:
    """CPU seconds of this many futures."""
    network, denoiser, state = conditional(number)
    with torch.no_grad():
        denoiser.prepare(state)  # the residual scale sees data
    network.eval()
    sampler = Sampler(dict(denoiser.processes), {"pos": Ancestral()}, Uniform())  # type: ignore[arg-type]
    start, noise = time.thread_time(), Fresh(0)
    with torch.inference_mode():
        prior = sampler.prior(denoiser.prepare(state), noise)
    sampler.run(prior, denoiser, noise, steps=moves)
    return time.thread_time() - start


def training_step(batch: int) -> Callable[[], None]:
    """One conditional training step at n-body size: anchor, scale, noise, network, loss, gradients, Adam."""
    network, denoiser, state = conditional(batch)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    loss, noise, t = Regression("v"), Fresh(0), torch.rand(batch)

    def step() -> None:
        clean = denoiser.prepare(state)
        kernel = denoiser.processes["pos"].marginal(clean["pos"], t, clean.layouts["pos"])  # type: ignore[operator]
        noised = clean.put(pos=kernel.sample(noise))
        optimizer.zero_grad()
        loss(denoiser(noised, {"pos": t})["pos"], Example("pos", clean["pos"], noised, denoiser)).mean().backward()
        optimizer.step()

    return step


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--moves", type=int, nargs="*", default=[50])
    parser.add_argument("--child")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        child(*json.loads(options.child))
        return
    repeats, batch = options.repeats, options.batch
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, 1 thread, batch {batch}, seed 0\n")
    print("| trajectories | what | formulas s | sciflow s | ratio | formulas MB | sciflow MB | ratio |")
    print("|---" * 8 + "|")
    for name in CASES:
        both = calls(name, batch)
        with torch.inference_mode():
            gap = float((both["formulas"]() - both["sciflow"]()).abs().max())
        for train in (False, True):
            slow, fast = (measured(both[side], train, repeats) for side in ("formulas", "sciflow"))
            much, little = (megabytes(name, side, train, batch) for side in ("formulas", "sciflow"))
            what = "training step" if train else f"call (largest difference {gap:.0e})"
            times = f"{slow:.2f} | {fast:.2f} | {slow / fast:.1f}"
            memory = f"{much:.0f} | {little:.0f} | {much / max(little, 1):.1f}"
            print(f"| {name} | {what} | {times} | {memory} |", flush=True)
    step, best = training_step(16), float("inf")
    for _ in range(repeats + 1):
        start = time.thread_time()
        step()
        best = min(best, time.thread_time() - start)
    print(f"\nconditional training step, 16 trajectories of 5 bodies: {best:.2f} CPU s (required 0.9)")
    for moves in options.moves:
        required = {50: 90, 1000: 1800}.get(moves, "-")
        print(f"100 conditional samples, {moves} moves: {sampling(moves):.0f} CPU s (required {required})", flush=True)


if __name__ == "__main__":
    main()
