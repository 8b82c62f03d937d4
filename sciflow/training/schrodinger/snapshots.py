"""Snapshots of a population: point clouds at several times, no pairing between them.

The common input of the Schrödinger bridge engines (Shen, Berlinghieri and Broderick 2024, arXiv 2408.06277, section 2).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sciflow.core.errors import UserError

CLOSE = 1e-9  # times that differ by less than this share of the whole span are one time


@dataclass(frozen=True, eq=False)
class Snapshots:
    """K clouds at increasing times; build it with `Snapshots.of`, which checks everything.

    Attributes:
        times: (K,) float64, increasing; any unit.
        points: K arrays (n_k, d) float64, n_k >= 2, finite.
        weights: K arrays (n_k,) float64, positive or zero, each summing to 1.
    """

    times: np.ndarray
    points: tuple[np.ndarray, ...]
    weights: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def of(
        cls,
        points: Sequence[np.ndarray],
        times: Iterable[float] | None = None,
        weights: Sequence[np.ndarray | None] | None = None,
    ) -> Snapshots:
        """Snapshots from arrays, sorted by time.

        Args:
            points: K arrays (n_k, d), any numeric type.
            times: K numbers; None: 0, 1, 2, ...
            weights: K arrays (n_k,), scaled to sum to 1 each; None (also for one snapshot): uniform.

        Raises:
            UserError: Fewer than 2 snapshots or 2 points at a time, NaN, unequal dimensions, equal or NaN times,
                negative weights. Equal points only give a warning.
        """
        clouds = [_numeric(one, f"snapshot {k}") for k, one in enumerate(points)]
        moments = np.arange(len(clouds), dtype=float) if times is None else _numeric(list(times), "times")
        masses = [None] * len(clouds) if weights is None else list(weights)
        if moments.shape != (len(clouds),) or len(masses) != len(clouds):
            got = f"{len(clouds)} snapshots, {moments.size} times and {len(masses)} weights"
            raise UserError(f"snapshots: got {got}, expected as many of each")
        order = np.argsort(moments, kind="stable")
        shares = [_shares(masses[k], len(clouds[k]), float(moments[k])) for k in order]
        return cls(moments[order], tuple(clouds[k] for k in order), tuple(shares))

    def __len__(self) -> int:
        return len(self.times)

    @property
    def dimension(self) -> int:
        """d."""
        return self.points[0].shape[1]

    @property
    def sizes(self) -> tuple[int, ...]:
        """n_k of each snapshot."""
        return tuple(len(one) for one in self.points)

    def index(self, times: Iterable[float]) -> list[int]:
        """Positions of snapshots by their times.

        Raises:
            UserError: No snapshot at one of the times.
        """
        near = CLOSE * (self.times[-1] - self.times[0])
        found = []
        for time in times:
            position = int(np.abs(self.times - float(time)).argmin())
            if not abs(self.times[position] - float(time)) <= near:
                there = ", ".join(f"{one:g}" for one in self.times)
                raise UserError(f"held-out time {time:g}: no snapshot is there; the snapshots are at {there}")
            found.append(position)
        return found

    def split(self, held_out: Iterable[float]) -> tuple[Snapshots, Held]:
        """Snapshots to fit and snapshots to score.

        Args:
            held_out: Times of the snapshots that are not fitted; the first and last must stay.

        Raises:
            UserError: No snapshot at one of the times, or it is the first or the last.
        """
        held = sorted(set(self.index(held_out)))
        for k in held:
            if k in (0, len(self) - 1):
                inner = ", ".join(f"{one:g}" for one in self.times[1:-1]) or "none (there are only two snapshots)"
                raise UserError(
                    f"held-out time {self.times[k]:g} is the first or last snapshot; a bridge needs both; expected "
                    f"times among: {inner}"
                )
        kept = [k for k in range(len(self)) if k not in held]
        train = Snapshots(self.times[kept], *(tuple(part[k] for k in kept) for part in (self.points, self.weights)))
        return train, Held(self.times[held], *(tuple(part[k] for k in held) for part in (self.points, self.weights)))

    def weighted(self, weights: Sequence[np.ndarray | None]) -> Snapshots:
        """The same points with other weights, scaled to sum to 1 each; None: uniform."""
        if len(weights) != len(self):
            raise UserError(f"snapshots: got {len(weights)} weights for {len(self)} snapshots")
        shares = [_shares(w, n, t) for w, n, t in zip(weights, self.sizes, self.times, strict=True)]
        return replace(self, weights=tuple(shares))

    def resampled(self, random: np.random.Generator) -> Snapshots:
        """A bootstrap sample: of each snapshot as many cells drawn with replacement; copies count by their weight."""
        counts = [random.multinomial(n, w) for n, w in zip(self.sizes, self.weights, strict=True)]
        points = tuple(cloud[count > 0] for cloud, count in zip(self.points, counts, strict=True))
        return Snapshots(self.times, points, tuple(count[count > 0] / count.sum() for count in counts))


@dataclass(frozen=True, eq=False)
class Held:
    """Held-out snapshots, M >= 0 of them; the attributes are those of `Snapshots`."""

    times: np.ndarray
    points: tuple[np.ndarray, ...]
    weights: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.times)


def _numeric(values: object, what: str) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{what}: got values that are not numbers, expected an array of numbers") from None


def _shares(weights: np.ndarray | None, count: int, time: float) -> np.ndarray:
    if weights is None:
        return np.full(count, 1.0 / max(count, 1))
    weights = _numeric(weights, f"weights at time {time:g}")
    if weights.shape != (count,) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise UserError(f"weights at time {time:g}: expected {count} finite numbers >= 0 with a positive sum")
    return weights / weights.sum()


def _check(snapshots: Snapshots) -> None:
    times, points = snapshots.times, snapshots.points
    if len(points) < 2:
        raise UserError(f"got {len(points)} snapshots, expected at least 2 times")
    if not np.isfinite(times).all():
        raise UserError("times: got NaN or infinity, expected finite numbers")
    if (np.diff(times) <= CLOSE * (times[-1] - times[0])).any():
        raise UserError(f"times: got {', '.join(f'{t:g}' for t in times)}, expected different ones in increasing order")
    for time, cloud in zip(times, points, strict=True):
        if cloud.ndim != 2 or cloud.shape[1] != points[0].shape[-1] or cloud.shape[1] == 0:
            raise UserError(
                f"snapshot at time {time:g}: got shape {cloud.shape}, expected (cells, {points[0].shape[-1]})"
            )
        if len(cloud) < 2:
            raise UserError(f"snapshot at time {time:g}: got {len(cloud)} points, expected at least 2; drop this time")
        if bad := int((~np.isfinite(cloud)).any(axis=1).sum()):
            raise UserError(f"snapshot at time {time:g}: {bad} of {len(cloud)} points hold NaN or infinity; drop them")
        if same := len(cloud) - len(np.unique(cloud, axis=0)):
            warnings.warn(f"snapshot at time {time:g}: {same} points are copies of others", stacklevel=4)
