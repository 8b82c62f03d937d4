"""Every process with every solver: what `needs`/`provides` allow must be right, what they forbid must be refused.

Continuous processes have Gaussian oracles. For each pair (1) the exact law of the discretised chain (stats.chain_law)
must approach the true law as the moves get finer, at the declared order, and (2) a simulation must have the law of the
chain, at few moves. Discrete processes: test_matrix_discrete.py.
A new process or solver enters by itself, or fails here with a request for a case.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest
import torch
from oracles import (
    F64,
    FIELD,
    BridgeOracle,
    GaussianOracle,
    InterpolantOracle,
    LiftedTokenOracle,
    f64,
)
from stats import (
    FALSE_ALARM,
    Z_LIMIT,
    Impulses,
    batch_state,
    chain_law,
    chi_square,
    converges,
    first_clock,
    last_clock,
    law_error,
    normal_z,
    run,
)
from token_toy import DISCRETE

import sciflow.processes
from sciflow.core import schedules
from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.noise import Fresh
from sciflow.core.process import Process
from sciflow.core.sampler import Sampler
from sciflow.core.solver import known_solvers
from sciflow.core.state import Layout, State
from sciflow.processes.anchored import Anchored
from sciflow.processes.bridge import Bridge
from sciflow.processes.categorical_bfn import CategoricalBFN
from sciflow.processes.drift import Drift
from sciflow.processes.flow_matching import FlowMatching
from sciflow.processes.gaussian import GaussianProcess
from sciflow.processes.interpolant import StochasticInterpolant
from sciflow.processes.planar_bfn import PlanarBFN
from sciflow.processes.polar_lattice import PolarLattice
from sciflow.processes.vonmises_bfn import VonMisesBFN
from sciflow.solvers.adaptive import Adaptive
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.dpmpp import DPMpp2M
from sciflow.solvers.euler_maruyama import EulerMaruyama
from sciflow.solvers.heun import Heun
from sciflow.solvers.reverse_diffusion import ReverseDiffusion
from sciflow.solvers.s4 import S4
from sciflow.solvers.thinning import Thinning

ENDS = (3.0, 0.25, -1.0, 1.0, 0.15)  # m0, v0, m1, v1, covariance of a bridge's ends
DRAWS = 20_000


class FlowOracle(InterpolantOracle):
    """An interpolant without noise has a velocity only."""

    def value(self, x, t, layout):
        return super().value(x, t, layout)[..., 0]


# name: (process, oracle, start clock, end clock, anchor); the kinds go round so that conversions are used too
CONTINUOUS = {
    "VP": (GaussianProcess(schedules.VP(0.1, 10.0), kind="noise"), GaussianOracle, 0.9, 0.1, 0.0),
    "VE": (GaussianProcess(schedules.VE(0.1, 5.0), kind="score"), GaussianOracle, 0.9, 0.1, 0.0),
    "SubVP": (GaussianProcess(schedules.SubVP(), kind="v"), GaussianOracle, 0.9, 0.1, 0.0),
    "Cosine": (GaussianProcess(schedules.Cosine(), kind="velocity"), GaussianOracle, 0.9, 0.1, 0.0),
    "OU": (GaussianProcess(schedules.OU(2.0, 0.7), kind="data"), GaussianOracle, 0.9, 0.1, 0.0),
    "Brownian": (GaussianProcess(schedules.Brownian(0.8), kind="score"), GaussianOracle, 0.9, 0.1, 0.0),
    "BFN": (GaussianProcess(schedules.BFN(0.2), kind="data"), GaussianOracle, 0.9, 0.1, 0.0),
    "CategoricalBFN": (CategoricalBFN(3, kind="noise"), GaussianOracle, 0.9, 0.1, 0.0),
    "PlanarBFN": (PlanarBFN(0.2), GaussianOracle, 0.9, 0.1, 0.0),
    "PolarLattice": (PolarLattice(schedules.VP(0.1, 10.0)), GaussianOracle, 0.9, 0.1, 0.0),
    "Anchored VP": (Anchored(GaussianProcess(schedules.VP(0.1, 10.0), kind="noise")), GaussianOracle, 0.9, 0.1, 1.5),
    "Anchored OU": (Anchored(GaussianProcess(schedules.OU(2.0, 0.7), kind="v")), GaussianOracle, 0.9, 0.1, -1.5),
    "Bridge Brownian": (Bridge(GaussianProcess(schedules.Brownian(0.9), kind="data")), BridgeOracle, 1.0, 0.1, 0.0),
    "Bridge OU": (Bridge(GaussianProcess(schedules.OU(1.3, 1.0), kind="data")), BridgeOracle, 1.0, 0.1, 0.0),
    "FlowMatching": (FlowMatching(), FlowOracle, 0.9, 0.1, 0.0),
    "StochasticInterpolant": (StochasticInterpolant(1.0, 0.7), InterpolantOracle, 0.9, 0.1, 0.0),
}
# laws that are not normal: tests/processes/test_vonmises_bfn.py; physical time, s > t: test_drift.py
OTHERS = {"VonMisesBFN": VonMisesBFN(), "Drift": Drift(0.5)}
PROCESSES = {name: case[0] for name, case in CONTINUOUS.items()} | OTHERS | DISCRETE

# constructor arguments for a number of moves over a clock span, where the defaults do not do
BUILD = {
    "Adaptive": lambda moves, span: Adaptive(Heun(), 1e-5),
    "ReverseDiffusion": lambda moves, span: ReverseDiffusion(round(moves / span) + 1),  # one table level per move
    "S4": lambda moves, span: S4(snr=0.0),  # the correction couples samples: tests/solvers/test_s4.py
    "Thinning": lambda moves, span: Thinning(1.0),
}
CORRECTORS = {"Langevin", "NormLangevin"}  # moves at fixed clock: tests/solvers/test_langevin.py
SOLVERS = [cls for cls in known_solvers() if cls.__module__.startswith("sciflow.")]
PAIRS = [(p, cls) for p in PROCESSES for cls in SOLVERS]
ALLOWED = [(p, cls) for p, cls in PAIRS if cls.needs <= PROCESSES[p].provides()]
FORBIDDEN = [(p, cls) for p, cls in PAIRS if not cls.needs <= PROCESSES[p].provides()]
MOVING = [(p, cls) for p, cls in ALLOWED if p in CONTINUOUS and cls.__name__ not in CORRECTORS]


def label(value) -> str:
    return value if isinstance(value, str) else value.__name__


def matrix_table() -> str:
    """Processes x solvers as a markdown table, from `needs` and `provides`."""
    lines = ["| process | " + " | ".join(cls.__name__ for cls in SOLVERS) + " |", "|---" * (len(SOLVERS) + 1) + "|"]
    for name, process in PROCESSES.items():
        marks = ["yes" if cls.needs <= process.provides() else "-" for cls in SOLVERS]
        lines.append(f"| {name} | " + " | ".join(marks) + " |")
    return "\n".join(lines)


def build(cls, moves: int = 10, span: float = 1.0):
    """A solver with sensible arguments."""
    return BUILD[cls.__name__](moves, span) if cls.__name__ in BUILD else cls()


def problem(name: str, cls, draws=None):
    """(process, oracle, grid, anchor); re-perturbation is exact for posterior draws, so it gets those."""
    process, oracle, start, end, anchor = CONTINUOUS[name]
    if oracle is GaussianOracle:
        return process, GaussianOracle(process, anchor=anchor, draws=draws), Uniform(start, end), anchor
    return process, oracle(process, ENDS), Uniform(start, end), anchor


def test_every_process_has_a_case():
    for module in pkgutil.iter_modules(sciflow.processes.__path__):
        importlib.import_module(f"sciflow.processes.{module.name}")
    found, todo = set(), [Process]
    while todo:
        children = todo.pop().__subclasses__()
        todo += children
        found |= {cls.__name__ for cls in children if cls.__module__.startswith("sciflow.")}
    assert found <= {type(p).__name__ for p in PROCESSES.values()}, "add the new process to CONTINUOUS or DISCRETE"


def test_table_shows_both_kinds_of_pairs():
    table = matrix_table()
    assert len(table.splitlines()) == len(PROCESSES) + 2
    assert table.count("yes") == len(ALLOWED) and len(FORBIDDEN) > 20
    page = Path(__file__).resolve().parents[2] / "docs" / "concepts.md"
    assert table.strip() in page.read_text(), f"{page} shows an old table; paste matrix_table() into it"


@pytest.mark.parametrize("name, cls", FORBIDDEN, ids=label)
def test_forbidden_pair_names_the_solvers_that_fit(name, cls):
    process = PROCESSES[name]
    with pytest.raises(UserError) as error:
        Sampler({FIELD: process}, {FIELD: build(cls)}, Uniform())
    fits = {c.__name__ for p, c in ALLOWED if p == name and c.corrector == cls.corrector}
    listed = set(str(error.value).split("solvers that fit: ")[1].split(", "))
    assert fits <= listed and cls.__name__ not in listed
    assert cls.__name__ in str(error.value) and FIELD in str(error.value)


# ---------------------------------------------------------------- continuous processes


def law_and_truth(name, cls, moves, solver=None):
    """Law of the chain of `moves` moves, and the true law at its last clock."""
    process, oracle, grid, anchor = problem(name, cls, Impulses() if cls.__name__ == "Reperturb" else None)
    solver = solver or build(cls, moves, grid.start - grid.end)
    law = chain_law(process, solver, oracle, moves, grid, anchor=anchor)
    return law, oracle.law(last_clock(grid, moves))


@pytest.mark.parametrize("name, cls", MOVING, ids=label)
def test_law_of_the_chain_approaches_the_truth(name, cls):
    """No sampling error: the law of the chain is exact."""
    if cls.__name__ == "Adaptive":  # sub-steps by itself: 1e-5 per sub-step
        assert law_error(*law_and_truth(name, cls, 2)) < 2e-3
    elif cls.__name__ == "Reperturb":  # posterior draws: exact for any number of moves
        assert law_error(*law_and_truth(name, cls, 3)) < 1e-12
    else:
        errors = [law_error(*law_and_truth(name, cls, moves)) for moves in (32, 64)]
        assert converges(errors, cls.order), errors


@pytest.mark.parametrize("name, cls", MOVING, ids=label)
def test_simulation_has_the_law_of_the_chain(name, cls):
    """z-tests of mean and variance; false alarm 1e-5 each. Catches noise that is re-used, lost or coupled."""
    moves = 8
    process, oracle, grid, anchor = problem(name, cls, Fresh(3) if cls.__name__ == "Reperturb" else None)
    law, truth = law_and_truth(name, cls, moves)
    mean, variance = oracle.law(first_clock(grid, moves))
    x = mean + variance.sqrt() * Fresh(1).normal(torch.zeros(DRAWS, 1, dtype=F64), Layout(DRAWS))
    solver = build(cls, moves, grid.start - grid.end)
    x = run(process, solver, oracle, x, moves, grid, Fresh(2), anchor=anchor)
    assert normal_z(x, *(truth if cls.__name__ == "Adaptive" else law)) < Z_LIMIT


@pytest.mark.parametrize("name, cls", [pair for pair in ALLOWED if pair[0] in CONTINUOUS], ids=label)
def test_single_precision_stays_single(name, cls):
    """Clocks are float64 on the host; they must not promote a float32 field. Numbers agree to 1e-3 with float64."""
    ends = []
    for dtype in (torch.float32, F64):
        process, oracle, grid, anchor = problem(name, cls)
        x = torch.linspace(-1, 1, 4, dtype=dtype)[:, None]
        solver = build(cls, 8, grid.start - grid.end)
        roles = {"solver": None, "correct": solver} if cls.corrector else {"solver": solver}
        ends.append(run(process, oracle=oracle, x=x, moves=8, grid=grid, noise=Replayed(), anchor=anchor, **roles))
        assert ends[-1].dtype == dtype and bool(ends[-1].isfinite().all())
    torch.testing.assert_close(ends[0].double(), ends[1], rtol=1e-3, atol=1e-3)


class Replayed(Fresh):
    """The same normals in both precisions."""

    def normal(self, like, layout):
        return super().normal(like.double(), layout).to(like)


def test_each_sample_has_its_own_anchor():
    """An anchored run is the plain run of x - anchor, shifted back; ragged rows, one anchor per row."""
    plain, index = GaussianProcess(schedules.VP(0.1, 10.0)), torch.tensor([0, 0, 1])
    anchored, anchor = Anchored(plain), f64([[0.5], [-3.0], [2.0]])
    x = f64([[0.1], [0.2], [-0.4]])
    for cls in (Ancestral, EulerMaruyama, Heun, DPMpp2M):
        ends = []
        for process, layout, start in (
            (plain, Layout(2, index), x),
            (anchored, Layout(2, index, anchor=anchor), x + anchor),
        ):
            centre = anchor if process is anchored else 0.0
            oracle = GaussianOracle(process, mean=2.0 + centre, anchor=centre)
            state = State({FIELD: start}, {FIELD: layout})
            sampler = Sampler({FIELD: process}, {FIELD: cls()}, Uniform(0.9, 0.1))
            ends.append(sampler.run(state, oracle, Fresh(1), steps=5).state[FIELD] - centre)
        torch.testing.assert_close(*ends)


CORRECTING = [(p, cls) for p, cls in ALLOWED if cls.__name__ in CORRECTORS]


@pytest.mark.parametrize("name, cls", CORRECTING, ids=label)
def test_corrector_is_stationary_at_its_own_law(name, cls):
    """At clock t = s. False alarm 1e-5 for each of mean and variance; snr = 0.3 biases the variance by 4 to 9 percent.

    Langevin: V / (1 - e/(2 V)). NormLangevin, large batch, one dimension: E|z|/E|score| = V / sqrt(V_s), so that
    V_s = V / (1 - alpha_k snr^2 V / V_s), i.e. V_s = V (1 + alpha_k snr^2).
    """
    process, oracle, _, anchor = problem(name, cls)
    clock, snr = f64(0.5), 0.3
    schedule = getattr(process, "base", process).schedule
    mean, variance = oracle.law(clock)
    if cls.__name__ == "Langevin":
        step = 2 * (snr * schedule.sigma(clock)) ** 2
        stationary = variance / (1 - step / (2 * variance))
        law = chain_law(process, None, oracle, 300, Hold(), correct=cls(snr), start=(f64(0.0), f64(1.0)), anchor=anchor)
        assert law_error(law, (mean, stationary)) < 1e-6
    else:
        stationary = variance * (1 + schedule.langevin_alpha(clock, 1000) * snr**2)
    x = mean + stationary.sqrt() * Fresh(1).normal(torch.zeros(DRAWS, 1, dtype=F64), Layout(DRAWS))
    x = run(process, None, oracle, x, 12, Hold(), Fresh(2), correct=cls(snr), anchor=anchor)
    assert normal_z(x, mean, stationary) < Z_LIMIT


class Hold(Uniform):
    """All moves stay at clock 0.5."""

    def __init__(self) -> None:
        super().__init__(0.5, 0.5)


@pytest.mark.parametrize("base", ["VP", "Anchored VP"])
@pytest.mark.parametrize("kind", GaussianProcess.kinds)
def test_the_kind_of_the_prediction_does_not_matter(base, kind):
    process, oracle, _, _, anchor = CONTINUOUS[base]
    inner = GaussianProcess(schedules.VP(0.1, 10.0), kind=kind)
    other = Anchored(inner) if isinstance(process, Anchored) else inner
    x = torch.linspace(-2, 2, 9, dtype=F64)[:, None]
    for cls in (c for p, c in MOVING if p == base and c.__name__ not in ("Adaptive", "Reperturb")):
        ends = [
            run(p, build(cls, 8, 0.8), oracle(p, anchor=anchor), x, 8, Uniform(0.9, 0.1), Fresh(1), anchor=anchor)
            for p in (process, other)
        ]
        torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("schedule", [schedules.BFN(0.2), schedules.CategoricalBFN(3)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("moves", [1, 2, 7])
def test_bayesian_flow_from_its_point_at_the_prior_is_exact(schedule, moves):
    """From x = 0 at t = 1 exactly (0/0 in the general formula); posterior draws give the true law for any grid."""
    process = GaussianProcess(schedule, kind="data")
    oracle = GaussianOracle(process, draws=Impulses())
    for grid in (Uniform(1.0, 0.0), Uniform(1.0, 0.2)):
        law = chain_law(process, Ancestral(), oracle, moves, grid, start=(f64(0.0), f64(0.0)))
        assert law_error(law, oracle.law(last_clock(grid, moves))) < 1e-12


@pytest.mark.parametrize("moves", [1, 4])
def test_categorical_bayesian_flow_has_exact_proportions(moves):
    """Token proportions from t = 1 to 0 with posterior draws; chi-square, false alarm 1e-5."""
    weights = f64([0.2, 0.3, 0.5])
    process = GaussianProcess(schedules.CategoricalBFN(3), kind="data")
    oracle = LiftedTokenOracle(process, weights, Fresh(5))
    state = batch_state(torch.zeros(DRAWS, 3, dtype=F64))
    sampler = Sampler({FIELD: process}, {FIELD: Ancestral()}, Uniform(1.0, 0.0))
    x = sampler.run(state, oracle, Fresh(4), steps=moves).state[FIELD]
    tokens = oracle.data(x, f64(0.0), Layout(DRAWS)).argmax(-1)
    assert chi_square(tokens.bincount(minlength=3), weights) > FALSE_ALARM


def test_interpolant_target_regresses_to_the_oracle():
    """E[target | x_t], exact: the target is affine in (x0, x1, x_t), all jointly normal."""
    process = CONTINUOUS["StochasticInterpolant"][0]
    oracle, t, layout = InterpolantOracle(process, ENDS), f64(0.3), Layout(5)
    x = torch.linspace(-3, 3, 5, dtype=F64)[:, None]
    x0, x1 = oracle.ends_given(x, t)
    torch.testing.assert_close(process.target(x0, x1, x, t, layout), oracle.value(x, t, layout))


def test_every_allowed_pair_is_tested_here():
    tested = set(MOVING) | set(CORRECTING) | {(p, c) for p, c in ALLOWED if p in DISCRETE or p in OTHERS}
    assert tested == set(ALLOWED)


def test_euler_maruyama_noises_with_the_forward_sde():
    """s > t: the forward chain reaches the true marginal, first order, no network call."""
    for name, (process, oracle, *_) in CONTINUOUS.items():
        if not hasattr(process, "noise_sde") or name.startswith("Anchored"):
            continue
        problem_oracle, errors = oracle(process), []
        for moves in (32, 64):
            grid = Uniform(0.1, 0.6)
            law = chain_law(process, EulerMaruyama(), problem_oracle, moves, grid)
            errors.append(law_error(law, problem_oracle.law(last_clock(grid, moves))))
        assert converges(errors, 1.0), (name, errors)
