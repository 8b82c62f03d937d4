"""Kinds of prediction: every kind converts to every other and back (C08), for every schedule, shape and clock."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sciflow.core.process import Prediction
from sciflow.core.schedules import BFN, OU, VE, VP, Brownian, CategoricalBFN, Cosine, SubVP
from sciflow.core.spaces import Euclidean, SymmetricMatrix, Torus, ZeroCoM
from sciflow.core.state import Layout
from sciflow.processes.anchored import Anchored
from sciflow.processes.gaussian import GaussianProcess

SCHEDULES = [VP(), SubVP(), VE(), Cosine(), OU(), Brownian(), BFN(0.1), CategoricalBFN(4)]
KINDS = GaussianProcess.kinds
INDEX = torch.tensor([0, 0, 1, 2, 2])
by_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def clock(per_sample: bool) -> Tensor:
    return torch.tensor([0.2, 0.5, 0.9] if per_sample else 0.4, dtype=torch.float64)


@by_schedule
@pytest.mark.parametrize("per_sample", [False, True], ids=["shared", "per_sample"])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_round_trip(schedule, per_sample, kind):
    """kind -> other -> kind is the identity to 1e-12 relative to the largest number in between."""
    layout, x, t = Layout(3, INDEX), normal(5, 2), clock(per_sample)
    value = normal(5, 2, seed=1)
    process = GaussianProcess(schedule, kind=kind)
    pred = Prediction(value, kind, process, x, t, layout)
    assert pred.to(kind) is value
    for other in KINDS:
        between = pred.to(other)
        again = Prediction(between, other, process, x, t, layout).to(kind)
        alpha, sigma = schedule.alpha(t).min(), schedule.sigma(t).min()
        amplification = float(between.abs().max() + value.abs().max() + 1) / min(float(alpha), float(sigma), 1.0) ** 2
        torch.testing.assert_close(again, value, rtol=1e-12, atol=1e-15 * amplification + 1e-12)


@by_schedule
def test_kinds_of_a_known_pair(schedule):
    """x = alpha x0 + sigma z: each kind of the truth is its textbook formula (C08)."""
    layout, t = Layout(4), torch.tensor([0.1, 0.4, 0.7, 0.95], dtype=torch.float64)
    alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
    x0, z = normal(4, 3), normal(4, 3, seed=1)
    x = alpha * x0 + sigma * z
    process = GaussianProcess(schedule)
    pred = Prediction(x0, "data", process, x, t, layout)
    rate = torch.autograd.functional.jvp(schedule.sigma, t, torch.ones_like(t))[1][:, None]
    truths = {
        "data": x0,
        "noise": z,
        "score": -z / sigma,
        "v": alpha * z - sigma * x0,
        # d x_t/dt along the ray: alpha' x0 + sigma' z, with alpha' = f alpha
        "velocity": (schedule.f(t) * schedule.alpha(t))[:, None] * x0 + rate * z,
    }
    for kind, truth in truths.items():
        torch.testing.assert_close(pred.to(kind), truth, rtol=1e-9, atol=1e-9)


@by_schedule
def test_velocity_is_f_x_minus_half_g2_score(schedule):
    layout, t = Layout(3), clock(True)
    x, noise = normal(3, 2), normal(3, 2, seed=1)
    process = GaussianProcess(schedule, kind="noise")
    pred = Prediction(noise, "noise", process, x, t, layout)
    f, g2 = schedule.f(t)[:, None], schedule.g2(t)[:, None]
    torch.testing.assert_close(pred.to("velocity"), f * x - 0.5 * g2 * pred.to("score"), rtol=1e-11, atol=1e-11)
    drift, g = process.sde(x, pred, t, layout)
    torch.testing.assert_close(drift, f * x - g2 * pred.to("score"), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(g**2, g2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["noise", "score"])
@pytest.mark.parametrize("schedule", [VE(0.005, 0.5), Brownian(0.5)], ids=["VE", "Brownian"])
def test_torus_round_trips_modulo_the_period(schedule, kind):
    """On the torus (alpha = 1) the noise is the SHORTEST one: data come back exactly, modulo the period."""
    space, layout, t = Torus(1.0), Layout(50), torch.tensor(0.3, dtype=torch.float64)
    x0, x = torch.rand(2, 50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    process = GaussianProcess(schedule, space, kind)
    value = Prediction(x0, "data", process, x, t, layout).to(kind)
    sigma = schedule.sigma(t)
    assert (value.abs() * (sigma if kind == "noise" else sigma**2) <= 0.5 + 1e-12).all()
    data = Prediction(value, kind, process, x, t, layout).to("data")
    assert space.diff(data, x0).abs().max() < 1e-12
    assert ((data >= 0) & (data < 1)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", [ZeroCoM(), SymmetricMatrix(), Euclidean()], ids=lambda s: type(s).__name__)
def test_conversions_stay_in_the_space(kind, space):
    """A prediction in the space converts to predictions in the space: centre of mass, symmetry and mask survive."""
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.float64)
    pairs = isinstance(space, SymmetricMatrix)
    layout = Layout(2, mask=mask[:, :, None] * mask[:, None, :] if pairs else mask[..., None])
    shape = (2, 4, 4) if pairs else (2, 4, 3)
    x, value = (space.project(normal(*shape, seed=s), layout) for s in (0, 1))
    process = GaussianProcess(VP(), space, kind)
    for other in KINDS:
        got = Prediction(value, kind, process, x, torch.tensor(0.4, dtype=torch.float64), layout).to(other)
        torch.testing.assert_close(space.project(got, layout), got, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_anchored_kinds_round_trip(kind):
    layout = Layout(3, anchor=normal(3, 2, seed=5))
    x, value, t = normal(3, 2), normal(3, 2, seed=1), clock(True)
    process = Anchored(GaussianProcess(VP(), kind=kind))
    for other in KINDS:
        between = Prediction(value, kind, process, x, t, layout).to(other)
        again = Prediction(between, other, process, x, t, layout).to(kind)
        torch.testing.assert_close(again, value, rtol=1e-10, atol=1e-10)


def test_single_precision_keeps_its_type():
    """Host clocks are 0-dim float64; a float32 field stays float32."""
    process, layout = GaussianProcess(VP()), Layout(2)
    x, t = torch.randn(2, 3), torch.tensor(0.5, dtype=torch.float64)
    pred = Prediction(torch.randn(2, 3), "noise", process, x, t, layout)
    assert {pred.to(kind).dtype for kind in KINDS} == {torch.float32}


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="kind must be one of data, noise"):
        GaussianProcess(kind="logits")
    pred = Prediction(torch.zeros(1, 1), "noise", GaussianProcess(), torch.zeros(1, 1), torch.tensor(0.5), Layout(1))
    with pytest.raises(TypeError, match="knows no 'logits'"):
        pred.to("logits")


def test_replace_keeps_the_rest():
    process = GaussianProcess()
    pred = Prediction(
        torch.zeros(1, 1), "noise", process, torch.ones(1, 1), torch.tensor(0.5), Layout(1), torch.ones(1)
    )
    new = pred.replace(torch.ones(1, 1), "data")
    assert new.kind == "data" and new.x is pred.x and new.variance is pred.variance
    assert math.isclose(float(new.to("data")), 1.0)
