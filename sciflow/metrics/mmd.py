r"""Squared maximum mean discrepancy between two sets, and the kernels used for graph statistics.

.. math::  MMD^2 = \overline{k(a, a')} + \overline{k(b, b')} - 2\,\overline{k(a, b)}

(Gretton et al. 2012, eq. 5: the biased V-statistic, diagonals included, no square root).  The Earth mover's distance
between two 1-D histograms of equal mass is the L1 distance of their cumulative sums times the bin width, so all pairs
of two sets are one call of a compiled L1 distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _distances(a: np.ndarray, b: np.ndarray, metric: str) -> np.ndarray:
    """All pairwise distances, (rows of a, rows of b)."""
    from scipy.spatial.distance import cdist

    return cdist(np.asarray(a, float), np.asarray(b, float), metric)  # type: ignore[arg-type]


def stack_padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Stack vectors of unequal length, padding with zeros at the end: (number of rows, longest)."""
    out = np.zeros((len(rows), max((len(row) for row in rows), default=0)))
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


@dataclass(frozen=True)
class EmdKernel:
    r"""exp(-EMD^2 / 2 sigma^2) between histograms; each row is normalised to mass 1 first.

    Args:
        sigma: Kernel width, in the unit of the histogram axis.
        bin_width: Distance between neighbouring bins, in the same unit.
    """

    sigma: float = 1.0
    bin_width: float = 1.0

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Kernel matrix (len(a), len(b)) of histograms a (n, bins) and b (m, bins)."""
        cumulative_a, cumulative_b = (np.cumsum(_unit_mass(h), axis=1) for h in (a, b))
        emd = self.bin_width * _distances(cumulative_a, cumulative_b, "cityblock")
        return np.exp(-(emd**2) / (2 * self.sigma**2))


@dataclass(frozen=True)
class TotalVariationKernel:
    r"""exp(-TV^2 / 2 sigma^2), TV(a, b) = sum |a - b| / 2 (Martinkus et al. 2022, SPECTRE).

    Args:
        sigma: Kernel width.
        normalise: Scale every row to mass 1 first (histograms); False for raw count vectors.
    """

    sigma: float = 1.0
    normalise: bool = True

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Kernel matrix (len(a), len(b)) of vectors a (n, bins) and b (m, bins)."""
        if self.normalise:
            a, b = _unit_mass(a), _unit_mass(b)
        variation = _distances(a, b, "cityblock") / 2
        return np.exp(-(variation**2) / (2 * self.sigma**2))


@dataclass(frozen=True)
class GaussianKernel:
    r"""exp(-||a - b||^2 / 2 sigma^2) between vectors."""

    sigma: float = 1.0

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Kernel matrix (len(a), len(b)) of vectors a (n, d) and b (m, d)."""
        return np.exp(-_distances(a, b, "sqeuclidean") / (2 * self.sigma**2))


def _unit_mass(histograms: np.ndarray) -> np.ndarray:
    """Rows divided by their sums; an empty histogram is an error because no transport plan exists."""
    histograms = np.asarray(histograms, float)
    mass = histograms.sum(axis=1, keepdims=True)
    if not (mass > 0).all():
        raise ValueError(f"histogram kernel: got {int((mass <= 0).sum())} rows without mass; drop them before the MMD")
    return histograms / mass


def mmd2(a: np.ndarray, b: np.ndarray, kernel: Kernel) -> float:
    """Biased MMD^2 between the rows of ``a`` (n, d) and ``b`` (m, d); nan when a set is empty."""
    if len(a) == 0 or len(b) == 0:
        return float("nan")
    return float(kernel(a, a).mean() + kernel(b, b).mean() - 2 * kernel(a, b).mean())
