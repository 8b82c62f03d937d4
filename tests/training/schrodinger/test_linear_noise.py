"""Linear-noise kernels and bridges: against exact laws of linear drifts and brute-force conditioning."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_bridge import generator
from stats import Z_LIMIT

from sciflow.networks.references import OU, Brownian, Callable, LotkaVolterra
from sciflow.training.schrodinger.engine import interval_grid
from sciflow.training.schrodinger.linear_noise import bridges, rowwise, transition

F64 = torch.float64


def f64(values):
    return torch.tensor(values, dtype=F64)


def moments_at(bridge, j):
    """Exact mean and covariance of a bridge after j steps, by its own recursion."""
    mean = bridge.start
    covariance = torch.zeros_like(bridge.matrix[0])
    for a, shift, factor in zip(bridge.matrix[:j], bridge.shift[:j], bridge.factor[:j], strict=True):
        mean = (a @ mean[..., None])[..., 0] + shift
        covariance = a @ covariance @ a.mT + factor @ factor.mT
    return mean, covariance


def test_ou_transition_is_exact_on_any_grid():
    lam, sigma, duration = 0.8, 0.6, 1.7
    reference = OU(2, rate=lam)
    law = transition(reference, f64([[1.0, -2.0], [0.3, 4.0]]), interval_grid(0.0, duration, 0.5), sigma)
    decay, variance = math.exp(-lam * duration), sigma**2 * (1 - math.exp(-2 * lam * duration)) / (2 * lam)
    torch.testing.assert_close(law.mean, decay * f64([[1.0, -2.0], [0.3, 4.0]]), rtol=0, atol=1e-12)
    torch.testing.assert_close(law.covariance, (variance * torch.eye(2, dtype=F64)).expand(2, 2, 2), rtol=0, atol=1e-12)
    torch.testing.assert_close(law.flow, (decay * torch.eye(2, dtype=F64)).expand(2, 2, 2), rtol=0, atol=1e-12)
    y = f64([[0.0, 1.0], [2.0, 2.0], [-1.0, 0.5]])
    truth = torch.distributions.MultivariateNormal(law.mean[:, None], law.covariance[:, None]).log_prob(y)
    torch.testing.assert_close(law.log_prob(y), truth, rtol=0, atol=1e-10)


@pytest.mark.parametrize("lam", [1.0, -0.5, 0.0])
def test_bridges_of_linear_drifts_are_exact(lam):
    """OU: mean [sinh(lam (T-t)) x + sinh(lam t) y]/sinh(lam T), variance by sinh too; lam = 0: the Brownian bridge."""
    sigma, duration, steps = 0.7, 2.0, 16
    x, y = f64([[1.0], [0.0]]), f64([[-2.0], [3.0]])
    reference = OU(1, rate=lam) if lam else Brownian()
    bridge = bridges(reference, x, y, interval_grid(0.0, duration, duration / steps), sigma)
    for j in (1, 5, 8, 15):
        t, mean, covariance = duration * j / steps, *moments_at(bridge, j)
        if lam:
            s = [math.sinh(lam * v) for v in (duration - t, t, duration)]
            truth, variance = (s[0] * x + s[1] * y) / s[2], sigma**2 * s[1] * s[0] / (lam * s[2])
        else:
            truth, variance = x + (y - x) * t / duration, sigma**2 * t * (duration - t) / duration
        torch.testing.assert_close(mean, truth, rtol=0, atol=1e-9)
        assert float(covariance.max()) == pytest.approx(variance, abs=1e-9)
    paths, _ = bridge.sample(generator())
    torch.testing.assert_close(paths[-1], y, rtol=0, atol=1e-12)
    assert torch.equal(paths[0], x)


def test_bridges_condition_the_linearised_chain():
    """Joint normal law of the chain linearised at the bridge's mean, conditioned on its end by Schur's complement."""
    reference, sigma = LotkaVolterra(1.0, 0.4, 0.4, 0.1), 0.1
    x, y, grid = f64([[5.0, 4.0]]), f64([[3.0, 4.6]]), interval_grid(0.0, 0.5, 0.1)
    bridge = bridges(reference, x, y, grid, sigma)
    steps, line = len(grid) - 1, bridges(reference, x, y, grid, sigma).run(None)
    mean, matrix, noise = rowwise(reference.linearised, line[:-1], grid[:-1], grid.diff(), sigma)
    means, factors = [x[0]], [torch.zeros(2, 2 * steps, dtype=F64)]
    for j in range(steps):
        a = matrix[j, 0]
        means.append(mean[j, 0] + a @ (means[-1] - line[j, 0]))
        factors.append(a @ factors[-1])
        factors[-1][:, 2 * j : 2 * j + 2] += noise[j, 0].sqrt()
    total, spread = torch.cat(means[1:]), torch.cat(factors[1:])
    joint = spread @ spread.T
    gain = joint[:-2, -2:] @ torch.linalg.inv(joint[-2:, -2:])
    conditional = total[:-2] + gain @ (y[0] - total[-2:])
    covariance = joint[:-2, :-2] - gain @ joint[-2:, :-2]
    for j in range(1, steps):
        got_mean, got_covariance = moments_at(bridge, j)
        here = slice(2 * j - 2, 2 * j)
        torch.testing.assert_close(got_mean[0], conditional[here], rtol=0, atol=1e-6)  # two sweeps: not yet the limit
        torch.testing.assert_close(got_covariance[0], covariance[here, here], rtol=0, atol=1e-7)


def test_weights_of_linear_drifts_are_the_density():
    """Every single path has the weight p(y | x): the proposal is the conditioned chain itself."""
    reference = OU(2, rate=0.7)
    x, y, grid = f64([[1.0, 0.0], [2.0, 2.0]]), f64([[0.5, 0.5], [-1.0, 0.0]]), interval_grid(0.0, 1.0, 0.1)
    bridge = bridges(reference, x, y, grid, 0.5)
    paths, noise = bridge.sample(generator())
    truth = transition(reference, x, grid, 0.5).log_prob(y).diagonal()
    torch.testing.assert_close(bridge.log_weight(reference, 0.5, paths, noise), truth, rtol=0, atol=1e-8)


def test_mean_weight_is_the_density_of_a_nonlinear_chain():
    """dX = sin(3 X) dt + 0.6 dW in four steps, against quadrature over the inner points; 1e-5 false alarms."""
    reference, sigma, steps = Callable(lambda x, t: torch.sin(3 * x)), 0.6, 4
    grid, x, y = interval_grid(0.0, 1.0, 0.25), 0.3, 1.5
    mesh = torch.linspace(-4, 5, 1801, dtype=F64)
    width, std = float(mesh[1] - mesh[0]), sigma * 0.5

    def kernel(start, end):
        return torch.distributions.Normal(start + 0.25 * torch.sin(3 * start), std).log_prob(end).exp()

    density = kernel(f64(x), mesh)
    for _ in range(steps - 2):
        density = density @ kernel(mesh[:, None], mesh) * width
    truth = float((density * kernel(mesh, f64(y))).sum() * width)
    draws = 20_000
    bridge = bridges(reference, f64([[x]]).expand(draws, 1), f64([[y]]).expand(draws, 1), grid, sigma)
    weights = bridge.log_weight(reference, sigma, *bridge.sample(generator())).exp()
    z = (float(weights.mean()) - truth) / (float(weights.std()) / math.sqrt(draws))
    assert abs(z) < Z_LIMIT
    plain = float(transition(reference, f64([[x]]), grid, sigma).log_prob(f64([[y]])).exp())
    assert (
        abs(plain - truth) / (float(weights.std()) / math.sqrt(draws)) > Z_LIMIT
    )  # linear noise alone is seen to miss
