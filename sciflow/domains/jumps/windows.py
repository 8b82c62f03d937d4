"""Paths seen otherwise: windows for methods that want many short paths, a longer lag, known jumps read on a grid.

A chain is Markov from any time on, so the pieces keep all that is known about the rates; only the first piece of a
path says something about the initial law p0 (`Paths.starts`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from sciflow.core.errors import UserError
from sciflow.core.jump_paths import JumpPaths
from sciflow.domains.jumps.data import Paths

SAME = 1e-3  # times that differ by less than this share of the spacing are on one grid (files round times)


def spacing(paths: Paths) -> float | None:
    """The common spacing of all times, which may skip points of the grid; None if there is none.

    The smallest step must divide all others.
    """
    steps = np.diff(paths.times, axis=1)[paths.mask[:, 1:]]
    steps = steps[steps > 0]
    if not steps.size:
        return None
    smallest = float(steps.min())
    near = steps[steps < 1.5 * smallest]
    unit = float(near.mean())  # rounding of the times averages out
    multiples = steps / unit
    return unit if np.all(np.abs(multiples - np.round(multiples)) < SAME * np.maximum(multiples, 1)) else None


def windows(paths: Paths, length: int) -> Paths:
    """Paths cut into windows of at most `length` observations.

    A window begins at the last observation of the one before, so every transition lies in exactly one; its times
    start at 0. A last window of one observation is left out (it has no transition).

    Raises:
        UserError: `length` below 2.
    """
    if length < 2:
        raise UserError(f"windows: got a length of {length} observations, expected at least 2")
    pieces = np.maximum(1, -(-(paths.lengths - 1) // (length - 1)))
    path = np.repeat(np.arange(len(paths)), pieces)
    number = np.arange(len(path)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = number * (length - 1)
    lengths = np.minimum(length, paths.lengths[path] - first)
    columns = first[:, None] + np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)

    def cut(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[path[:, None], columns]

    times = paths.times[path[:, None], columns]
    return replace(
        paths,
        times=times - times[:, :1],
        states=cut(paths.states),
        signal=cut(paths.signal),
        lengths=lengths,
        starts=paths.starts[path] & (number == 0),
    )


def on_grid(paths: Paths, step: float) -> Paths:
    """Paths of which every jump is known, read every `step` from their start on: the state at or before each time.

    A histogram over the rows of such paths counts visits, not time. Times start at 0.
    """
    assert paths.complete and paths.states is not None
    since = paths.times - paths.times[:, :1]
    lengths = np.floor(since[:, -1] / step * (1 + 1e-12)).astype(np.int64) + 1
    times = step * np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)
    known = JumpPaths(*map(torch.from_numpy, (since, paths.states, paths.lengths)))
    states = known.on_grid(torch.from_numpy(times)).numpy()
    return replace(paths, times=times, states=states, signal=None, lengths=lengths, complete=False)


def at_lag(paths: Paths, lag: float) -> tuple[Paths, np.ndarray]:
    """The paths seen every `lag` only, once from each of the possible first observations.

    Rates of a process that is not Markovian at the spacing of the data depend on the lag; longer lags are nearer to a
    chain. All shifts together use every pair of observations one lag apart (sliding windows). They are
    not independent; there are as many independent ones as in the first piece of each path.

    Args:
        paths: Times on a common spacing; points may be missing.
        lag: Multiple of the spacing.

    Returns:
        The pieces, path by path, without those of a single observation; and which pieces are the first of their path
        (n,) bool: one for each path, so they do not overlap.

    Raises:
        UserError: No common spacing, or a lag that is not a multiple of it or longer than the paths.
    """
    unit = spacing(paths)
    if paths.complete or unit is None:
        raise UserError("lag: the times are not on a common spacing; leave the lag out (each interval counts as it is)")
    stride = round(lag / unit) if np.isfinite(lag) else 0
    if stride < 1 or abs(lag / unit - stride) > 0.01 * stride:
        raise UserError(f"lag: got {lag:g}, expected a multiple of the spacing {unit:g} {paths.unit}".rstrip())
    if stride == 1:
        return paths, np.ones(len(paths), bool)
    frames = np.round((paths.times - paths.times[:, :1]) / unit).astype(np.int64)
    if frames.max() < stride:
        raise UserError(f"lag: got {lag:g}, longer than every path; the longest lasts {frames.max() * unit:g}")
    path, column = np.nonzero(paths.mask)
    shift = frames[path, column] % stride
    order = np.lexsort((column, shift, path))
    path, column, shift = path[order], column[order], shift[order]
    heads = np.concatenate([[True], (np.diff(path) != 0) | (np.diff(shift) != 0)])
    piece = np.cumsum(heads) - 1
    begin = np.flatnonzero(heads)
    lengths = np.bincount(piece)
    place = begin[:, None] + np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)
    source = path[place], column[place]

    def pick(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[source]

    thinned = replace(
        paths,
        times=unit * frames[source],
        states=pick(paths.states),
        signal=pick(paths.signal),
        lengths=lengths,
        starts=paths.starts[path[begin]] & (column[begin] == 0),
    )
    kept = lengths > 1
    return thinned.take(kept), np.diff(path[begin][kept], prepend=-1) != 0
