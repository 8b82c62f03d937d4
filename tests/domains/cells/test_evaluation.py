"""Scores and baselines against closed forms, and against the figures of the specification."""

from __future__ import annotations

import numpy as np
import pytest

from sciflow.core.errors import UserError
from sciflow.domains.cells.evaluation import (
    ENTROPIC,
    FLOOR,
    LINEAR,
    baseline,
    default_sigma,
    entropic_plan,
    floor,
    score,
)
from sciflow.domains.cells.sets import PROTOCOLS, read_cells

pytest.importorskip("ot")


def test_entropic_plan_of_two_points_is_the_closed_form():
    """Two against two points: the plan is [[p, q], [q, p]]/2, p/q = exp(difference of costs / 2 sigma^2 gap)."""
    a, b = np.array([[0.0], [1.0]]), np.array([[0.2], [1.2]])
    sigma, gap = 0.7, 2.0
    straight, crossed = 2 * 0.04, 1.44 + 0.64
    odds = np.exp((crossed - straight) / (2 * 2 * sigma**2 * gap))
    plan = entropic_plan(a, b, sigma, gap)
    assert np.allclose(plan, np.array([[odds, 1], [1, odds]]) / (2 * (1 + odds)), atol=1e-6)
    assert np.allclose(entropic_plan(a, b, 1e-3, 1.0), np.eye(2) / 2)  # cold: the assignment


def test_baselines_interpolate():
    early = np.array([[0.0, 0], [10, 0]])
    late = np.array([[1.0, 0], [12, 0]])
    (linear,) = baseline(LINEAR, np.array([0.0, 2]), [early, late], np.array([0.5]), 0.1, 100)
    assert np.allclose(np.unique(linear, axis=0), [[0.25, 0], [10.5, 0]])
    assert (linear[:, 0] < 5).sum() == 50  # evenly through the plan
    sigma, n = 0.4, 4000
    (bridge,) = baseline(ENTROPIC, np.array([0.0, 2]), [early, late], np.array([0.5]), sigma, n)
    miss = bridge - np.where(bridge[:, :1] < 5, [[0.25, 0]], [[10.5, 0]])
    variance = sigma**2 * 2 * 0.25 * 0.75
    # chi-square of 2 n values: relative standard deviation sqrt(1/n); 4.42 of them have alarm rate 1e-5
    assert abs(miss.var() / variance - 1) < 4.42 * np.sqrt(1 / n)
    with pytest.raises(UserError, match="time 3"):
        baseline(LINEAR, np.array([0.0, 2]), [early, late], np.array([3.0]), 0.1, 10)


def test_default_noise_scales_with_the_data():
    random = np.random.default_rng(0)
    clouds = [random.normal(size=(60, 2)) + k for k in range(3)]
    one = default_sigma(np.array([0.0, 1, 2]), clouds)
    assert default_sigma(np.array([0.0, 1, 2]), [3 * c for c in clouds]) == pytest.approx(3 * one)
    assert default_sigma(np.array([0.0, 4, 8]), clouds) == pytest.approx(one / 2)


def test_scores_of_the_cells_themselves_and_of_weights():
    random = np.random.default_rng(0)
    cells = random.normal(size=(40, 2))
    far = np.concatenate([cells, cells + 100])
    found = score(np.array([1.0]), [cells], {"same": [cells], "half": [far]}, {"half": [np.repeat([1.0, 0], 40)]})
    assert found.w1["same"][0] == pytest.approx(0, abs=1e-6) and found.mmd2["same"][0] == pytest.approx(0, abs=1e-12)
    assert found.w1["half"][0] == pytest.approx(0, abs=1e-6)  # the far half has no weight
    assert found.mmd2["half"][0] < 0.1
    assert found.w1[FLOOR][0] > 0 and found.plain()["w1"]["same"] is found.w1["same"]


def test_floor_shrinks_with_the_sample():
    random = np.random.default_rng(0)
    small, large = (floor(random.normal(size=(n, 2)))["w1"] for n in (20, 400))
    assert 0 < large < 0.6 * small  # 2-d: about sqrt(log n / n)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gom_vortex_large", (0.273, 0.347, 0.178, 0.102)), ("lv_published", (0.743, 0.246, 0.248, 0.392))],
)
def test_brownian_baseline_reaches_the_known_figures(name, expected, data_dir):
    """Specification, section 7 and data README: exact Brownian bridge; draws differ by about 0.01."""
    cells = read_cells(name)[0]
    fitted = [k for k, time in enumerate(cells.times) if time not in cells.facts["heldout"]]
    at = np.array(cells.facts["heldout"])
    points = [cells.points[k] for k in fitted]
    clouds = baseline(ENTROPIC, cells.times[fitted], points, at, PROTOCOLS[name].sigma, 400)
    held = [points for k, points in enumerate(cells.points) if k not in fitted]
    found = score(at, held, {ENTROPIC: clouds}).w1[ENTROPIC]
    assert np.abs(found - expected).max() < 0.03
    assert abs(found.mean() - np.mean(expected)) < 0.02
