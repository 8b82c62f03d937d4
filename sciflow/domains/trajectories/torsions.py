r"""Internal coordinates of molecules along trajectories, and how far their distributions are from real ones.

Positions are (..., atoms, 3) with any leading axes. Torsion angles are in radians, IUPAC sign, in (-pi, pi]. The
Jensen-Shannon divergence JSD(p, q) = H((p + q)/2) - (H(p) + H(q))/2 of histograms is in nats, 0 to ln 2. (Papers on
peptide trajectories often report its square root.) Histograms of finite samples never agree: read a divergence beside
its floor, that of real trajectories against other real ones of the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BINS = 50
CARBON, NITROGEN, OXYGEN = 6, 7, 8


# -- the bond graph --------------------------------------------------------------------------------------------------
def neighbours(bonds: np.ndarray, atoms: int) -> list[list[int]]:
    """Bonded atoms of each atom, ascending."""
    found: list[set[int]] = [set() for _ in range(atoms)]
    for i, j in np.asarray(bonds, int).tolist():
        found[i].add(j)
        found[j].add(i)
    return [sorted(one) for one in found]


def bond_angles(bonds: np.ndarray, atoms: int) -> np.ndarray:
    """All triples i - j - k of bonded atoms, i < k, (angles, 3)."""
    table = neighbours(bonds, atoms)
    triples = [(i, j, k) for j in range(atoms) for i in table[j] for k in table[j] if i < k]
    return np.array(triples, int).reshape(-1, 3)


def rotatable_torsions(bonds: np.ndarray, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    """One torsion for every bond outside rings whose ends both have another neighbour, (torsions, 4).

    Bonds to methyl and hydroxyl groups and amide bonds count too. The outer atoms are the heaviest neighbours, the
    first of equal ones, so the torsions of a molecule are always the same.

    Args:
        bonds: (n, 2) atom indices.
        numbers: (atoms,) atomic numbers.
    """
    import networkx as nx

    numbers = np.asarray(numbers)
    table = neighbours(bonds, len(numbers))
    graph = nx.Graph([tuple(bond) for bond in np.asarray(bonds, int).tolist()])
    torsions = []
    for j, k in sorted(tuple(sorted(bond)) for bond in nx.bridges(graph)):
        outer = [sorted(set(table[a]) - {b}, key=lambda i: (-numbers[i], i)) for a, b in ((j, k), (k, j))]
        if all(outer):
            torsions.append((outer[0][0], j, k, outer[1][0]))
    return np.array(torsions, int).reshape(-1, 4)


def backbone_torsions(bonds: np.ndarray, numbers: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """phi (C, N, CA, C) and psi (N, CA, C, N) of every residue that has both, each (residues, 4), from the graph alone.

    C is a carbon with a terminal oxygen and a nitrogen or an alpha carbon; CA is a carbon bonded to a nitrogen and to
    a carbonyl carbon, which is bonded to the next nitrogen. Order: by the index of CA.
    """
    numbers = np.asarray(numbers)
    table = neighbours(bonds, len(numbers))
    carbonyl = {
        i
        for i in np.flatnonzero(numbers == CARBON)
        if len(table[i]) == 3 and any(numbers[j] == OXYGEN and len(table[j]) == 1 for j in table[i])
    }
    phi, psi = [], []
    for centre in np.flatnonzero(numbers == CARBON):
        if centre in carbonyl:
            continue
        for nitrogen in (j for j in table[centre] if numbers[j] == NITROGEN):
            for carbon in (j for j in table[centre] if j in carbonyl):
                before = [i for i in table[nitrogen] if i in carbonyl]
                after = [i for i in table[carbon] if numbers[i] == NITROGEN]
                if before and after:
                    phi.append((before[0], nitrogen, centre, carbon))
                    psi.append((nitrogen, centre, carbon, after[0]))
    return np.array(phi, int).reshape(-1, 4), np.array(psi, int).reshape(-1, 4)


# -- internal coordinates --------------------------------------------------------------------------------------------
def lengths(positions: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Distances of pairs, (..., bonds)."""
    return np.linalg.norm(positions[..., bonds[:, 0], :] - positions[..., bonds[:, 1], :], axis=-1)


def angles(positions: np.ndarray, triples: np.ndarray) -> np.ndarray:
    """Angles i - j - k [radians, 0 to pi], (..., triples)."""
    one, other = (positions[..., triples[:, end], :] - positions[..., triples[:, 1], :] for end in (0, 2))
    across = np.linalg.norm(np.cross(one, other), axis=-1)
    return np.arctan2(across, (one * other).sum(-1))


def torsion_angles(positions: np.ndarray, quadruples: np.ndarray) -> np.ndarray:
    """Torsion angles [radians], IUPAC sign, (..., quadruples); 0 is cis."""
    a, b, c, d = (positions[..., quadruples[:, place], :] for place in range(4))
    axis = c - b
    first, second = np.cross(b - a, axis), np.cross(axis, d - c)
    sine = (np.cross(first, second) * axis).sum(-1) / np.maximum(np.linalg.norm(axis, axis=-1), 1e-12)
    return np.arctan2(sine, (first * second).sum(-1))


# -- distributions ---------------------------------------------------------------------------------------------------
def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence [nats] of histograms along the last axis; counts are normalised first."""
    p, q = (np.asarray(one, np.float64) / np.sum(one, axis=-1, keepdims=True) for one in (p, q))
    return _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2


def _entropy(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.where(p > 0, p * np.log(p), 0.0).sum(-1)


def histogram_divergence(samples: np.ndarray, reference: np.ndarray, span: tuple[float, float] | None = None) -> float:
    """Divergence of two sets of values, mean over columns.

    Args:
        samples: (values, columns).
        reference: (values, columns).
        span: Range of the bins, e.g. (-pi, pi); None: of both sets together, so that no mass is left out.
    """
    found = []
    for ours, theirs in zip(samples.T, reference.T, strict=True):
        low, high = span or (min(ours.min(), theirs.min()), max(ours.max(), theirs.max()))
        edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
        found.append(divergence(np.histogram(ours, edges)[0], np.histogram(theirs, edges)[0]))
    return float(np.mean(found))


def internal_divergences(
    samples: np.ndarray, reference: np.ndarray, bonds: np.ndarray, numbers: np.ndarray
) -> dict[str, float]:
    """`bond_jsd`, `angle_jsd`, `torsion_jsd` (rotatable bonds) and, for peptides, `ramachandran_jsd` (phi and psi).

    Each is the mean over bonds, angles, torsions of the divergence of 50-bin histograms (phi, psi: 25 x 25 bins).
    What a molecule has none of is left out.

    Args:
        samples: (trajectories, T, atoms, 3).
        reference: (trajectories, T, atoms, 3).
        bonds: (n, 2).
        numbers: (atoms,) atomic numbers.
    """
    kinds = {
        "bond_jsd": (lengths, np.asarray(bonds, int).reshape(-1, 2), None),
        "angle_jsd": (angles, bond_angles(bonds, len(numbers)), (0.0, np.pi)),
        "torsion_jsd": (torsion_angles, rotatable_torsions(bonds, numbers), (-np.pi, np.pi)),
    }
    found = {}
    for name, (function, indices, span) in kinds.items():
        if len(indices):
            ours, theirs = (function(one, indices).reshape(-1, len(indices)) for one in (samples, reference))
            found[name] = histogram_divergence(ours, theirs, span)
    phi, psi = backbone_torsions(bonds, numbers)
    if len(phi):
        tables = [ramachandran(one, phi, psi, bins=25).ravel() for one in (samples, reference)]
        found["ramachandran_jsd"] = float(divergence(*tables))
    return found


def ramachandran(positions: np.ndarray, phi: np.ndarray, psi: np.ndarray, bins: int = 36) -> np.ndarray:
    """Counts (bins, bins) of (phi, psi) over -pi to pi, all residues together."""
    pairs = [torsion_angles(positions, indices).ravel() for indices in (phi, psi)]
    return np.histogram2d(*pairs, bins=bins, range=[[-np.pi, np.pi]] * 2)[0]


# -- dynamics --------------------------------------------------------------------------------------------------------
def torsion_autocorrelation(values: np.ndarray) -> np.ndarray:
    """Autocorrelation of angles, (lags, torsions), 1 at lag 0: < cos(a(t + lag) - a(t)) >, mean removed, normalised.

    Args:
        values: (trajectories, T, torsions) [radians]; frames of different trajectories are never paired. The mean
            |<exp(ia)>|^2 is over all of them.
    """
    phases = np.exp(1j * values)
    mean = np.abs(phases.mean((0, 1))) ** 2
    frames = values.shape[1]
    raw = [np.real(phases[:, lag:] * phases[:, : frames - lag].conj()).mean((0, 1)) for lag in range(frames)]
    return (np.array(raw) - mean) / np.maximum(1 - mean, 1e-12)


def velocity_autocorrelation(positions: np.ndarray) -> np.ndarray:
    """< v(t + lag) . v(t) > / < v . v > of finite differences, mean over atoms and trajectories, (T - 1,).

    Args:
        positions: (trajectories, T, atoms, D), equally spaced frames.
    """
    velocity = np.diff(positions, axis=1)
    frames = velocity.shape[1]
    raw = [(velocity[:, lag:] * velocity[:, : frames - lag]).sum(-1).mean() for lag in range(frames)]
    return np.array(raw) / max(raw[0], 1e-300)


def rmsf(positions: np.ndarray, rounds: int = 3) -> np.ndarray:
    """Root-mean-square fluctuation of each atom about its mean place, (atoms,), after superposing every frame.

    Args:
        positions: (..., atoms, D): all frames are put on their common mean structure (Kabsch 1976, D = 2 or 3).
        rounds: Superpositions; the mean structure settles quickly.
    """
    frames = positions.reshape(-1, *positions.shape[-2:]).astype(np.float64)
    target = frames[0]
    for _ in range(rounds):
        frames = superposed(frames, target)
        target = frames.mean(0)
    return np.sqrt(((frames - target) ** 2).sum(-1).mean(0))


def superposed(frames: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Frames (n, atoms, D) moved rigidly (no reflection) onto the target (atoms, D); all centred at the origin."""
    frames = frames - frames.mean(1, keepdims=True)
    target = target - target.mean(0)
    u, _, vt = np.linalg.svd(np.einsum("nad,ae->nde", frames, target))
    proper = np.sign(np.linalg.det(u @ vt))
    u[..., -1] *= proper[:, None]
    return frames @ (u @ vt)
