"""States from raw signals (Gaussian mixture, k-means, amplitude), lumping, decimation of filtered recordings.

Labels are ordered by the mean signal of the state, so 0 is the lowest level. Hard labels of overlapping levels are
often wrong; EM with Gaussian emissions (`hmm_em`) uses the signal itself and starts from `emission_start`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sciflow.core.errors import UserError
from sciflow.domains.jumps.data import Paths

MOST_FITTED = 100_000  # values that a clustering sees; labels are given to all
EXTREME = 2e-4  # quantile that stands for the end of the amplitude
OVERLAP = 0.05  # misclassified share of a mixture from which on labels carry a warning


def label(paths: Paths, states: int, method: str = "mixture", seed: int = 0) -> Paths:
    """The paths with labels of their signal.

    Args:
        paths: With a signal.
        states: S.
        method: "mixture" (Gaussian mixture: levels may differ in width and weight), "kmeans", or "amplitude" (levels
            evenly spaced between the extremes, thresholds half-way: the idealisation usual for single channels).
        seed: Of the clustering's starts.

    Returns:
        The paths with `states`; a warning if the mixture says that more than 5 % of the labels are wrong.

    Raises:
        UserError: No signal, unknown method, a constant signal, or fewer distinct values than states.
    """
    if method not in METHODS:
        raise UserError(f"labelling: got '{method}', expected one of {', '.join(METHODS)}")
    values = _values(paths, states)
    labels, warnings = METHODS[method](values, states, seed)
    filled = np.zeros(paths.times.shape, np.int64)
    filled[paths.mask] = labels
    return paths.with_states(filled, states).warned(*warnings)


def emission_start(paths: Paths, states: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances (S,) of Gaussian emissions to start from: those of a Gaussian mixture, means ascending.

    Raises:
        UserError: As `label`.
    """
    model, order = _fitted_mixture(_values(paths, states), states, seed)
    return np.ravel(model.means_)[order], np.ravel(model.covariances_)[order]


def lump(paths: Paths, groups: Sequence[int] | Mapping[int, int], names: Sequence[str] = ()) -> Paths:
    """The paths with states merged.

    Args:
        paths: With states.
        groups: New label of each of the S states; the new labels are 0..T-1.
        names: Of the T new states.

    Raises:
        UserError: No states, a state without group, or group labels with gaps.
    """
    if paths.states is None:
        raise UserError("lump: the paths have no states; label the signal first")
    table = dict(groups) if isinstance(groups, Mapping) else dict(enumerate(groups))
    new = [table.get(s, -1) for s in range(paths.states_count)]
    if len(table) != paths.states_count or set(new) != set(range(max(new) + 1)):
        raise UserError(f"lump: got {groups}; expected groups 0..T-1 for each of {paths.states_count} states")
    return paths.with_states(np.asarray(new)[paths.states], max(new) + 1, names)


def decimate(paths: Paths, cutoff: float) -> Paths:
    """Every n-th value of a recording, so that its sampling rate is at most twice the cut-off of its low-pass filter.

    Values closer than 1 / (2 cutoff) repeat each other's noise, which a hidden chain with independent noise mistakes
    for dwelling; the filter has removed all that lies between.

    Args:
        paths: With a signal or states.
        cutoff: Of the filter, in 1 / unit of time.

    Raises:
        UserError: No such frequency, one that leaves no path two values, or paths whose rows are jumps.
    """
    if paths.complete:
        raise UserError("decimation: got jumps, which no filter has smoothed; expected a recording (not method mle)")
    if not 0 < cutoff < np.inf:
        raise UserError(f"decimation: got a cut-off of {cutoff}, expected a positive frequency in 1 / unit of time")
    steps = np.diff(paths.times, axis=1)[paths.mask[:, 1:]]
    step, longest = float(np.median(steps)) if steps.size else np.inf, int(paths.lengths.max())
    if 2 * cutoff * step * (longest - 1) < 1:
        raise UserError(
            f"decimation: got a cut-off of {cutoff:g}, which leaves one value of each path; expected a frequency in "
            f"1 / unit of time, the values being {step:g} apart"
        )
    stride = max(1, int(np.ceil(1 / (2 * cutoff * step) - 1e-9)))
    lengths = -(-paths.lengths // stride)
    columns = np.minimum(stride * np.arange(lengths.max()), stride * (lengths - 1)[:, None])
    rows = np.arange(len(paths))[:, None]

    def pick(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[rows, columns]

    times, states, signal = paths.times[rows, columns], pick(paths.states), pick(paths.signal)
    return replace(paths, times=times, states=states, signal=signal, lengths=lengths)


def _values(paths: Paths, states: int) -> np.ndarray:
    if paths.signal is None:
        raise UserError("labelling: the paths have no signal; states can be used as they are")
    if states < 2:
        raise UserError(f"labelling: got {states} states, expected at least 2")
    values = paths.signal[paths.mask]
    different = len(np.unique(values))
    if different < states:
        raise UserError(f"labelling: the signal has {different} distinct values, expected at least {states} (states)")
    return values


def _sample(values: np.ndarray, seed: int) -> np.ndarray:
    """A part of the values for a fit, extremes included: rare levels must be seen."""
    if len(values) <= MOST_FITTED:
        return values[:, None]
    kept = np.random.default_rng(seed).choice(len(values), MOST_FITTED, replace=False)
    ends = np.argsort(values)[np.r_[0:100, -100:0]]
    return values[np.union1d(kept, ends), None]


def _amplitude(values: np.ndarray, states: int, seed: int) -> tuple[np.ndarray, list[str]]:
    low, high = np.quantile(values, [EXTREME, 1 - EXTREME])
    labels = np.searchsorted(_midpoints(np.linspace(low, high, states)), values)
    empty = [str(s) for s in range(states) if not (labels == s).any()]
    return labels, [f"empty levels: no value lies at level {', '.join(empty)} of the amplitude"] if empty else []


def _kmeans(values: np.ndarray, states: int, seed: int) -> tuple[np.ndarray, list[str]]:
    from sklearn.cluster import KMeans

    centres = KMeans(states, random_state=seed).fit(_sample(values, seed)).cluster_centers_[:, 0]
    return np.searchsorted(_midpoints(np.sort(centres)), values), []


def _midpoints(ordered: np.ndarray) -> np.ndarray:
    return (ordered[1:] + ordered[:-1]) / 2


def _mixture(values: np.ndarray, states: int, seed: int) -> tuple[np.ndarray, list[str]]:
    model, order = _fitted_mixture(values, states, seed)
    posterior = np.asarray(model.predict_proba(values[:, None]))[:, order]
    wrong = float(1 - posterior.max(1).mean())
    sentence = f"overlapping levels: about {100 * wrong:.0f} % of the labels are wrong; method hmm_em uses the signal"
    return posterior.argmax(1), [sentence] if wrong > OVERLAP else []


def _fitted_mixture(values: np.ndarray, states: int, seed: int) -> tuple[Any, np.ndarray]:
    """Gaussian mixture and the order of its means: the likelier of two fits.

    One starts from k-means, the other from levels evenly spaced over the amplitude, which finds a rare level.
    """
    from sklearn.mixture import GaussianMixture

    sample, floor, fits = _sample(values, seed), 1e-6 * values.var(), []
    for start in (_kmeans, _amplitude):
        labels, _ = start(values, states, seed)
        counts = np.bincount(labels, minlength=states)
        if counts.min() == 0:
            continue
        model = GaussianMixture(
            states,
            means_init=np.array([[values[labels == s].mean()] for s in range(states)]),
            weights_init=counts / counts.sum(),
            precisions_init=np.array([[[1 / max(values[labels == s].var(), floor)]] for s in range(states)]),
            reg_covar=1e-9 * values.var(),
            max_iter=500,
            random_state=seed,
        )
        fits.append(model.fit(sample))
    best = max(fits, key=lambda fit: fit.lower_bound_)
    return best, np.argsort(np.ravel(best.means_))


METHODS: dict[str, Callable[[np.ndarray, int, int], tuple[np.ndarray, list[str]]]] = {
    "mixture": _mixture,
    "kmeans": _kmeans,
    "amplitude": _amplitude,
}
