"""Named warnings: what in the data, or between data and estimate, makes rates doubtful."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
from scipy.stats import chi2

from sciflow.core import markov
from sciflow.domains.jumps.counts import Transitions, chain_matrices, occupancy, transitions
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.em import Labelled
from sciflow.domains.jumps.rate_prior import GammaPrior
from sciflow.domains.jumps.result import generator, relaxation

UNITS_APART = 100.0  # ratio of typical spacings of two paths
DOUBT = 1e-3  # false-alarm rate of the embeddability test
CHANGE = 0.2  # of the slowest time scale between a lag and twice that lag
DEVIATIONS = 2.0  # that the change must exceed
RESOLVED = 3.0  # time scales that a lag may last and still tell their length
MAIN_LAG = 0.9  # share of transitions at one lag that makes it the lag of the data


def data_warnings(paths: Paths) -> list[str]:
    """Never-visited states, one-state data, paths without transitions, paths in different units of time."""
    found = list(paths.warnings)
    if paths.states is not None:
        seen = occupancy(paths) > 0
        missing = [paths.names[s] for s in np.flatnonzero(~seen)]
        if seen.sum() == 1:
            found.append(
                f"one-state data: only state {paths.names[int(np.argmax(seen))]} occurs; rates out of it are bounded "
                "from above, nothing else is known"
            )
        elif missing:
            found.append(
                f"never-visited: state {', '.join(missing)} does not occur; rates out of it come from the prior alone "
                "(with none, nothing is known of them)"
            )
    single = int((paths.lengths == 1).sum())
    if single:
        found.append(f"single observations: {single} of {len(paths)} paths have one observation and no transition")
    return [*found, *_unit_warning(paths)]


def _unit_warning(paths: Paths) -> list[str]:
    """A doubt about units where typical spacings of two paths differ by a factor of 100 or more."""
    steps = paths.lengths - 1
    spans = paths.times[:, -1] - paths.times[:, 0]
    typical = (spans[steps > 0] / steps[steps > 0]) if not paths.complete else np.zeros(0)
    typical = typical[typical > 0]
    if not typical.size or typical.max() < UNITS_APART * typical.min():
        return []
    return [
        f"mixed time units: typical spacings of paths lie between {typical.min():.3g} and {typical.max():.3g}; check "
        "that all times are in one unit"
    ]


def label_warnings(
    paths: Paths, seen: Transitions, rates: np.ndarray, prior: GammaPrior, weight: float = 1.0
) -> list[str]:
    """Whether labels behave as a chain, and whether their lag tells its time scales.

    Args:
        paths: The data.
        seen: Its transitions by lag; those of sliding windows count `weight` each. Windows that overlap tell more than
            that, so the tests are then on the safe side.
        rates: (S, S) fitted to the transitions with `prior`, and shrunk to nothing else: rates that the data
            contradict a little would look like labels with memory.
        prior: Of the rates.
        weight: Independent transitions in each.
    """
    visited = occupancy(paths) > 0  # rates of the others come from the prior, at whatever lag
    return [
        *resolution_warning(float(seen.lags.min()), generator(rates[visited][:, visited]), paths.unit),
        *embeddability_warning(seen, rates),
        *lag_warning(paths, rates, prior, weight),
    ]


def embeddability_warning(seen: Transitions, rates: np.ndarray) -> list[str]:
    """Whether transition frequencies at the main lag are those of any chain in continuous time.

    Likelihood-ratio test of the fitted exp(F D) against free transition frequencies, by chi-square with S - 1 degrees
    of freedom per visited row: an upper bound, since F has as many parameters and is at most at the boundary.
    """
    share = seen.counts.sum((1, 2)) / seen.counts.sum()
    main = int(share.argmax())
    if share[main] < MAIN_LAG:
        return []
    N, rows = seen.counts[main], seen.counts[main].sum(1, keepdim=True)
    P = chain_matrices(torch.from_numpy(rates), seen.lags[main : main + 1])[0].clamp_min(1e-12)
    gap = 2 * float(torch.where(N > 0, N * (N / rows.clamp_min(1e-300) / P).clamp_min(1e-300).log(), 0).sum())
    freedom = int((rows > 0).sum()) * (seen.states - 1)
    if chi2.sf(gap, freedom) > DOUBT:
        return []
    return [
        f"non-embeddable: no chain in continuous time has the transition frequencies at lag {seen.lags[main]:g} "
        f"(log-likelihood {gap / 2:.1f} below them, {freedom} degrees of freedom): labels may be wrong (hmm_em) or "
        "have memory (longer lag), or the lag is too long"
    ]


def resolution_warning(lag: float, rates: np.ndarray, unit: str = "") -> list[str]:
    """Whether the (shortest) lag of the data is too long for some of the time scales.

    What is left of a relaxation after three of its time scales, 5 %, is lost in the noise of counts: the likelihood
    hardly changes with such a scale, and fits that stop early or have another prior give another one.
    """
    scales = markov.timescales(torch.from_numpy(rates)).numpy()
    fast = scales[scales < lag / RESOLVED]
    if not fast.size:
        return []
    return [
        f"unresolved: {fast.size} of {scales.size} time scales ({fast.max():.3g} {unit}".rstrip()
        + f" and below) are shorter than a third of the lag {lag:.3g}: the data hardly tell them from any other "
        "short one; use a shorter lag"
    ]


def lag_warning(paths: Paths, rates: np.ndarray, prior: GammaPrior, weight: float = 1.0) -> list[str]:
    """Whether the slowest time scale changes by more than 20 % at twice the lag.

    Rates are fitted again, from pairs two observations apart; the change must also exceed two standard errors of that
    fit, the less certain of two fits that share their data (fits to true chains differ by 0.7 of them at most, in the
    root mean square), and the scale must be one that twice the lag can tell. Arguments as `label_warnings`.
    """
    visited, apart = occupancy(paths) > 0, (paths.times[:, 2:] > paths.times[:, :-2])[paths.mask[:, 2:]]
    if (paths.lengths < 4).all() or visited.sum() < 2 or not apart.any():
        return []
    seen = transitions(paths, 2)
    seen = Transitions(seen.lags, seen.counts * weight / 2)  # pairs overlap: half of them are independent
    double = Labelled(seen, prior).fitted()
    pair = [generator(F[visited][:, visited]) for F in (rates, double)]
    first, second = (float(relaxation(F)) for F in pair)
    lag = float((seen.counts.sum((1, 2)) * seen.lags).sum() / seen.counts.sum())
    told = np.isfinite([first, second]).all() and lag < RESOLVED * first
    if not (told and abs(second / first - 1) > CHANGE):
        return []
    error = _error(pair[1], seen.total.sum(1).numpy()[visited], lag)
    if not abs(np.log(second / first)) > DEVIATIONS * error:
        return []
    return [
        f"lag-dependent: the slowest time scale goes from {first:.4g} to {second:.4g} {paths.unit}".rstrip()
        + " when the lag is doubled: the labels are not Markovian at this lag; use a longer one, or hmm_em"
    ]


def _error(F: np.ndarray, counts: np.ndarray, lag: float) -> float:
    """Standard error of the log of the slowest time scale, of transitions (S,) from each state over `lag`.

    lambda = exp(-lag/t) is an eigenvalue of P with left and right vectors l r = 1. Rows of frequencies are multinomial,
    so var(lambda) = sum_a |l_a|^2/n_a ((P |r|^2)_a - |lambda r_a|^2), and se(log t) = se(lambda)/|lambda log lambda|.
    """
    P = scipy.linalg.expm(F * lag)
    values, left, right = scipy.linalg.eig(P, left=True, right=True)  # type: ignore[misc]
    slowest = np.argsort(-abs(values))[1]
    size, l, r = abs(values[slowest]), left[:, slowest], right[:, slowest]
    with np.errstate(divide="ignore", invalid="ignore"):  # a scale that no count can tell: inf
        weight = abs(l / np.vdot(l, r)) ** 2 / np.maximum(counts, 1)
        variance = (weight * (P @ abs(r) ** 2 - size**2 * abs(r) ** 2)).sum()
        return float(np.sqrt(variance) / (size * abs(np.log(size))))
