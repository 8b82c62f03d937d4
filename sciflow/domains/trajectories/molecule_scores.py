r"""Scores and curves of molecular trajectories against real ones: internal coordinates, validity, motion.

| score | meaning |
|---|---|
| bond_jsd, angle_jsd, torsion_jsd, ramachandran_jsd | divergence of histograms [nats], see `torsions` |
| valid_frames, valid_trajectories | share whose bonds and contacts stay within the limits of real ones |
| smallest_distance | of two atoms that are not bonded, over all frames [A] |
| speed_w1, acceleration_w1 | 1-Wasserstein distance of the lengths of finite differences [A per frame, per frame^2] |
| rmsf_error | mean over atoms of the absolute difference of RMSF after superposition [A] |
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sciflow.domains.trajectories.torsions import (
    backbone_torsions,
    internal_divergences,
    lengths,
    ramachandran,
    rmsf,
    rotatable_torsions,
    torsion_angles,
    torsion_autocorrelation,
    velocity_autocorrelation,
)

MARGIN = 0.1  # widens the limits of real trajectories
CURVE_BINS = 36


class Limits(NamedTuple):
    """What real trajectories allow, widened by 10 %: shortest and longest bonds (n,), least distance of other pairs."""

    shortest: np.ndarray
    longest: np.ndarray
    contact: float


def limits(reference: np.ndarray, bonds: np.ndarray) -> Limits:
    """Limits of real trajectories (..., T, atoms, 3) with bonds (n, 2)."""
    values = lengths(reference, bonds).reshape(-1, len(bonds))
    return Limits(
        values.min(0) * (1 - MARGIN), values.max(0) * (1 + MARGIN), (1 - MARGIN) * contacts(reference, bonds).min()
    )


def contacts(positions: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Smallest distance of two atoms that are not bonded, per frame, (..., T); infinite if all are bonded."""
    atoms = positions.shape[-2]
    free = np.triu(np.ones((atoms, atoms), bool), 1)
    free[tuple(np.sort(bonds, 1).T)] = False
    pairs = np.argwhere(free)
    return lengths(positions, pairs).min(-1) if len(pairs) else np.full(positions.shape[:-2], np.inf)


def valid(positions: np.ndarray, bonds: np.ndarray, allowed: Limits) -> np.ndarray:
    """Frames within the limits, (..., T) bool."""
    values = lengths(positions, bonds)
    in_range = ((values >= allowed.shortest) & (values <= allowed.longest)).all(-1)
    return in_range & (contacts(positions, bonds) >= allowed.contact)


def molecule_scores(
    samples: np.ndarray, reference: np.ndarray, bonds: np.ndarray, numbers: np.ndarray, gapless: bool = True
) -> dict[str, float]:
    """All scores of the module docstring.

    Args:
        samples: (B, T, atoms, 3), generated frames.
        reference: (B', T, atoms, 3), real.
        bonds: (n, 2).
        numbers: (atoms,) atomic numbers.
        gapless: Frames follow each other at equal times; without it velocities and accelerations are left out.
    """
    from scipy.stats import wasserstein_distance

    found = internal_divergences(samples, reference, bonds, numbers)
    good = valid(samples, bonds, limits(reference, bonds))
    found |= {
        "valid_frames": float(good.mean()),
        "valid_trajectories": float(good.all(-1).mean()),
        "smallest_distance": float(contacts(samples, bonds).min()),
    }
    for order, name in ((1, "speed_w1"), (2, "acceleration_w1")):
        if gapless and samples.shape[1] > order:
            ours, theirs = (
                np.linalg.norm(np.diff(one, order, axis=1), axis=-1).ravel() for one in (samples, reference)
            )
            found[name] = float(wasserstein_distance(ours, theirs))
    return found | {"rmsf_error": float(np.abs(rmsf(samples) - rmsf(reference)).mean())}


def molecule_curves(
    samples: np.ndarray, reference: np.ndarray, bonds: np.ndarray, numbers: np.ndarray, gapless: bool = True
) -> dict[str, Any]:
    """What a page draws; each entry holds `samples` and `reference`, lists.

    Returns:
        `rmsf` (atoms,), `velocity_autocorrelation` (T - 1,), and where there are rotatable bonds `torsions` {"i-j-k-l":
        shares of 36 bins over -180 to 180 degrees} and `torsion_autocorrelation` (T,), mean over torsions; peptides:
        `ramachandran` counts (36, 36).
    """
    sets = {"samples": samples, "reference": reference}
    curves: dict[str, Any] = {"rmsf": {name: rmsf(one).tolist() for name, one in sets.items()}}
    if gapless and samples.shape[1] > 2:
        curves["velocity_autocorrelation"] = {n: velocity_autocorrelation(one).tolist() for n, one in sets.items()}
    torsions = rotatable_torsions(bonds, numbers)
    if len(torsions):
        values = {name: torsion_angles(one, torsions) for name, one in sets.items()}
        edges = np.linspace(-np.pi, np.pi, CURVE_BINS + 1)
        curves["torsions"] = {
            "-".join(map(str, row)): {
                name: (np.histogram(found[..., i], edges)[0] / found[..., i].size).tolist()
                for name, found in values.items()
            }
            for i, row in enumerate(torsions.tolist())
        }
        if gapless:
            correlations = {name: torsion_autocorrelation(found).mean(1) for name, found in values.items()}
            curves["torsion_autocorrelation"] = {name: one.tolist() for name, one in correlations.items()}
    phi, psi = backbone_torsions(bonds, numbers)
    if len(phi):
        curves["ramachandran"] = {name: ramachandran(one, phi, psi, CURVE_BINS).tolist() for name, one in sets.items()}
    return curves
