"""The circle: golden values of the crysbfn specification (section 21), scipy as an independent library."""

from __future__ import annotations

import math

import pytest
import torch
from stats import FALSE_ALARM

from sciflow.core.circular import entropy, entropy_slope, mean_resultant, second_resultant, solve, von_mises

F64 = torch.float64
K = torch.tensor([0, 0.1, 1, 10, 100, 1000, 1e4], dtype=F64)
ENTROPY = torch.tensor([1.837877, 1.835382, 1.627401, 0.294851, -0.881128, -2.034689, -3.186207], dtype=F64)
RESULTANT = torch.tensor([0, 0.049938, 0.446390, 0.948600, 0.994987, 0.999500, 0.999950], dtype=F64)


def test_golden_values():
    torch.testing.assert_close(entropy(K), ENTROPY, atol=6e-7, rtol=0)
    torch.testing.assert_close(mean_resultant(K), RESULTANT, atol=6e-7, rtol=0)


def test_second_resultant_is_a_ratio_of_bessel_functions():
    from scipy.special import ive

    k = torch.tensor([1e-6, 1e-4, 9.9e-4, 1.01e-3, 0.1, 3.0, 40.0, 2e3], dtype=F64)
    truth = torch.from_numpy(ive(2, k.numpy()) / ive(0, k.numpy()))
    torch.testing.assert_close(second_resultant(k), truth, atol=1e-9, rtol=1e-4)


def test_entropy_slope_is_its_derivative():
    k = torch.tensor([1e-5, 0.02, 0.7, 5.0, 60.0, 900.0], dtype=F64)
    step = 1e-4 * k.clamp_min(1e-2)
    difference = (entropy(k + step) - entropy((k - step).abs())) / (k + step - (k - step).abs())
    torch.testing.assert_close(entropy_slope(k), difference, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("function", [entropy, mean_resultant, lambda k: k * mean_resultant(k)])
def test_solve_inverts(function):
    k = torch.tensor([1e-3, 0.5, 4.0, 77.0, 999.0], dtype=F64)
    torch.testing.assert_close(solve(function, function(k), 1e3), k, rtol=1e-6, atol=1e-9)


def test_quantiles_are_those_of_scipy():
    """The distribution function at the quantile gives the uniform back, to 1e-6."""
    from scipy.stats import vonmises

    k = torch.tensor([1e-6, 0.1, 1.0, 10.0, 1e3, 1e5], dtype=F64)
    u = torch.linspace(1e-6, 1 - 1e-6, 501, dtype=F64).expand(6, -1)
    y = von_mises(k, u)
    assert float(y.abs().max()) <= math.pi and bool((y.diff(dim=1) > 0).all())
    for row in range(5):
        found = torch.from_numpy(vonmises(float(k[row])).cdf(y[row].numpy()))
        torch.testing.assert_close(found, u[row], atol=2e-6, rtol=0)
    normal = torch.special.ndtr(y[5] * float(k[5] ** 0.5))  # at k = 1e5 the law is normal to 1e-5
    torch.testing.assert_close(normal, u[5], atol=1e-5, rtol=0)


def test_rows_that_share_a_concentration():
    """An index picks the concentration of each row; edges of the unit interval stay in their own law."""
    k, index = torch.tensor([0.2, 30.0, 5.0], dtype=F64), torch.tensor([2, 0, 0, 1, 2])
    u = torch.rand(5, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    u[:, 0], u[:, 1] = 1e-12, 1 - 1e-12
    torch.testing.assert_close(von_mises(k, u, index), von_mises(k[index], u))
    one_by_one = torch.cat([von_mises(k[i : i + 1], u[r : r + 1]) for r, i in enumerate(index.tolist())])
    torch.testing.assert_close(von_mises(k, u, index), one_by_one, atol=1e-9, rtol=0)


def test_draws_have_the_moments():
    """z-tests of E cos and E cos 2y; false alarm 1e-5 each."""
    from stats import Z_LIMIT, mean_z

    k = torch.tensor([0.3, 2.0, 50.0], dtype=F64)
    y = von_mises(k, torch.rand(3, 40_000, generator=torch.Generator().manual_seed(0), dtype=F64))
    assert FALSE_ALARM == 1e-5
    for row in range(3):
        assert mean_z(y[row].cos(), float(mean_resultant(k)[row])) < Z_LIMIT
        assert mean_z((2 * y[row]).cos(), float(second_resultant(k)[row])) < Z_LIMIT
        assert mean_z(y[row].sin(), 0.0) < Z_LIMIT
