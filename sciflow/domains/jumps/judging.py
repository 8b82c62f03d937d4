r"""Estimates against data: time-averaged Hellinger distance and the Chapman-Kolmogorov test (section 9).

H(p, q) = sqrt(1/2 sum (sqrt p - sqrt q)^2) between the histograms of states at each time, averaged over times. Two
samples of the same law are at a distance, too: with n paths and S states about sqrt((S - 1)/(4 n)). That floor is
measured by drawing the data's paths again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sciflow.core.errors import UserError
from sciflow.core.markov import distinct_lags, transition_matrices
from sciflow.domains.jumps.counts import chain_matrices, lag_numbers
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.implied import block_counts
from sciflow.domains.jumps.windows import on_grid, spacing, windows

MOST_PATHS = 2000  # of the data that enter
FEW_PATHS = 20  # fewer paths are cut into windows
WINDOW = 101  # observations per window
MOST_TIMES = 200  # more distinct times are put into bins
BINS = 100


@dataclass(frozen=True)
class HellingerScore:
    """Time-averaged Hellinger distances, not multiplied by 100.

    Attributes:
        score: Mean over simulated sets.
        deviation: Over those sets.
        floor: Mean distance of two resamples of the data of the same size: what equal laws would give.
        floor_deviation: Over the resamples.
        exact: Distance between the data and the probabilities themselves, without simulation noise.
    """

    score: float
    deviation: float
    floor: float
    floor_deviation: float
    exact: float


@dataclass(frozen=True)
class ChapmanKolmogorov:
    """Transition matrices over lags.

    Attributes:
        lags: (n,).
        predicted: (n, S, S) exp(F D), as seen through wrong labels if there are any.
        observed: (n, S, S) transition frequencies; NaN in rows of states without transitions.
        stderr: (n, S, S) binomial errors from the number of pairs that do not overlap.
    """

    lags: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray
    stderr: np.ndarray

    @property
    def largest_z(self) -> float:
        """Largest |observed - predicted| / stderr, NaN if there is none (one state, nothing moves)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            z = np.abs(self.observed - self.predicted) / self.stderr
        known = z[np.isfinite(z)]
        return float(known.max()) if known.size else float("nan")


def hellinger(
    rates: np.ndarray, initial: np.ndarray, paths: Paths, sets: int, seed: int, labels: np.ndarray | None = None
) -> HellingerScore:
    """Distance between paths and simulations from p0 and rates on the same times (see `HellingerScore`).

    Args:
        rates: (S, S).
        initial: (S,) p0; paths that do not start from p0 are simulated from their own first state.
        paths: With states; at most 2000 of them are used, fewer than 20 are cut into windows of 101 points.
            Where every jump is known they are read at 101 times, few paths once per mean dwell time.
        sets: Simulated sets, each as large as the data.
        seed: Of everything random.
        labels: (S, S) law of labels given states, if labels may be wrong.
    """
    if paths.states is None:
        raise UserError("hellinger: the paths have no states; label the signal first")
    paths, noise = paths.with_count(len(rates)), np.random.default_rng(seed)
    if paths.complete:
        longest = float((paths.times[:, -1] - paths.times[:, 0]).max())
        step = paths.duration / paths.observations if len(paths) < FEW_PATHS else longest / (WINDOW - 1)
        paths = on_grid(paths, step or 1.0)
    if len(paths) < FEW_PATHS:
        paths = windows(paths, WINDOW)
    if len(paths) > MOST_PATHS:
        paths = paths.take(np.sort(noise.choice(len(paths), MOST_PATHS, replace=False)))
    bins, count = _time_bins(paths)
    S, mask, K = paths.states_count, paths.mask, len(paths)

    def histograms(states: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
        weights = None if weight is None else np.broadcast_to(weight[:, None], mask.shape)[mask]
        counts = np.bincount(bins[mask] * S + states[mask], weights, minlength=count * S).reshape(count, S)
        return counts / np.maximum(counts.sum(1, keepdims=True), 1e-300)

    observed: np.ndarray = paths.states  # type: ignore[assignment]  # checked above; windows keep them
    target = histograms(observed)
    simulated, exact = _Simulator(rates, initial, paths, labels), np.zeros((count, S))
    np.add.at(exact, bins[mask], simulated.probabilities()[mask])
    scores = [distance(target, histograms(simulated.draw(noise))) for _ in range(sets)]
    drawn = [histograms(observed, noise.multinomial(K, np.full(K, 1 / K)).astype(float)) for _ in range(2 * sets)]
    pairs = zip(drawn[::2], drawn[1::2], strict=True)  # times that either has no path at are no difference
    floors = [distance(p * q.any(1, keepdims=True), q * p.any(1, keepdims=True)) for p, q in pairs]
    exact = exact / np.maximum(exact.sum(1, keepdims=True), 1e-300)
    return HellingerScore(
        float(np.mean(scores)), float(np.std(scores)), float(np.mean(floors)), float(np.std(floors)),
        distance(target, exact),
    )  # fmt: skip


def distance(p: np.ndarray, q: np.ndarray) -> float:
    """Hellinger distance of laws (..., S), averaged over all but the last dimension."""
    return float(np.sqrt(np.clip(0.5 * np.square(np.sqrt(p) - np.sqrt(q)).sum(-1), 0, None)).mean())


def _time_bins(paths: Paths) -> tuple[np.ndarray, int]:
    """Number of each observation's time (K, L), and how many there are: distinct times, or bins of equal width."""
    times = paths.times - paths.times.min()
    distinct, bins = (t.numpy() for t in distinct_lags(torch.from_numpy(times)))
    if len(distinct) > MOST_TIMES:
        edges = np.linspace(0, times.max(), BINS + 1)[1:-1]
        distinct, bins = np.unique(np.searchsorted(edges, times, side="right"), return_inverse=True)
    return bins.reshape(times.shape), len(distinct)


class _Simulator:
    """Chains on the times of given paths."""

    def __init__(self, rates: np.ndarray, initial: np.ndarray, paths: Paths, labels: np.ndarray | None) -> None:
        lags, number = lag_numbers(paths)
        self.number = number.numpy()
        S = len(rates)
        steps = chain_matrices(torch.from_numpy(rates), lags) if len(lags) else torch.eye(S)[None]
        self.steps, self.labels = steps.numpy(), labels
        assert paths.states is not None
        self.first = np.where(paths.starts[:, None], initial, np.eye(S)[paths.states[:, 0]])  # (K, S)
        self.cumulative = self.steps.cumsum(-1)

    def draw(self, noise: np.random.Generator) -> np.ndarray:
        """One simulated set of labels (K, L)."""
        u = noise.random((self.number.shape[1] + 1, len(self.first)))
        x = _pick(self.first.cumsum(1), u[0])
        states = [x]
        for step, chance in zip(self.number.T, u[1:], strict=True):
            x = _pick(self.cumulative[step, x], chance)
            states.append(x)
        drawn = np.stack(states, 1)
        return drawn if self.labels is None else _pick(self.labels.cumsum(1)[drawn], noise.random(drawn.shape))

    def probabilities(self) -> np.ndarray:
        """Law of the label at each observation, (K, L, S)."""
        law = [self.first]
        for step in self.number.T:
            law.append(np.einsum("ks,kst->kt", law[-1], self.steps[step]))
        laws = np.stack(law, 1)
        return laws if self.labels is None else laws @ self.labels


def _pick(cumulative: np.ndarray, u: np.ndarray) -> np.ndarray:
    return np.minimum((cumulative < u[..., None]).sum(-1), cumulative.shape[-1] - 1)


def chapman_kolmogorov(
    rates: np.ndarray,
    law: np.ndarray,
    paths: Paths,
    lags: Sequence[float] | None = None,
    labels: np.ndarray | None = None,
) -> ChapmanKolmogorov:
    """exp(F D) against the frequencies of transitions at lag D (all pairs, overlapping).

    Args:
        rates: (S, S).
        law: (S,) stationary law, for labels that may be wrong.
        paths: With states on a common spacing.
        lags: Multiples of the spacing; None: 1, 2, 4, ... spacings up to half of the longest path.
        labels: (S, S) law of labels given states, if labels may be wrong.

    Raises:
        UserError: No states or no common spacing.
    """
    unit = None if paths.complete else spacing(paths)
    if paths.states is None or unit is None:
        raise UserError("Chapman-Kolmogorov test: expected states observed on a common spacing")
    paths = paths.with_count(len(rates))
    if lags is None:
        longest = float((paths.times[:, -1] - paths.times[:, 0]).max()) / unit / 2
        strides = 2 ** np.arange(max(1, min(7, int(np.log2(max(longest, 1))) + 1)))
    else:
        strides = np.unique(np.maximum(1, np.round(np.asarray(lags, float) / unit))).astype(int)
    P = transition_matrices(torch.from_numpy(rates), torch.from_numpy(strides * unit)).numpy()
    if labels is not None:
        joint = labels.T @ (law[:, None] * P) @ labels
        P = joint / joint.sum(2, keepdims=True)
    counts = np.stack([block_counts(paths, int(stride), unit).sum(0) for stride in strides]).astype(float)
    totals = counts.sum(2, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = counts / totals
        stderr = np.sqrt(P * (1 - P) / (totals / strides[:, None, None]))
    return ChapmanKolmogorov(strides * unit, P, observed, stderr)
