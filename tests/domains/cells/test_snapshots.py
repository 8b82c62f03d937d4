"""`Snapshots`: order, weights, splits, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from sciflow.core.errors import UserError
from sciflow.training.schrodinger.snapshots import Snapshots

random = np.random.default_rng(0)


def clouds(*sizes, d=2):
    return [random.normal(size=(n, d)) for n in sizes]


def test_sorted_by_time_and_uniform():
    made = clouds(3, 4, 5)
    found = Snapshots.of(made, [2, 0, 1], weights=[np.array([1, 1, 2]), None, None])
    assert found.times.tolist() == [0, 1, 2] and found.sizes == (4, 5, 3) and found.dimension == 2
    assert np.array_equal(found.points[2], made[0]) and found.weights[2].tolist() == [0.25, 0.25, 0.5]
    assert np.allclose(found.weights[0], 0.25)
    assert found.weighted([None] * 3).weights[2].tolist() == [1 / 3] * 3


def test_split_keeps_the_ends():
    found = Snapshots.of(clouds(3, 4, 5, 6), [0, 0.1 + 0.2, 1, 2])
    train, held = found.split([0.3])
    assert train.sizes == (3, 5, 6) and train.times.tolist() == [0, 1, 2]
    assert held.times.tolist() == [0.1 + 0.2] and len(held.points[0]) == 4 and held.weights[0].sum() == pytest.approx(1)
    assert len(found.split([])[1]) == 0
    with pytest.raises(UserError, match="first or last"):
        found.split([2])
    with pytest.raises(UserError, match="the snapshots are at 0, 0.3, 1, 2"):
        found.split([5])


@pytest.mark.parametrize(
    ("points", "times", "weights", "words"),
    [
        (clouds(3), None, None, "at least 2 times"),
        (clouds(3, 1), None, None, "time 1: got 1 points"),
        (clouds(3, 3), [1, 1], None, "different ones"),
        (clouds(3, 3), [0, np.nan], None, "NaN"),
        (clouds(3, 3), [0, "day 1"], None, "not numbers"),
        (clouds(3, 3), [0, 1, 2], None, "as many of each"),
        ([*clouds(3), *clouds(3, d=3)], None, None, r"expected \(cells, 2\)"),
        ([*clouds(3), np.array([[0.0, np.nan], [1, 2]])], None, None, "1 of 2 points hold NaN"),
        (clouds(3, 3), None, [None, [1, 1, -1]], "weights at time 1"),
        (clouds(3, 3), None, [None, [1, 1]], "expected 3 finite"),
    ],
)
def test_bad_input_is_named(points, times, weights, words):
    with pytest.raises(UserError, match=words):
        Snapshots.of(points, times, weights)


def test_copies_give_a_warning_only():
    with pytest.warns(UserWarning, match="1 points are copies"):
        Snapshots.of([np.array([[0.0], [0.0], [1.0]]), np.array([[0.0], [1.0]])])
