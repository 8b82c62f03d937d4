"""Implied time scales, dwell times with Kaplan-Meier curves, laws over time: against closed forms and hand counts."""

from __future__ import annotations

import numpy as np
import pytest

from sciflow.core.errors import UserError
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.implied import block_counts, implied_timescales
from sciflow.domains.jumps.observed import laws, runs, survival
from sciflow.domains.jumps.systems import two_state
from sciflow.jumps import simulate


def test_scales_of_a_chain_are_constant():
    """Rates .8 and .4: 1 / 1.2 at every lag; the 90 % band covers 12 of 12 lags or is near (relative error .06)."""
    paths = simulate(two_state(0.8, 0.4), 1000, times=np.linspace(0, 5, 21), seed=0)
    found = implied_timescales(paths, np.array([0.25, 0.5, 1.0]))
    np.testing.assert_allclose(found.lags, [0.25, 0.5, 1.0])
    np.testing.assert_allclose(found.scales[:, 0], 1 / 1.2, rtol=0.12)  # 4.42 standard errors of .027
    assert (found.low < found.scales).all() and (found.scales < found.high).all()


def test_memory_shows_as_rising_scales():
    """A chain seen through 10 % wrong labels: the closed form of the apparent scale at lag D, to 10 %."""
    paths = simulate(two_state(0.8, 0.8), 1000, times=np.linspace(0, 5, 51), seed=1)
    flips = np.random.default_rng(0).random(paths.states.shape) < 0.1
    wrong = paths.with_states(np.where(flips, 1 - paths.states, paths.states), 2)
    lags = np.array([0.1, 0.5, 1.0])
    apparent = -lags / np.log(0.8**2 * np.exp(-1.6 * lags))  # correlation (1 - 2 rho)^2 exp(-2 rate D), rho = .1
    np.testing.assert_allclose(implied_timescales(wrong, lags).scales[:, 0], apparent, rtol=0.1)


def test_states_that_never_occur_have_no_scale():
    paths = Paths.of([range(50)], [np.arange(50) // 5 % 2], states_count=4)
    assert np.isnan(implied_timescales(paths, np.array([1.0])).scales[0, 1:]).all()


def test_block_counts_skip_gaps():
    paths = Paths.of([[0, 1, 2, 4], [0, 2]], [[0, 1, 1, 0], [1, 0]])
    counts = block_counts(paths, 2, 1.0)
    assert counts.sum(0).tolist() == [[0, 1], [2, 0]]  # 0 -> 2 and 2 -> 4 of the first path, 0 -> 2 of the second


def test_no_common_spacing_is_refused():
    with pytest.raises(UserError, match="common spacing"):
        implied_timescales(Paths.of([[0, 1, 2.3]], [[0, 1, 0]]))


def test_runs():
    paths = Paths.of([[0, 1, 2, 5, 6], [0, 1]], [[0, 0, 1, 1, 0], [1, 1]])
    states, durations, ended = runs(paths)
    assert states.tolist() == [0, 1, 0, 1]
    assert durations.tolist() == [2, 4, 0, 1] and ended.tolist() == [True, True, False, False]


def test_survival_by_hand():
    """Textbook Kaplan-Meier: 5 at risk, deaths at 1 and 3, censored at 2."""
    times, shares = survival(np.array([3.0, 1, 2, 3, 4]), np.array([1, 1, 0, 0, 1], bool))
    assert times.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(shares, [1, 0.8, 0.8, 0.8 * 2 / 3, 0])


def test_survival_of_complete_paths_is_exponential():
    """Dwell times of state 0, rate .8, censored at 4: 4.42 binomial errors of .5 / sqrt(1000), smaller at the ends."""
    paths = simulate(two_state(0.8, 0.4), 1000, end=4.0, seed=2)
    states, durations, ended = runs(paths)
    times, shares = survival(durations[states == 0], ended[states == 0])
    assert (states == 0).sum() > 1000
    early = times < 3
    np.testing.assert_allclose(shares[early], np.exp(-0.8 * times[early]), atol=0.07)


def test_laws_of_complete_paths_are_those_of_a_time():
    """Rates .1 / 10 from equilibrium: 1 / 101 in state 1 at any time, but 8 % of all rows (4.9 errors)."""
    paths = simulate(two_state(0.1, 10.0), 1000, end=10.0, seed=3)
    moments, shares, count = laws(paths)
    assert len(moments) == 20 and (count == 1000).all()
    assert (paths.states == 1).mean() > 0.05
    np.testing.assert_allclose(shares[:, 1], 1 / 101, atol=4.9 * np.sqrt(0.0098 / 1000))


def test_laws_use_paths_that_start():
    paths = Paths.of([[0, 1], [5, 6], [0, 1]], [[0, 1], [0, 0], [1, 1]], starts=[True, True, False])
    moments, shares, count = laws(paths)
    assert moments.tolist() == [0, 1] and count.tolist() == [2, 2]
    assert shares.tolist() == [[1, 0], [0.5, 0.5]]
