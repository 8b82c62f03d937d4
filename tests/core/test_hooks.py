"""Hooks reach the laws they promise: selection among candidates by the exact soft value samples the tilted law, and
guidance by the gradient of the exact likelihood samples the posterior."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from oracles import F64, FIELD, GaussianOracle, f64
from stats import Z_LIMIT, batch_state, chain_law, law_error, normal_z

from sciflow.core import schedules
from sciflow.core.grids import Uniform
from sciflow.core.hooks import Hook
from sciflow.core.noise import Fresh
from sciflow.core.process import Prediction
from sciflow.core.sampler import Sampler
from sciflow.core.state import Layout, State
from sciflow.processes.gaussian import GaussianProcess
from sciflow.solvers.ancestral import Ancestral

COUNT, MOVES, TEMPERATURE = 4000, 40, 0.5
PROCESS = GaussianProcess(schedules.VP(0.1, 10.0), kind="data")
GRID = Uniform(1.0, 1e-3)


class SoftValueSelection(Hook):
    """Chooses a candidate with probability in proportion to exp(value / temperature) (SVDD, Li et al. 2024).

    Reward r(x0) = x0 of the first coordinate. Its soft value is E[x0 | x_s] + a constant, exactly, for Gaussian data
    of variance v: log E[exp(x0 / T) | x_s] = E[x0 | x_s] / T + posterior variance / (2 T^2).
    """

    def __init__(self, candidates: int, value: float = 1.0) -> None:
        self.candidates, self.value = candidates, value

    def select(self, options, transition):
        move, noise = transition.move, transition.noise
        s = f64(move.s)
        layout = options[0].layouts[FIELD]
        oracle = GaussianOracle(PROCESS)
        values = torch.stack([oracle.data(option[FIELD], s, layout)[:, 0] for option in options], 1)
        weights = (self.value * values / TEMPERATURE).softmax(1).cumsum(1)
        u = noise.at("select", move).uniform(values[:, :1], layout)
        chosen = (weights < u).sum(1).clamp_max(len(options) - 1)
        stacked = torch.stack([option[FIELD] for option in options], 1)
        return options[0].put(**{FIELD: stacked[torch.arange(len(chosen)), chosen]})


class TiltedPosterior(GaussianProcess):
    """The law of the selected candidate, for small tilts per move: mean + std^2 (1 - 1/M) grad(value)/temperature.

    The value is linear with slope alpha_s v / V_s, and the selected of M normals with weights exp(w z) has the mean
    w (1 - 1/M) + O(w^3).
    """

    def __init__(self, share: float) -> None:
        super().__init__(PROCESS.schedule, kind="data")
        self.share = share

    def posterior(self, x_t, x0, t, s, layout):
        kernel = super().posterior(x_t, x0, t, s, layout)
        oracle = GaussianOracle(PROCESS)
        slope = self.schedule.alpha(s) * oracle.variance / oracle.law(s)[1]
        return replace(kernel, location=kernel.location + kernel.std**2 * slope * self.share / TEMPERATURE)


def tilted_law(t):
    """exp(x0/T) tilts N(m, v) into N(m + v/T, v): noised to clock t."""
    oracle = GaussianOracle(PROCESS)
    return GaussianOracle(PROCESS, mean=oracle.mean + oracle.variance / TEMPERATURE).law(t)


def expected(share: float, moves: int = MOVES):
    """Exact (mean, variance) of the chain of selected candidates, started from the tilted law (the plain one for 0)."""
    start = (tilted_law if share else GaussianOracle(PROCESS).law)(f64(1.0))
    return chain_law(TiltedPosterior(share), Ancestral(), GaussianOracle(PROCESS), moves, GRID, start=start)


def guided(candidates: int, value: float = 1.0):
    """End of a run on two coordinates, of which the first is rewarded: (COUNT, 2)."""
    sampler = Sampler({FIELD: PROCESS}, {FIELD: Ancestral()}, GRID, hooks=[SoftValueSelection(candidates, value)])
    z = Fresh(1).normal(torch.zeros(COUNT, 2, dtype=F64), Layout(COUNT))
    (m0, variance), (m1, _) = tilted_law(f64(1.0)), GaussianOracle(PROCESS).law(f64(1.0))
    start = batch_state(torch.stack([m0, m1]) + variance.sqrt() * z)
    solution = sampler.run(start, GaussianOracle(PROCESS), Fresh(2), steps=MOVES)
    assert solution.evaluations == MOVES
    return solution.state[FIELD]


def test_law_of_many_candidates_approaches_the_tilted_law():
    """Exact, no sampling error: first order in the moves towards N(2 + 0.25/0.5, 0.25)."""
    errors = [law_error(expected(1.0, moves), tilted_law(f64(1e-3))) for moves in (200, 400)]
    assert errors[1] < 0.06 and errors[1] < 0.6 * errors[0], errors


@pytest.mark.parametrize("candidates", [4, 16])
def test_selection_by_the_soft_value_samples_the_tilted_chain(candidates):
    """z-tests, false alarm 1e-5 each: the rewarded coordinate is tilted, the other one is not touched."""
    x = guided(candidates)
    assert mean_and_spread_z(x[:, 0], expected(1 - 1 / candidates)) < Z_LIMIT
    assert normal_z(x[:, 1], *expected(0.0)) < Z_LIMIT


def mean_and_spread_z(x, law) -> float:
    """z of the mean; the selected draws are not quite normal, so the variance is allowed 15 percent."""
    assert float((x.var() / law[1] - 1).abs()) < 0.15
    return normal_z(x.mean() + (x - x.mean()) * (law[1] / x.var()).sqrt(), *law)


def test_the_statistic_sees_a_wrong_temperature_and_a_forgotten_selection():
    law = expected(1 - 1 / 16)
    assert mean_and_spread_z(guided(16, value=2.0)[:, 0], law) > Z_LIMIT
    assert normal_z(guided(1)[:, 0], *law) > Z_LIMIT


class Measurement(Hook):
    """Guidance by the gradient of log p(y | x_t), taken through the denoiser (DPS, Chung et al. 2023, exact spread).

    For Gaussian data and y = x0 + N(0, noise^2) the likelihood p(y | x_t) IS the normal around E[x0 | x_t] of variance
    var(x0 | x_t) + noise^2. By Tweedie, E[x0 | x_t, y] = E[x0 | x_t] + sigma^2/alpha grad log p(y | x_t).
    """

    needs_grad = True

    def __init__(self, y: float, noise: float) -> None:
        self.y, self.noise = y, noise

    def wrap(self, denoise):
        def guided(state, clocks):
            t, oracle = clocks[FIELD], GaussianOracle(PROCESS)
            alpha, sigma = PROCESS.schedule.alpha(t), PROCESS.schedule.sigma(t)
            left = oracle.variance * sigma**2 / oracle.law(t)[1]  # var(x0 | x_t)
            with torch.enable_grad():
                x = state[FIELD].detach().requires_grad_()
                pred = denoise(state.put(**{FIELD: x}), clocks)[FIELD]
                likelihood = -0.5 * (self.y - pred.to("data")) ** 2 / (left + self.noise**2)
                (gradient,) = torch.autograd.grad(likelihood.sum(), x)
            value = pred.to("data").detach() + sigma**2 / alpha * gradient
            return {FIELD: Prediction(value, "data", PROCESS, state[FIELD], t, pred.layout)}

        return guided


@pytest.mark.parametrize("outside", [False, True], ids=["plain", "called in inference mode"])
def test_gradient_guidance_samples_the_exact_posterior(outside):
    """Move by move equal to the run of the oracle of p(x0 | y), which is Gaussian in closed form. No sampling error."""
    y, noise = 1.2, 0.3
    plain = GaussianOracle(PROCESS)
    variance = 1 / (1 / plain.variance + 1 / noise**2)
    posterior = GaussianOracle(PROCESS, variance * (plain.mean / plain.variance + y / noise**2), variance)
    with torch.inference_mode(outside):
        start = batch_state(torch.linspace(-2, 2, 7, dtype=F64)[:, None])
        assert start[FIELD].is_inference() == outside

        def end(oracle, *hooks):
            sampler = Sampler({FIELD: PROCESS}, {FIELD: Ancestral()}, GRID, hooks=hooks)
            return sampler.run(start, oracle, Fresh(3), steps=MOVES)

        guided, expected = end(plain, Measurement(y, noise)), end(posterior)
        assert torch.allclose(guided.state[FIELD], expected.state[FIELD], atol=1e-10)
        assert guided.evaluations == MOVES and not guided.state[FIELD].requires_grad
        assert (end(plain).state[FIELD] - expected.state[FIELD]).abs().min() > 0.1  # the guidance does something


class ByGradient(Hook):
    """Shifts the data prediction by the gradient of its own sum."""

    needs_grad = True

    def wrap(self, denoise):
        def guided(state, clocks):
            with torch.enable_grad():
                x = state["x"].detach().requires_grad_()
                pred = denoise(state.put(x=x), clocks)["x"]
                masked = state.layouts["x"].per_sample(pred.to("data")).sum()
                (gradient,) = torch.autograd.grad(masked, x)
            return {"x": pred.replace(pred.to("data").detach() + 0.1 * gradient, "data")}

        return guided


def test_gradient_hooks_run_on_masked_states_inside_inference_mode():
    """What Lightning's predict does: the template itself, masks included, was made in inference mode."""
    process = GaussianProcess(kind="data")

    def denoise(state, clocks):
        value = state["x"] * 0.5
        return {"x": Prediction(value, "data", process, state["x"], clocks["x"], state.layouts["x"])}

    def go():
        layout = Layout(2, mask=torch.tensor([[[1.0], [1.0]], [[1.0], [0.0]]]), sizes=(2, 1))
        state = State({"x": torch.ones(2, 2, 1)}, {"x": layout})
        sampler = Sampler({"x": process}, {"x": Ancestral()}, Uniform(), hooks=[ByGradient()])
        return sampler.run(state, denoise, Fresh(0), steps=3).state["x"]

    plain = go()
    with torch.inference_mode():
        inside = go()
    assert torch.equal(plain, inside)
