"""Mean-free matching and the wrapped score against direct formulas."""

from __future__ import annotations

import math

import pytest
import torch

from sciflow.core.errors import UserError
from sciflow.core.noise import Fresh
from sciflow.core.objective import Example
from sciflow.core.process import Prediction
from sciflow.core.schedules import VE
from sciflow.core.spaces import Torus
from sciflow.core.state import Layout, State
from sciflow.objectives.mean_free import MeanFreeMatching, WrappedScore
from sciflow.processes.flow_matching import FlowMatching
from sciflow.processes.gaussian import GaussianProcess
from sciflow.processes.interpolant import StochasticInterpolant

F64 = torch.float64
LAYOUT = Layout(2, torch.tensor([0, 0, 0, 1, 1]), sizes=(3, 2))


def points(seed: int) -> torch.Tensor:
    return torch.rand(5, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)


def example(process, x0, x1, x):
    return Example("coords", x0, State({"coords": x}, {"coords": LAYOUT}), lambda *_: {}, x1)


@pytest.mark.parametrize("process", [FlowMatching(Torus()), StochasticInterpolant(0.1, space=Torus())])
def test_a_common_drift_of_a_crystal_costs_nothing(process):
    x0, x1, t = points(0), points(1), torch.tensor([0.3, 0.8], dtype=F64)
    x = process.marginal(x0, t, LAYOUT, x1).sample(Fresh())
    target = process.target(x0, x1, x, t, LAYOUT)
    drift = torch.randn(2, *target.shape[1:], generator=torch.Generator().manual_seed(2), dtype=F64)
    given = example(process, x0, x1, x)

    def loss(value):
        return MeanFreeMatching()(Prediction(value, process.kind, process, x, t, LAYOUT), given)

    torch.testing.assert_close(loss(target + drift[LAYOUT.index]), torch.zeros(2, dtype=F64))
    one = torch.zeros_like(target)
    one[0] = 1.0  # one atom of three is off by 1 in all entries: (2/3)^2 + 2 (1/3)^2 = 2/3 of them, over 3 atoms
    stacked = target[0].numel() / 3
    torch.testing.assert_close(loss(target + one), torch.tensor([stacked * 2 / 9, 0.0], dtype=F64))


def test_matching_needs_the_end():
    process, x = FlowMatching(Torus()), points(0)
    t = torch.tensor([0.3, 0.8], dtype=F64)
    with pytest.raises(UserError, match="x1"):
        MeanFreeMatching()(Prediction(x, "velocity", process, x, t, LAYOUT), example(process, x, None, x))
    with pytest.raises(UserError, match="x1"):
        process.marginal(x, t, LAYOUT)


def test_flow_converts_between_velocity_and_data():
    process, x, x0 = FlowMatching(Torus()), points(0), points(1)
    t = torch.tensor([0.3, 0.8], dtype=F64)
    velocity = process.from_data(x0, "velocity", x, t, LAYOUT)
    torch.testing.assert_close(process.to_data(velocity, "velocity", x, t, LAYOUT), x0)
    assert float((velocity.abs() * LAYOUT.rows(t, x)).max()) <= 0.5


def test_wrapped_score_is_zero_for_the_true_score():
    """The score by automatic differentiation of the sum over images; at sigma = .5 the nearest image is far off."""
    process = GaussianProcess(VE(0.005, 0.5), Torus(), kind="noise")
    x0, x, t = points(0), points(1), torch.tensor([0.6, 1.0], dtype=F64)
    sigma = LAYOUT.rows(process.schedule.sigma(t), x)
    moving = x.clone().requires_grad_()
    images = torch.arange(-9, 10, dtype=F64)
    log = (-(((moving - x0)[..., None] + images) ** 2) / (2 * sigma[..., None] ** 2)).logsumexp(-1).sum()
    score = torch.autograd.grad(log, moving)[0]
    given = example(process, x0, None, x)
    right = WrappedScore()(Prediction(-sigma * score, "noise", process, x, t, LAYOUT), given)
    assert float(right.max()) < 1e-18
    nearest = process.from_data(x0, "noise", x, t, LAYOUT)
    wrong = WrappedScore()(Prediction(nearest, "noise", process, x, t, LAYOUT), given)
    assert float(wrong[1]) > 0.1 and math.isfinite(float(wrong[0]))
