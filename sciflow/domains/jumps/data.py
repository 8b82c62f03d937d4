"""Paths of a jump process as one padded batch: observation times, states or a raw signal, ragged lengths.

A path is x(tau_1), ..., x(tau_L) with its own times (section 15 of the specification of FIM-MJP, Berghaus et al.,
NeurIPS 2024). Times are physical: nothing is normalised here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sciflow.core.errors import UserError

MOST_STATES = 10_000  # labels beyond are numbers of something else


@dataclass(frozen=True, eq=False)
class Paths:
    """K paths of up to L observations. Padding repeats the last valid time, state and signal value.

    Attributes:
        times: (K, L) float64, not decreasing along the valid part of a path.
        states: (K, L) int64 labels in 0..S-1, or None where only the signal is known.
        signal: (K, L) float64 raw signal, or None.
        lengths: (K,) int64, at least 1.
        states_count: S; 0 where neither states nor their number are known (a raw signal).
        unit: Unit of time, e.g. "ps"; "" if unknown.
        names: S names of the states.
        starts: (K,) bool, True where the first observation is a draw of the initial law p0; False for the later
            windows of a cut trajectory.
        complete: Whether every jump is known: x(t) keeps the state of the latest time, the last time is the end of
            the observation. False: values on a grid, jumps in between unseen.
        warnings: What a reader had to repair or found odd, one sentence each.
    """

    times: np.ndarray
    lengths: np.ndarray
    states: np.ndarray | None = None
    signal: np.ndarray | None = None
    states_count: int = 0
    unit: str = ""
    names: tuple[str, ...] = ()
    starts: np.ndarray = None  # type: ignore[assignment]  # set below: every path starts from p0 unless told otherwise
    complete: bool = False
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.starts is None:
            object.__setattr__(self, "starts", np.ones(len(self.times), bool))
        if not self.names:
            object.__setattr__(self, "names", tuple(map(str, range(self.states_count))))
        _check(self)

    @classmethod
    def of(
        cls,
        times: Any,
        states: Any = None,
        *,
        signal: Any = None,
        states_count: int | None = None,
        unit: str = "",
        names: Sequence[str] = (),
        starts: Any = None,
        complete: bool = False,
        warnings: Sequence[str] = (),
    ) -> Paths:
        """Paths of ragged lists or of arrays.

        Args:
            times: One sequence per path, an array (K, L), or one grid (L,) that all paths share.
            states: One sequence of labels per path, or an array (K, L); None: only the signal.
            signal: As `states`, raw values.
            states_count: S; None: the number of names, else the largest label + 1.
            unit: Unit of time.
            names: Names of the states.
            starts: One flag per path; None: all True.
            complete: As the attribute.
            warnings: As the attribute.

        Raises:
            UserError: Lengths that differ, decreasing times, labels outside 0..S-1 or not whole, NaN.
        """
        given = states if states is not None else signal
        if given is None:
            raise UserError("paths: got neither states nor a signal; give one of them")
        count = len(given)
        shared = not isinstance(times, list | tuple) and np.ndim(times) == 1
        grids = [times] * count if shared else times
        values = {"states": states, "signal": signal, "times": grids}
        lists = {name: _arrays(name, value) for name, value in values.items() if value is not None}
        lengths = _lengths(lists)
        labels = _labels(lists["states"], lengths) if states is not None else None
        if states_count is None:
            states_count = len(names) or (0 if labels is None else int(labels.max()) + 1)
        return cls(
            _padded(lists["times"], lengths),
            lengths,
            labels,
            _padded(lists["signal"], lengths) if signal is not None else None,
            states_count,
            unit,
            tuple(map(str, names)),
            np.ones(count, bool) if starts is None else np.asarray(starts, bool),
            complete,
            tuple(warnings),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def mask(self) -> np.ndarray:
        """(K, L) bool: True at observations, False at padding."""
        return np.arange(self.times.shape[1]) < self.lengths[:, None]

    @property
    def observations(self) -> int:
        """Number of observations in all paths."""
        return int(self.lengths.sum())

    @property
    def duration(self) -> float:
        """Observed time, summed over paths, in `unit`."""
        return float((self.times[:, -1] - self.times[:, 0]).sum())

    def take(self, indices: Any) -> Paths:
        """The paths with these numbers (or a boolean mask), columns cut to the longest."""
        lengths = self.lengths[indices]
        if not lengths.size:
            raise UserError("paths: no path is left; expected at least one")
        width = int(lengths.max())

        def cut(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[indices][:, :width]

        times, states, signal = cut(self.times), cut(self.states), cut(self.signal)
        changed = {"times": times, "states": states, "signal": signal, "lengths": lengths}
        return replace(self, **changed, starts=self.starts[indices])

    def with_states(self, states: np.ndarray, states_count: int, names: Sequence[str] = ()) -> Paths:
        """The same paths with these labels (K, L); padding is overwritten by the last valid label."""
        if np.shape(states) != self.times.shape:
            raise UserError(f"states: got the shape {np.shape(states)}, expected that of the times {self.times.shape}")
        last = np.take_along_axis(states, self.lengths[:, None] - 1, axis=1)
        states = np.where(self.mask, states, last).astype(np.int64)
        return replace(self, states=states, states_count=states_count, names=tuple(map(str, names)))

    def with_count(self, states_count: int) -> Paths:
        """The same labels among S states; those beyond the present names are called `unseen 1`, `unseen 2`, ...

        Raises:
            UserError: A label is not below S.
        """
        spare = (f"unseen {k + 1}" for k in range(states_count - self.states_count))
        return replace(self, states_count=states_count, names=(*self.names, *spare)[:states_count])

    def warned(self, *sentences: str) -> Paths:
        """The same paths with further warnings."""
        return replace(self, warnings=(*self.warnings, *sentences)) if sentences else self


def _arrays(name: str, paths: Any) -> list[np.ndarray]:
    """One array per path; float64, but states as they are."""
    try:
        arrays = [np.asarray(path) for path in paths]
        if any(array.dtype.kind in "mM" for array in arrays):
            raise TypeError("dates; take e.g. seconds since the first")
        return arrays if name == "states" else [array.astype(np.float64) for array in arrays]
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: got {error}; expected one flat list of numbers for each path") from None


def _lengths(lists: dict[str, list[np.ndarray]]) -> np.ndarray:
    counts = {name: len(paths) for name, paths in lists.items()}
    if len(set(counts.values())) > 1 or not min(counts.values()):
        raise UserError(f"paths: got {counts} paths; expected the same number of each, at least one")
    for number, each in enumerate(zip(*lists.values(), strict=True)):
        sizes = {name: path.size for name, path in zip(lists, each, strict=True)}
        if any(path.ndim != 1 for path in each) or len(set(sizes.values())) > 1 or not min(sizes.values()):
            raise UserError(
                f"path {number}: got {sizes} values; expected one flat, equally long, non-empty list each "
                "(a single path: [times], [states])"
            )
    return np.array([path.size for path in lists["times"]], np.int64)


def _padded(paths: list[np.ndarray], lengths: np.ndarray) -> np.ndarray:
    """(K, L) float64, the last value of each path repeated."""
    flat = np.concatenate([path.astype(np.float64) for path in paths])
    ends = np.cumsum(lengths)
    columns = np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)
    return flat[(ends - lengths)[:, None] + columns]


def _labels(paths: list[np.ndarray], lengths: np.ndarray) -> np.ndarray:
    """(K, L) int64 of labels given as any numbers, all whole."""
    if any(path.dtype.kind not in "iufb" for path in paths):
        raise UserError(
            "states: got labels that are not numbers; expected whole numbers from 0 (the readers of "
            "sciflow.domains.jumps.files number string labels)"
        )
    values = _padded(paths, lengths)
    wrong = ~np.isfinite(values) | (values != np.round(values)) | (values >= MOST_STATES)
    if wrong.any():
        path, column = np.argwhere(wrong)[0]
        raise UserError(
            f"states: path {path}, observation {column} is {values[path, column]}; expected whole numbers from 0 "
            f"to at most {MOST_STATES - 1} without gaps (real values are a signal, not states)"
        )
    return values.astype(np.int64)


def _check(paths: Paths) -> None:
    """Refuse what no estimator can use."""
    times, states, count = paths.times, paths.states, paths.states_count
    if not np.isfinite(times).all():
        path, column = np.argwhere(~np.isfinite(times))[0]
        raise UserError(f"times: path {path}, observation {column} is {times[path, column]}; expected finite numbers")
    steps = np.diff(times, axis=1)
    if (steps < 0).any():
        path, column = np.argwhere(steps < 0)[0]
        raise UserError(
            f"times: path {path} goes from {times[path, column]:g} back to {times[path, column + 1]:g} at observation "
            f"{column + 1}; expected times that do not decrease (sort the rows, or give each path its own name)"
        )
    if paths.signal is not None and not np.isfinite(paths.signal).all():
        missing = ~np.isfinite(paths.signal)
        path, column = np.argwhere(missing)[0]
        raise UserError(
            f"signal: {missing.sum()} of {missing.size} values are not finite, first in path {path}, observation "
            f"{column}; drop those observations"
        )
    if len(paths.starts) != len(times):
        raise UserError(f"starts: got {len(paths.starts)} flags, expected one for each of {len(times)} paths")
    if paths.names and len(paths.names) != count:
        raise UserError(f"names: got {len(paths.names)} names of {count} states; expected one for each")
    if states is None:
        return
    if states.min() < 0 or states.max() >= count:
        path, column = np.argwhere((states < 0) | (states >= count))[0]
        raise UserError(
            f"labels outside range: path {path}, observation {column} has label {states[path, column]}; expected "
            f"0..{count - 1} ({count} states; sciflow.jumps.lump merges states)"
        )
    clash = (steps == 0) & (np.diff(states, axis=1) != 0)
    if clash.any() and not paths.complete:
        path, column = np.argwhere(clash)[0]
        raise UserError(
            f"times: path {path} has two different states at time {times[path, column]:g}; expected one state at a time"
        )
