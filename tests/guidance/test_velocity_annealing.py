"""Velocity annealing against exact solutions of the annealed flow."""

from __future__ import annotations

import math

import pytest
import torch

from sciflow.core.config import from_config, to_config
from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.noise import Fresh
from sciflow.core.process import Prediction, Process
from sciflow.core.sampler import Sampler
from sciflow.core.spaces import Torus
from sciflow.core.state import Layout, State
from sciflow.guidance.velocity_annealing import VelocityAnnealing
from sciflow.processes.flow_matching import FlowMatching
from sciflow.processes.gaussian import GaussianProcess
from sciflow.processes.interpolant import StochasticInterpolant
from sciflow.solvers.euler_maruyama import EulerMaruyama
from sciflow.solvers.euler_ode import EulerODE
from sciflow.solvers.heun import Heun

F64, END = torch.float64, 0.2


def towards(process: Process, data: float):
    """The velocity when all data are one point: v = (x - x0)/t, the short way round on the torus; with eta = .3 for
    interpolants."""

    def denoise(state, clocks):
        x, t, layout = state["x"], clocks["x"], state.layouts["x"]
        velocity = process.space.diff(torch.full_like(x, data), x) / layout.rows(t, x)  # type: ignore[union-attr, operator]
        value = velocity if process.kind == "velocity" else torch.stack([velocity, torch.full_like(x, 0.3)], -1)
        return {"x": Prediction(value, process.kind, process, x, t, layout)}

    return denoise


def run(process, solver, start: torch.Tensor, data: float, moves: int, hooks, seed: int = 0) -> torch.Tensor:
    state = State({"x": start}, {"x": Layout(len(start))})
    sampler = Sampler({"x": process}, {"x": solver}, Uniform(1.0, END), hooks=hooks)
    return sampler.run(state, towards(process, data), Fresh(seed), steps=moves).state["x"]


def shrink(strength: float) -> float:
    """(x_t - x0)/(x_1 - x0) = t^(1 + s) e^(s (1 - t)) solves dx/dt = (1 + s (1 - t)) (x - x0)/t."""
    return END ** (1 + strength) * math.exp(strength * (1 - END))


@pytest.mark.parametrize("strength", [0.0, 1.5, 10.18, -0.5])
@pytest.mark.parametrize("process", [FlowMatching(), StochasticInterpolant()], ids=["flow", "interpolant"])
def test_linear_flow_has_the_exact_solution(process, strength):
    """Heun with 400 moves to 1e-4; its error falls by 4 from 200."""
    start = torch.tensor([[1.0, -2.0], [0.4, 3.0]], dtype=F64)
    exact = 0.7 + (start - 0.7) * shrink(strength)
    errors = []
    for moves in (200, 400):
        found = run(process, Heun(), start, 0.7, moves, [VelocityAnnealing({"x": strength})])
        errors.append(float((found - exact).abs().max()))
    assert errors[1] < 1e-4 and (errors[1] < 1e-12 or errors[0] / errors[1] > 3.5)


def test_on_the_torus_the_flow_goes_the_short_way():
    """Data at .9, starts at .1 and .75: differences .2 (through 1) and -.15."""
    start, strength = torch.tensor([[0.1], [0.75]], dtype=F64), 3.0
    found = run(FlowMatching(Torus()), Heun(), start, 0.9, 400, [VelocityAnnealing({"x": strength})])
    exact = (0.9 + torch.tensor([[0.2], [-0.15]], dtype=F64) * shrink(strength)) % 1
    torch.testing.assert_close(found, exact, atol=1e-4, rtol=0)


def test_clocks_of_samples_and_other_fields():
    """Each sample has its own factor; fields that are not named keep their predictions."""
    process, layout = FlowMatching(), Layout(2, torch.tensor([0, 0, 1]))
    x, t = torch.ones(3, 2, dtype=F64), torch.tensor([0.25, 1.0], dtype=F64)
    prediction = Prediction(torch.full((3, 2), 2.0, dtype=F64), "velocity", process, x, t, layout)
    hook = VelocityAnnealing({"x": 4.0})
    found = hook.wrap(lambda state, clocks: {"x": prediction, "y": prediction})(State({}, {}), {})
    assert found["x"].value.tolist() == [[8.0, 8.0], [8.0, 8.0], [2.0, 2.0]]
    assert found["y"] is prediction and prediction.value.max() == 2.0


def test_only_the_velocity_of_an_interpolant_is_scaled():
    """One Euler-Maruyama move by hand: x + ((1 + s (1 - t)) b - epsilon score) dt + the same noise."""
    process, start = StochasticInterpolant(diffusion=0.5), torch.tensor([[1.0], [2.0]], dtype=F64)
    state = State({"x": start}, {"x": Layout(2)})
    ends = [
        Sampler({"x": process}, {"x": EulerMaruyama()}, Uniform(0.6, 0.5), hooks=hooks)
        .run(state, towards(process, 0.0), Fresh(1), steps=1)
        .state["x"]
        for hooks in ([], [VelocityAnnealing({"x": 2.0})])
    ]
    torch.testing.assert_close(ends[1] - ends[0], 2.0 * 0.4 * (start / 0.6) * -0.1)


def test_without_strength_nothing_changes():
    start = torch.tensor([[1.0], [2.0]], dtype=F64)
    plain = run(FlowMatching(), EulerODE(), start, 0.7, 5, [])
    assert torch.equal(run(FlowMatching(), EulerODE(), start, 0.7, 5, [VelocityAnnealing({"x": 0.0})]), plain)


def test_configuration_round_trip():
    again = from_config(to_config(VelocityAnnealing({"coords": 10.18, "lattice": 1.82})))
    assert again.strength == {"coords": 10.18, "lattice": 1.82}


@pytest.mark.parametrize("strength", [{}, {"x": -1.0}, {"x": math.nan}, {"x": math.inf}])
def test_bad_strengths_are_refused(strength):
    with pytest.raises(UserError, match="strength|field"):
        VelocityAnnealing(strength)


def test_unfit_predictions_are_refused():
    start = torch.tensor([[1.0]], dtype=F64)
    with pytest.raises(UserError, match="predicted are: x"):
        run(FlowMatching(), EulerODE(), start, 0.7, 1, [VelocityAnnealing({"coords": 1.0})])
    process = GaussianProcess()
    prediction = Prediction(start, "noise", process, start, torch.tensor(0.5), Layout(1))
    with pytest.raises(UserError, match="needs predictions of a velocity"):
        VelocityAnnealing({"x": 1.0}).wrap(lambda state, clocks: {"x": prediction})(State({}, {}), {})
