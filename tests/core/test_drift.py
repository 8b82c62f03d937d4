"""`Drift`: diffusions in physical time through the one sampler, against the exact laws of Ornstein-Uhlenbeck."""

from __future__ import annotations

import math

import pytest
import torch
from stats import FALSE_ALARM, Z_LIMIT, mean_z

from sciflow.core.errors import UserError
from sciflow.core.grids import Explicit, Physical
from sciflow.core.noise import Fresh
from sciflow.core.process import Prediction
from sciflow.core.sampler import Sampler
from sciflow.core.state import Layout, State
from sciflow.processes.drift import Drift
from sciflow.processes.gaussian import GaussianProcess
from sciflow.solvers.euler_maruyama import EulerMaruyama
from sciflow.solvers.euler_ode import EulerODE
from sciflow.solvers.heun import Heun

RATE, PULL = 0.7, 1.4


def relax(process):
    """The network of an Ornstein-Uhlenbeck process."""

    def ask(state, clocks):
        x, t = state["x"], clocks["x"]
        return {"x": Prediction(PULL - RATE * x, "drift", process, x, t, state.layouts["x"])}

    return ask


def run(process, solver, x, steps, end=2.0, seed=0):
    state = State({"x": x}, {"x": Layout(len(x))})
    sampler = Sampler({"x": process}, {"x": solver}, Physical(0.0, end))
    return sampler.run(state, relax(process), Fresh(seed), steps=steps, record=True)


def test_euler_maruyama_has_the_law_of_its_chain():
    """Mean and variance after 20 steps are those of the recursion, to 1e-5 false alarms each (20,000 paths)."""
    assert FALSE_ALARM <= 1e-5
    sigma, steps, h = 0.5, 20, 0.1
    ends = run(Drift(sigma), EulerMaruyama(), torch.full((20_000, 1), 3.0, dtype=torch.float64), steps).state["x"][:, 0]
    mean, variance = 3.0, 0.0
    for _ in range(steps):
        mean, variance = mean + h * (PULL - RATE * mean), (1 - RATE * h) ** 2 * variance + sigma**2 * h
    assert abs(mean_z(ends, mean)) < Z_LIMIT
    assert abs(mean_z((ends - mean) ** 2, variance)) < Z_LIMIT
    assert abs(mean_z(ends, mean + 0.03)) > Z_LIMIT  # the test sees three per cent of the start


@pytest.mark.parametrize("solver, order", [(Heun(), 2), (EulerODE(), 1), (EulerMaruyama(), 1)])
def test_without_noise_it_is_the_flow(solver, order):
    x, truth = torch.tensor([[3.0], [-1.0]], dtype=torch.float64), PULL / RATE
    exact = truth + (x - truth) * math.exp(-RATE * 2.0)
    errors = [float((run(Drift(0.0), solver, x, n).state["x"] - exact).abs().max()) for n in (20, 40)]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.1)


def test_the_path_is_recorded_at_every_clock():
    solution = run(Drift(0.3), EulerMaruyama(), torch.zeros(4, 2, dtype=torch.float64), 5)
    assert len(solution.path) == 6 and solution.evaluations == 5
    assert torch.equal(solution.path[-1]["x"], solution.state["x"])
    assert torch.equal(solution.path[0]["x"], torch.zeros(4, 2, dtype=torch.float64))


def test_steps_may_differ():
    """sigma = 0.5 and two unequal steps of a pure Brownian motion: variance = total time."""
    process = Drift(0.5)

    def still(state, clocks):
        x = state["x"]
        return {"x": Prediction(torch.zeros_like(x), "drift", process, x, clocks["x"], state.layouts["x"])}

    sampler = Sampler({"x": process}, {"x": EulerMaruyama()}, Explicit([1.0, 1.5, 4.0]))
    state = State({"x": torch.zeros(20_000, 1, dtype=torch.float64)}, {"x": Layout(20_000)})
    ends = sampler.run(state, still, Fresh(3), steps=2).state["x"][:, 0]
    assert abs(mean_z(ends**2, 0.25 * 3.0)) < Z_LIMIT


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="sigma"):
        Drift(-1.0)
    with pytest.raises(UserError, match="needs velocity.*EulerMaruyama"):
        Sampler({"x": Drift(0.1)}, {"x": Heun()}, Physical(0.0, 1.0))
    assert "velocity" in Drift(0.0).provides()


def test_other_processes_still_noise_without_a_network():
    """The forward move of a generative process asks nothing."""

    def fail(state, clocks):
        raise AssertionError("asked")

    sampler = Sampler({"x": GaussianProcess()}, {"x": EulerMaruyama()}, Explicit([0.1, 0.2]))
    sampler.run(State({"x": torch.zeros(2, 1)}, {"x": Layout(2)}), fail, Fresh(0), steps=1)
