"""Genes along trajectories: principal components decoded, and their course over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sciflow.core.errors import UserError
from sciflow.domains.cells.data import Decoder


@dataclass(frozen=True, eq=False)
class GeneTrends:
    """Expression over time.

    Attributes:
        times: (T,).
        genes: Names.
        mean: (genes, T) over the paths.
        low: (genes, T) 10 % quantile.
        high: (genes, T) 90 % quantile.
    """

    times: np.ndarray
    genes: tuple[str, ...]
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def check_decoder(decoder: Decoder | None) -> Decoder:
    """The decoder, if there is one.

    Raises:
        UserError: There is none.
    """
    if decoder is None:
        raise UserError(
            "no way from these coordinates to genes; needed: basis 'X_pca', varm['PCs'] and the X they were computed "
            "from (scanpy.pp.pca leaves all three)"
        )
    return decoder


def gene_trends(
    decoder: Decoder | None,
    times: np.ndarray,
    paths: np.ndarray,
    genes: Sequence[str],
    weights: np.ndarray | None = None,
) -> GeneTrends:
    """Mean and 10-90 % range of genes over paths (n, T, d).

    Args:
        decoder: From coordinates to genes.
        times: (T,).
        paths: (n, T, d).
        genes: Names.
        weights: (n, T) where paths do not count alike (growth); the range ignores them.

    Raises:
        UserError: No decoder (the basis is not principal components with loadings), or an unknown gene.
    """
    expression = check_decoder(decoder).expression(paths, genes)
    shares = np.full(paths.shape[:2], 1 / len(paths)) if weights is None else weights / weights.sum(axis=0)
    mean = np.einsum("nt,ntg->gt", shares, expression)
    low, high = np.quantile(expression, (0.1, 0.9), axis=0)
    return GeneTrends(np.asarray(times), tuple(genes), mean, low.T, high.T)
