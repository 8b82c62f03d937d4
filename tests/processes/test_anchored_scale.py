"""Anchored processes with a scale and a mask are the plain process of y = (x - anchor)/scale."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from sciflow.core.grids import LogSNR, Uniform
from sciflow.core.likelihood import Hutchinson, flow_log_prob, variational_bound
from sciflow.core.noise import PRIOR, PerSample
from sciflow.core.objective import Example
from sciflow.core.process import Prediction
from sciflow.core.sampler import Sampler
from sciflow.core.schedules import VE, VP, Cosine
from sciflow.core.state import Layout, State
from sciflow.objectives.regression import LikelihoodWeighted, Regression
from sciflow.processes.anchored import Anchored
from sciflow.processes.gaussian import GaussianProcess
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.dpmpp import DDIM, DPMpp2M
from sciflow.solvers.euler_maruyama import EulerMaruyama
from sciflow.solvers.heun import Heun
from sciflow.solvers.langevin import Langevin

F64 = torch.float64
T, S = torch.tensor(0.7, dtype=F64), torch.tensor(0.2, dtype=F64)
INDEX = torch.tensor([0, 0, 1, 1, 1])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


MASK = (normal(5, 4, 1, seed=8) < 0.5).to(F64)
ANCHOR, SCALE, MIX = normal(5, 4, 3, seed=1), normal(5, 4, 1, seed=2).exp(), normal(3, 3, seed=3)
PLAIN = Layout(2, INDEX, MASK, (2, 3))
PLACED = Layout(2, INDEX, MASK, (2, 3), ANCHOR, SCALE)
Y, Y0, VALUE = (normal(5, 4, 3, seed=s) * MASK for s in (4, 5, 6))


def x_of(y: Tensor) -> Tensor:
    return ANCHOR + SCALE * y


def check(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


schedules = pytest.mark.parametrize("schedule", [VP(), VE(), Cosine()], ids=lambda s: type(s).__name__)


def log_scale() -> Tensor:
    """Sum of log scale over the free entries of each sample."""
    return PLAIN.per_sample((SCALE.log() * MASK).expand(5, 4, 3))


@schedules
def test_kernels_are_those_of_y_and_masked_entries_stay_on_the_anchor(schedule):
    base = GaussianProcess(schedule, kind="data")
    process = Anchored(base)
    pairs = [
        (process.prior(x_of(Y), PLACED), base.prior(Y, PLAIN)),
        (process.marginal(x_of(Y0), T, PLACED), base.marginal(Y0, T, PLAIN)),
        (process.posterior(x_of(Y), x_of(Y0), T, S, PLACED), base.posterior(Y, Y0, T, S, PLAIN)),
        (process.reconstruction(x_of(Y), x_of(Y0), T, PLACED), base.reconstruction(Y, Y0, T, PLAIN)),
    ]
    for got, plain in pairs:
        draw, moved = (k.sample(PerSample(1).at("x", PRIOR)) for k in (plain, got))
        check(got.mean, x_of(plain.mean))
        check(moved, x_of(draw))
        assert torch.equal(moved[MASK[..., 0] == 0], ANCHOR[MASK[..., 0] == 0])
        check(got.log_prob(x_of(Y)), plain.log_prob(Y) - log_scale())
        check(got.kl(pairs[1][0]), plain.kl(pairs[1][1]))


@schedules
@pytest.mark.parametrize("kind", GaussianProcess.kinds)
def test_kinds_and_motions(schedule, kind):
    """Noise and v are those of y; data, score and velocity those of x: a density has 1/scale, a motion scale."""
    base = GaussianProcess(schedule, kind=kind)
    process = Anchored(base)
    unit = {"score": 1 / SCALE, "velocity": SCALE}
    value = x_of(VALUE) if kind == "data" else VALUE * unit.get(kind, 1.0)
    pred = Prediction(value, kind, process, x_of(Y), T, PLACED)
    plain = Prediction(VALUE, kind, base, Y, T, PLAIN)
    for other in GaussianProcess.kinds:
        expected = x_of(plain.to(other)) if other == "data" else plain.to(other) * unit.get(other, 1.0)
        check(pred.to(other), expected)
    for got, truth in zip(process.sde(x_of(Y), pred, T, PLACED), base.sde(Y, plain, T, PLAIN), strict=True):
        check(got.expand(5, 4, 3), (truth * SCALE).expand(5, 4, 3))
    check(process.velocity(x_of(Y), pred, T, PLACED), SCALE * base.velocity(Y, plain, T, PLAIN))
    check(process.flow_step(x_of(Y), x_of(Y0), T, S, PLACED), x_of(base.flow_step(Y, Y0, T, S, PLAIN)))
    mean, variance, a = process.linear_step(x_of(Y), T, S, PLACED)
    plain_mean, plain_variance, plain_a = base.linear_step(Y, T, S, PLAIN)
    check(mean, x_of(plain_mean))
    check(variance, plain_variance * SCALE**2)
    check(a, plain_a)


def test_losses_are_in_units_of_y():
    base = GaussianProcess(VP(), kind="v")
    process = Anchored(base)
    state = State({"x": x_of(Y)}, {"x": PLACED})
    pred, plain = (Prediction(VALUE, "v", p, x, T, lay) for p, x, lay in ((process, x_of(Y), PLACED), (base, Y, PLAIN)))
    for loss in (Regression("v"), Regression("noise"), LikelihoodWeighted()):
        got = loss(pred, Example("x", x_of(Y0), state, lambda *_: {}))
        check(got, loss(plain, Example("x", Y0, state, lambda *_: {})))


class Linear:
    """A denoiser whose v prediction of y is tanh(y M) m, shown as one of x or of y."""

    def __init__(self, process: GaussianProcess | Anchored, placed: bool) -> None:
        self.process, self.placed = process, placed

    def __call__(self, state: State, clocks: Mapping[str, Tensor]) -> dict[str, Prediction]:
        x, layout = state["x"], state.layouts["x"]
        y = (x - ANCHOR) / SCALE * MASK if self.placed else x
        return {"x": Prediction((y @ MIX).tanh() * MASK, "v", self.process, x, clocks["x"], layout)}


SOLVERS = [Ancestral(), DDIM(), DPMpp2M(), Heun(), EulerMaruyama()]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_samplers_commute_with_the_map(solver):
    """x run = map of the y run with the same noise, with a Langevin corrector too; the mask keeps its entries."""
    base = GaussianProcess(VP(), kind="v")
    ends = []
    for process, layout, placed in ((base, PLAIN, False), (Anchored(base), PLACED, True)):
        sampler = Sampler({"x": process}, {"x": solver}, Uniform(end=0.01), correct={"x": Langevin()})
        start = sampler.prior(State({"x": Y0}, {"x": layout}), PerSample(3))
        ends.append(sampler.run(start, Linear(process, placed), PerSample(3), steps=10).state["x"])
    torch.testing.assert_close(ends[1], x_of(ends[0]), rtol=1e-11, atol=1e-11)
    assert torch.equal(ends[1][MASK[..., 0] == 0], ANCHOR[MASK[..., 0] == 0])


def test_likelihoods_count_the_scale():
    """log p(x) = log p(y) - sum of log scale, for the bound and for the flow."""
    base = GaussianProcess(VP(), kind="v")
    plain, placed = State({"x": Y0}, {"x": PLAIN}), State({"x": x_of(Y0)}, {"x": PLACED})
    process = Anchored(base)
    grid = LogSNR(VP(), end=1e-3)
    got = variational_bound(placed, {"x": process}, Linear(process, True), PerSample(0), grid=grid, steps=8)
    true = variational_bound(plain, {"x": base}, Linear(base, False), PerSample(0), grid=grid, steps=8)
    check(got, true - log_scale())
    options = {"steps": 20, "divergence": Hutchinson(1)}
    got = flow_log_prob(placed, process, Linear(process, True), PerSample(0), **options)
    check(got, flow_log_prob(plain, base, Linear(base, False), PerSample(0), **options) - log_scale())


MEAN = torch.tensor([0.3, -0.2, 0.5, 1.0], dtype=F64)
ROOT = torch.tensor([[0.4, 0, 0, 0], [0.3, 0.2, 0, 0], [0.3, 0.3, 0.3, 0], [0.2, 0.4, 0.3, 0.4]], dtype=F64)
FRAMES = torch.tensor([0.5, 0.6, 0.7, 1.1], dtype=F64)[None, :, None]  # scales of the four frames


class GaussianTrajectories:
    """E[x0 | x_t] of frames N(MEAN, ROOT ROOT^T), coordinates independent, around an anchor 2 in units of FRAMES."""

    def __init__(self, process: Anchored) -> None:
        self.process = process

    def __call__(self, state: State, clocks: Mapping[str, Tensor]) -> dict[str, Prediction]:
        x, t, layout = state["x"], clocks["x"], state.layouts["x"]
        schedule = self.process.base.schedule
        alpha, sigma, covariance = schedule.alpha(t), schedule.sigma(t), ROOT @ ROOT.T
        units = torch.diag(FRAMES.flatten() ** 2)
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * units)
        off = x - (2 + alpha * (MEAN[:, None] - 2))
        return {"x": Prediction(MEAN[:, None] + gain @ off, "data", self.process, x, t, layout)}


def gaussian_run(solver, steps: int, y: Tensor | None, count: int) -> Tensor:
    process = Anchored(GaussianProcess(VP(), kind="data"))
    layout = Layout(
        count,
        torch.arange(count),
        None,
        (1,) * count,
        torch.full((count, 4, 1), 2.0, dtype=F64),
        FRAMES.expand(count, 4, 1),
    )
    sampler = Sampler({"x": process}, {"x": solver}, LogSNR(VP(), end=1e-4))
    state = State({"x": torch.zeros(count, 4, 1, dtype=F64)}, {"x": layout})
    start = sampler.prior(state, PerSample(0)) if y is None else state.put(x=2 + FRAMES * y)
    return sampler.run(start, GaussianTrajectories(process), PerSample(0), steps=steps).state["x"][..., 0]


@pytest.mark.parametrize(("solver", "steps"), [(DDIM(), 400), (DPMpp2M(), 100), (Heun(), 100)], ids=str)
def test_flows_recover_a_gaussian_trajectory(solver, steps):
    """The flow of Gaussian data is affine: its images of 0 and of the unit vectors give mean and covariance."""
    y = torch.cat([torch.zeros(1, 4, dtype=F64), torch.eye(4, dtype=F64)])[..., None]
    ends = gaussian_run(solver, steps, y, 5)
    columns = (ends[1:] - ends[0]).T
    assert (columns @ columns.T - ROOT @ ROOT.T).abs().max() < 0.02 * (ROOT @ ROOT.T).max()
    assert (ends[0] - MEAN).abs().max() < 0.02


def test_ancestral_sampling_recovers_a_gaussian_trajectory():
    """3000 samples: 5 standard errors per entry (14 entries, false alarm 1e-5), 4 % for what 250 steps lose."""
    samples = gaussian_run(Ancestral(), 250, None, 3000)
    truth = ROOT @ ROOT.T
    deviation = truth.diagonal().sqrt()
    error = 5 / 3000**0.5
    assert ((samples.mean(0) - MEAN).abs() < (error + 0.02) * deviation).all()
    spread = (torch.cov(samples.T) - truth).abs() / (deviation[:, None] * deviation)
    assert (spread < 2**0.5 * error + 0.04).all()
