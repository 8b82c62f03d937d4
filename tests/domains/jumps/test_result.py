"""The result object: what follows from rates, JSON, Hellinger distance with its floor, Chapman-Kolmogorov test."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import kstest

import sciflow.jumps as jumps
from sciflow.core.errors import UserError
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.judging import distance
from sciflow.domains.jumps.rate_prior import NONE
from sciflow.domains.jumps.result import Estimate, relaxation, stationary
from sciflow.domains.jumps.systems import flashing_ratchet

LAW = np.array([0.301192, 0.136542, 0.062267, 0.200298, 0.159135, 0.140567])  # V = 1, section 8a
GRID = np.linspace(0, 2.5, 20)


def exact(rates: np.ndarray, **others: object) -> Estimate:
    return Estimate.of(rates, stationary(rates), "known", **others)  # type: ignore[arg-type]


def test_golden_values_of_the_ratchet():
    found = exact(flashing_ratchet(1.0))
    assert np.allclose(found.stationary(), LAW, atol=1e-5)
    assert np.allclose(found.timescales(), [0.5, 0.349645, 0.280561, 0.205034, 0.158854], atol=1e-5)
    assert np.allclose(found.mfpt()[0], [0, 2.0535, 2.9653, 1.3307, 2.3831, 2.7266], atol=1e-4)
    assert found.entropy_production() == pytest.approx(0.179194, abs=1e-5)
    assert found.one_way_edges() == []
    assert np.isinf(found.periods()).all()


def test_a_cycle_oscillates_and_goes_one_way():
    """0 -> 1 -> 2 -> 0 at rate 1: eigenvalues -3/2 +- i sqrt(3)/2."""
    found = exact(np.array([[0, 1.0, 0], [0, 0, 1.0], [1.0, 0, 0]]))
    assert np.allclose(found.timescales(), 2 / 3)
    assert np.allclose(found.periods(), 2 * np.pi / np.sqrt(0.75))
    assert found.one_way_edges() == [(0, 1), (1, 2), (2, 0)]
    assert found.entropy_production() == 0.0


def test_states_without_rates_have_no_weight():
    found = exact(np.array([[0, 1.0, 0], [3.0, 0, 0], [0, 0, 0.0]]))
    assert np.allclose(found.stationary(), [0.75, 0.25, 0])
    assert np.isinf(found.mfpt()[0, 2])


def test_intervals_of_functions_follow_the_delta_method():
    """Independent relative errors of 2 % on the rates of two states: relaxation time and law by hand."""
    covariance = np.diag([4e-4, 4e-4])
    found = exact(np.array([[0, 1.0], [3.0, 0]]), log_covariance=covariance, slopes=np.zeros(2))
    assert np.allclose(found.stderr, [[0.02, 0.02], [0.06, 0.06]])
    low, high = found.intervals(0.6827, of=relaxation, count=2000)
    assert (high - low) / 2 == pytest.approx(0.25 * 0.02 * np.hypot(1, 3) / 4, rel=0.1)
    low, high = found.intervals(0.6827, of=stationary, count=2000)
    assert np.allclose((high - low) / 2, 0.75 * 0.25 * 0.02 * np.sqrt(2), rtol=0.1)
    low, high = found.intervals(0.9)
    assert np.isnan(low[0, 0]) and 3 - low[1, 0] == pytest.approx(1.645 * 0.06, rel=0.03)
    with pytest.raises(UserError, match="expected between 0 and 1"):
        found.intervals(90)
    with pytest.raises(UserError, match="no uncertainty"):
        exact(np.array([[0, 1.0], [3.0, 0]])).intervals()


def test_json_has_the_promised_keys():
    rates = np.array([[0, 1.0, 0], [0, 0, 1.0], [1.0, 0, 0]])
    text = (
        exact(rates, log_covariance=np.eye(6), slopes=np.array([0, 5.0, 5.0, 0, 0, 5.0]))
        .warned("a: b", "a: b")
        .to_json()
    )
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    promised = {"rates", "stderr", "initial", "stationary", "timescales", "mfpt", "noise_rate", "loglik", "warnings"}
    assert promised <= set(content)
    assert content["warnings"] == ["a: b"]
    assert np.shape(content["rates"]) == np.shape(content["stderr"]) == np.shape(content["mfpt"]) == (3, 3)
    assert content["stderr"][0][2] == pytest.approx(0.2)


def test_states_that_never_occur_enter_nothing():
    """What the chain of the visited states alone gives; a prior's rates of 1e-3 would add a scale of hundreds."""
    rates = np.full((4, 4), 1e-3)
    rates[np.ix_([0, 2], [0, 2])] = [[0, 1.0], [3.0, 0]]
    seen = np.array([True, False, True, False])
    found = exact(rates, visited=seen, log_covariance=4e-4 * np.eye(12), slopes=np.zeros(12))
    assert exact(rates).timescales()[0] > 100
    np.testing.assert_allclose(found.timescales(), [0.25, np.nan, np.nan])
    np.testing.assert_allclose(found.periods(), [np.inf, np.nan, np.nan])
    np.testing.assert_allclose(found.stationary(), [0.75, 0, 0.25, 0])
    np.testing.assert_allclose(found.mfpt()[np.ix_(seen, seen)], [[0, 1], [1 / 3, 0]], atol=1e-15)
    assert np.isnan(found.mfpt()[~seen]).all() and np.isnan(found.mfpt()[:, ~seen]).all()
    assert found.one_way_edges() == [] and found.entropy_production() == pytest.approx(0)
    low, high = found.intervals(of=found.stationary)
    assert low[0] < 0.75 < high[0] and not high[~seen].any()
    assert json.loads(found.to_json())["timescales"][1:] == [None, None]


def test_intervals_of_all_time_scales():
    """Independent errors of 2 %: spread of log t by the delta method, d log t / d log F_ij by differences."""
    rates = np.array([[0, 1.0, 0.2], [0.4, 0, 0.1], [0.05, 0.3, 0]])
    found = exact(rates, log_covariance=4e-4 * np.eye(6), slopes=np.zeros(6))
    slopes = []
    for edge in np.argwhere(~np.eye(3, dtype=bool)):
        more = rates.copy()
        more[tuple(edge)] *= 1 + 1e-5
        slopes.append((found.timescales(exact(more).rates) / found.timescales() - 1) / 1e-5)
    spread = 0.02 * np.sqrt(np.square(slopes).sum(0))
    for level, z in ((0.9, 1.645), (0.6827, 1.0)):
        low, high = found.timescale_intervals(level, count=4000)
        np.testing.assert_allclose(np.log(high / found.timescales()), z * spread, rtol=0.06)  # 4.42 / sqrt(2 n) = .05
        np.testing.assert_allclose(low * high, found.timescales() ** 2)
    content = json.loads(found.to_json())
    np.testing.assert_allclose([content["timescales_low"], content["timescales_high"]], found.timescale_intervals())
    assert exact(rates).to_dict()["timescales_low"] is None


@pytest.mark.parametrize(("states", "lag"), [(3, 0.25), (5, 0.25), (5, 2.0)])
def test_nothing_known_is_said(states, lag):
    """Without a prior: rates out of states that never occur are 0 with infinite errors, not what the ascent left."""
    truth = np.array([[0, 1.0, 0.5], [0.3, 0, 0.2], [0.8, 0.4, 0]])
    seen = jumps.simulate(truth, 60, times=np.arange(20) * lag, seed=1)
    found = jumps.estimate(seen, "em", states=states, prior=NONE)
    low, high = found.intervals()
    unseen = np.arange(states) > 2
    assert not found.rates[unseen].any() and np.isinf(found.stderr[unseen][:, :3]).all()
    off = ~np.eye(states, dtype=bool)[unseen]
    assert not low[unseen][off].any() and np.isinf(high[unseen][off]).all()
    assert found.stationary()[:3].sum() == pytest.approx(1) and np.isfinite(found.timescales()).sum() == 2
    assert max(v or 0 for row in found.to_dict()["interval_high"] for v in row) < 1e3


def test_one_state_without_prior():
    """Two paths of two units of time in state 0: it is where the chain is, and what is known is a bound."""
    found = jumps.estimate(Paths.of([[0, 1, 2], [0, 1, 3]], [[0, 0, 0]] * 2, states_count=3), "em", prior=NONE)
    assert found.stationary().tolist() == [1, 0, 0] and not found.rates.any()
    assert np.isnan(found.timescales()).all()
    high = found.intervals()[1]
    assert np.isfinite(high[0, 1:]).all() and np.isinf(high[[1, 1, 2, 2], [0, 2, 0, 1]]).all()
    assert found.posterior(10).max() < 1e3
    closed = jumps.estimate(Paths.of([[0, 1, 2]], [[0, 0, 0]], states_count=2), "em", prior=NONE)
    assert closed.stationary().tolist() == [1, 0] and np.isinf(closed.intervals()[1][1, 0])


# ------------------------------------------------------------ against data


def test_hellinger_of_laws():
    assert distance(LAW, np.array([1, 1, 1, 1, 1, 1]) / 6) == pytest.approx(0.156828, abs=1e-6)  # V = 1 against V = 0
    assert distance(LAW, LAW) == 0


def test_hellinger_of_equal_laws_is_its_floor():
    """Section 14.7: data of the estimate itself are at the floor, data of another law far above it."""
    found = exact(flashing_ratchet(1.0))
    same = found.hellinger(found.simulate(400, GRID, seed=1), sets=20)
    assert same.score == pytest.approx(same.floor, rel=0.2)
    assert same.floor == pytest.approx(np.sqrt(5 / 1600), rel=0.1)  # sqrt((S - 1)/(4 n))
    assert same.exact == pytest.approx(same.floor / np.sqrt(2), rel=0.3)
    other = found.hellinger(exact(flashing_ratchet(0.0)).simulate(400, GRID, seed=1), sets=5)
    assert other.score == pytest.approx(0.156828, abs=0.02)
    assert other.score > other.floor + 10 * other.deviation


def test_hellinger_with_irregular_grids_and_wrong_labels():
    random = np.random.default_rng(0)
    found = Estimate.of(flashing_ratchet(1.0), LAW / LAW.sum(), "known", noise_rate=0.2)
    states = found.simulate(300, np.arange(40) * 0.1, seed=2).states
    assert states is not None
    labels = np.where(random.random(states.shape) < 0.24, random.integers(0, 6, states.shape), states)  # 0.24 * 5/6
    rows = [np.sort(random.choice(40, 20, replace=False)) for _ in range(300)]
    paths = Paths.of([row * 0.1 for row in rows], [labels[k, row] for k, row in enumerate(rows)], states_count=6)
    score = found.hellinger(paths, sets=10)
    assert score.score == pytest.approx(score.floor, rel=0.1)


def test_floor_of_times_that_few_paths_have():
    """Every path always in state 0: no two samples differ, although resamples may lack the only path at a time."""
    paths = Paths.of([[0, 1, 2], [0, 1, 3]], [[0, 0, 0]] * 2, states_count=2)
    score = Estimate.of(np.zeros((2, 2)), np.array([1.0, 0]), "known").hellinger(paths, sets=20)
    assert score.floor == score.score == 0


@pytest.mark.parametrize(("paths", "end"), [(200, 20.0), (2, 4000.0)])
def test_hellinger_of_complete_paths_is_that_of_times(paths, end):
    """Rates .1 / 10: state 1 has 1 % of the time and many times that of the rows."""
    found = exact(np.array([[0, 0.1], [10.0, 0]]))
    data = jumps.simulate(found.rates, paths, end=end, seed=0)
    assert (data.states == 1).mean() > 0.1  # type: ignore[attr-defined]
    score = found.hellinger(data, sets=20)
    assert score.score < 0.1 and score.exact < 0.15
    other = exact(np.array([[0, 5.0], [10.0, 0]])).hellinger(data, sets=5)
    assert other.exact > 0.3


def test_chapman_kolmogorov():
    """40 paths of 200 points of the chain itself: no z of 36 beyond 5.1 (false alarm 1e-5 if normal)."""
    rates = np.array([[0, 1.0, 0.5], [0.3, 0, 0.2], [0.8, 0.4, 0]])
    found = exact(rates)
    paths = found.simulate(40, np.arange(200) * 0.25, seed=4)
    test = found.ck_test(paths, lags=[0.25, 0.5, 1.0, 2.0])
    assert test.predicted.shape == (4, 3, 3)
    assert np.allclose(test.observed.sum(2), 1)
    assert test.largest_z < 5.1
    assert exact(1.5 * rates).ck_test(paths).largest_z > 7
    still = Paths.of([np.arange(5)], [[0] * 5], states_count=2)
    assert np.isnan(Estimate.of(np.zeros((2, 2)), np.array([1.0, 0]), "known").ck_test(still).largest_z)


# ------------------------------------------------------------ simulation


def test_simulation_on_a_grid_and_with_every_jump_agree():
    """Law at t = 1 from state 0 of 4000 paths each, within 4.42 standard errors of exp(F t)."""
    F, first = flashing_ratchet(1.0), np.eye(6)[0]
    truth = np.array([0.37088, 0.13653, 0.06026, 0.19925, 0.12540, 0.10768])
    grid = jumps.simulate(F, 4000, times=[0.0, 1.0], initial=first, seed=0)
    every = jumps.simulate(F, 4000, end=1.0, initial=first, seed=0)
    assert every.complete and not grid.complete
    last = np.take_along_axis(every.states, every.lengths[:, None] - 1, 1)[:, 0]  # type: ignore[arg-type]
    for states in (grid.states[:, 1], last):  # type: ignore[index]
        share = np.bincount(states, minlength=6) / 4000
        assert (abs(share - truth) < 4.42 * np.sqrt(truth * (1 - truth) / 4000)).all()


def test_one_long_path(monkeypatch: pytest.MonkeyPatch):
    """144 000 jumps in several moves: z of 18 rates below 4.9 and an exponential dwell time in state 0 (1e-5 each)."""
    F = flashing_ratchet(1.0)
    monkeypatch.setattr(jumps, "MOST_EVENTS", 50_000)
    path = jumps.simulate(F, 1, end=50_000.0, seed=3)
    assert path.times[0, -1] == 50_000 and (np.diff(path.times[0]) > 0).all()
    found = jumps.estimate(path, prior=NONE)
    edges = F > 0
    assert (np.abs(found.rates - F)[edges] < 4.9 * found.stderr[edges]).all()
    assert path.states is not None
    dwell = np.diff(path.times[0])[:-1][path.states[0, :-2] == 0]
    assert kstest(dwell, "expon", args=(0, -1 / F[0, 0])).pvalue > 1e-5


def test_stiff_paths_are_not_uniformised(monkeypatch: pytest.MonkeyPatch):
    """Rates 1e3 / 1e-2 for 100 units: 1e5 events of uniformisation for each of a few paths, of which two are jumps."""
    from sciflow.solvers import uniformisation

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("uniformised")

    monkeypatch.setattr(uniformisation, "Uniformisation", refused)
    for count in (1, 10, 100):
        path = jumps.simulate(np.array([[0, 1e3], [1e-2, 0]]), count, end=100.0)
        assert path.lengths.max() < 40  # 1 + 2 Poisson(1) jumps and both ends; 18 returns have a chance of 1e-16
    with pytest.raises(AssertionError, match="uniformised"):
        jumps.simulate(flashing_ratchet(1.0), 1, end=100.0)


def test_simulation_refuses():
    for mistake in ({"end": np.nan}, {"end": np.inf}, {"end": 0.0}, {"end": -1.0}, {"times": []}, {"times": [[0.0]]}):
        with pytest.raises(UserError, match="simulate: got"):
            jumps.simulate(np.ones((2, 2)), 3, **mistake)
    for wanted in ({"end": 1.0}, {"times": [0.0, 1.0]}):
        with pytest.raises(UserError, match="got 0 paths"):
            jumps.simulate(np.ones((2, 2)), 0, **wanted)
    with pytest.raises(UserError, match="finite numbers"):
        jumps.simulate(np.ones((2, 2)), 3, times=[0.0, np.nan])
    with pytest.raises(UserError, match="expected one"):
        jumps.simulate(np.ones((2, 2)), 3)
    with pytest.raises(UserError, match="negative"):
        jumps.simulate(np.array([[0, -1.0], [1, 0]]), 3, end=1.0)
    with pytest.raises(UserError, match="square"):
        jumps.simulate(np.ones((2, 3)), 3, end=1.0)
    with pytest.raises(UserError, match="sum to 1"):
        jumps.simulate(np.ones((2, 2)), 3, end=1.0, initial=[0.5, 0.6])
