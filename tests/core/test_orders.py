"""Declared orders of convergence, measured on the two finest levels, without sampling error.

Deterministic solvers: exact flow map of Gaussian data, x_s = m_s + (x_t - m_t) sqrt(V_s/V_t). Euler-Maruyama: strong
error on one Brownian path seen at several resolutions. The other stochastic solvers: the variance of the exact chain
law (weak order).
"""

from __future__ import annotations

import math

import pytest
import torch
from oracles import F64, GaussianOracle, f64
from stats import FLOW_END, FLOW_START, chain_law, flow_error, flow_order, jump_gap, last_clock, order, run

from sciflow.core import schedules
from sciflow.core.grids import Explicit, LogSNR, Physical, Uniform
from sciflow.core.noise import BrownianPath
from sciflow.processes.gaussian import GaussianProcess
from sciflow.solvers.adaptive import Adaptive
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.dpmpp import DDIM, DPMpp2M
from sciflow.solvers.euler_maruyama import EulerMaruyama
from sciflow.solvers.euler_ode import EulerODE
from sciflow.solvers.heun import Heun
from sciflow.solvers.reverse_diffusion import ReverseDiffusion
from sciflow.solvers.s4 import S4
from sciflow.solvers.tau_leap import TauLeap

TOLERANCE = 0.15
SCHEDULES = {"VP": schedules.VP(), "Cosine": schedules.Cosine()}


class Alternating(LogSNR):
    """Steps in log-SNR of lengths 1, 3, 1, 3, ...: a rough grid, on which orders must hold too."""

    def points(self, steps: int):
        """Clocks at the alternating levels."""
        first, last = self.ends().tolist()
        lengths = torch.tensor([1.0, 3.0], dtype=F64).repeat(steps // 2)
        levels = torch.cat([f64([0.0]), lengths.cumsum(0)]) / lengths.sum()
        return self.clocks(first + (last - first) * levels)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("solver", [EulerODE(), Heun(), DDIM(), DPMpp2M()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("grid", ["uniform", "log-SNR", "alternating"])
def test_deterministic_order(name, solver, grid):
    schedule = SCHEDULES[name]
    grids = {
        "uniform": Uniform(FLOW_START, FLOW_END),
        "log-SNR": LogSNR(schedule, FLOW_START, FLOW_END),
        "alternating": Alternating(schedule, FLOW_START, FLOW_END),
    }
    levels = (64, 128)
    if isinstance(solver, DPMpp2M):  # its asymptotic range begins later
        levels = (512, 1024) if grid == "alternating" else (128, 256)
    measured = flow_order(GaussianProcess(schedule, kind="noise"), solver, grids[grid], levels)
    assert abs(measured - solver.order) < TOLERANCE, measured


@pytest.mark.parametrize("inner", [EulerODE(), Heun()], ids=lambda s: type(s).__name__)
def test_adaptive_meets_its_tolerance(inner):
    """The error falls with the tolerance and stays below 20 times it."""
    process = GaussianProcess(schedules.VP(), kind="score")
    errors = [
        flow_error(process, Adaptive(inner, tolerance), Uniform(FLOW_START, FLOW_END), 1) for tolerance in (1e-2, 1e-3)
    ]
    assert errors[1] < 20 * 1e-3 and errors[1] < 0.5 * errors[0], errors


@pytest.mark.parametrize("direction", ["noising", "generating"])
def test_euler_maruyama_strong_order(direction):
    """Root-mean-square distance to the same path on a 16 times finer mesh."""
    process, paths = GaussianProcess(schedules.OU(2.0, 0.7), kind="score"), 400
    oracle, noise = GaussianOracle(process), BrownianPath((paths, 1), levels=10, seed=3)
    grid = Physical(0.0, 1.0) if direction == "noising" else Uniform(1.0, 0.0625)
    span = abs(grid.end - grid.start)
    x = torch.linspace(-1, 2, paths, dtype=F64)[:, None]

    def end(level: int):
        return run(process, EulerMaruyama(), oracle, x, int(span * 2**level), grid, noise)

    reference = end(10)
    errors = [float((end(level) - reference).square().mean().sqrt()) for level in (5, 6)]
    assert abs(order([32, 64], errors) - EulerMaruyama.order) < TOLERANCE


def variance_error(schedule, make, moves: int) -> float:
    """Error of the variance of the exact chain law; `make(scales)` builds the solver for a table of that size."""
    process, grid = GaussianProcess(schedule, kind="score"), Uniform(0.9, 0.1)
    oracle = GaussianOracle(process)
    law = chain_law(process, make(round(moves / 0.8) + 1), oracle, moves, grid)
    return abs(float(law[1] - oracle.law(last_clock(grid, moves))[1]))


WEAK = {
    "S4": lambda scales: S4(snr=0.0),
    "S4 released variance": lambda scales: S4(snr=0.0, exact_ou=False),
    "ReverseDiffusion": ReverseDiffusion,
    "EulerMaruyama": lambda scales: EulerMaruyama(),
    "Ancestral": lambda scales: Ancestral(),
}


@pytest.mark.parametrize("schedule", [schedules.VP(0.1, 10.0), schedules.VE(0.1, 1.0)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", WEAK)
def test_weak_order_of_the_variance(name, schedule):
    errors = [variance_error(schedule, WEAK[name], moves) for moves in (160, 320)]
    declared = WEAK[name](10).order
    assert abs(math.log2(errors[0] / errors[1]) - declared) < TOLERANCE, errors


def test_tau_leap_weak_order():
    """Powers of the move's transition matrix against exp(QT)."""
    measured = order([64, 128], [jump_gap(TauLeap(), moves) for moves in (64, 128)])
    assert abs(measured - TauLeap.order) < TOLERANCE


def test_explicit_grid_reproduces_uniform():
    """The order tests rely on grids; a given list of clocks is the same chain."""
    process = GaussianProcess(schedules.VP())
    uniform = Uniform(FLOW_START, FLOW_END)
    given = Explicit(uniform.points(16).tolist())
    assert flow_error(process, Heun(), uniform, 16) == flow_error(process, Heun(), given, 16)
