"""Labels of signals with known levels, lumping, decimation, windows and lags."""

from __future__ import annotations

import numpy as np
import pytest

from sciflow.core.errors import UserError
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.labelling import METHODS, decimate, emission_start, label, lump
from sciflow.domains.jumps.windows import at_lag, spacing, windows


def switching(levels=(5.0, -3.0, 0.0), spread=0.3, length=2000, seed=0) -> tuple[Paths, np.ndarray]:
    """A signal that jumps between levels (given out of order), and the true labels in ascending order of level."""
    noise = np.random.default_rng(seed)
    hidden = np.cumsum(noise.random(length) < 0.05) * 7 % len(levels)
    true = np.argsort(np.argsort(levels))[hidden]
    values = np.asarray(levels)[hidden] + spread * noise.standard_normal(length)
    return Paths.of([np.arange(length) * 0.1], signal=[values], unit="ms"), true


@pytest.mark.parametrize("method", METHODS)
def test_levels_are_found_in_ascending_order(method):
    paths, true = switching(levels=(5.0, -4.0, 0.5))
    labelled = label(paths, 3, method)
    assert labelled.states_count == 3 and not labelled.warnings
    np.testing.assert_array_equal(labelled.states[0], true)  # 7 standard deviations apart


def test_emission_start_is_near_the_truth():
    paths, true = switching()
    means, variances = emission_start(paths, 3)
    np.testing.assert_allclose(means, [-3, 0, 5], atol=0.1)  # 600 values each, standard error .012
    np.testing.assert_allclose(variances, 0.09, rtol=0.4)


def test_overlapping_levels_are_said():
    paths, _ = switching(levels=(0.0, 1.0), spread=0.5)
    assert "overlapping levels" in label(paths, 2, "mixture").warnings[0]


def test_level_without_values_is_said():
    paths = Paths.of([range(4)], signal=[[0.0, 0.1, 10.0, 9.9]])
    assert "empty levels: no value lies at level 1" in label(paths, 3, "amplitude").warnings[0]


def test_ragged_signals():
    paths = Paths.of([[0, 1, 2], [0]], signal=[[0.0, 5.0, 0.1], [5.1]])
    assert label(paths, 2, "kmeans").states.tolist() == [[0, 1, 0], [1, 1, 1]]


def test_lumping():
    paths = Paths.of([range(4)], [[0, 1, 2, 1]])
    merged = lump(paths, [0, 1, 1], ("a", "b"))
    assert merged.states.tolist() == [[0, 1, 1, 1]] and merged.states_count == 2 and merged.names == ("a", "b")
    assert lump(paths, {0: 1, 1: 0, 2: 0}).states.tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize("groups", [[0, 1], {0: 0, 1: 1}, [0, 2, 2], [0, 1, 1, 1]])
def test_lumping_mistakes(groups):
    with pytest.raises(UserError, match="lump"):
        lump(Paths.of([range(3)], [[0, 1, 2]]), groups)


@pytest.mark.parametrize(
    ("signal", "states", "method", "expected"),
    [
        ([1.0, 1.0, 1.0], 2, "kmeans", "1 distinct values"),
        ([1.0, 2.0], 1, "kmeans", "got 1 states"),
        ([1.0, 2.0], 2, "guess", "got 'guess'"),
    ],
)
def test_mistakes(signal, states, method, expected):
    with pytest.raises(UserError, match=expected):
        label(Paths.of([range(len(signal))], signal=[signal]), states, method)


def test_decimation_reaches_twice_the_cutoff():
    paths = Paths.of(
        [np.arange(10) / 20_000, np.arange(5) / 20_000], signal=[np.arange(10.0), np.arange(5.0)], unit="s"
    )
    thinned = decimate(paths, 2_500.0)  # 5 kHz suffices: every fourth value
    assert thinned.signal.tolist() == [[0, 4, 8], [0, 4, 4]] and thinned.lengths.tolist() == [3, 2]
    assert decimate(paths, 10_000.0).times.shape == (2, 10)
    with pytest.raises(UserError, match="positive frequency"):
        decimate(paths, 0.0)
    with pytest.raises(UserError, match="leaves one value of each path"):
        decimate(paths, 1.0)
    with pytest.raises(UserError, match="got jumps, which no filter has smoothed"):
        decimate(Paths.of([[0, 1, 2.0]], [[0, 1, 0]], complete=True), 0.1)


def transitions(paths: Paths) -> np.ndarray:
    counts = np.zeros((paths.states_count, paths.states_count), int)
    valid = paths.mask[:, 1:]
    np.add.at(counts, (paths.states[:, :-1][valid], paths.states[:, 1:][valid]), 1)
    return counts


def test_windows_keep_every_transition_once():
    noise = np.random.default_rng(1)
    lengths = (1, 2, 10, 11, 57)
    paths = Paths.of(
        [3 + np.arange(n) for n in lengths], [noise.integers(0, 3, n) for n in lengths], starts=[1, 1, 1, 0, 1]
    )
    cut = windows(paths, 10)
    np.testing.assert_array_equal(transitions(cut), transitions(paths))
    assert cut.lengths.tolist() == [1, 2, 10, 10, 2, 10, 10, 10, 10, 10, 10, 3]
    assert cut.starts.tolist() == [True] * 3 + [False] * 2 + [True] + [False] * 6
    assert not cut.times[:, 0].any()
    with pytest.raises(UserError, match="at least 2"):
        windows(paths, 1)


def test_lags_use_every_pair_once():
    noise = np.random.default_rng(2)
    states = noise.integers(0, 3, 101)
    seen, first = at_lag(Paths.of([0.2 * np.arange(101)], [states], unit="ns"), 1.4)
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (states[:-7], states[7:]), 1)
    assert len(seen) == 7 and seen.starts.tolist() == first.tolist() == [True] + 6 * [False]
    np.testing.assert_array_equal(transitions(seen), expected)
    np.testing.assert_allclose(np.diff(seen.times, axis=1)[seen.mask[:, 1:]], 1.4)


def test_lags_over_gaps_are_multiples():
    seen, _ = at_lag(Paths.of([[0, 1, 2, 5, 6, 7, 8]], [[0, 1, 0, 1, 1, 0, 0]]), 2.0)
    assert len(seen) == 2
    assert seen.times.tolist() == [[0, 2, 6, 8], [1, 5, 7, 7]] and seen.states.tolist() == [[0, 0, 1, 0], [1, 1, 0, 0]]


def test_spacing():
    assert spacing(Paths.of([[0, 0.5, 2.0], [1.0, 2.5]], [[0, 1, 0], [0, 1]])) == pytest.approx(0.5)
    assert spacing(Paths.of([[0, 0.5, 1.2]], [[0, 1, 0]])) is None
    rounded = np.round(np.arange(1000) / 3, 4)  # a file that writes four digits
    assert spacing(Paths.of([rounded], [np.zeros(1000, int)])) == pytest.approx(1 / 3, rel=1e-3)


@pytest.mark.parametrize(
    ("times", "lag", "expected"),
    [([0, 1, 2], 1.5, "multiple"), ([0, 1, 2], 5, "longer than every"), ([0, 1, 2.3], 1, "not on a common spacing")],
)
def test_lag_mistakes(times, lag, expected):
    with pytest.raises(UserError, match=expected):
        at_lag(Paths.of([times], [[0] * 3]), lag)
