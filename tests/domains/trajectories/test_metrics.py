"""Scores of forecasts: cases by hand, closed forms, calibrated and planted miscalibrated ensembles.

Statistical tests have fixed seeds and raise false alarms with probability at most 1e-5 each (stats.Z_LIMIT).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from stats import FALSE_ALARM, Z_LIMIT, chi_square, mean_z

from sciflow.core.errors import UserError
from sciflow.domains.trajectories.metrics import (
    ade,
    bootstrap,
    calibration,
    crps,
    energy_score,
    fde,
    figure,
    forecast_scores,
    horizon_errors,
    representatives,
)

# one case, two samples, two frames, two atoms in the plane; truth at the origin
HAND = np.array([[[[[3, 4], [0, 0]], [[0, 1], [0, 3]]], [[[0, 0], [0, 2]], [[6, 8], [0, 0]]]]], float)
ORIGIN = np.zeros((1, 2, 2, 2))


def normals(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_hand_case():
    """Sample 0: distances 5, 0 then 1, 3; sample 1: 0, 2 then 10, 0."""
    np.testing.assert_allclose(ade(HAND, ORIGIN), [[9 / 4, 12 / 4]])
    np.testing.assert_allclose(fde(HAND, ORIGIN), [[2, 5]])
    assert horizon_errors(HAND, ORIGIN)["mean"] == pytest.approx([7 / 4, 14 / 4])


def test_best_of_k_minimises_ade_and_fde_apart_and_jointly_over_atoms():
    """Sample 0 wins ADE (1.5 < 2.5), sample 1 wins FDE (1 < 2); a minimum per atom would give 0.5 and 0."""
    first = [[[1, 0], [1, 0]], [[4, 0], [0, 0]]]
    second = [[[4, 0], [4, 0]], [[0, 0], [2, 0]]]
    scores = forecast_scores(np.array([[first, second]], float), ORIGIN)
    assert scores["minADE"]["value"] == pytest.approx(1.5)
    assert scores["minFDE"]["value"] == pytest.approx(1.0)
    assert scores["aveADE"]["value"] == pytest.approx(2.0)
    assert scores["aveFDE"]["value"] == pytest.approx(1.5)
    assert "minADE" not in forecast_scores(np.array([[first]], float), ORIGIN)


@pytest.mark.parametrize("shape", [(1, 2, 3, 2, 2), (1, 2, 2, 2), (2, 2, 2, 2, 2), (1, 0, 2, 2, 2)])
def test_shapes_that_do_not_fit(shape: tuple[int, ...]):
    with pytest.raises(UserError, match="shape"):
        ade(np.zeros(shape), ORIGIN)


def test_truth_with_nan():
    with pytest.raises(UserError, match="NaN"):
        ade(HAND, np.full_like(ORIGIN, np.nan))


def test_quantiles_are_over_cases():
    values = np.array([1.0, 2.0, 3.0, 4.0, 100.0])
    found = figure(values)
    assert (found["value"], found["median"]) == (22.0, 3.0)
    assert found["low"] < 22 < found["high"]
    assert math.isnan(figure(values[:1])["low"])


def test_bootstrap_covers_the_expectation():
    """95 % intervals of 60 normals; 400 repetitions: standard deviation 1.1 %, bounds at 5 of them about 94 %."""
    rng = np.random.default_rng(1)
    intervals = [bootstrap(rng.normal(size=60), draws=300, seed=i) for i in range(400)]
    covered = np.mean([low < 0 < high for low, high in intervals])
    assert 0.885 < covered < 0.995
    width = np.mean([high - low for low, high in intervals])
    assert width == pytest.approx(2 * 1.96 / math.sqrt(60), rel=0.05)
    assert bootstrap(np.arange(9.0), seed=3) == bootstrap(np.arange(9.0), seed=3)


# -- ensembles -------------------------------------------------------------------------------------------------------
def test_crps_by_pairs():
    samples, truth = normals(3, 5, 2, 2, 3), normals(3, 2, 2, 3, seed=1)
    pairs = np.abs(samples[:, :, None] - samples[:, None]).sum((1, 2)) / (2 * 5 * 4)
    expected = (np.abs(samples - truth[:, None]).mean(1) - pairs).mean((1, 2, 3))
    np.testing.assert_allclose(crps(samples, truth), expected, atol=1e-12)
    np.testing.assert_allclose(crps(samples[:, :1], truth), np.abs(samples[:, 0] - truth).mean((1, 2, 3)))


def test_crps_of_a_calibrated_normal_is_one_over_root_pi_whatever_k():
    """Two-sided z test; the unfair estimator (pairs / K^2) is off by 1/(2 sqrt(pi)) at K = 2 and is found."""
    truth = normals(20_000, 1, 1, 1, seed=2)
    for count in (2, 5):
        samples = normals(20_000, count, 1, 1, 1, seed=count)
        assert mean_z(torch.as_tensor(crps(samples, truth)), 1 / math.sqrt(math.pi)) < Z_LIMIT
    two = normals(20_000, 2, 1, 1, 1, seed=2)
    unfair = np.abs(two - truth[:, None]).mean((1, 2, 3, 4)) - np.abs(two[:, 0] - two[:, 1]).mean((1, 2, 3)) / 4
    assert mean_z(torch.as_tensor(unfair), 1 / math.sqrt(math.pi)) > Z_LIMIT


def test_crps_prefers_the_true_law():
    truth, samples = normals(5000, 1, 1, 1, seed=7), normals(5000, 8, 1, 1, 1, seed=8)
    scores = [crps(scale * samples + shift, truth).mean() for scale, shift in ((1, 0), (0.4, 0), (2, 0), (1, 0.7))]
    assert min(scores) == scores[0]


def test_energy_score():
    """In one dimension it is the CRPS; it does not see a rotation, the CRPS does."""
    line, truth = normals(4, 6, 2, 2, 1), normals(4, 2, 2, 1, seed=1)
    np.testing.assert_allclose(energy_score(line, truth), crps(line, truth), atol=1e-12)
    samples, truth = normals(4, 6, 2, 2, 3), normals(4, 2, 2, 3, seed=1)
    turn = np.linalg.qr(normals(3, 3, seed=3))[0]
    np.testing.assert_allclose(energy_score(samples @ turn, truth @ turn), energy_score(samples, truth), atol=1e-12)
    assert np.abs(crps(samples @ turn, truth @ turn) - crps(samples, truth)).max() > 1e-3


def test_calibrated_ensemble():
    """Truth and samples of one law: flat ranks (chi-square, p > 1e-5), spread/skill 1 (2 % is 5 sigma)."""
    truth, samples = normals(40_000, 1, 1, 1, seed=4), normals(40_000, 9, 1, 1, 1, seed=5)
    found = calibration(samples, truth)
    counts = torch.tensor(found["rank_histogram"]) * 40_000
    assert chi_square(counts, torch.full((10,), 0.1)) > FALSE_ALARM
    assert found["spread_skill"] == pytest.approx(1, abs=0.02)
    assert found["coverage"]["0.5"][0] == pytest.approx(found["coverage"]["0.5"][1], abs=5 * 0.5 / 200)
    narrow = calibration(0.5 * samples, truth)
    assert chi_square(torch.tensor(narrow["rank_histogram"]) * 40_000, torch.full((10,), 0.1)) < FALSE_ALARM
    assert narrow["rank_histogram"][0] > 0.15 > narrow["rank_histogram"][4]
    assert narrow["spread_skill"] < 0.6


def test_collapsed_samples_on_the_truth_break_ties_at_random():
    """2000 coordinates, all equal: every rank is as likely (chi-square, p > 1e-5)."""
    truth = np.zeros((2000, 1, 1, 1))
    found = calibration(np.zeros((2000, 4, 1, 1, 1)), truth)
    assert chi_square(torch.tensor(found["rank_histogram"]) * 2000, torch.full((5,), 0.2)) > FALSE_ALARM
    assert math.isnan(found["spread_skill"])
    with pytest.raises(UserError, match="at least 2"):
        calibration(np.zeros((2000, 1, 1, 1, 1)), truth)


# -- pedestrians -----------------------------------------------------------------------------------------------------
def test_representatives_of_separate_clusters():
    """60 samples in 4 tight groups, one of them rare: one sample of each group comes out."""
    group = np.repeat([0, 1, 2, 3], [30, 20, 9, 1])
    ends = np.array([[0, 0], [9, 0], [0, 9], [9, 9]])[group] + 0.01 * normals(60, 2)
    samples = np.broadcast_to(ends[None, :, None, None], (3, 60, 5, 1, 2)).copy()
    samples[:, :, 0] = np.arange(60)[:, None, None]  # the first frame tells which sample it was
    kept = representatives(samples, 4)
    assert kept.shape == (3, 4, 5, 1, 2)
    for case in range(3):
        chosen = kept[case, :, 0, 0, 0].astype(int)
        assert sorted(group[chosen]) == [0, 1, 2, 3]
        np.testing.assert_array_equal(kept[case, :, -1, 0], ends[chosen])


@pytest.mark.slow
def test_representatives_reach_the_inertia_of_scikit_learn():
    cluster = pytest.importorskip("sklearn.cluster")
    samples = normals(20, 60, 3, 1, 2)
    ends, kept = samples[:, :, -1, 0], representatives(samples, 20)[:, :, -1, 0]
    ours = ((ends[:, :, None] - kept[:, None]) ** 2).sum(-1).min(2).sum()
    theirs = 0.0
    for points in ends:
        centres = cluster.KMeans(20, n_init=1, random_state=0).fit(points).cluster_centers_
        nearest = points[((points[:, None] - centres) ** 2).sum(-1).argmin(0)]
        theirs += ((points[:, None] - nearest) ** 2).sum(-1).min(1).sum()
    assert ours < 1.05 * theirs


def test_representatives_of_coincident_samples():
    assert representatives(np.zeros((2, 25, 3, 1, 2)), 20).shape == (2, 20, 3, 1, 2)
    with pytest.raises(UserError, match="at least as many"):
        representatives(np.zeros((2, 10, 3, 1, 2)), 20)
