"""Report of jump processes: tables of time scales and states, data without overlap, complete paths."""

from __future__ import annotations

import numpy as np

import sciflow.jumps as jumps
from sciflow.report.jumps import jump_sections, scale_table, state_table

RATES = np.array([[0, 1.0, 0.2], [0.4, 0, 0.1], [0.05, 0.3, 0]])


def test_every_time_scale_has_its_interval():
    paths = jumps.simulate(RATES, 100, times=np.arange(0, 10, 0.5), unit="ms")
    found = jumps.estimate(paths, "em")
    rows = scale_table(found).rows
    low, high = found.timescale_intervals()
    assert [row[2] for row in rows[:2]] == [f"{low[k]:.3g} - {high[k]:.3g}" for k in range(2)]
    known = jumps.Estimate.of(RATES, found.initial, "known")
    assert [row[2] for row in scale_table(known).rows[:2]] == [None, None]


def test_states_that_never_occur_have_no_scale_and_no_band():
    paths = jumps.simulate(RATES, 20, times=np.arange(0, 10, 0.5), seed=1)
    found = jumps.estimate(paths, "em", states=5)
    table = scale_table(found)
    assert sum(row[0].startswith("time scale") for row in table.rows) == 2
    assert table.note == "Of the 3 states that occur (of 5)."
    bands = [row[3] for row in state_table(found, paths.with_states(paths.states, 5)).rows]
    assert None not in bands[:3] and bands[3:] == [None, None]


def test_complete_paths_are_judged():
    """Rates .1 / 10: by rows, half of which are in the rare state, the distance would be about 50."""
    paths = jumps.simulate(np.array([[0, 0.1], [10.0, 0]]), 100, end=20.0)
    *_, last = jump_sections(jumps.estimate(paths), paths)
    assert last.title == "Simulated paths against the data" and len(last.figures) == 2
    distance, floor = (float(part.split(":")[1].split("±")[0]) for part in last.text.split(";"))
    assert distance < 2 * floor < 12


def test_sections_at_a_lag_take_one_window_of_each_path():
    paths = jumps.simulate(RATES, 60, times=np.arange(5.0), seed=2)
    found = jumps.estimate(paths, "em", lag=3.0)
    text = jump_sections(found, paths, 3.0)[-1].text
    alone = jumps.Paths.of(np.array([0.0, 3.0]), paths.states[:, [0, 3]], states_count=3)
    assert f"{100 * found.hellinger(alone).score:.2f}" in text
