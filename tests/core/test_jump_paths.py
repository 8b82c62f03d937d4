"""Recorded paths: padding, grids and statistics against a plain loop over events."""

from __future__ import annotations

import torch
from markov_toy import F64

from sciflow.core.jump_paths import EventLog, JumpPaths

START = torch.tensor([2, 0, 1])
EVENTS = [(2, 0.5, 0), (0, 0.7, 1), (2, 0.9, 2), (2, 1.5, 1)]  # (path, time, state); path 1 never jumps


def paths() -> JumpPaths:
    rows, times, states = (torch.tensor(column) for column in zip(*EVENTS, strict=True))
    return JumpPaths.of(torch.tensor(0.1), START, rows, times.double(), states, torch.tensor(2.0))


def test_events_become_padded_paths():
    p = paths()
    torch.testing.assert_close(
        p.times, torch.tensor([[0.1, 0.7, 2, 2, 2], [0.1, 2, 2, 2, 2], [0.1, 0.5, 0.9, 1.5, 2]], dtype=F64)
    )
    assert p.states.tolist() == [[2, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 0, 2, 1, 1]]
    assert p.lengths.tolist() == [3, 2, 5]


def test_states_at_and_between_the_jumps():
    """A jump counts from its time on; the same grid for all paths or one per path."""
    grid = torch.tensor([0.1, 0.6999, 0.7, 1.2, 2.0], dtype=F64)
    assert paths().on_grid(grid).tolist() == [[2, 2, 1, 1, 1], [0] * 5, [1, 0, 0, 2, 1]]
    assert paths().on_grid(torch.tensor([[0.3], [0.3], [1.6]])).tolist() == [[2], [0], [1]]


def test_statistics_by_hand():
    jumps, times = paths().statistics(3)
    expected = torch.zeros(3, 3, dtype=F64)
    for i, j in ((1, 0), (0, 2), (2, 1), (2, 1)):
        expected[i, j] += 1
    assert torch.equal(jumps, expected)
    torch.testing.assert_close(times, torch.tensor([1.9 + 0.4, 1.3 + 0.4 + 0.5, 0.6 + 0.6], dtype=F64))


def test_a_log_joins_moves_and_drops_what_did_not_happen():
    yes, no = torch.tensor([True, True]), torch.tensor([False, True])
    log = EventLog(torch.tensor(0.1), START, torch.tensor(0.1))
    first = [(torch.tensor([0, 2]), torch.tensor([0.7, 0.5]), torch.tensor([1, 0]), yes)]
    second = [
        (torch.tensor([1, 2]), torch.tensor([1.1, 0.9]), torch.tensor([0, 2]), no),
        (torch.tensor([0, 2]), torch.tensor([1.8, 1.5]), torch.tensor([1, 1]), no),
    ]
    joined = log.then(torch.tensor(0.8), first).then(torch.tensor(2.0), second).paths()
    expected = paths()
    torch.testing.assert_close(joined.times, expected.times, rtol=1e-7, atol=0)
    assert torch.equal(joined.states, expected.states)
    empty = log.then(torch.tensor(2.0), []).paths()
    assert empty.states.tolist() == [[2, 2], [0, 0], [1, 1]] and empty.lengths.tolist() == [2, 2, 2]


def test_paths_of_several_positions():
    """States (B, E, L): the whole field after each event."""
    x = torch.tensor([[0, 0], [1, 1]])
    p = JumpPaths.of(
        torch.tensor(0.0),
        x,
        torch.tensor([1, 1]),
        torch.tensor([0.2, 0.4]),
        torch.tensor([[1, 0], [0, 0]]),
        torch.tensor(1.0),
    )
    assert p.states.tolist() == [[[0, 0]] * 4, [[1, 1], [1, 0], [0, 0], [0, 0]]]
    assert p.on_grid(torch.tensor([0.3])).tolist() == [[[0, 0]], [[1, 0]]]
