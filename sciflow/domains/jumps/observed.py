"""What paths show without a model: dwell times with survival curves, and the law of states over time."""

from __future__ import annotations

import numpy as np

from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.windows import on_grid


def runs(paths: Paths) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stretches of one state: state (n,), duration (n,), and whether the end was seen (n,) bool.

    A run lasts from its first observation to that of the next run; the last one of a path is cut off (censored).
    """
    assert paths.states is not None
    path, column = np.nonzero(paths.mask)
    states, times = paths.states[path, column], paths.times[path, column]
    new_path = np.diff(path, prepend=-1) != 0
    heads = np.flatnonzero(new_path | (np.diff(states, prepend=-1) != 0))
    ended = np.r_[~new_path[heads[1:]], False]
    last = np.r_[heads[1:] - 1, len(states) - 1]
    following = np.r_[heads[1:], 0]
    duration = np.where(ended, times[following], times[last]) - times[heads]
    return states[heads], duration, ended


def survival(durations: np.ndarray, ended: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kaplan-Meier curve: times (n,) from 0 on, and the share that lasts longer than each (n,).

    Args:
        durations: (m,) dwell times.
        ended: (m,) bool, False where observation stopped first.
    """
    order = np.argsort(durations, kind="stable")
    durations, ended = durations[order], ended[order]
    moments, first = np.unique(durations, return_index=True)
    at_risk = len(durations) - first
    ends = np.add.reduceat(ended.astype(int), first)
    return np.r_[0.0, moments], np.r_[1.0, np.cumprod(1 - ends / at_risk)]


def laws(paths: Paths, bins: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Histograms of the states over the time since the start, of paths that start from p0.

    Args:
        paths: With states.
        bins: Equal parts of time; as many as there are times where all paths share few.

    Returns:
        Mean time of each bin (n,), shares (n, S), number of observations (n,).
    """
    assert paths.states is not None
    started = paths.take(paths.starts) if paths.starts.any() else paths
    if started.complete:
        longest = float((started.times[:, -1] - started.times[:, 0]).max())
        started = on_grid(started, longest / (bins - 1) or 1.0)
    assert started.states is not None
    since = (started.times - started.times[:, :1])[started.mask]
    states = started.states[started.mask]
    moments = np.unique(since)
    if len(moments) > bins:
        number = np.minimum((since / moments[-1] * bins).astype(int), bins - 1)
    else:
        number = np.searchsorted(moments, since)
    table = np.zeros((number.max() + 1, started.states_count))
    np.add.at(table, (number, states), 1)
    count = table.sum(1)
    kept = count > 0
    mean = np.bincount(number, since)[kept] / count[kept]
    return mean, table[kept] / count[kept, None], count[kept]
