"""Step doubling: exact landing, both directions, refusals. The tolerance is tested in tests/core/test_orders.py."""

from __future__ import annotations

import pytest
import torch
from oracles import F64, GaussianOracle, f64
from stats import batch_state, run

from sciflow.core import schedules
from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.noise import Fresh
from sciflow.core.sampler import Sampler
from sciflow.processes.gaussian import GaussianProcess
from sciflow.solvers.adaptive import Adaptive
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.euler_ode import EulerODE
from sciflow.solvers.heun import Heun

PROCESS = GaussianProcess(schedules.VP(), kind="score")
X = torch.linspace(-1, 1, 5, dtype=F64)[:, None]


@pytest.mark.parametrize("start, end", [(0.9, 0.1), (0.1, 0.9), (0.7, 0.3)])
@pytest.mark.parametrize("moves", [1, 3])
def test_exact_flow_in_both_directions(start, end, moves):
    """Flow map of a Gaussian to 1e-3 at tolerance 1e-5, towards data and towards the prior (inversion)."""
    oracle = GaussianOracle(PROCESS)
    (m_t, v_t), (m_s, v_s) = oracle.law(f64(start)), oracle.law(f64(end))
    exact = m_s + (X - m_t) * (v_s / v_t).sqrt()
    found = run(PROCESS, Adaptive(Heun(), 1e-5), oracle, X, moves, Uniform(start, end), Fresh())
    assert float((found - exact).abs().max()) < 1e-3


def test_queries_stay_inside_the_move_and_end_at_s():
    oracle, clocks = GaussianOracle(PROCESS), []

    def spy(state, now):
        clocks.append(float(now["x"]))
        return oracle(state, now)

    sampler = Sampler({"x": PROCESS}, {"x": Adaptive(Heun(), 1e-3)}, Uniform(0.9, 0.1))
    solution = sampler.run(batch_state(X), spy, Fresh(), steps=1)
    assert max(clocks) == 0.9 and min(clocks) == pytest.approx(0.1, abs=1e-12)
    assert solution.evaluations == len(clocks) and len(clocks) % 6 == 0  # three Heun steps per attempt


@pytest.mark.parametrize("margin, attempts", [(1.05, 1), (0.95, None)])
def test_a_step_is_accepted_by_the_estimated_error_of_its_halves(margin, attempts):
    """By hand: error = |whole - halves|/3 over 1 + max(|x|, |halves|) for Heun; the halves are returned."""
    oracle, x = GaussianOracle(PROCESS), f64([[0.7]])
    whole, halves = (run(PROCESS, Heun(), oracle, x, n, Uniform(0.5, 0.4), Fresh()) for n in (1, 2))
    error = float((whole - halves).abs() / (1 + torch.maximum(x.abs(), halves.abs()))) / 3
    sampler = Sampler({"x": PROCESS}, {"x": Adaptive(Heun(), margin * error)}, Uniform(0.5, 0.4))
    solution = sampler.run(batch_state(x), oracle, Fresh(), steps=1)
    if attempts:
        assert solution.evaluations == 6
        torch.testing.assert_close(solution.state["x"], halves)
    else:
        assert solution.evaluations > 6


def test_a_tighter_tolerance_costs_more():
    calls = []
    for tolerance in (1e-2, 1e-4):
        sampler = Sampler({"x": PROCESS}, {"x": Adaptive(EulerODE(), tolerance)}, Uniform(0.9, 0.1))
        calls.append(sampler.run(batch_state(X), GaussianOracle(PROCESS), Fresh(), steps=1).evaluations)
    assert calls[1] > 4 * calls[0]


def test_refusals_say_what_to_do():
    with pytest.raises(UserError, match="deterministic solver such as Heun, got Ancestral"):
        Adaptive(Ancestral())
    with pytest.raises(UserError, match="stopped at clock .* raise the tolerance"):
        run(PROCESS, Adaptive(Heun(), 1e-9, max_steps=3), GaussianOracle(PROCESS), X, 1, Uniform(0.9, 0.1), Fresh())
