"""Cells at several times, as read: coordinates, their rows in the source, how to get back to genes, and all checks.

Nothing is repaired in silence: what cannot be used is an error that names the key and says what exists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sciflow.core.errors import UserError

DUPLICATES = ("error", "keep", "drop")
_NUMBER = re.compile(r"(?<![\d.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True, eq=False)
class Decoder:
    """From coordinates to genes: x = mean + z @ loadings.T (principal components).

    Attributes:
        loadings: (genes, d).
        mean: (genes,) what the components were centred at.
        genes: Names (genes,).
    """

    loadings: np.ndarray
    mean: np.ndarray
    genes: tuple[str, ...]

    def expression(self, z: np.ndarray, genes: Sequence[str] | None = None) -> np.ndarray:
        """Expression at coordinates (..., d), in the unit that the components were computed from: (..., genes).

        Args:
            z: (..., d).
            genes: Names to decode; None: all.
        """
        rows = self.rows(genes)
        return self.mean[rows] + np.asarray(z, np.float64) @ self.loadings[rows].T

    def direction(self, v: np.ndarray, genes: Sequence[str] | None = None) -> np.ndarray:
        """Velocities (..., d) as velocities of genes (..., genes): no mean is added."""
        return np.asarray(v, np.float64) @ self.loadings[self.rows(genes)].T

    def rows(self, genes: Sequence[str] | None) -> np.ndarray:
        """Positions of genes by name.

        Raises:
            UserError: A name is not among them.
        """
        if genes is None:
            return np.arange(len(self.genes))
        place = {gene: i for i, gene in enumerate(self.genes)}
        if missing := [gene for gene in genes if gene not in place]:
            some = ", ".join(self.genes[:8])
            raise UserError(f"genes: {', '.join(missing)} not found; there are {len(self.genes)} genes: {some} ...")
        return np.array([place[gene] for gene in genes])


@dataclass(frozen=True, eq=False)
class Cells:
    """K populations at increasing times; built by `Cells.of`, which checks.

    Attributes:
        times: (K,) float64, increasing.
        points: K arrays (n_k, d) float64.
        rows: K arrays (n_k,): the row of each cell in the source.
        names: d names of the coordinates.
        source: Where they come from, in words.
        facts: What is known of the set: `heldout` times, `theta_true`, `sigma`; may be empty.
        notes: Sentences about what was done on reading.
        decoder: Back to genes, or None.
    """

    times: np.ndarray
    points: tuple[np.ndarray, ...]
    rows: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    source: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    decoder: Decoder | None = None

    @classmethod
    def of(
        cls,
        coordinates: np.ndarray,
        times: np.ndarray,
        *,
        source: str,
        names: Sequence[str] | None = None,
        duplicates: str = "error",
        label: Callable[[int], str] = lambda row: f"row {row}",
        facts: dict[str, Any] | None = None,
    ) -> Cells:
        """Populations from one table.

        Args:
            coordinates: (N, d) numbers.
            times: (N,) finite numbers.
            source: Named in errors.
            names: Of the coordinates.
            duplicates: What to do with cells at the very same place and time: "error", "keep" or "drop" (keep one).
            label: Name of a row, for errors.
            facts: See the attributes.

        Raises:
            UserError: NaN, duplicates, fewer than two times, a time with fewer than two cells.
        """
        if duplicates not in DUPLICATES:
            raise UserError(f"duplicates: got '{duplicates}', expected one of {', '.join(DUPLICATES)}")
        table = _table(coordinates, source)
        times = np.asarray(times, np.float64)
        if bad := np.flatnonzero(~np.isfinite(table).all(axis=1)).tolist():
            raise UserError(
                f"{source}: {len(bad)} of {len(table)} cells hold NaN or infinity, the first is {label(bad[0])}; "
                "remove them"
            )
        moments, groups = np.unique(times, return_inverse=True)
        if len(moments) < 2:
            raise UserError(f"{source}: got cells at {len(moments)} time, expected at least 2 different times")
        notes, points, rows = [], [], []
        for k, moment in enumerate(moments):
            members = np.flatnonzero(groups == k)
            members, note = _without_copies(table, members, float(moment), duplicates, source, label)
            notes += note
            if len(members) < 2:
                sizes = ", ".join(f"{t:g}: {int((groups == i).sum())}" for i, t in enumerate(moments))
                raise UserError(
                    f"{source}: time {moment:g} has {len(members)} cell, expected at least 2; cells at each time: "
                    f"{sizes}; leave this time out"
                )
            points.append(table[members])
            rows.append(members)
        kept = tuple(names) if names is not None else tuple(f"x{i + 1}" for i in range(table.shape[1]))
        return cls(moments, tuple(points), tuple(rows), kept, source, facts or {}, tuple(notes))

    @property
    def count(self) -> int:
        """Cells at all times."""
        return sum(len(one) for one in self.points)

    @property
    def dimension(self) -> int:
        """d."""
        return self.points[0].shape[1]

    def subset(self, most: int, seed: int = 0) -> Cells:
        """At most so many cells of each time, drawn without replacement."""
        if most < 2:
            raise UserError(f"cells per time: got {most}, expected at least 2")
        random = np.random.default_rng(seed)
        chosen = [np.sort(random.permutation(len(one))[:most]) for one in self.points]
        points, rows = (tuple(a[c] for a, c in zip(part, chosen, strict=True)) for part in (self.points, self.rows))
        return replace(self, points=points, rows=rows)


def _table(coordinates: np.ndarray, source: str) -> np.ndarray:
    try:
        table = np.asarray(coordinates, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{source}: the coordinates are not numbers, expected a table (cells, coordinates)") from None
    if table.ndim != 2 or 0 in table.shape:
        raise UserError(f"{source}: got coordinates of shape {table.shape}, expected (cells, coordinates)")
    return table


def _without_copies(
    table: np.ndarray, members: np.ndarray, time: float, duplicates: str, source: str, label: Callable[[int], str]
) -> tuple[np.ndarray, list[str]]:
    """Members of one time after the rule for duplicates, and what must be said."""
    _, first, groups = np.unique(table[members], axis=0, return_index=True, return_inverse=True)
    extra = len(members) - len(first)
    if not extra:
        return members, []
    if duplicates == "error":
        copy = next(i for i in range(len(members)) if first[groups.ravel()[i]] != i)
        same = members[first[groups.ravel()[copy]]]
        raise UserError(
            f"{source}: {extra} cells at time {time:g} are duplicates (equal coordinates), e.g. {label(int(same))} and "
            f"{label(int(members[copy]))}; remove them, or pass duplicates='drop' to keep one of each, 'keep' for "
            "all (CLI: --duplicates drop)"
        )
    kept = members[np.sort(first)] if duplicates == "drop" else members
    done = "dropped" if duplicates == "drop" else "kept"
    return kept, [f"time {time:g}: {extra} duplicate cells {done}"]


def numeric_times(values: Any, key: str) -> np.ndarray:
    """Times as numbers: (N,) float64.

    Numbers are taken as they are, also inside categories. Text must hold exactly one number each, with the same words
    around it everywhere ("day 3", "day 10"); then the number counts.

    Args:
        values: N values of any kind (array, list, pandas series).
        key: Where they come from, for errors.

    Raises:
        UserError: Missing values, truth values, dates, or text that is not unambiguous.
    """
    values = np.asarray(values)
    if values.dtype.kind in "iuf":
        times = values.astype(np.float64)
        if bad := int((~np.isfinite(times)).sum()):
            raise UserError(f"{key}: {bad} of {len(times)} cells have no time (NaN); remove them")
        return times
    if values.dtype.kind in "bmM":
        raise UserError(f"{key}: got {values.dtype} values, expected numbers (days, hours ...); add a numeric column")
    seen: dict[str, float] = {}
    words: dict[str, str] = {}
    for value in dict.fromkeys(values.tolist()):
        if value is None or value != value:  # NaN
            missing = sum(one is None or one != one for one in values.tolist())
            raise UserError(f"{key}: {missing} of {len(values)} cells have no time; remove them")
        seen[str(value)], words[str(value)] = _one_number(str(value), key, values)
    if len(set(words.values())) > 1:
        pair = list({word: name for name, word in words.items()}.values())[:2]
        raise UserError(f"{key}: '{pair[0]}' and '{pair[1]}' may be in different units; add a numeric column")
    if len(set(seen.values())) < len(seen):
        raise UserError(f"{key}: different labels give the same number ({', '.join(seen)}); add a numeric column")
    return np.array([seen[str(value)] for value in values.tolist()])


def _one_number(text: str, key: str, values: np.ndarray) -> tuple[float, str]:
    """The number in a label and the words around it."""
    found = _NUMBER.findall(text)
    if len(found) != 1:
        some = ", ".join(f"'{one}'" for one in list(dict.fromkeys(map(str, values.tolist())))[:6])
        raise UserError(
            f"{key}: the time '{text}' is not a number; got {some}, expected numbers or labels with one number each, "
            "such as 'day 3'; add a numeric column"
        )
    before, after = text.split(found[0], 1)
    if before.endswith(tuple("-+")):  # "day-3": a dash, not a sign
        before = before[:-1]
    number = found[0]
    if number[0] in "-+" and before.strip():  # "day-3", "D+3"
        number = number[1:]
    return float(number), " ".join(f"{before} # {after}".lower().split()).strip("_ ")
