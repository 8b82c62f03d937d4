"""Anchored processes are the plain process applied to x - anchor (catalog, C03)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sciflow.core.noise import PRIOR, PerSample
from sciflow.core.process import Prediction
from sciflow.core.schedules import OU, VE, VP
from sciflow.core.spaces import Torus
from sciflow.core.state import Layout
from sciflow.processes.anchored import Anchored
from sciflow.processes.gaussian import GaussianProcess

T, S = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X, X0, ANCHOR, VALUE = (normal(4, 3, seed=s) for s in range(4))
PLAIN, SHIFTED = Layout(4), Layout(4, anchor=ANCHOR)
schedules = pytest.mark.parametrize("schedule", [VP(), VE(), OU(1.5, 0.6)], ids=lambda s: type(s).__name__)


@schedules
def test_kernels_are_shifted(schedule):
    base = GaussianProcess(schedule, kind="data")
    process = Anchored(base)
    x1 = normal(4, 3, seed=9)
    pairs = [
        (process.prior(X, SHIFTED), base.prior(X, PLAIN)),
        (process.marginal(X0, T, SHIFTED), base.marginal(X0 - ANCHOR, T, PLAIN)),
        (process.marginal(X0, T, SHIFTED, x1), base.marginal(X0 - ANCHOR, T, PLAIN, x1 - ANCHOR)),
        (process.posterior(X, X0, T, S, SHIFTED), base.posterior(X - ANCHOR, X0 - ANCHOR, T, S, PLAIN)),
    ]
    for got, plain in pairs:
        torch.testing.assert_close(got.mean, plain.mean + ANCHOR)
        torch.testing.assert_close(got.std, plain.std)
        draw, moved = (k.sample(PerSample(1).at("x", PRIOR)) for k in (plain, got))
        torch.testing.assert_close(moved, draw + ANCHOR)
        torch.testing.assert_close(got.log_prob(X), plain.log_prob(X - ANCHOR))


@schedules
@pytest.mark.parametrize("kind", GaussianProcess.kinds)
def test_predictions_sde_and_flow_are_those_of_the_centred_field(schedule, kind):
    base = GaussianProcess(schedule, kind=kind)
    process = Anchored(base)
    centred_value = VALUE - ANCHOR if kind == "data" else VALUE
    pred = Prediction(VALUE, kind, process, X, T, SHIFTED)
    plain = Prediction(centred_value, kind, base, X - ANCHOR, T, PLAIN)
    for other in GaussianProcess.kinds:
        expected = plain.to(other) + (ANCHOR if other == "data" else 0)
        torch.testing.assert_close(pred.to(other), expected, rtol=1e-9, atol=1e-9)
    for got, truth in zip(process.sde(X, pred, T, SHIFTED), base.sde(X - ANCHOR, plain, T, PLAIN), strict=True):
        torch.testing.assert_close(got, truth, rtol=1e-9, atol=1e-9)
    for got, truth in zip(process.noise_sde(X, T, SHIFTED), base.noise_sde(X - ANCHOR, T, PLAIN), strict=True):
        torch.testing.assert_close(got, truth)
    torch.testing.assert_close(
        process.velocity(X, pred, T, SHIFTED), base.velocity(X - ANCHOR, plain, T, PLAIN), rtol=1e-9, atol=1e-9
    )
    flow = base.flow_step(X - ANCHOR, X0 - ANCHOR, T, S, PLAIN) + ANCHOR
    torch.testing.assert_close(process.flow_step(X, X0, T, S, SHIFTED), flow)


def test_without_an_anchor_it_is_the_base():
    base = GaussianProcess(VP())
    got, plain = Anchored(base).posterior(X, X0, T, S, PLAIN), base.posterior(X, X0, T, S, PLAIN)
    assert torch.equal(got.mean, plain.mean) and torch.equal(got.std, plain.std)


def test_mean_reverting_sde_forgets_data_but_not_the_anchor():
    """OU with a large rate: the marginal at t = 1 is N(anchor, diffusion^2/(2 rate))."""
    kernel = Anchored(GaussianProcess(OU(30.0, 2.0))).marginal(X0, torch.ones((), dtype=torch.float64), SHIFTED)
    torch.testing.assert_close(kernel.mean, ANCHOR)
    torch.testing.assert_close(kernel.std**2, torch.tensor(4 / 60, dtype=torch.float64))


def test_anchor_on_the_torus():
    """Anchoring commutes with wrapping: means differ from the plain process by whole turns (alpha = 1)."""
    space = Torus(1.0)
    base = GaussianProcess(VE(0.01, 0.3), space, "data")
    x0, anchor = torch.rand(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = Anchored(base).marginal(x0, T, Layout(4, anchor=anchor)).mean
    assert space.diff(got, x0).abs().max() < 1e-12
