"""Engine B against the closed forms of Gaussian bridges (spec section 12).

A grid of points with Gaussian weights is a Gaussian to far more than six digits, so couplings and drifts of the engine
are compared with the closed forms without sampling error.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gaussian_bridge import (
    brownian_drift,
    brownian_moments,
    cross_covariance,
    gaussian_snapshots,
    generator,
    moments,
)
from stats import Z_LIMIT, mean_z

from sciflow.core.errors import UserError
from sciflow.networks.references import OU, Brownian, Callable
from sciflow.training.schrodinger.engine import Problem
from sciflow.training.schrodinger.kernel_bridge import KernelBridge, sigma_profile
from sciflow.training.schrodinger.snapshots import Snapshots

ONE_D = [(np.zeros(1), np.eye(1)), (np.array([3.0]), 0.25 * np.eye(1))]
TWO_D = [(np.zeros(2), np.array([[1, 0.3], [0.3, 0.5]])), (np.zeros(2), np.array([[0.4, -0.1], [-0.1, 0.8]]))]


def law_of(snapshots, reference, sigma, dt, **options):
    return KernelBridge(**options).bridge(Problem(snapshots, sigma, dt), reference, {})


def engine_covariance(law, snapshots):
    return moments(law.coupling(0).numpy(), *snapshots.points)


@pytest.mark.parametrize("sigma, golden, spread", [(0.5, 0.3903882, 0.5701941), (1.0, 0.2071068, 0.6660534)])
def test_brownian_golden_values_in_one_dimension(sigma, golden, spread):
    (m0, s0), (m1, s1) = ONE_D
    c = cross_covariance(s0, s1, np.eye(1), sigma**2 * np.eye(1))
    assert c.item() == pytest.approx(golden, abs=5e-8)
    mean, covariance = brownian_moments(0.5, m0, s0, m1, s1, c, sigma**2)
    assert (mean.item(), covariance.item()) == pytest.approx((1.5, spread), abs=5e-8)
    snapshots = gaussian_snapshots(ONE_D, [0, 1], 0.15)
    law = law_of(snapshots, Brownian(), sigma, 0.5, paths=2)
    assert engine_covariance(law, snapshots).item() == pytest.approx(golden, abs=1e-6)


def test_brownian_golden_values_in_two_dimensions():
    golden = np.array([[0.403268, 0.107154], [0.053577, 0.403268]])
    c = cross_covariance(TWO_D[0][1], TWO_D[1][1], np.eye(2), 0.5 * np.eye(2))
    np.testing.assert_allclose(c, golden, rtol=0, atol=1e-6)
    snapshots = gaussian_snapshots(TWO_D, [0, 1], 0.5)
    law = law_of(snapshots, Brownian(), math.sqrt(0.5), 0.5, paths=2)
    np.testing.assert_allclose(engine_covariance(law, snapshots), c, rtol=0, atol=1e-6)


def test_ou_golden_values():
    """lam = sigma = T = 1, N(2, 0.25) -> N(0, 1): C, and mean and variance of the marginal at 1/2."""
    laws = [(np.array([2.0]), 0.25 * np.eye(1)), (np.zeros(1), np.eye(1))]
    flow, noise = math.exp(-1) * np.eye(1), 0.5 * (1 - math.exp(-2)) * np.eye(1)
    c = cross_covariance(laws[0][1], laws[1][1], flow, noise).item()
    assert c == pytest.approx(0.1839397, abs=1e-7)
    weight = math.sinh(0.5) / math.sinh(1.0)
    assert weight * 2 == pytest.approx(0.8868189, abs=1e-7)
    variance = weight**2 * (0.25 + 1 + 2 * c) + math.sinh(0.5) ** 2 / math.sinh(1.0)
    assert variance == pytest.approx(0.5491530, abs=1e-6)
    snapshots = gaussian_snapshots(laws, [0, 1], 0.15)
    law = law_of(snapshots, OU(1, rate=1.0), 1.0, 0.25, paths=2)
    assert engine_covariance(law, snapshots).item() == pytest.approx(c, abs=1e-6)
    middle = law.sample(20_000, torch.tensor([0.5], dtype=torch.float64), generator(1))[:, 0, 0]
    assert abs(mean_z(middle, 2 * weight)) < Z_LIMIT  # z of independent draws: the lattice only lowers the error
    assert abs(mean_z((middle - 2 * weight) ** 2, variance)) < Z_LIMIT


@pytest.mark.parametrize("t", [0.0, 0.3, 0.8])
def test_forward_drift(t):
    """grad log of the sum over cells is the closed form, to 1e-6, where the Gaussians live."""
    (m0, s0), (m1, s1) = ONE_D
    sigma, duration = 1.0, 2.0
    c = cross_covariance(s0, s1, np.eye(1), sigma**2 * duration * np.eye(1))
    law = law_of(gaussian_snapshots(ONE_D, [1.0, 3.0], 0.15), Brownian(), sigma, 0.5, paths=2)
    x = np.linspace(-1, 4, 6)[:, None]
    truth = brownian_drift(x, t, duration, m0, s0, m1, s1, c, sigma**2 * duration)
    np.testing.assert_allclose(law.drift(torch.from_numpy(x), 1.0 + duration * t).numpy(), truth, rtol=0, atol=1e-6)


def test_sampled_marginal_of_the_brownian_bridge():
    """Mean and variance at three quarters, 1e-5 false alarms each."""
    (m0, s0), (m1, s1) = ONE_D
    law = law_of(gaussian_snapshots(ONE_D, [0, 1], 0.15), Brownian(), 0.5, 0.1, paths=2)
    c = cross_covariance(s0, s1, np.eye(1), 0.25 * np.eye(1))
    mean, covariance = (v.item() for v in brownian_moments(0.75, m0, s0, m1, s1, c, 0.25))
    drawn = law.sample(20_000, torch.tensor([0.75], dtype=torch.float64), generator(2))[:, 0, 0]
    assert abs(mean_z(drawn, mean)) < Z_LIMIT
    assert abs(mean_z((drawn - mean) ** 2, covariance)) < Z_LIMIT
    assert abs(mean_z((drawn - mean) ** 2, covariance * 1.06)) > Z_LIMIT


def three_clouds(seed=0):
    rng = np.random.default_rng(seed)
    return Snapshots.of([rng.normal(size=(n, 2)) + k for k, n in enumerate((12, 15, 9))], [0.0, 1.0, 2.5])


def test_gluing_is_exact():
    """Couplings have the snapshots as marginals to 1e-6; paths are at cells, exactly, at the snapshots' times."""
    snapshots = three_clouds()
    law = law_of(snapshots, OU(2, rate=0.5), 0.7, 0.1)
    for k in range(2):
        coupling = law.coupling(k).numpy()
        np.testing.assert_allclose(coupling.sum(1), snapshots.weights[k], rtol=0, atol=1e-6)
        np.testing.assert_allclose(coupling.sum(0), snapshots.weights[k + 1], rtol=0, atol=1e-6)
    paths = law.sample(3000, torch.tensor([0.0, 0.33, 1.0, 1.77, 2.5], dtype=torch.float64), generator(3)).numpy()
    for column, points in zip((0, 2, 4), snapshots.points, strict=True):
        distance = np.linalg.norm(paths[:, column, None] - points, axis=-1)
        assert distance.min(1).max() < 1e-9
        share = np.bincount(distance.argmin(1), minlength=len(points)) / 3000
        # each cell has probability 1/n; five standard errors of independent draws (1e-5 false alarms over 36 cells)
        assert np.abs(share - 1 / len(points)).max() < 5 * math.sqrt(1 / len(points) / 3000)


def test_limits_of_the_noise():
    """sigma -> 0: exact assignment; sigma -> infinity: the product coupling."""
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 20, 2))
    snapshots = Snapshots.of([x, y])
    cold = 20 * law_of(snapshots, Brownian(), 0.01, 0.5, paths=2).coupling(0).numpy()
    best = np.zeros((20, 20))
    best[linear_sum_assignment(((x[:, None] - y) ** 2).sum(-1))] = 1
    np.testing.assert_allclose(cold, best, rtol=0, atol=1e-6)
    hot = law_of(snapshots, Brownian(), 1e4, 0.5, paths=2).coupling(0).numpy()
    np.testing.assert_allclose(hot, np.full((20, 20), 1 / 400), rtol=0, atol=1e-9)


def test_sample_does_not_depend_on_other_times():
    """A path's law at a time is the same whichever further times are asked for: means agree to 1e-5 false alarms."""
    law = law_of(three_clouds(), OU(2, rate=0.5), 0.7, 0.25)
    alone = law.sample(4000, torch.tensor([1.3], dtype=torch.float64), generator(4))[:, 0, 0]
    among = law.sample(4000, torch.tensor([0.2, 0.9, 1.3, 1.31], dtype=torch.float64), generator(5))[:, 2, 0]
    z = (alone.mean() - among.mean()) / ((alone.var() + among.var()) / 4000).sqrt()
    assert abs(float(z)) < Z_LIMIT


def test_reweighting_finds_the_density_of_a_nonlinear_drift():
    """Log densities of likely pairs: linear noise misses them by nats, weighted bridges by less than a tenth of it."""
    reference, sigma, dt = Callable(lambda x, t: torch.sin(3 * x)), 0.6, 0.25
    rng = np.random.default_rng(2)
    snapshots = Snapshots.of([rng.normal(0, 1, (8, 1)), rng.normal(0.5, 1, (8, 1))])
    plain = law_of(snapshots, reference, sigma, dt)
    exact = law_of(snapshots, reference, sigma, dt, reweight=True, draws=400)
    mesh = torch.linspace(-5, 6, 2201, dtype=torch.float64)
    x, y = (torch.from_numpy(points[:, 0]) for points in snapshots.points)

    def kernel(start, end):
        return torch.distributions.Normal(start + dt * torch.sin(3 * start), sigma * dt**0.5).log_prob(end).exp()

    width = float(mesh[1] - mesh[0])
    density, between = kernel(x[:, None], mesh), kernel(mesh[:, None], mesh) * width
    truth = (density @ between @ between @ kernel(mesh[:, None], y) * width).log()
    likely = plain.coupling(0) > 1e-3
    errors = [float((law.densities[0] - truth)[likely].abs().mean()) for law in (plain, exact)]
    assert errors[0] > 1 and errors[1] < 0.1 * errors[0]
    assert float(exact.increments(generator()).weight.std()) > 0  # weights, not equal shares


def test_effective_sample_size_tells_linear_from_wild():
    snapshots = three_clouds()
    linear = law_of(snapshots, OU(2, rate=0.5), 0.7, 0.1).effective
    wild = law_of(snapshots, Callable(lambda x, t: 6 * torch.sin(6 * x)), 0.7, 0.1).effective
    assert linear is not None and wild is not None
    assert float(linear.min()) == pytest.approx(1.0, abs=1e-9)
    assert float(wild.max()) < 0.7


def test_sigma_profile_finds_the_noise_of_a_brownian_motion():
    """Cells that moved by sigma = 0.5 over steps of time 1 far apart: J is least near the truth (a heuristic)."""
    rng = np.random.default_rng(3)
    start = 20.0 * np.arange(40)[:, None]
    snapshots = Snapshots.of([start, start + 0.5 * rng.normal(size=(40, 1))])
    sigmas = [0.25, 0.5, 1.0]
    profile = sigma_profile(snapshots, Brownian(), sigmas, dt=0.5)
    assert int(np.argmin(profile)) == 1


def test_drift_outside_the_data_is_refused():
    with pytest.raises(UserError, match="forward drift from 0 to 2.5"):
        law_of(three_clouds(), Brownian(), 0.5, 0.5).drift(torch.zeros(1, 2, dtype=torch.float64), 2.5)
