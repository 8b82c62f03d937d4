"""Growth and weights against populations whose descendants are counted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sciflow.core.errors import UserError
from sciflow.domains.cells.growth import estimate_growth, population_weights
from sciflow.domains.cells.sets import read_cells

pytest.importorskip("ot")
RATE = math.log(3)


def two_branches(seed: int = 0) -> list[np.ndarray]:
    """Branch A (left) grows by a factor 3 per time unit, branch B (right) does not: 100 + 100 cells, then 300 + 100."""
    random = np.random.default_rng(seed)

    def cloud(x, y, n):
        return random.normal([x, y], 0.3, (n, 2))

    return [
        np.concatenate([cloud(-3, 0, 100), cloud(3, 0, 100)]),
        np.concatenate([cloud(-3, 2, 300), cloud(3, 2, 100)]),
    ]


def test_known_growth_is_found_by_unbalanced_transport():
    early, late = two_branches()
    found = estimate_growth(np.array([0.0, 1]), [early, late], sigma=1.0, firmness=0.5)
    # 300 of 400 final cells descend from A; the branches are too far apart to be confused
    assert found.weights[0][:100].sum() == pytest.approx(0.75, abs=2e-3)
    gap = found.rates[0][:100].mean() - found.rates[0][100:].mean()
    assert gap == pytest.approx(RATE, rel=0.02)
    assert np.allclose(found.plans[0].sum(0), 1 / 400, atol=1e-9)  # later shares hold
    firm = estimate_growth(np.array([0.0, 1]), [early, late], sigma=1.0, firmness=1e6)
    assert np.allclose(firm.weights[0], 1 / 200, rtol=1e-3)  # no growth allowed: the balanced plan


def test_given_rates_set_the_weights():
    early, late = two_branches()
    rates = [np.repeat([RATE, 0.0], 100), np.zeros(400)]
    found = estimate_growth(np.array([0.0, 1]), [early, late], 1.0, rates)
    assert found.weights[0][:100].sum() == pytest.approx(0.75, abs=1e-3)
    assert np.allclose(found.plans[0].sum(1)[:100], 3 / 400, rtol=1e-2)


def test_weights_are_shares_of_the_last_population():
    """Over three snapshots: growth in the second interval counts for the first one's cells too."""
    early, late = two_branches()
    points = [early + [0, -2], early, late]
    found = estimate_growth(np.array([-1.0, 0, 1]), points, 1.0, firmness=0.5)
    for weights in found.weights[:2]:
        assert weights[:100].sum() == pytest.approx(0.75, abs=3e-3)
    assert np.allclose(found.weights[2], 1 / 400)
    assert all(one.sum() == pytest.approx(1) for one in found.weights)


def test_populations_are_recovered_from_lineages():
    """Lineages hold 3/4 of A throughout; the population has 1/2, sqrt(3)/(1 + sqrt(3)) half-way, then 3/4."""
    early, late = two_branches()
    times = np.array([0.0, 1])
    found = estimate_growth(times, [early, late], 1.0, [np.repeat([RATE, 0.0], 100), np.zeros(400)])
    random = np.random.default_rng(0)
    pairs = random.choice(found.plans[0].size, 4000, p=found.plans[0].ravel())
    x, y = early[pairs // 400], late[pairs % 400]
    paths = np.stack([x, (x + y) / 2, y], axis=1)
    weights = population_weights(paths, np.array([0, 0.5, 1]), times, [early, late], found)
    left = x[:, 0] < 0
    shares = weights[left].sum(axis=0)
    assert np.allclose(weights.sum(axis=0), 1)
    # 4,000 draws: standard deviation of a share 0.008 (weights up to 3 times apart); 4.42 of them have alarm rate 1e-5
    assert np.abs(shares - [0.5, math.sqrt(3) / (1 + math.sqrt(3)), 0.75]).max() < 4.42 * 0.009
    assert abs(left.mean() - 0.75) < 4.42 * math.sqrt(0.75 * 0.25 / 4000)


@pytest.mark.parametrize("name", ["emt_ae3", "hematopoiesis_lineage2"])
def test_real_sets_with_changing_numbers(name, data_dir):
    cells = read_cells(name)[0].subset(200)
    found = estimate_growth(cells.times, cells.points, sigma=0.15)
    for k, (weights, points) in enumerate(zip(found.weights, cells.points, strict=True)):
        assert weights.sum() == pytest.approx(1) and (weights >= 0).all() and len(weights) == len(points)
        if k:
            assert np.allclose(found.plans[k - 1].sum(0), 1 / len(points), atol=1e-6)
    share = 1 / (found.weights[0] ** 2).sum() / len(found.weights[0])
    assert 0.2 < share < 0.999  # some cells count more, none takes all


def test_bad_input_is_named():
    early, late = two_branches()
    with pytest.raises(UserError, match="growth rates at time 0: expected 200 finite"):
        estimate_growth(np.array([0.0, 1]), [early, late], 1.0, [np.zeros(3), np.zeros(400)])
    many = np.zeros((7000, 1))
    with pytest.raises(UserError, match="7000 x 7000 cells are too many"):
        estimate_growth(np.array([0.0, 1]), [many, many], 1.0)
