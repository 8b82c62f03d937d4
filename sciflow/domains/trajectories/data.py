r"""Trajectories: T frames of N labelled points in D dimensions, with invariant features of points and pairs.

Molecules (GeoTDM, section 4 of Han et al., NeurIPS 2024): a point has 30 channels, one-hot(Z, 10 classes) x
(Z/10)^{0, 1, 2}; elements beyond Z = 9 share class 0 and are told apart by the powers. Pairs have 4 channels, one-hot
of the number of bonds between the atoms: 1, 2, 3, farther. Bonds that a file does not bring are the pairs closer than
1.6 angstrom in its first frame. n-body systems: charge, 0 or mass per point; q_i q_j, k_ij or 0 per pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sciflow.core.errors import UserError

CLASSES, POWERS = 10, 3
ATOM_CHANNELS = CLASSES * POWERS
HOPS = 4  # pair channels of molecules: 1, 2, 3 bonds apart, farther
BOND = 1.6  # angstrom
COINCIDENT = 1e-4  # points closer than this have no direction between them
UNITS = ("fs", "step", "s")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One trajectory.

    Attributes:
        positions: (T, N, D) float64; angstrom for molecules, metres for pedestrians, none for n-body systems.
        times: (T,) float64, increasing.
        unit: Of the times: "fs", "s", or "step" where a file does not say.
        features: (N, F) float32, invariant.
        pairs: (N, N, E) float32, symmetric.
        numbers: (N,) atomic numbers, or None.
        bonds: (n, 2) indices of bonded atoms, or None.
        names: (N,) names of atoms, or None.
        observed: (T,) frames that were given rather than generated, or None.
    """

    positions: np.ndarray
    times: np.ndarray
    unit: str
    features: np.ndarray
    pairs: np.ndarray
    numbers: np.ndarray | None = None
    bonds: np.ndarray | None = None
    names: np.ndarray | None = None
    observed: np.ndarray | None = None

    @property
    def frames(self) -> int:
        """T."""
        return len(self.positions)

    @property
    def atoms(self) -> int:
        """N."""
        return self.positions.shape[1]

    @property
    def dims(self) -> int:
        """D."""
        return self.positions.shape[2]

    @property
    def spacing(self) -> float:
        """Median time between frames; 1 for a single frame."""
        return float(f"{np.median(np.diff(self.times)):.9g}") if self.frames > 1 else 1.0

    def select(self, frames: Any) -> Trajectory:
        """The chosen frames (a slice, indices or a mask)."""
        observed = None if self.observed is None else self.observed[frames]
        return replace(self, positions=self.positions[frames], times=self.times[frames], observed=observed)


def molecule(
    positions: np.ndarray,
    times: np.ndarray | float,
    numbers: np.ndarray,
    *,
    unit: str = "fs",
    bonds: np.ndarray | None = None,
    names: Sequence[str] | np.ndarray | None = None,
    observed: np.ndarray | None = None,
    source: str = "trajectory",
) -> Trajectory:
    """A checked trajectory of a molecule.

    Args:
        positions: (T, N, D) angstrom.
        times: (T,) or the time between frames.
        numbers: (N,) atomic numbers; 0 for unknown.
        unit: Of the times.
        bonds: (n, 2); None: pairs closer than 1.6 angstrom in the first frame.
        names: (N,) names of atoms.
        observed: (T,) frames that were given.
        source: How errors call it.

    Raises:
        UserError: Positions that are unusable (see `check_positions`), or arrays that do not fit together.
    """
    positions = check_positions(positions, source)
    numbers = np.asarray(numbers, np.int64)
    atoms = positions.shape[1]
    if numbers.shape != (atoms,) or (numbers < 0).any() or (numbers > 118).any():
        raise UserError(f"{source}: got {numbers.size} atomic numbers, expected {atoms} from 0 to 118, one per atom")
    bonds = first_frame_bonds(positions[0]) if bonds is None else check_bonds(bonds, atoms, source)
    return Trajectory(
        positions,
        check_times(times, len(positions), source),
        unit,
        atom_features(numbers),
        hop_features(bonds, atoms),
        numbers,
        bonds,
        None if names is None else np.asarray([str(name) for name in names]),
        observed,
    )


def points(
    positions: np.ndarray,
    times: np.ndarray | float,
    features: np.ndarray | None = None,
    pairs: np.ndarray | None = None,
    *,
    unit: str = "step",
    observed: np.ndarray | None = None,
    source: str = "trajectory",
) -> Trajectory:
    """A checked trajectory of points that are no atoms; features default to one channel of 1, pairs to one of 0.

    Raises:
        UserError: As `molecule`.
    """
    positions = check_positions(positions, source)
    atoms = positions.shape[1]
    features = np.ones((atoms, 1)) if features is None else np.asarray(features)
    pairs = np.zeros((atoms, atoms, 1)) if pairs is None else np.asarray(pairs)
    if features.shape[:-1] != (atoms,) or pairs.shape[:-1] != (atoms, atoms):
        raise UserError(
            f"{source}: got features {features.shape} and pairs {pairs.shape}, expected ({atoms}, F) and "
            f"({atoms}, {atoms}, E)"
        )
    if not np.array_equal(pairs, pairs.swapaxes(0, 1)):
        raise UserError(
            f"{source}: got features of pairs that differ between (i, j) and (j, i), expected symmetric ones"
        )
    times = check_times(times, len(positions), source)
    return Trajectory(positions, times, unit, features.astype(np.float32), pairs.astype(np.float32), observed=observed)


# -- checks ----------------------------------------------------------------------------------------------------------
def check_positions(positions: np.ndarray, source: str) -> np.ndarray:
    """Positions as float64 (T, N, D), or an error that names the first bad frame.

    Raises:
        UserError: Another shape, no points, numbers that are not finite, or two points on top of each other.
    """
    positions = np.asarray(positions)
    if positions.ndim != 3 or positions.shape[2] not in (2, 3) or 0 in positions.shape:
        raise UserError(f"{source}: got positions of shape {positions.shape}, expected (frames, atoms, 3) or (.., 2)")
    if positions.dtype.kind not in "fiu":
        raise UserError(f"{source}: got positions of type {positions.dtype}, expected numbers")
    positions = positions.astype(np.float64)
    broken = ~np.isfinite(positions).all((1, 2))
    if broken.any():
        raise UserError(
            f"{source}: frame {int(broken.argmax())} holds NaN or infinite positions ({broken.sum()} of "
            f"{len(positions)} frames do), expected finite numbers; remove those frames"
        )
    met = coincident(positions)
    if met is not None:
        frame, i, j = met
        raise UserError(
            f"{source}: atoms {i} and {j} lie on the same place in frame {frame}, expected different places"
        )
    return positions


def coincident(positions: np.ndarray) -> tuple[int, int, int] | None:
    """(frame, i, j) of the first two points closer than 1e-4 in (T, N, D), or None. Neighbours along a sort by x."""
    if positions.shape[1] < 2:
        return None
    order = np.argsort(positions[..., 0], axis=1)
    x = np.take_along_axis(positions[..., 0], order, 1)
    suspects = np.flatnonzero((np.diff(x, axis=1) < COINCIDENT).any(1))
    for frame in suspects:  # few: two points of a frame agree in x to 1e-4
        difference = positions[frame][:, None] - positions[frame][None]
        near = np.triu((difference**2).sum(-1) < COINCIDENT**2, 1)
        if near.any():
            i, j = np.argwhere(near)[0]
            return int(frame), int(i), int(j)
    return None


def check_times(times: np.ndarray | float, frames: int, source: str) -> np.ndarray:
    """(T,) float64 increasing times; a number is the time between frames.

    Raises:
        UserError: Not increasing or of another length.
    """
    times = np.asarray(times, np.float64)
    if times.ndim == 0:
        times = np.arange(frames) * times
        if frames == 1:
            return times
    if times.shape != (frames,) or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise UserError(f"{source}: got times of shape {times.shape}, expected {frames} increasing numbers")
    return times


def check_bonds(bonds: np.ndarray, atoms: int, source: str) -> np.ndarray:
    """(n, 2) int64 pairs of different atoms.

    Raises:
        UserError: Another shape, or indices that are no atoms.
    """
    bonds = np.asarray(bonds, np.int64).reshape(-1, 2) if np.size(bonds) == 0 else np.asarray(bonds)
    if bonds.ndim != 2 or bonds.shape[1] != 2 or bonds.dtype.kind not in "iu":
        raise UserError(f"{source}: got bonds of shape {bonds.shape}, expected pairs of atom indices (n, 2)")
    if len(bonds) and (bonds.min() < 0 or bonds.max() >= atoms or (bonds[:, 0] == bonds[:, 1]).any()):
        raise UserError(f"{source}: got bonds with indices {bonds.min()} to {bonds.max()}, expected 0 to {atoms - 1}")
    return bonds.astype(np.int64)


# -- features --------------------------------------------------------------------------------------------------------
def atom_features(numbers: np.ndarray) -> np.ndarray:
    """(N, 30) float32: channel 3 c + p holds (Z/10)^p where the class of Z is c."""
    numbers = np.asarray(numbers, np.int64)
    classes = np.where(numbers < CLASSES, numbers, 0)
    one_hot = np.eye(CLASSES)[classes]
    powers = (numbers[:, None] / 10.0) ** np.arange(POWERS)
    return (one_hot[:, :, None] * powers[:, None, :]).reshape(len(numbers), -1).astype(np.float32)


def atom_numbers(features: np.ndarray) -> np.ndarray:
    """(N,) atomic numbers from (N, 30) features."""
    return np.rint(10 * features.reshape(len(features), CLASSES, POWERS)[:, :, 1].sum(1)).astype(np.int64)


def first_frame_bonds(frame: np.ndarray) -> np.ndarray:
    """(n, 2) pairs i < j of points (N, D) closer than 1.6 angstrom."""
    distances = np.linalg.norm(frame[:, None] - frame[None], axis=-1)
    return np.argwhere(np.triu(distances < BOND, 1))


def hop_features(bonds: np.ndarray, atoms: int) -> np.ndarray:
    """(N, N, 4) float32 one-hot of the number of bonds between two atoms: 1, 2, 3, more or unconnected; diagonal 0."""
    adjacent = np.zeros((atoms, atoms), bool)
    adjacent[bonds[:, 0], bonds[:, 1]] = adjacent[bonds[:, 1], bonds[:, 0]] = True
    found = np.eye(atoms, dtype=bool)
    reached, channels = found.copy(), []
    for _ in range(HOPS - 1):
        reached = (reached.astype(np.int32) @ adjacent.astype(np.int32)) > 0
        channels.append(reached & ~found)
        found |= reached
    return np.stack([*channels, ~found], -1).astype(np.float32)
