"""Categorical Bayesian flow: lift and back, analytic flow, the bound of Graves et al., one class."""

from __future__ import annotations

import pytest
import torch
from oracles import LiftedTokenOracle
from stats import FALSE_ALARM, Z_LIMIT, chi_square, normal_z

from sciflow.core.grids import Uniform
from sciflow.core.noise import Fresh
from sciflow.core.objective import Example
from sciflow.core.process import Prediction
from sciflow.core.sampler import Sampler
from sciflow.core.state import Layout, State
from sciflow.objectives.snr_weighted import SNRWeighted
from sciflow.processes.categorical_bfn import CategoricalBFN
from sciflow.solvers.ancestral import Ancestral

F64 = torch.float64
FIELD = "x"


def one_hot(*classes: int, k: int = 4) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), k).to(F64)


def test_lift_and_decode():
    process = CategoricalBFN(4)
    lifted = process.encode(one_hot(2, 0))
    assert lifted.tolist() == [[-1, -1, 3, -1], [3, -1, -1, -1]]
    assert torch.equal(process.decode(lifted + 0.3, None), one_hot(2, 0))
    probs = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=F64)
    t = torch.tensor(0.5, dtype=F64)
    data = process.to_data(probs, "probs", lifted[:1], t, Layout(1))
    torch.testing.assert_close(data, 4 * probs - 1)
    torch.testing.assert_close(process.from_data(data, "probs", lifted[:1], t, Layout(1)), probs)


def test_flow_has_the_analytic_law():
    """z ~ N(beta (K e - 1), beta K), beta = accuracy (1 - t)^2; z-tests, false alarm 1e-5."""
    process, t, rows = CategoricalBFN(4, 2.0), torch.tensor(0.3, dtype=F64), 40_000
    z = process.marginal(process.encode(one_hot(1)).expand(rows, 4), t, Layout(rows)).sample(Fresh(2))
    beta = 2.0 * 0.7**2
    for k, lifted in enumerate((-1, 3, -1, -1)):
        assert normal_z(z[:, k], beta * lifted, beta * 4) < Z_LIMIT


def test_bound_is_the_published_loss():
    """K beta_1 (1 - t) |e - e'|^2 (Graves et al. 2023, equation 205, whose clock runs the other way)."""
    process, t = CategoricalBFN(4, 1.7), torch.tensor([0.2, 0.9], dtype=F64)
    clean, probs = one_hot(3, 1), torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]], dtype=F64)
    x = torch.zeros(2, 4, dtype=F64)
    prediction = Prediction(probs, "probs", process, x, t, Layout(2))
    example = Example(FIELD, process.encode(clean), State({FIELD: x}, {FIELD: Layout(2)}), lambda *_: {})
    loss = SNRWeighted(per_entry=False)(prediction, example)
    torch.testing.assert_close(loss, 4 * 1.7 * (1 - t) * ((clean - probs) ** 2).sum(1))


def test_the_bound_at_many_moves_is_the_continuous_one():
    """Sum of KL(sender || receiver at the mean prediction) = alpha K |e - e'|^2 / 2 over 2 000 moves against 1 clock
    integral, for a prediction that is constant: both are K beta_1 |e - e'|^2 / 2."""
    process = CategoricalBFN(4, 1.7)
    clocks = torch.linspace(1, 0, 2001, dtype=F64)
    accuracy = process.schedule.alpha(clocks).diff()
    assert float(accuracy.sum()) == pytest.approx(1.7)
    weight = SNRWeighted().weight(
        Prediction(
            torch.zeros(2000, 4),
            "probs",
            process,
            torch.zeros(2000, 4, dtype=F64),
            (clocks[1:] + clocks[:-1]) / 2,
            Layout(2000),
        )
    )
    lift = 4**2  # |x0 - x0'|^2 = K^2 |e - e'|^2
    assert float((weight * lift).mean()) == pytest.approx(float(accuracy.sum()) * 4 / 2, rel=1e-6)


def test_sampler_with_the_exact_predictor_reproduces_the_law():
    """Chi-square of 4 classes, false alarm 1e-5; 200 moves."""
    process, rows = CategoricalBFN(4, 6.0, kind="data"), 4_000
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64)
    state = State({FIELD: torch.zeros(rows, 4, dtype=F64)}, {FIELD: Layout(rows)})
    sampler = Sampler({FIELD: process}, {FIELD: Ancestral()}, Uniform(1.0, 0.0))
    end = sampler.run(state, LiftedTokenOracle(process, weights), Fresh(5), steps=200).state[FIELD]
    assert chi_square(process.decode(end, None).argmax(1).bincount(minlength=4), weights) > FALSE_ALARM


def test_one_class_has_no_loss():
    """Carbon: the species are known."""
    process, x = CategoricalBFN(1), torch.randn(3, 1)
    clean = process.encode(torch.ones(3, 1))
    prediction = Prediction(torch.ones(3, 1), "probs", process, x, torch.rand(3), Layout(3))
    example = Example(FIELD, clean, State({FIELD: x}, {FIELD: Layout(3)}), lambda *_: {})
    assert SNRWeighted()(prediction, example).tolist() == [0, 0, 0]
