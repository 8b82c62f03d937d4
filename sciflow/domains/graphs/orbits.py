r"""The 15 node orbits of graphlets with up to four nodes (numbering of Hocevar & Demsar 2014), in closed form.

With adjacency A (0/1), degrees d, P = A^2, T = A*P (common neighbours along each edge), t = row sum of T / 2 (triangles
through a node), C2(z) = z(z-1)/2 and k = number of 4-cliques through a node, every orbit count is a linear expression
in these: patterns are counted non-induced, then the denser patterns that contain them are taken off.  A few matrix
products per graph; no enumeration, no external program.
"""

from __future__ import annotations

import numpy as np


def _choose2(z: np.ndarray) -> np.ndarray:
    return z * (z - 1) / 2


def _four_cliques(a: np.ndarray, common: np.ndarray) -> np.ndarray:
    """4-cliques through each node (n,): edges among the common neighbours of an edge; 3 edges see each node."""
    i, j = np.nonzero(np.triu(common) >= 2)
    if len(i) == 0:
        return np.zeros(len(a))
    shared = a[i] * a[j]
    per_edge = ((shared @ a) * shared).sum(1) / 2
    return (np.bincount(i, per_edge, len(a)) + np.bincount(j, per_edge, len(a))) / 3


def orbit_counts(adjacency: np.ndarray) -> np.ndarray:
    """Counts of the 15 orbits for every node.

    Args:
        adjacency: Symmetric 0/1 matrix (n, n); the diagonal is ignored.

    Returns:
        (n, 15) int64 in ORCA's column order: column 0 is the degree, 3 the triangles, 14 the 4-cliques of the node.

    Raises:
        ValueError: The array is not a symmetric square matrix of zeros and ones.
    """
    a = np.array(adjacency, dtype=float)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or not np.array_equal(a, a.T) or not np.isin(a, (0, 1)).all():
        raise ValueError(
            f"orbit_counts: got an array of shape {a.shape}, expected a symmetric (n, n) matrix of 0 and 1"
        )
    np.fill_diagonal(a, 0)
    d = a.sum(1)
    paths = a @ a
    common = a * paths
    t = common.sum(1) / 2
    k = _four_cliques(a, common)
    neighbour_ends = a @ (d - 1)

    o14 = k
    o13 = (a * _choose2(common)).sum(1) - 3 * k
    o12 = ((a @ common) * a).sum(1) / 2 - t - 3 * k
    o11 = t * (d - 2) - 2 * o13 - 3 * k
    o10 = common @ (d - 2) - 2 * o12 - 2 * o13 - 6 * k
    o9 = a @ t - 2 * t - 2 * o12 - 3 * k
    o8 = _choose2(paths).sum(1) - _choose2(d) - o12 - o13 - 3 * k  # the diagonal of A^2 is d
    o7 = d * (d - 1) * (d - 2) / 6 - o11 - o13 - k
    o6 = a @ _choose2(d - 1) - o9 - o10 - 2 * o12 - o13 - 3 * k
    o5 = (d - 1) * neighbour_ends - 2 * t - 2 * o8 - o10 - 2 * o11 - 2 * o12 - 4 * o13 - 6 * k
    o4 = a @ neighbour_ends - d * (d - 1) - 2 * t - 2 * o8 - 2 * o9 - o10 - 4 * o12 - 2 * o13 - 6 * k
    columns = [d, neighbour_ends - 2 * t, _choose2(d) - t, t, o4, o5, o6, o7, o8, o9, o10, o11, o12, o13, o14]
    return np.rint(np.stack(columns, 1)).astype(np.int64)
