"""Numbers of the catalog of papers (appendix A), computed by other code, against the real processes and solvers.

On Gaussian data every solver step is affine, x_s = A x_t + c + N(0, Q): two probes of the step give A and c, its
kernel gives Q, and mean and variance follow exactly. These tests are deterministic except A41 and A42.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sciflow.core.grids import Explicit, Grid, LogSNR, Power, Uniform
from sciflow.core.kernels import Gaussian
from sciflow.core.likelihood import flow_log_prob
from sciflow.core.noise import Fresh
from sciflow.core.process import Prediction, Process
from sciflow.core.sampler import Sampler
from sciflow.core.schedules import VE, VP, Brownian, Schedule, SubVP
from sciflow.core.solver import Query, Solver, drive_one
from sciflow.core.state import Layout, State
from sciflow.couplings.assignment import Assignment, NearestOfK
from sciflow.processes.gaussian import GaussianProcess
from sciflow.processes.interpolant import StochasticInterpolant
from sciflow.solvers.dpmpp import DPMpp2M
from sciflow.solvers.euler_maruyama import EulerMaruyama
from sciflow.solvers.euler_ode import EulerODE
from sciflow.solvers.heun import Heun
from sciflow.solvers.langevin import Langevin

ONE = torch.ones((), dtype=torch.float64)
PROBES, PAIR = torch.tensor([[0.0], [1.0]], dtype=torch.float64), Layout(2)
Answer = Callable[[Process, Tensor, Tensor], Tensor]


pytestmark = pytest.mark.golden


def gaussian_data(mean: float, spread: Tensor | float) -> Answer:
    """E[x0 | x_t] for data N(mean, spread), entrywise."""

    def data(process, x: Tensor, t: Tensor) -> Tensor:
        alpha, variance = process.schedule.alpha(t), process.schedule.variance(t)
        return mean + alpha * spread / (alpha**2 * spread + variance) * (x - alpha * mean)

    return data


def end_moments(
    process, solver: Solver, grid: Grid, steps: int, answer: Answer, start: tuple[float, float], kind: str = "data"
) -> tuple[float, float]:
    """Mean and variance at the end of the grid, pushed through the solver itself."""
    mean, variance = start
    for t, s in grid.moves(steps):
        clocks = (torch.tensor(t, dtype=torch.float64), torch.tensor(s, dtype=torch.float64))

        def predict(query: Query) -> Prediction:
            return Prediction(answer(process, query.x, query.t), kind, process, query.x, query.t, PAIR)

        kernel, _ = drive_one(solver.step(process, PROBES, *clocks, PAIR, None, Fresh(0)), predict)
        low, high = kernel.mean.flatten().tolist()
        noise = float(kernel.std) ** 2 if isinstance(kernel, Gaussian) else 0.0
        mean, variance = low + (high - low) * mean, (high - low) ** 2 * variance + noise
    return mean, variance


def exact_start(schedule: Schedule, mean: float, spread: float) -> tuple[float, float]:
    return float(schedule.alpha(ONE)) * mean, float(schedule.alpha(ONE) ** 2 * spread + schedule.variance(ONE))


@pytest.mark.parametrize("schedule", [VP(), VE(), SubVP()], ids=["VP", "VE", "subVP"])
def test_a01_variance_equation(schedule):
    t = torch.linspace(0.01, 1, 100, dtype=torch.float64)
    rate = torch.autograd.functional.jvp(schedule.variance, t, torch.ones_like(t))[1]
    residual = rate - 2 * schedule.f(t) * schedule.variance(t) - schedule.g2(t)
    assert (residual / schedule.g2(t)).abs().max() < 1e-7


def test_a02_end_of_vp():
    assert float(VP().alpha(ONE)) ** 2 == pytest.approx(4.31857e-5, abs=1e-9)


def test_a03_end_of_the_ddpm_table():
    """alpha-bar of the chain that the reverse-diffusion predictor reverses: product of (1 + F)^2 over the table."""
    t = torch.arange(1000, dtype=torch.float64) / 999
    drift, _ = VP().discrete_pair(t, 1000)
    assert float(((1 + drift) ** 2).prod()) == pytest.approx(4.03583e-5, abs=1e-9)


def test_a04_and_a05_flow_likelihood():
    """A04: exact law at t = 1. A05: with N(0, 1) the largest error is .0073: prior mismatch, not a bug."""
    process, layout = GaussianProcess(VP(), kind="data"), Layout(6)
    x = torch.tensor([0.2, 0.7, 1.5] * 2, dtype=torch.float64)[:, None]
    mean, variance = exact_start(process.schedule, 0.7, 0.25)
    exact = torch.tensor([1.0] * 3 + [0.0] * 3, dtype=torch.float64)[:, None]  # the last three start from N(0, 1)
    end = Gaussian(exact * mean, exact * variance**0.5 + (1 - exact), process.space, layout)

    def denoise(state, clocks):
        x, t = state["x"], clocks["x"]
        return {"x": Prediction(gaussian_data(0.7, 0.25)(process, x, t), "data", process, x, t, layout)}

    got = flow_log_prob(State({"x": x}, {"x": layout}), process, denoise, Fresh(0), steps=400, prior=end)
    truth = torch.tensor([-0.725791, -0.225791, -1.505791], dtype=torch.float64)
    torch.testing.assert_close(got[:3], truth, rtol=0, atol=5e-6)
    assert float((got[3:] - truth).abs().max()) == pytest.approx(0.0073, abs=5e-4)


@pytest.mark.parametrize(
    "schedule, steps, end, mean, variance",
    [
        pytest.param(VP(), 100, 1e-3, 0.70410, 0.25390, id="A06"),
        pytest.param(VP(), 1000, 1e-3, 0.70037, 0.25044, id="A07"),
        pytest.param(SubVP(), 100, 1e-3, 0.70545, 0.25402, id="A08"),
    ],
)
def test_a06_to_a08_euler_maruyama(schedule, steps, end, mean, variance):
    process = GaussianProcess(schedule, kind="data")
    start = exact_start(schedule, 0.7, 0.25)
    got = end_moments(process, EulerMaruyama(), Uniform(1.0, end), steps, gaussian_data(0.7, 0.25), start)
    assert got == pytest.approx((mean, variance), abs=1e-5)


def test_a09_euler_maruyama_variance_exploding():
    """VE (.01, 50), 1000 uniform steps from 1 to 1e-5, started from the prior N(0, sigma_max^2): .69994, .25001.

    The catalog's VE starts from a point: its variance is sigma(t)^2 - sigma_min^2. Ours is sigma(t)^2 (as in Song's
    code), so data of variance .25 there are data of variance .25 - sigma_min^2 here.
    """
    process = GaussianProcess(VE(0.01, 50.0), kind="data")
    answer = gaussian_data(0.7, 0.25 - 0.01**2)
    got = end_moments(process, EulerMaruyama(), Uniform(1.0, 1e-5), 1000, answer, (0.0, 2500.0))
    assert got == pytest.approx((0.69994, 0.25001), abs=1e-5)


def test_a10_stationary_variance_of_the_langevin_corrector():
    """Step .1 on a Gaussian of variance .25: V/(1 - step/(2V)) = .3125."""
    schedule = VP()
    process, t = GaussianProcess(schedule, kind="score"), 0.4
    snr = math.sqrt(0.05 / float(schedule.variance(torch.tensor(t, dtype=torch.float64))))
    grid = Explicit([t] * 201)
    got = end_moments(process, Langevin(snr), grid, 200, lambda _, x, __: -x / 0.25, (1.0, 2.0), kind="score")
    assert got == pytest.approx((0.0, 0.3125), abs=1e-9)


def test_a11_flow_map_of_edm():
    """Psi from sigma = 5 to 0 at x = 3 for data N(1, .25): sigma = 5 sqrt(t), Heun with Richardson extrapolation."""
    process = GaussianProcess(Brownian(5.0), kind="data")

    def flow(steps: int) -> float:
        value = end_moments(process, Heun(), Power(1.0, 1e-14, 6.0), steps, gaussian_data(1.0, 0.25), (3.0, 0.0))
        return value[0]

    coarse, fine = flow(400), flow(800)
    assert fine == pytest.approx(1.1990074, abs=1e-4)
    assert fine + (fine - coarse) / 3 == pytest.approx(1.1990074, abs=1e-7)


# A12-A15: interpolant from N(-1, .5) to N(2, .25), gamma^2 = 2 t (1 - t). The catalog's clock runs the other way: its
# source (t = 0) is our prior end (t = 1) and its b is minus our velocity.
def path_law(t: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * (1 - t) - t, (1 - t) ** 2 * 0.25 + t**2 * 0.5 + 2 * t * (1 - t)


def interpolant_answer(error: float = 0.0) -> Answer:
    """E[target | x_t] by regression of the process's own target on x_t, probed with unit vectors of (x0, x1, z)."""
    spreads = torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)

    def answer(process, x: Tensor, t: Tensor) -> Tensor:
        layout, unit = Layout(3), torch.eye(3, dtype=torch.float64)
        x0, x1, z = unit[:, :1], unit[:, 1:2], unit[:, 2:]
        x_t = process.marginal(x0, t, layout, x1).mean + process.gamma(t) * z
        target = process.target(x0, x1, x_t, t, layout)[:, 0]  # (3, 2): coefficients of dx/dt and z
        slope = (target * x_t * spreads[:, None]).sum(0) / (x_t[:, 0] ** 2 * spreads).sum()
        mean = path_law(t)[0]
        velocity = -3 + (slope[0] - error) * (x - mean)
        return torch.stack([velocity, slope[1] * (x - mean)], -1)

    return answer


def test_a12_velocity_of_the_interpolant():
    process, t = StochasticInterpolant(noise=2.0), torch.tensor(0.7, dtype=torch.float64)
    b = -interpolant_answer()(process, PROBES, t)[..., 0].flatten()
    assert (float(b[1] - b[0]), float(b[0])) == pytest.approx((0.1818, 3.0182), abs=1e-4)


def interpolant_grid(steps: int) -> Grid:
    """Uniform from 1 to 0, started a hair below 1, where gamma = 0 and the score is 0/0."""
    clocks = torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
    return Explicit([1 - 1e-9, *clocks[1:]])


@pytest.mark.parametrize("steps, variance", [(100, 0.25796), (1000, 0.25079)])
def test_a13_interpolant_by_euler(steps, variance):
    process = StochasticInterpolant(noise=2.0)
    got = end_moments(
        process, EulerODE(), interpolant_grid(steps), steps, interpolant_answer(), (-1.0, 0.5), "interpolant"
    )
    assert got == pytest.approx((2.0, variance), abs=1e-5)


@pytest.mark.parametrize("steps, variance", [(100, 0.28209), (1000, 0.25292)])
def test_a14_interpolant_by_euler_maruyama(steps, variance):
    process = StochasticInterpolant(noise=2.0, diffusion=5.0)
    got = end_moments(
        process, EulerMaruyama(), interpolant_grid(steps), steps, interpolant_answer(), (-1.0, 0.5), "interpolant"
    )
    assert got == pytest.approx((2.0, variance), abs=1e-5)


def test_a15_drift_error_is_bounded_for_the_sde():
    """Drift error +.3 (x - m), epsilon = 1: KL(true end || generated end) = .00458 below its bound .01312.

    The bound is the integrated squared drift error over 4 epsilon. Richardson in the step removes Euler's own error.
    """
    process = StochasticInterpolant(noise=2.0, diffusion=1.0)

    def end_variance(steps: int) -> float:
        answer = interpolant_answer(error=0.3)
        return end_moments(
            process, EulerMaruyama(), interpolant_grid(steps), steps, answer, (-1.0, 0.5), "interpolant"
        )[1]

    variance = 2 * end_variance(800) - end_variance(400)
    ratio = 0.25 / variance
    kl = 0.5 * (ratio - 1 - math.log(ratio))
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    bound = float(torch.trapezoid(0.09 * path_law(t)[1], t)) / 4
    assert kl == pytest.approx(0.00458, abs=1e-4) and bound == pytest.approx(0.01312, abs=1e-4)
    assert kl < bound


def test_a26_half_emergence():
    """The endpoint estimate along a mode reaches half its final value where alpha^2 lambda/sigma^2 = 1/3 (C13).

    Three modes, started one standard deviation out, moved by DPM++(2M) with the exact denoiser.
    """
    schedule, modes = VP(), torch.tensor([[9.0, 1.0, 0.04]], dtype=torch.float64)
    process, layout, grid = GaussianProcess(schedule, kind="data"), Layout(1), LogSNR(schedule, end=1e-5)
    answer = gaussian_data(0.0, modes)

    def denoise(state, clocks):
        x, t = state["x"], clocks["x"]
        return {"x": Prediction(answer(process, x, t), "data", process, x, t, layout)}

    steps = 800
    start = (schedule.alpha(ONE) ** 2 * modes + schedule.variance(ONE)).sqrt()
    path = (
        Sampler({"x": process}, {"x": DPMpp2M()}, grid)
        .run(State({"x": start}, {"x": layout}), denoise, Fresh(0), steps=steps, record=True)
        .path
    )
    clocks = grid.points(steps)
    estimate = torch.cat([answer(process, state["x"], t) for state, t in zip(path, clocks, strict=True)])
    torch.testing.assert_close(estimate[-1:], modes.sqrt(), rtol=1e-3, atol=0)
    for k, expected in enumerate((0.5737, 0.3683, 0.1019)):
        above = estimate[:, k] / estimate[-1, k] - 0.5
        i = int((above < 0).sum())
        part = above[i - 1] / (above[i - 1] - above[i])
        t = clocks[i - 1] + part * (clocks[i] - clocks[i - 1])
        ratio = schedule.alpha(t) ** 2 * modes[0, k] / schedule.variance(t)
        assert float(ratio) == pytest.approx(1 / 3, abs=1e-3)
        assert float(t) == pytest.approx(expected, abs=2e-4)


def batches(dims: int, batch: int, seed: int) -> tuple[State, Callable[[int], State]]:
    def state(scale: float, k: int) -> State:
        generator = torch.Generator().manual_seed(1000 * seed + k)
        return State({"x": scale * torch.randn(batch, dims, generator=generator)}, {"x": Layout(batch)})

    return state(0.5, 0), lambda k: state(1.0, k + 1)


def test_a41_assignment_shortens_the_distance():
    """d = 256, batch 128, data .5 N(0, I): mean distance falls by 6.3 % +- .4 %; the mean of 10 batches.

    Spread between batches measured at .1 %: the band is over 10 standard errors of the mean.
    """
    reductions = []
    for seed in range(10):
        x0, draw = batches(256, 128, seed)
        before = (x0["x"] - draw(0)["x"]).norm(dim=1).mean()
        after = (x0["x"] - Assignment().pair(x0, draw)["x"]).norm(dim=1).mean()
        reductions.append(float(1 - after / before))
    assert sum(reductions) / 10 == pytest.approx(0.063, abs=0.004)


def test_a42_nearest_of_four_shrinks_the_noise():
    """d = 16: noise variance .71 +- .02. 20 000 samples: standard error of the variance below .003."""
    x0, draw = batches(16, 20_000, 3)
    assert float(NearestOfK(4).pair(x0, draw)["x"].var()) == pytest.approx(0.71, abs=0.02)
