"""Implied time scales over lags: does a chain describe the data, and from which lag on?

t_i(D) = -D / log |lambda_i(D)| of the matrix of transition frequencies at lag D (Swope, Pitera & Suits, J. Phys. Chem.
B 108, 2004). They are constant where the labels behave as a chain; a rise at short lags says that the labels hide
memory (recrossings, wrong labels), so rates should be estimated at a longer lag.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from sciflow.core.errors import UserError
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.windows import spacing

BLOCKS = 50  # pieces of few long paths that are drawn in place of paths
ENOUGH_PATHS = 20
LEAST_PAIRS = 50  # pairs per state and lag, not overlapping, below which a lag is not looked at


@dataclass(frozen=True)
class ImpliedTimescales:
    """Time scales over lags, with a band.

    Attributes:
        lags: (n,) in the unit of the paths.
        scales: (n, S - 1), slowest first; NaN where the eigenvalue is not positive (faster than the lag).
        low: 5 % quantile over bootstrap samples, as `scales`.
        high: 95 % quantile.
    """

    lags: np.ndarray
    scales: np.ndarray
    low: np.ndarray
    high: np.ndarray


def implied_timescales(
    paths: Paths, lags: np.ndarray | None = None, *, samples: int = 100, seed: int = 0
) -> ImpliedTimescales:
    """Time scales of transition frequencies over lags; bootstrap over paths, or over 50 pieces where paths are few.

    Args:
        paths: With states, times on a common spacing (points may be missing).
        lags: Multiples of the spacing; None: about ten, from the spacing to the longest with enough pairs.
        samples: Bootstrap samples.
        seed: Of the bootstrap.

    Raises:
        UserError: No states, no common spacing, or no pair at a lag.
    """
    unit = None if paths.complete else spacing(paths)
    if paths.states is None or unit is None:
        raise UserError("implied time scales: expected states observed on a common spacing")
    strides = _strides(paths, unit) if lags is None else np.unique(np.round(np.asarray(lags) / unit).astype(int))
    noise = np.random.default_rng(seed)
    rows = []
    for stride in strides:
        counts = block_counts(paths, int(stride), unit)
        weights = noise.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), samples)
        drawn = _scales(np.einsum("bk,kij->bij", weights, counts), stride * unit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a scale that no sample has: its band is NaN
            band = np.nanquantile(np.where(np.isfinite(drawn), drawn, np.nan), (0.05, 0.95), axis=0)
        rows.append((_scales(counts.sum(0)[None], stride * unit)[0], *band))
    scales, low, high = (np.array(column) for column in zip(*rows, strict=True))
    return ImpliedTimescales(strides * unit, scales, low, high)


def block_counts(paths: Paths, stride: int, unit: float) -> np.ndarray:
    """Transitions between observations `stride` spacings apart, by path or by piece of few paths: (blocks, S, S).

    Raises:
        UserError: No pair is so far apart.
    """
    if paths.states is None:
        raise UserError("transitions: the paths have no states; label the signal first")
    frames = np.round((paths.times - paths.times[:, :1]) / unit).astype(np.int64)
    path, column = np.nonzero(paths.mask)
    keys = path * (frames.max() + stride + 1) + frames[path, column]
    later = np.minimum(np.searchsorted(keys, keys + stride), len(keys) - 1)
    found = np.flatnonzero(keys[later] == keys + stride)
    if not found.size:
        raise UserError(f"lag {stride * unit:g}: no two observations are so far apart")
    states, S = paths.states[path, column], paths.states_count
    few = len(paths) < ENOUGH_PATHS
    block = found * BLOCKS // len(keys) if few else path[found]
    blocks = BLOCKS if few else len(paths)
    code = (block * S + states[found]) * S + states[later[found]]
    return np.bincount(code, minlength=blocks * S * S).reshape(blocks, S, S)


def _strides(paths: Paths, unit: float) -> np.ndarray:
    frames = np.round((paths.times[:, -1] - paths.times[:, 0]) / unit)
    longest = frames.max() / 3 if len(paths) >= ENOUGH_PATHS else frames.sum() / (LEAST_PAIRS * paths.states_count)
    longest = max(1, min(longest, frames.max() / 3, 1000))
    return np.unique(np.round(np.geomspace(1, longest, 10)).astype(int))


def _scales(counts: np.ndarray, lag: float) -> np.ndarray:
    """(n, S - 1) of counts (n, S, S); states without transitions are left out."""
    kept = counts.sum((0, 2)) > 0
    used = counts[:, kept][:, :, kept].astype(np.float64)
    totals = used.sum(2, keepdims=True)
    chances = np.where(totals > 0, used / np.maximum(totals, 1), np.eye(used.shape[1]))
    values = np.linalg.eigvals(chances)
    values = np.take_along_axis(values, np.argsort(-values.real, axis=1), 1)[:, 1:]
    with np.errstate(all="ignore"):
        scales = np.where(values.real > 0, -lag / np.log(np.abs(values)), np.nan)
    missing = np.full((len(counts), counts.shape[1] - 1 - scales.shape[1]), np.nan)
    return np.concatenate([scales, missing], 1)
