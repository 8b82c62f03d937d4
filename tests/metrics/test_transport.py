"""W1, W2 and MMD against SciPy and hand-made values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from sciflow.core.errors import UserError
from sciflow.metrics.transport import exact_plan, median_distance, mmd2_median, wasserstein

pytest.importorskip("ot")  # its import takes seconds; none of the tests below is to bear it
random = np.random.default_rng(0)


def test_one_dimension_equals_scipy():
    a, b = random.normal(size=(40, 1)), random.normal(1, 2, size=(70, 1))
    u, v = random.random(40), random.random(70)
    assert wasserstein(a, b) == pytest.approx(wasserstein_distance(a[:, 0], b[:, 0]), abs=1e-12)
    weighted = wasserstein(a, b, weights_a=u, weights_b=v)
    assert weighted == pytest.approx(wasserstein_distance(a[:, 0], b[:, 0], u, v), abs=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_equal_sizes_equal_the_best_assignment(order):
    a, b = random.normal(size=(30, 3)), random.normal(size=(30, 3))
    cost = cdist(a, b) ** order
    best = cost[linear_sum_assignment(cost)].mean() ** (1 / order)
    assert wasserstein(a, b, order) == pytest.approx(best, abs=1e-10)


def test_a_shift_is_its_length_and_w2_is_the_larger():
    a, b = random.normal(size=(50, 2)), random.normal(size=(60, 2))
    assert wasserstein(a, a + [3, 4], 1) == pytest.approx(5)
    assert wasserstein(a, a + [3, 4], 2) == pytest.approx(5)
    assert wasserstein(a, b, 2) > wasserstein(a, b, 1) > 0
    assert wasserstein(a, a, 2) == pytest.approx(0, abs=1e-7)


def test_weights_count_like_copies():
    a, b = random.normal(size=(5, 2)), random.normal(size=(7, 2))
    counts = np.array([1, 2, 3, 1, 1])
    assert wasserstein(a, b, 2, counts) == pytest.approx(wasserstein(a.repeat(counts, 0), b, 2), abs=1e-10)


def test_plan_has_its_marginals():
    first, last = random.random(6), random.random(9)
    plan = exact_plan(random.random((6, 9)), first, last)
    assert np.allclose(plan.sum(1), first / first.sum(), atol=1e-12)
    assert np.allclose(plan.sum(0), last / last.sum(), atol=1e-12)


def test_mmd_by_hand():
    a, b = np.array([[0.0]]), np.array([[0.0], [1.0], [3.0]])
    assert median_distance(b) == 2.0  # distances 1, 2, 3

    def kernel(x):
        return np.exp(-(x**2) / 8)

    inside = (3 + 2 * (kernel(1) + kernel(2) + kernel(3))) / 9
    assert mmd2_median(a, b) == pytest.approx(1 + inside - 2 * (1 + kernel(1) + kernel(3)) / 3, abs=1e-14)
    assert mmd2_median(b, b) == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize(
    ("a", "b", "options", "words"),
    [
        (np.zeros((3, 2)), np.zeros((3, 3)), {}, "one d"),
        (np.zeros((0, 2)), np.zeros((3, 2)), {}, "at least one point"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), {}, "NaN"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"order": 3}, "1 or 2"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"weights_a": np.array([1.0, -1, 1])}, "weights"),
    ],
)
def test_bad_input_is_named(a, b, options, words):
    with pytest.raises(UserError, match=words):
        wasserstein(a, b, **options)
