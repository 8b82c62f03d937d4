"""What the sampling loop costs beside the network: (sampling time - network time)/network time.

The network is matrix products calibrated to 1 ms and 20 ms; its time is measured inside the same run. Times are CPU
times, on one thread, which other load on the machine changes little. States: one dense field (128, 16), and a
molecule-like pair x (128, 9, 4), adj (128, 9, 9, 4), symmetric and masked. The median over the repeats counts.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/overhead.py [--steps 200] [--repeats 3] [--seed 0]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from sciflow.core.denoiser import Denoiser
from sciflow.core.grids import LogSNR
from sciflow.core.noise import Fresh, Noise, PerSample
from sciflow.core.process import Process
from sciflow.core.sampler import Sampler
from sciflow.core.schedules import VP
from sciflow.core.solver import Solver
from sciflow.core.spaces import SymmetricMatrix
from sciflow.core.state import Layout, State
from sciflow.processes.gaussian import GaussianProcess
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.dpmpp import DPMpp2M
from sciflow.solvers.euler_maruyama import EulerMaruyama

TARGETS = {20.0: 0.10, 1.0: 0.60}  # milliseconds of network time: largest relative overhead


class Work:
    """A network that multiplies matrices for about `milliseconds` and clocks itself."""

    def __init__(self, milliseconds: float) -> None:
        self.matrix, self.spent, self.calls = torch.randn(160, 160) / 160**0.5, 0.0, 0
        self.products = 20
        durations = []
        for _ in range(20):
            start = time.process_time()
            self.multiply()
            durations.append(time.process_time() - start)
        self.products = max(1, round(self.products * milliseconds * 1e-3 / statistics.median(durations)))

    def multiply(self) -> Tensor:
        value = self.matrix
        for _ in range(self.products):
            value = value @ self.matrix
        return value

    def __call__(self, state: State, signals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        start = time.process_time()
        tiny = 1e-9 * self.multiply()[0, 0]
        outputs = {name: x * (0.5 + tiny) for name, x in state.fields.items()}
        self.spent, self.calls = self.spent + time.process_time() - start, self.calls + 1
        return outputs


def small() -> tuple[State, dict[str, Process]]:
    return State({"x": torch.zeros(128, 16)}, {"x": Layout(128)}), {"x": GaussianProcess(VP())}


def molecules() -> tuple[State, dict[str, Process]]:
    sizes = torch.arange(128) % 4 + 6
    mask = (torch.arange(9) < sizes[:, None]).float()
    layouts = {
        "x": Layout(128, mask=mask[..., None], sizes=tuple(sizes.tolist())),
        "adj": Layout(128, mask=(mask[:, :, None] * mask[:, None, :])[..., None]),
    }
    state = State({"x": torch.zeros(128, 9, 4), "adj": torch.zeros(128, 9, 9, 4)}, layouts)
    return state, {"x": GaussianProcess(VP()), "adj": GaussianProcess(VP(), SymmetricMatrix())}


def overhead(
    template: State, processes: dict[str, Process], solver: Solver, noise: Noise, milliseconds: float, steps: int
) -> tuple[float, float, float]:
    """(relative overhead, ms per step of the network, ms per step of everything else)."""
    work = Work(milliseconds)
    sampler = Sampler(processes, dict.fromkeys(processes, solver), LogSNR(VP()))
    denoiser, state = Denoiser(work, processes), sampler.prior(template, noise)
    sampler.run(state, denoiser, noise, steps=3)
    work.spent = 0.0
    start = time.process_time()
    sampler.run(state, denoiser, noise, steps=steps)
    rest = time.process_time() - start - work.spent
    return rest / work.spent, 1e3 * work.spent / steps, 1e3 * rest / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    print(f"{platform.platform()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, CPU time")
    print(f"torch {torch.__version__}, float32, seed {arguments.seed}, {arguments.steps} steps, ", end="")
    print(f"{arguments.repeats} repeats\n")
    print("| state | noise | solver | network ms | rest ms | overhead | target |\n|---|---|---|---|---|---|---|")
    for milliseconds, target in TARGETS.items():
        for name, build in {"small": small, "molecules": molecules}.items():
            for noise in (Fresh(arguments.seed), PerSample(arguments.seed)):
                for solver in (Ancestral(), EulerMaruyama(), DPMpp2M()):
                    runs = [
                        overhead(*build(), solver, noise, milliseconds, arguments.steps)
                        for _ in range(arguments.repeats)
                    ]
                    ratio, network, rest = (statistics.median(column) for column in zip(*runs, strict=True))
                    labels = f"{name} | {type(noise).__name__} | {type(solver).__name__} | {network:.2f} | {rest:.3f}"
                    verdict = f"<= {target:.0%} {'met' if ratio <= target else 'MISSED'}"
                    print(f"| {labels} | {ratio:.1%} | {verdict} |", flush=True)


if __name__ == "__main__":
    main()
