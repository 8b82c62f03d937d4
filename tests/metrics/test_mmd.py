"""Kernels against SciPy's Wasserstein distance and hand derivations; the MMD against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from sciflow.metrics.mmd import EmdKernel, GaussianKernel, TotalVariationKernel, mmd2, stack_padded


@pytest.fixture
def histograms() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 5, (12, 30)) + np.eye(12, 30)


def test_emd_kernel_equals_scipy(histograms):
    sigma, width = 0.7, 0.1
    position = width * np.arange(30)
    expected = np.array([[wasserstein_distance(position, position, a, b) for b in histograms] for a in histograms[:5]])
    got = EmdKernel(sigma, width)(histograms[:5], histograms)
    np.testing.assert_allclose(got, np.exp(-(expected**2) / (2 * sigma**2)), rtol=0, atol=1e-12)


def test_kernels_of_two_points_by_hand():
    a, b = np.array([[2.0, 0, 0, 0]]), np.array([[0, 0, 0, 6.0]])
    # after normalisation: mass 1 moved by 3 bins; total variation 1; raw difference (2, -6)
    assert EmdKernel(2.0)(a, b) == pytest.approx(math.exp(-9 / 8))
    assert TotalVariationKernel(2.0)(a, b) == pytest.approx(math.exp(-1 / 8))
    assert TotalVariationKernel(2.0, normalise=False)(a, b) == pytest.approx(math.exp(-16 / 8))
    assert GaussianKernel(4.0)(a, b) == pytest.approx(math.exp(-40 / 32))
    assert mmd2(a, b, EmdKernel(2.0)) == pytest.approx(2 - 2 * math.exp(-9 / 8))


def test_mmd_is_the_biased_v_statistic(histograms):
    kernel = GaussianKernel(3.0)
    a, b = histograms[:5], histograms[5:]

    def mean(p, q):
        return sum(math.exp(-((x - y) ** 2).sum() / 18) for x in p for y in q) / (len(p) * len(q))

    assert mmd2(a, b, kernel) == pytest.approx(mean(a, a) + mean(b, b) - 2 * mean(a, b), abs=1e-14)
    assert mmd2(a, a, kernel) == pytest.approx(0, abs=1e-15)  # an unbiased estimator would be negative here
    assert math.isnan(mmd2(a[:0], b, kernel))


def test_padding_does_not_matter():
    short, long = [np.array([1, 2]), np.array([3])], [np.array([1, 2, 0, 0]), np.array([3, 0, 0, 0, 0])]
    for kernel in (EmdKernel(), TotalVariationKernel(), GaussianKernel()):
        a, b = stack_padded(short), stack_padded(long)
        np.testing.assert_array_equal(kernel(a, a), kernel(b, b))
    assert stack_padded([]).shape == (0, 0)


def test_histogram_without_mass_is_an_error():
    with pytest.raises(ValueError, match="1 rows without mass"):
        EmdKernel()(np.array([[1.0, 2], [0, 0]]), np.eye(2))
