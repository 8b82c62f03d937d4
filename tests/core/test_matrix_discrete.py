"""The discrete half of the matrix (test_matrix.py): every allowed solver on masked, uniform and jump processes.

The moves' transition matrices, by enumeration, take the place of the law; solvers that choose positions in the step are
exact, and simulated.
"""

from __future__ import annotations

import math

import pytest
import torch
from oracles import F64, FIELD, JOINT, RATES, JumpOracle, PairOracle, f64
from stats import (
    FALSE_ALARM,
    chi_square,
    jump_gap,
    jump_law,
    kernel_matrix,
    pair_law,
    pair_truth,
    run,
    total_variation,
)
from token_toy import DISCRETE, UniformOracle, states

from sciflow.core.grids import Physical, Power, Uniform
from sciflow.core.noise import Fresh
from sciflow.core.solver import known_solvers
from sciflow.core.state import Layout
from sciflow.solvers.thinning import Thinning

DRAWS = 20_000
SOLVERS = [cls for cls in known_solvers() if cls.__module__.startswith("sciflow.")]
ALLOWED = [(p, cls) for p in DISCRETE for cls in SOLVERS if cls.needs <= DISCRETE[p].provides()]
EVENTS = {"AnyOrder", "FirstHitting", "Thinning"}  # they draw inside the step: no transition matrix, but exact
CHAINS = [cls for p, cls in ALLOWED if p == "Masked" and cls.__name__ not in EVENTS]


def make(cls):
    """Thinning is bounded by the rates of the masked pair at clock 0.3, above those of the chain with RATES."""
    return cls(2 / 0.3) if cls is Thinning else cls()


def label(value) -> str:
    return value.__name__ if isinstance(value, type) else str(value)


def simulate_pair(solver, moves: int, grid=None, process=None):
    """Counts of the 16 states."""
    process = process or DISCRETE["Masked"]
    start = torch.full((DRAWS, 2), 3)
    x = run(process, solver, PairOracle(process, JOINT), start, moves, grid or Uniform(1.0, 0.05), Fresh(2))
    return (x[:, 0] * 4 + x[:, 1]).bincount(minlength=16)


@pytest.mark.parametrize("cls", CHAINS, ids=label)
def test_masked_pair_simulation_has_the_law_of_the_chain(cls):
    """Chi-square on 16 states, false alarm 1e-5."""
    law = pair_law(cls(), 4)
    assert float(law.sum()) == pytest.approx(1, abs=1e-9)
    assert chi_square(simulate_pair(cls(), 4), law) > FALSE_ALARM


@pytest.mark.parametrize("cls", CHAINS, ids=label)
def test_masked_pair_law_approaches_the_truth(cls):
    """Exact total variation. Re-perturbed marginals act as a Gibbs sampler: only moves^-1/2."""
    gaps = [total_variation(pair_law(cls(), moves), pair_truth(0.05)) for moves in (16, 64)]
    order = 0.5 if cls.__name__ == "Reperturb" else 1.0
    assert gaps[1] < (0.1 if order < 1 else 0.03) and math.log(gaps[0] / gaps[1], 4) > order - 0.15, gaps


@pytest.mark.parametrize("cls", [c for c in CHAINS if c.__name__ != "Gillespie"], ids=label)
def test_masked_to_clock_zero_leaves_no_mask(cls):
    """The last move ends at t = 0 exactly. Tau-leaping leaves e^-1 of what was still masked before it."""
    law = pair_law(cls(), 8, Uniform(1.0, 0.0)).reshape(4, 4)
    masked = float(law[3].sum() + law[:3, 3].sum())
    assert masked < 1e-12 or cls.__name__ == "TauLeap" and masked < 2 / 8


@pytest.mark.parametrize("cls", [c for p, c in ALLOWED if p == "Masked" and c.__name__ in EVENTS], ids=label)
@pytest.mark.parametrize("moves", [2, 5])
def test_event_solvers_are_exact_on_the_masked_pair(cls, moves):
    """For few moves too; chi-square on 16 states, false alarm 1e-5. Any-order has exact sequences, not exact clocks."""
    end = 0.0 if cls.__name__ == "AnyOrder" else 0.3
    assert chi_square(simulate_pair(make(cls), moves, Uniform(1.0, end)), pair_truth(end)) > FALSE_ALARM


# the rates of uniform noise reach 1000 at clock 1: too many proposals for thinning
UNIFORM = [cls for p, cls in ALLOWED if p == "UniformTokens" and cls is not Thinning]


def uniform_law(solver, moves: int) -> torch.Tensor:
    """Exact law (9,) of a pair under uniform noise, started from the prior, at t = 0.01."""
    process, law = DISCRETE["UniformTokens"], torch.full((9,), 1 / 9, dtype=F64)
    oracle = UniformOracle(JOINT.flatten(), process, 2, FIELD)
    for t, s in Power(1.0, 0.01, 2.0).moves(moves):
        law = law @ kernel_matrix(process, solver, oracle, states(3, 2), t, s)
    return law


def uniform_truth() -> torch.Tensor:
    """Data noised at t = 0.01."""
    oracle = UniformOracle(JOINT.flatten(), DISCRETE["UniformTokens"], 2)
    return oracle.evidence(states(3, 2), f64(0.01)) @ JOINT.flatten()


@pytest.mark.parametrize("cls", [cls for cls in UNIFORM if cls.__name__ != "Gillespie"], ids=label)
def test_uniform_pair_law_approaches_the_truth(cls):
    """Exact total variation, first order within 0.15.

    Re-perturbation redraws all positions at once and independently: under uniform noise that does not keep the law, and
    a gap of 0.024 stays however fine the moves (measured to 800 moves and t = 0.0005).
    """
    gaps = [total_variation(uniform_law(cls(), moves), uniform_truth()) for moves in (100, 200)]
    if cls.__name__ == "Reperturb":
        assert gaps[1] < 0.03 < gaps[0] + 0.01
    else:
        assert gaps[1] < 0.01 and abs(math.log2(gaps[0] / gaps[1]) - 1) < 0.15, gaps


@pytest.mark.parametrize("cls", UNIFORM, ids=label)
def test_uniform_pair_simulation_has_the_law_of_the_chain(cls):
    """Chi-square on 9 states, false alarm 1e-5. Gillespie with rates frozen between events and for one of 50 moves:
    compared with the truth, its bias is below what the draws resolve."""
    gillespie = cls.__name__ == "Gillespie"
    moves, process, draws = 50 if gillespie else 4, DISCRETE["UniformTokens"], DRAWS // 2
    start = process.prior(torch.zeros(draws, 2, dtype=torch.long), Layout(draws)).sample(Fresh(5))
    oracle = UniformOracle(JOINT.flatten(), process, 2, FIELD)
    x = run(process, cls(), oracle, start, moves, Power(1.0, 0.01, 2.0), Fresh(2))
    law = uniform_truth() if gillespie else uniform_law(cls(), moves)
    assert chi_square((x[:, 0] * 3 + x[:, 1]).bincount(minlength=9), law) > FALSE_ALARM


@pytest.mark.parametrize("name, cls", [(p, c) for p, c in ALLOWED if p in ("Jump", "Chain")], ids=label)
def test_jump_law_against_the_matrix_exponential(name, cls):
    """All but tau-leaping are exact: chi-square against exp(QT), false alarm 1e-5. Tau-leaping: by enumeration."""
    process, truth = DISCRETE[name], torch.linalg.matrix_exp(RATES * 1.5)
    if cls.__name__ == "TauLeap":
        gaps = [jump_gap(cls(), moves) for moves in (64, 128)]
        assert abs(math.log2(gaps[0] / gaps[1]) - cls.order) < 0.15 and gaps[1] < 0.01
        truth = jump_law(cls(), 3)
    start = torch.zeros(DRAWS, dtype=torch.long)
    x = run(process, make(cls), JumpOracle(process, RATES), start, 3, Physical(0.0, 1.5), Fresh(2))
    assert chi_square(x.bincount(minlength=3), truth[0]) > FALSE_ALARM
