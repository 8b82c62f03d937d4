"""Objectives: the true answer is the minimiser (its expected gradient is zero), and other answers cost more.

Expectations over the Gaussian noise are taken by Gauss-Hermite quadrature, over finite data by enumeration: no
randomness. Data are two points in R^2, so the posterior mean is known; everything is float64.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy
import pytest
import torch
from torch import Tensor

from sciflow.core.objective import Example
from sciflow.core.process import Prediction
from sciflow.core.schedules import VE, VP, Schedule, SubVP
from sciflow.core.spaces import SymmetricMatrix
from sciflow.core.state import Layout, State
from sciflow.objectives.cross_entropy import CrossEntropy
from sciflow.objectives.interpolant import InterpolantMatching
from sciflow.objectives.regression import LikelihoodWeighted, Regression
from sciflow.processes.anchored import Anchored
from sciflow.processes.gaussian import GaussianProcess
from sciflow.processes.interpolant import StochasticInterpolant
from sciflow.processes.masked import Masked

POINTS = torch.tensor([[1.0, -0.5], [-0.3, 0.8]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
TIMES = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)


def quadrature(nodes: int = 40) -> tuple[Tensor, Tensor]:
    """Nodes (n^2, 2) and weights of a standard normal in the plane."""
    x, w = (torch.tensor(v) for v in numpy.polynomial.hermite_e.hermegauss(nodes))
    grid = torch.stack(torch.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2)
    return grid, (w[:, None] * w[None, :]).reshape(-1) / (2 * math.pi)


def posterior(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """p(point | x_t): (rows, 2)."""
    square = ((x[:, None] - alpha[:, None] * POINTS) ** 2).sum(-1)
    return (WEIGHTS.log() - square / (2 * sigma**2)).softmax(-1)


def noised(schedule: Schedule) -> tuple[Tensor, ...]:
    """All (time, point, node) combinations: x_t, t, x0, true mean, weight."""
    z, w = quadrature()
    t = TIMES.repeat_interleave(2 * len(z))
    point = torch.arange(2).repeat_interleave(len(z)).repeat(3)
    alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
    x0 = POINTS[point]
    x = alpha * x0 + sigma * z.repeat(6, 1)
    return x, t, x0, posterior(x, alpha, sigma) @ POINTS, WEIGHTS[point] * w.repeat(6) / 3


def example(x0: Tensor, x1: Tensor | None = None) -> Example:
    layout = Layout(len(x0))
    return Example("x", x0, State({"x": x0}, {"x": layout}), lambda s, c: {}, x1)


OBJECTIVES = [Regression(kind) for kind in GaussianProcess.kinds] + [LikelihoodWeighted()]


@pytest.mark.parametrize("schedule", [VP(), SubVP(), VE(0.1, 2.0)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: getattr(o, "kind", "likelihood"))
@pytest.mark.parametrize("kind", ["noise", "data", "velocity"])
def test_the_posterior_mean_is_the_minimiser(schedule, objective, kind):
    """The derivative along a direction that depends on x_t vanishes at the truth; a scaled answer costs more.

    Gauss-Hermite with 40 nodes is exact here to about 1e-8 (the posterior is a smooth function of x_t).
    """
    x, t, x0, mean, weight = noised(schedule)
    process, layout = GaussianProcess(schedule, kind=kind), Layout(len(x))
    truth = Prediction(mean, "data", process, x, t, layout).to(kind)
    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    direction = torch.sin(x) + 0.5
    loss = objective(Prediction(truth + step * direction, kind, process, x, t, layout), example(x0))
    assert loss.shape == (len(x),)
    total = (weight * loss).sum()
    (slope,) = torch.autograd.grad(total, step, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, step)
    assert abs(slope.item()) < 1e-5 * curvature.item()
    for factor in (0.8, 1.25):
        scaled = objective(Prediction(factor * truth, kind, process, x, t, layout), example(x0))
        assert (weight * scaled).sum() > total * (1 + 1e-6)


def test_losses_of_the_kinds_are_related_by_the_weights_of_c08():
    """|x0 - x0'|^2 = (sigma/alpha)^2 |z - z'|^2 = (sigma^2/alpha)^2 |s - s'|^2; likelihood weight g^2; u as in C08."""
    schedule = VP()
    x, t, x0, mean, _ = noised(schedule)
    process = GaussianProcess(schedule, kind="data")
    pred = Prediction(1.1 * mean, "data", process, x, t, Layout(len(x)))
    loss = {kind: Regression(kind)(pred, example(x0)) for kind in process.kinds}
    alpha, sigma, g2 = schedule.alpha(t), schedule.sigma(t), schedule.g2(t)
    torch.testing.assert_close(loss["data"], (sigma / alpha) ** 2 * loss["noise"], rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(loss["data"], (sigma**2 / alpha) ** 2 * loss["score"], rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(loss["velocity"], (g2 / (2 * sigma)) ** 2 * loss["noise"], rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(LikelihoodWeighted()(pred, example(x0)), g2 * loss["score"], rtol=1e-9, atol=0)


def test_per_entry_divides_by_the_free_coordinates():
    """Padding does not dilute the mean, pairs count once."""
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.float64)
    layout = Layout(2, mask=mask[:, :, None] * mask[:, None, :])
    space = SymmetricMatrix()
    x0, pred = (space.project(torch.full((2, 4, 4), v, dtype=torch.float64), layout) for v in (1.0, 4.0))
    process = GaussianProcess(VP(), space, "data")
    t = torch.tensor([0.3, 0.7], dtype=torch.float64)
    prediction = Prediction(pred, "data", process, pred, t, layout)
    torch.testing.assert_close(Regression("data")(prediction, example(x0)), torch.full((2,), 9.0).double())
    summed = Regression("data", per_entry=False)(prediction, example(x0))
    assert summed.tolist() == [27.0, 9.0]


def test_padding_and_batch_mates_do_not_change_a_loss():
    process, t = GaussianProcess(VP()), torch.tensor([0.4, 0.4], dtype=torch.float64)
    x, x0, noise = (
        torch.randn(2, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in range(3)
    )
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]], dtype=torch.float64)[..., None]
    both = Regression()(Prediction(noise, "noise", process, x * mask, t, Layout(2, mask=mask)), example(x0 * mask))
    small = (v[1:, :1] for v in (noise, x, x0))
    noise1, x1, x01 = small
    alone = Regression()(Prediction(noise1, "noise", process, x1, t[:1], Layout(1)), example(x01))
    torch.testing.assert_close(both[1], alone[0])


def test_cross_entropy_of_one_hot_data_is_minimal_at_the_posterior():
    """One-hot data under Gaussian noise: the minimiser is p(class | x_t), for every x_t (Gibbs)."""
    schedule = VP()
    x, t, x0, _, weight = noised(schedule)
    alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
    probs = posterior(x, alpha, sigma)
    classes = (x0[:, 0] < 0).long()
    one_hot = torch.nn.functional.one_hot(classes, 2).double()
    process, layout = GaussianProcess(schedule, kind="data"), Layout(len(x))

    def total(tilt: Tensor, target: Tensor) -> Tensor:
        logits = probs.clamp_min(1e-300).log() + tilt * torch.stack([torch.sin(x[:, 0]), torch.cos(x[:, 1])], -1)
        pred = Prediction(logits.softmax(-1), "data", process, x, t, layout)
        return (weight * CrossEntropy()(pred, example(target))).sum()

    tilt = torch.zeros((), dtype=torch.float64, requires_grad=True)
    base = total(tilt, one_hot)
    (slope,) = torch.autograd.grad(base, tilt)
    assert abs(float(slope)) < 1e-6
    for value in (-0.3, 0.3):
        assert total(torch.tensor(value, dtype=torch.float64), one_hot) > base + 1e-4


def test_cross_entropy_of_tokens():
    """Masked mean of -log p over the tokens of a sample; equal for tokens and their one-hot form."""
    logits = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x0, mask = torch.tensor([[0, 1, 3], [2, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]], dtype=torch.float64)
    layout = Layout(2, mask=mask)
    process = Masked(4)
    pred = Prediction(logits, "logits", process, x0, torch.tensor(0.5), layout)
    truth = torch.nn.functional.cross_entropy(logits.transpose(1, 2), x0, reduction="none")
    torch.testing.assert_close(CrossEntropy()(pred, example(x0)), (truth * mask).sum(1) / mask.sum(1))
    soft = Prediction(
        logits.softmax(-1),
        "data",
        GaussianProcess(kind="data"),
        logits,
        torch.tensor(0.5),
        replace(layout, mask=mask[..., None]),
    )
    one_hot = torch.nn.functional.one_hot(x0, 4).double() * mask[..., None]
    torch.testing.assert_close(CrossEntropy()(soft, example(one_hot)), (truth * mask).sum(1) / mask.sum(1))


def test_interpolant_matching_is_minimal_at_the_conditional_means():
    """Gaussian ends N(2, .25) at t = 0 and N(-1, .5) at t = 1: the truth is linear in x_t, its gradient is zero.

    Three-dimensional Gauss-Hermite quadrature over (x0, x1, z); losses are quadratic polynomials, hence exact.
    """
    nodes, w = (torch.tensor(v) for v in numpy.polynomial.hermite_e.hermegauss(6))
    a, b, z = (v.reshape(-1, 1) for v in torch.meshgrid(nodes, nodes, nodes, indexing="ij"))
    weight = torch.einsum("i,j,k->ijk", w, w, w).reshape(-1) / (2 * math.pi) ** 1.5
    x0, x1 = 2 + 0.5 * a, -1 + math.sqrt(0.5) * b
    process, layout = StochasticInterpolant(noise=2.0), Layout(len(x0))
    for time in (0.2, 0.7):
        t = torch.tensor(time, dtype=torch.float64)
        gamma = float(process.gamma(t))
        x = (1 - time) * x0 + time * x1 + gamma * z
        centre, variance = (1 - time) * 2 - time, (1 - time) ** 2 * 0.25 + time**2 * 0.5 + gamma**2
        slope = (-(1 - time) * 0.25 + time * 0.5 + (1 - 2 * time)) / variance  # Cov(dx_t/dt, x_t)/Var, noise = 2
        truth = torch.stack([-3 + slope * (x - centre), gamma / variance * (x - centre)], -1)
        shift = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
        value = truth + shift[0] + shift[1] * x[..., None]
        loss = InterpolantMatching()(Prediction(value, "interpolant", process, x, t, layout), example(x0, x1))
        total = (weight * loss).sum()
        (gradient,) = torch.autograd.grad(total, shift)
        assert gradient.abs().max() < 1e-12
        scaled = InterpolantMatching()(Prediction(1.1 * truth, "interpolant", process, x, t, layout), example(x0, x1))
        assert (weight * scaled).sum() > total + 1e-3
    with pytest.raises(ValueError, match="needs the prior end"):
        InterpolantMatching()(Prediction(truth, "interpolant", process, x, t, layout), example(x0))


def test_likelihood_weight_knows_anchors():
    """An anchored process has the g^2 of its base: the loss of a shifted problem is that of the plain one."""
    base = GaussianProcess(VP(), kind="data")
    x0, x, t = torch.randn(4, 3), torch.randn(4, 3), torch.full((4,), 0.4)
    losses = []
    for process, anchor in ((base, None), (Anchored(base), torch.full((4, 3), 2.0))):
        shift, layout = (0.0 if anchor is None else anchor), Layout(4, anchor=anchor)
        pred = Prediction(x0 * 0.5 + shift, "data", process, x + shift, t, layout)
        state = State({"x": x + shift}, {"x": layout})
        losses.append(LikelihoodWeighted()(pred, Example("x", x0 + shift, state, lambda state, clocks: {})))
    torch.testing.assert_close(*losses)
