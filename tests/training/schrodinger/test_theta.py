"""The theta-step on paths of known parameters, and what it says about its errors."""

from __future__ import annotations

import pytest
import torch
from gaussian_bridge import generator

from sciflow.core.noise import Fresh
from sciflow.networks.references import OU, Brownian, GradientField, LotkaVolterra, Repressilator, Vortex
from sciflow.training.schrodinger.engine import Increments
from sciflow.training.schrodinger.result import simulate
from sciflow.training.schrodinger.theta import (
    AdamSteps,
    LeastSquares,
    default_step,
    get_theta,
    set_theta,
    theta_names,
    uncertainty,
)

F64 = torch.float64


def increments(reference, start, duration, dt, sigma, seed=0):
    """Increments of simulated paths, all of them independent cells."""
    times = torch.linspace(0, duration, round(duration / dt) + 1, dtype=F64)
    with torch.no_grad():
        paths = simulate(reference, start, times, sigma, Fresh(seed))
    return Increments.of(paths, times, len(start))


def lotka_volterra_paths(seed=0):
    start = torch.tensor([5.0, 4.0], dtype=F64) + 0.1 * torch.rand(20, 2, generator=generator(seed), dtype=F64)
    return increments(LotkaVolterra(1.0, 0.4, 0.4, 0.1), start, 16.0, 0.02, 0.1, seed)


def test_lotka_volterra_on_true_paths():
    """Normal equations recover theta within 3 standard errors (seed fixed), and chi^2_4 < 28.5 (1e-5 false alarms)."""
    data, reference = lotka_volterra_paths(), LotkaVolterra()
    LeastSquares().fit(reference, data, generator())
    found, truth = get_theta(reference), torch.tensor([1.0, 0.4, 0.4, 0.1], dtype=F64)
    errors = uncertainty(reference, data, 0.1)
    assert bool(((found - truth).abs() < 3 * errors.stderr).all())
    miss = found - truth
    assert 0.05 < float(miss @ torch.linalg.solve(errors.covariance, miss)) < 28.5
    assert bool((errors.stderr < 0.01).all()) and errors.warnings == ()
    assert not bool(((1.1 * found - truth).abs() < 3 * errors.stderr).all())  # ten per cent off is seen


@pytest.mark.parametrize(
    "truth, start, guess",
    [
        pytest.param(Repressilator(10.0, 3.0, 1.0, 1.0), [1.0, 1.0, 2.0], Repressilator(), marks=pytest.mark.slow),
        (Vortex(0.3, 0.1, 0.5, 0.9), [1.0, 0.5], Vortex()),
    ],
    ids=["repressilator", "vortex"],
)
def test_levenberg_marquardt_from_the_published_starts(truth, start, guess):
    """chi^2_4 < 28.5: 1e-5 false alarms."""
    data = increments(truth, torch.tensor([start] * 5, dtype=F64), 8.0, 0.02, 0.1, seed=1)
    LeastSquares(40).fit(guess, data, generator())
    errors, miss = uncertainty(guess, data, 0.1), get_theta(guess) - get_theta(truth)
    assert 0.05 < float(miss @ torch.linalg.solve(errors.covariance, miss)) < 28.5


def test_linear_fit_is_the_weighted_minimum():
    """No other theta has a smaller weighted loss; weights matter."""
    data = lotka_volterra_paths()
    weight = data.weight * torch.linspace(0.1, 3, len(data.weight), dtype=F64)
    data = Increments(data.x, data.t, data.velocity, weight, data.cells)
    reference = LotkaVolterra()

    def loss():
        with torch.no_grad():
            return float(data.weight @ (reference(data.x, data.t) - data.velocity).square().sum(-1))

    LeastSquares().fit(reference, data, generator())
    best, theta = loss(), get_theta(reference)
    for i in range(4):
        for sign in (-1, 1):
            moved = theta.clone()
            moved[i] *= 1 + sign * 1e-4
            set_theta(reference, moved)
            assert loss() > best


def test_adam_fits_a_potential():
    """Paths of b = -x: the network's squared error falls to a few per cent of the drift's."""
    data = increments(OU(2, rate=1.0), torch.randn(200, 2, generator=generator(), dtype=F64), 1.0, 0.1, 0.05)
    field = GradientField(2, (32, 32))
    AdamSteps(300, 5e-3, 256).fit(field, data, generator())
    with torch.no_grad():
        assert float((field(data.x, 0.0) + data.x).square().mean()) < 0.05 * float(data.x.square().mean())


def test_ridges_and_blind_parameters_are_named():
    """A repressilator far below its threshold: n and k do nothing, or nothing apart from each other."""
    x = torch.rand(500, 3, generator=generator(), dtype=F64) * 0.05 + 0.01
    reference = Repressilator(2.0, 8.0, 10.0, 1.0)
    with torch.no_grad():
        data = Increments(x, torch.zeros(500, dtype=F64), reference(x, 0.0), torch.full((500,), 0.01, dtype=F64), 50)
    notes = " ".join(uncertainty(reference, data, 0.1).warnings)
    assert "do not constrain n" in notes and "do not constrain k" in notes
    x = 5 + 0.01 * torch.rand(500, 2, generator=generator(), dtype=F64)  # one spot: rate and pull are one
    data = Increments(x, torch.zeros(500, dtype=F64), -x, torch.full((500,), 0.01, dtype=F64), 50)
    assert "ridge" in " ".join(uncertainty(OU(2, rate=1.0), data, 0.1).warnings)


def test_theta_is_a_named_vector():
    reference = OU(2, rate=3.0)
    assert theta_names(reference) == ("rate", "pull.0", "pull.1")
    set_theta(reference, torch.tensor([1.0, 2.0, 3.0], dtype=F64))
    assert get_theta(reference).tolist() == [1.0, 2.0, 3.0]
    assert float(reference.rate.detach()) == 1.0
    assert theta_names(Brownian()) == () and len(get_theta(Brownian())) == 0
    assert len(theta_names(GradientField(2, (3,)))) == 2 * 3 + 3 + 3
    assert isinstance(default_step(GradientField(2)), AdamSteps) and isinstance(default_step(reference), LeastSquares)
    LeastSquares().fit(Brownian(), lotka_volterra_paths(), generator())  # nothing to do, no error
