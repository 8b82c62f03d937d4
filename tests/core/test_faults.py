"""Every proof is shown to see the fault it is for: the same statistic passes on the right code and fails on the fault.

`CHECKS` maps the name of a fault to (statistic, right, wrong); a statistic returns True if the code under test passes.
Statistical ones have false-alarm rates of 1e-5 per test and sample sizes that catch their fault with power > 0.999.
"""

from __future__ import annotations

import pathlib
import re

import faults
import pytest
import torch
from oracles import (
    F64,
    FIELD,
    JOINT,
    RATES,
    BridgeOracle,
    GaussianOracle,
    InterpolantOracle,
    JumpOracle,
    PairOracle,
    f64,
    together,
)
from stats import (
    FALSE_ALARM,
    Z_LIMIT,
    chain_law,
    chi_square,
    converges,
    first_clock,
    flow_order,
    jump_gap,
    last_clock,
    law_error,
    normal_z,
    pair_law,
    pair_truth,
    run,
    total_variation,
)

from sciflow.core import schedules
from sciflow.core.grids import Physical, Uniform
from sciflow.core.noise import Fresh, PerSample
from sciflow.core.sampler import Sampler
from sciflow.core.solver import drive_one
from sciflow.core.state import Layout, State
from sciflow.processes.anchored import Anchored
from sciflow.processes.bridge import Bridge
from sciflow.processes.gaussian import GaussianProcess
from sciflow.processes.interpolant import StochasticInterpolant
from sciflow.processes.jump import Jump
from sciflow.processes.masked import Masked
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.dpmpp import DPMpp2M
from sciflow.solvers.euler_maruyama import EulerMaruyama
from sciflow.solvers.euler_ode import EulerODE
from sciflow.solvers.gillespie import Gillespie
from sciflow.solvers.heun import Heun
from sciflow.solvers.langevin import Langevin, NormLangevin
from sciflow.solvers.s4 import S4
from sciflow.solvers.tau_leap import TauLeap

VP = schedules.VP(0.1, 10.0)
ENDS = (3.0, 0.25, -1.0, 1.0, 0.15)
COUNT = 20_000


def approaches_truth(process, solver, oracle=GaussianOracle, start: float = 0.9, anchor: float = 0.0) -> bool:
    """Exact chain law against the true law at 32 and 64 moves (the proof of test_matrix.py)."""
    errors = []
    for moves in (32, 64):
        grid = Uniform(start, 0.1)
        problem = oracle(process, anchor=anchor) if oracle is GaussianOracle else oracle(process, ENDS)
        law = chain_law(process, solver, problem, moves, grid, anchor=anchor)
        errors.append(law_error(law, problem.law(last_clock(grid, moves))))
    return converges(errors, solver.order)


def has_order(solver) -> bool:
    """Fitted order of a deterministic solver (the proof of test_orders.py)."""
    process = GaussianProcess(schedules.Cosine(), kind="noise")
    return abs(flow_order(process, solver, Uniform(0.95, 0.05), (64, 128)) - solver.order) < 0.15


def uneven_move_is_exact_enough(solver) -> bool:
    """A short move after a long one, with data that are linear in the log-SNR (also in solvers/test_dpmpp.py).

    Exactly x_s = (sigma_s/sigma_t) x + alpha_s (b (h - 1 + e^-h) + x0 (1 - e^-h)) for data x0 + b (lambda - lambda_t).
    """
    process, layout, x, rate = GaussianProcess(VP, kind="data"), Layout(1), f64([[0.7]]), 0.9
    last, t, s = f64(0.8), f64(0.5), f64(0.48)
    h, last_h = VP.log_snr(s) - VP.log_snr(t), VP.log_snr(t) - VP.log_snr(last)
    x0 = f64([[1.3]])
    memory = (x0 - rate * last_h, last_h)

    def predict(query):
        return GaussianOracle(process)(State({FIELD: x}, {FIELD: layout}), {FIELD: t})[FIELD].replace(x0, "data")

    kernel, _ = drive_one(solver.step(process, x, t, s, layout, memory, Fresh()), predict)
    exact = VP.sigma(s) / VP.sigma(t) * x + VP.alpha(s) * (rate * (h - 1 + (-h).exp()) - x0 * torch.expm1(-h))
    return float((kernel.mean - exact).abs()) < 0.2 * float(rate * h**3)


def simulates_its_law(noise, correct=None) -> bool:
    """Simulation against the exact chain law at 8 moves: z-tests of mean and variance."""
    process, grid, solver = GaussianProcess(VP, kind="score"), Uniform(0.9, 0.1), EulerMaruyama()
    oracle = GaussianOracle(process)
    mean, variance = oracle.law(first_clock(grid, 8))
    x = mean + variance.sqrt() * Fresh(1).normal(torch.zeros(COUNT, 1, dtype=F64), Layout(COUNT))
    x = run(process, solver, oracle, x, 8, grid, noise, correct=correct)
    return normal_z(x, *chain_law(process, solver, oracle, 8, grid, correct=correct)) < Z_LIMIT


def corrector_is_stationary(solver, bias) -> bool:
    """12 corrector rounds from the stationary law; `bias(V, sigma)` is the stationary variance over V."""
    process, grid = GaussianProcess(VP, kind="score"), Uniform(0.5, 0.5)
    oracle = GaussianOracle(process)
    mean, variance = oracle.law(f64(0.5))
    variance = variance * bias(variance, VP.sigma(f64(0.5)))
    x = mean + variance.sqrt() * Fresh(1).normal(torch.zeros(COUNT, 1, dtype=F64), Layout(COUNT))
    return normal_z(run(process, None, oracle, x, 12, grid, Fresh(2), correct=solver), mean, variance) < Z_LIMIT


def langevin_bias(variance, sigma):
    """V_s / V = 1 / (1 - e / (2 V)) at snr 0.3."""
    return 1 / (1 - (0.3 * sigma) ** 2 / variance)


def norm_langevin_bias(variance, sigma):
    """V_s / V = 1 + alpha_k snr^2 at snr 0.3."""
    return 1 + VP.langevin_alpha(f64(0.5), 1000) * 0.3**2


def pair_approaches_truth(process, solver=None) -> bool:
    """Exact total variation of two tokens at 16 and 64 moves: small and first order."""
    laws = [pair_law(solver or Ancestral(), moves, process=process) for moves in (16, 64)]
    gaps = [total_variation(law, pair_truth(0.05)) for law in laws]
    return gaps[1] < 0.03 and gaps[1] < gaps[0] / 3


def jumps_by_the_exponential(solver) -> bool:
    """Simulated jumps against exp(QT): chi-square."""
    process = Jump(3)
    start = torch.zeros(COUNT, dtype=torch.long)
    x = run(process, solver, JumpOracle(process, RATES), start, 3, Physical(0.0, 1.5), Fresh(2))
    return chi_square(x.bincount(minlength=3), torch.linalg.matrix_exp(RATES * 1.5)[0]) > FALSE_ALARM


def masked_simulates_its_law(noise) -> bool:
    """Simulated pair against its exact chain law: chi-square."""
    process, start = Masked(3, kind="data"), torch.full((COUNT, 2), 3)
    x = run(process, TauLeap(), PairOracle(process, JOINT), start, 4, Uniform(1.0, 0.05), noise)
    return chi_square((x[:, 0] * 4 + x[:, 1]).bincount(minlength=16), pair_law(TauLeap(), 4)) > FALSE_ALARM


def fields_stay_in_step(first, corrector) -> bool:
    """No network call sees fields at two clocks: field a moves by `first`, field b by Euler-Maruyama."""
    processes = {name: GaussianProcess(VP, kind="score") for name in "ab"}
    oracle, seen = together(*(GaussianOracle(p, field=name) for name, p in processes.items())), []

    def spy(state, clocks):
        seen.append(len({float(t) for t in clocks.values()}))
        return oracle(state, clocks)

    solvers, correct = {"a": first, "b": EulerMaruyama()}, {"a": corrector} if corrector else {}
    sampler = Sampler(processes, solvers, Uniform(0.9, 0.1), correct=correct)
    fields = {name: torch.zeros(2, 1, dtype=F64) for name in "ab"}
    sampler.run(State(fields, dict.fromkeys("ab", Layout(2))), spy, Fresh(), steps=3)
    return set(seen) == {1}


RIGHT = GaussianProcess(VP, kind="score")
BRIDGE_BASE = GaussianProcess(schedules.Brownian(0.9), kind="data")

# fault: (statistic, arguments with the right code, arguments with the fault)
CHECKS = {
    "score halved": (approaches_truth, (RIGHT, EulerMaruyama()), (faults.HalfScore(VP, kind="score"), EulerMaruyama())),
    "whole score in the flow": (
        approaches_truth,
        (RIGHT, EulerODE()),
        (faults.FullScoreFlow(VP, kind="score"), EulerODE()),
    ),
    "kernel std x 1.05": (
        approaches_truth,
        (RIGHT, Ancestral()),
        (faults.WidePosterior(VP, kind="score"), Ancestral()),
    ),
    "posterior alphas swapped": (
        approaches_truth,
        (RIGHT, Ancestral()),
        (GaussianProcess(faults.SwappedTransition(0.1, 10.0), kind="score"), Ancestral()),
    ),
    "anchor forgotten": (
        lambda process: approaches_truth(process, Ancestral(), anchor=1.5),
        (Anchored(RIGHT),),
        (faults.UnshiftedPosterior(RIGHT),),
    ),
    "bridge without its pull": (
        lambda process: approaches_truth(process, EulerMaruyama(), BridgeOracle, 1.0),
        (Bridge(BRIDGE_BASE),),
        (faults.ForwardBridge(BRIDGE_BASE),),
    ),
    "interpolant sign": (
        lambda process: approaches_truth(process, EulerMaruyama(), InterpolantOracle),
        (StochasticInterpolant(1.0, 0.7),),
        (faults.InterpolantOtherSign(1.0, 0.7),),
    ),
    "noise linear in the step": (approaches_truth, (RIGHT, EulerMaruyama()), (RIGHT, faults.LinearTimeNoise())),
    "S4 half score": (approaches_truth, (RIGHT, S4(snr=0.0)), (RIGHT, faults.HalfStepS4(snr=0.0))),
    "Heun, first velocity only": (has_order, (Heun(),), (faults.FirstVelocityHeun(),)),
    "DPM++ whole ratio": (has_order, (DPMpp2M(),), (faults.WholeRatioDPMpp2M(),)),
    "DPM++ without memory": (has_order, (DPMpp2M(),), (faults.ForgetfulDPMpp2M(),)),
    "DPM++ inverse ratio": (uneven_move_is_exact_enough, (DPMpp2M(),), (faults.InverseRatioDPMpp2M(),)),
    "noise reused across moves": (simulates_its_law, (Fresh(2),), (faults.ReusedNoise(2),)),
    "corrector and predictor share noise": (
        simulates_its_law,
        (PerSample(2), Langevin(0.3)),
        (faults.PhaselessNoise(2), Langevin(0.3)),
    ),
    "noise shared by the batch": (simulates_its_law, (Fresh(2),), (faults.SharedNoise(2),)),
    "Langevin noise sqrt(e)": (
        corrector_is_stationary,
        (Langevin(0.3), langevin_bias),
        (faults.WeakLangevin(0.3), langevin_bias),
    ),
    "Langevin norms per sample": (
        corrector_is_stationary,
        (NormLangevin(0.3), norm_langevin_bias),
        (faults.PerSampleLangevin(0.3), norm_langevin_bias),
    ),
    "masked alpha": (pair_approaches_truth, (Masked(3, "data"),), (faults.MaskedWrongAlpha(3, "data"),)),
    "masked redraws": (pair_approaches_truth, (Masked(3, "data"),), (faults.MaskedRedraws(3, "data"),)),
    "tau-leap cannot stay": (
        lambda solver: jump_gap(solver, 64) < 0.01,
        (TauLeap(),),
        (faults.NoStayTauLeap(),),
    ),
    "token noise reused": (masked_simulates_its_law, (Fresh(2),), (faults.ReusedNoise(2),)),
    "Gillespie waits twice": (jumps_by_the_exponential, (Gillespie(),), (faults.SlowGillespie(),)),
    "Gillespie overruns": (jumps_by_the_exponential, (Gillespie(),), (faults.OverrunGillespie(),)),
    "corrector without barrier": (
        fields_stay_in_step,
        (EulerMaruyama(), Langevin()),
        (faults.PredictorCorrector(), None),
    ),
}


@pytest.mark.parametrize("fault", CHECKS)
def test_right_code_passes_and_fault_is_caught(fault):
    statistic, right, wrong = CHECKS[fault]
    assert statistic(*right), "the right code does not pass its proof"
    assert not statistic(*wrong), "the proof does not see the fault"


def test_every_planted_fault_is_used():
    planted = {name for name, value in vars(faults).items() if getattr(value, "__module__", "") == "faults"}
    assert planted == set(re.findall(r"faults\.(\w+)\(", pathlib.Path(__file__).read_text()))
