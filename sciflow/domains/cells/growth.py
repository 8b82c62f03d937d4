r"""Cells divide and die: weights for which the bridge of normalised populations is a law of lineages.

Between two snapshots an unbalanced plan (POT) may give a cell more or less mass than its share; the row sum, over the
share, is the cell's growth over the interval (Schiebinger et al. 2019).  Followed back from the last snapshot,

.. math::  w_K = \mathrm{uniform}, \qquad w_k(i) = \sum_j \pi_{ij} \, w_{k+1}(j) / \textstyle\sum_i \pi_{ij},

`w_k(i)` is the share of the final population that descends from cell i. These weights are consistent over all times,
mass is conserved, so every engine can take them: the fitted law is that of the ancestors of a cell drawn at the end.
`population_weights` leads back to the populations as they were at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sciflow.core.errors import UserError

FIRM = 1.0  # hold on the shares of the earlier cells, in units of the median squared distance (Schiebinger et al.)
SHARPEST = 0.01  # least regulariser, in the same unit: below it Sinkhorn crawls and growth is no better known
LARGEST = 40_000_000  # entries of a plan that are computed; more do not fit into a workstation
ITERATIONS = 5000


@dataclass(frozen=True, eq=False)
class Growth:
    """Growth at K snapshots.

    Attributes:
        weights: K arrays (n_k,): share of the final population that descends from each cell; sums to 1.
        rates: K - 1 arrays (n_k,): log of the number of descendants at the next snapshot relative to the average cell,
            per time unit.
        plans: K - 1 unbalanced plans (n_k, n_{k+1}), each summing to 1.
    """

    weights: tuple[np.ndarray, ...]
    rates: tuple[np.ndarray, ...]
    plans: tuple[np.ndarray, ...]


def estimate_growth(
    times: np.ndarray,
    points: Sequence[np.ndarray],
    sigma: float,
    rates: Sequence[np.ndarray] | None = None,
    firmness: float = FIRM,
) -> Growth:
    """Growth of all cells from where the next snapshot has more or fewer cells, or from given rates.

    Args:
        times: (K,).
        points: K arrays (n_k, d).
        sigma: Noise; the regulariser for the cost |x - y|^2 is 2 sigma^2 times the gap.
        rates: K arrays (n_k,) of known growth rates per time unit (births less deaths), e.g. from proliferation and
            apoptosis scores; then the plans are balanced with marginals exp(rate times gap). None: estimated.
        firmness: How firmly the shares of the earlier cells hold when rates are estimated, as a multiple of the
            regulariser: larger is firmer. The later shares always hold.

    Raises:
        UserError: Rates of the wrong shape, too many cells, or a plan that does not converge.
    """
    plans, found = [], []
    for k, gap in enumerate(np.diff(times)):
        early, late = points[k], points[k + 1]
        if len(early) * len(late) > LARGEST:
            raise UserError(
                f"growth: {len(early)} x {len(late)} cells are too many for one plan; use a subset (cells.subset)"
            )
        known = None if rates is None else np.exp(_checked(rates[k], len(early), times[k]) * gap)
        plan = _plan(early, late, 2 * sigma**2 * gap, known, firmness)
        plans.append(plan)
        found.append(np.log(np.maximum(plan.sum(axis=1) * len(early), 1e-300)) / gap)
    weights = [np.full(len(points[-1]), 1 / len(points[-1]))]
    for plan in reversed(plans):
        arriving = plan.sum(axis=0)
        share = np.divide(weights[0], arriving, out=np.zeros_like(arriving), where=arriving > 0)
        early_weights = plan @ share
        weights.insert(0, early_weights / early_weights.sum())
    return Growth(tuple(weights), tuple(found), tuple(plans))


def _checked(rates: np.ndarray, count: int, time: float) -> np.ndarray:
    rates = np.asarray(rates, np.float64)
    if rates.shape != (count,) or not np.isfinite(rates).all():
        raise UserError(f"growth rates at time {time:g}: expected {count} finite numbers, got shape {rates.shape}")
    return rates


def _plan(early: np.ndarray, late: np.ndarray, epsilon: float, grown: np.ndarray | None, firmness: float) -> np.ndarray:
    """The plan between two snapshots, sums to 1; rows relaxed unless their growth is known."""
    import ot
    from scipy.spatial.distance import cdist

    cost = cdist(early, late, "sqeuclidean")
    epsilon = max(epsilon, SHARPEST * float(np.median(cost)))
    first, last = np.full(len(early), 1 / len(early)), np.full(len(late), 1 / len(late))
    # Columns always hold, so shifting a column of the cost changes nothing: the least of each is 0 and no column of the
    # kernel is empty. Beyond 500 regularisers a kernel entry is as good as 0.
    shifted = np.minimum(cost - cost.min(axis=0), 500 * epsilon)
    plan: Any
    common: Any = {"numItermax": ITERATIONS, "stopThr": 1e-8, "warn": False}
    if grown is None:  # rows held by a KL penalty only
        held = (firmness * float(np.median(cost)), np.inf)
        plan = ot.unbalanced.sinkhorn_unbalanced(first, last, shifted, epsilon, held, **common)
    else:
        first = grown / grown.sum()
        plan = ot.sinkhorn(first, last, shifted, epsilon, **common)
        if not np.abs(plan.sum(axis=1) / first - 1).max() < 1e-2:  # too cold for the plain iteration
            plan = ot.sinkhorn(first, last, cost, epsilon, method="sinkhorn_log", **common)
    if not np.isfinite(plan).all() or not 0.9 < plan.sum() < 1.1:
        raise UserError("growth: the unbalanced plan did not converge; use a larger sigma")
    return plan / plan.sum()


def population_weights(
    paths: np.ndarray, times: np.ndarray, snapshots: np.ndarray, points: Sequence[np.ndarray], growth: Growth
) -> np.ndarray:
    r"""Weights under which paths of the lineage law show the populations: (n, T), each column sums to 1.

    A lineage stands for (population weight)/(lineage weight) cells at a snapshot; between snapshots its numbers are
    taken to grow exponentially, so the logarithm of that ratio is linear in time.

    Args:
        paths: (n, T, d) paths of the fitted law.
        times: (T,) their times, all snapshot times among them.
        snapshots: (K,) times of the fitted snapshots.
        points: K arrays (n_k, d); paths pass exactly through them.
        growth: What the law was fitted with.
    """
    from scipy.spatial import KDTree

    logs = np.empty((len(paths), len(snapshots)))
    for k, (time, cloud) in enumerate(zip(snapshots, points, strict=True)):
        place = paths[:, int(np.abs(times - time).argmin())]
        nearest = KDTree(cloud).query(place)[1]
        logs[:, k] = -np.log(len(cloud) * np.maximum(growth.weights[k][nearest], 1e-300))
    between = np.array([np.interp(times, snapshots, row) for row in logs])
    weights = np.exp(between - between.max(axis=0))
    return weights / weights.sum(axis=0)
