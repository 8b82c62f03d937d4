"""Fates: where a cell's descendants are at the end, by following the couplings of the fitted snapshots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sciflow.core.errors import UserError


def fate_probabilities(plans: Sequence[np.ndarray], labels: np.ndarray) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Probability of each label at the last snapshot, for the cells of every snapshot.

    The glued bridge is a Markov chain at the snapshots, so the probabilities are products of the couplings, rows scaled
    to sum to 1.

    Args:
        plans: K - 1 couplings (n_k, n_{k+1}).
        labels: (n_K,) label of each cell of the last snapshot.

    Returns:
        K arrays (n_k, fates), rows sum to 1 (NaN for a cell without mass), and the names of the fates.

    Raises:
        UserError: Another number of labels than of cells.
    """
    labels = np.asarray(labels).astype(str)
    if labels.shape != (plans[-1].shape[1],):
        raise UserError(f"fates: got {labels.size} labels, expected one for each of {plans[-1].shape[1]} last cells")
    names, which = np.unique(labels, return_inverse=True)
    laws = [np.eye(len(names))[which]]
    for plan in reversed(plans):
        mass = plan.sum(axis=1, keepdims=True)
        laws.insert(0, np.divide(plan, mass, out=np.full_like(plan, np.nan), where=mass > 0) @ laws[0])
    return laws, tuple(names.tolist())
