"""Paths: padding, selection, and the mistakes they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from sciflow.core.errors import UserError
from sciflow.domains.jumps.data import Paths


def test_padding_repeats_the_last_observation():
    paths = Paths.of([[0, 1, 2.5], [0.5]], [[0, 2, 1], [1]], unit="ps")
    assert paths.times.tolist() == [[0, 1, 2.5], [0.5, 0.5, 0.5]]
    assert paths.states.tolist() == [[0, 2, 1], [1, 1, 1]]
    assert paths.states_count == 3 and paths.names == ("0", "1", "2")
    assert paths.mask.tolist() == [[True, True, True], [True, False, False]]
    assert paths.observations == 4 and paths.duration == 2.5


def test_shared_grid_signal_and_selection():
    signal = np.arange(6.0).reshape(2, 3)
    paths = Paths.of(np.array([0, 1, 2.0]), signal=signal, starts=[True, False])
    assert paths.times.shape == (2, 3) and paths.states is None and paths.states_count == 0
    second = paths.take([1])
    assert second.signal.tolist() == [[3, 4, 5]] and second.starts.tolist() == [False]
    labelled = paths.with_states(np.array([[0, 1, 1], [1, 0, 0]]), 2, ("low", "high"))
    assert labelled.names == ("low", "high") and labelled.warned("odd").warnings == ("odd",)


def test_selection_cuts_columns():
    paths = Paths.of([[0, 1, 2], [0, 1], [3]], [[0, 1, 0], [1, 1], [0]])
    assert paths.take([1, 2]).times.tolist() == [[0, 1], [3, 3]]
    with pytest.raises(UserError, match="no path is left"):
        paths.take(np.zeros(3, bool))


@pytest.mark.parametrize(
    ("times", "states", "more", "expected"),
    [
        ([[0, 2, 1]], [[0, 0, 1]], {}, "from 2 back to 1 at observation 2"),
        ([[0, 1, 1]], [[0, 0, 1]], {}, "two different states at time 1"),
        ([[0, np.nan]], [[0, 1]], {}, "times: path 0, observation 1 is nan"),
        ([[0, 1]], [[0, 3]], {"states_count": 3}, "label 3; expected 0..2"),
        ([[0, 1]], [[0, -1]], {}, "label -1"),
        ([[0, 1]], [[0, 0.5]], {}, "is 0.5; expected whole numbers"),
        ([[0, 1]], [[0, np.nan]], {}, "is nan; expected whole numbers"),
        ([[0, 1]], [["a", "b"]], {}, "not numbers"),
        ([[0, 1]], [[0]], {}, "equally long"),
        ([[0, 1], [0]], [[0, 1]], {}, "the same number of each"),
        ([[]], [[]], {}, "non-empty"),
        ([[0, 1]], None, {}, "neither states nor a signal"),
        ([[0, 1]], None, {"signal": [[np.nan, np.nan]]}, "2 of 2 values are not finite"),
        ([[0, 1]], [[0, 1]], {"names": ("a", "b"), "states_count": 3}, "2 names of 3 states"),
        ([[0, 1]], [[0, 1]], {"starts": [True, False]}, "got 2 flags, expected one for each of 1 paths"),
        ([["a", "b"]], [[0, 1]], {}, "times: got could not convert"),
        ([[0, [1, 2]]], [[0, 1]], {}, "expected one flat list of numbers"),
        ([np.array([0, 1], "M8[s]")], [[0, 1]], {}, "times: got dates"),
        ([[0, 1]], None, {"signal": [["a", "b"]]}, "signal: got could not convert"),
        ([[0, 1]], [[0, 10**12]], {}, "expected whole numbers from 0 to at most 9999"),  # of identifiers: no S x S
    ],
)
def test_mistakes(times, states, more, expected):
    with pytest.raises(UserError, match=expected):
        Paths.of(times, states, **more)


def test_number_of_states_and_their_names():
    paths = Paths.of([[0, 1, 2]], [[0, 2, 1]], names=("a", "b", "c"))
    assert paths.with_count(5).names == ("a", "b", "c", "unseen 1", "unseen 2")
    with pytest.raises(UserError, match=r"labels outside range: path 0, observation 1 has label 2; expected 0..1"):
        paths.with_count(2)
    assert Paths.of([[0, 1]], [[0, 1]], names=("a", "b", "c")).with_count(2).names == ("a", "b")
    with pytest.raises(UserError, match=r"got the shape \(1, 2\), expected that of the times \(1, 3\)"):
        paths.with_states(np.zeros((1, 2)), 2)


def test_same_state_twice_at_one_time_is_fine():
    assert Paths.of([[0, 1, 1]], [[0, 1, 1]]).observations == 3
