"""Named warnings: what in the data, or between data and estimate, makes rates doubtful."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import chi2

from sciflow.core import markov
from sciflow.domains.jumps.ascent import maximise
from sciflow.domains.jumps.counts import Transitions, chain_matrices, occupancy, transitions
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.em import Labelled, unpack
from sciflow.domains.jumps.rate_prior import weak_prior
from sciflow.domains.jumps.result import Estimate, generator, relaxation

UNITS_APART = 100.0  # ratio of typical spacings of two paths
DOUBT = 1e-3  # false-alarm rate of the embeddability test
CHANGE = 0.2  # of the slowest time scale between a lag and twice that lag
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
                f"never-visited: state {', '.join(missing)} does not occur; rates out of it come from the prior alone"
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


def resolution_warning(seen: Transitions, estimate: Estimate) -> list[str]:
    """Whether the shortest lag is too long for some of the time scales.

    What is left of a relaxation after three of its time scales, 5 %, is lost in the noise of counts: the likelihood
    hardly changes with such a scale, and fits that stop early or have another prior give another one.
    """
    scales, shortest = estimate.timescales(), float(seen.lags[seen.lags > 0].min())
    fast = scales[scales < shortest / RESOLVED]
    if not fast.size:
        return []
    return [
        f"unresolved: {fast.size} of {scales.size} time scales ({fast.max():.3g} {estimate.unit}".rstrip()
        + f" and below) are shorter than a third of the lag {shortest:.3g}: the data hardly tell them from any other "
        "short one; use a shorter lag"
    ]


def lag_warning(paths: Paths, estimate: Estimate) -> list[str]:
    """Whether the slowest time scale changes by more than 20 % when every second observation is left out.

    Rates are fitted again, with the weak prior, from pairs two observations apart; the change must also exceed two
    standard errors.
    """
    if (paths.lengths < 4).all():
        return []
    seen = transitions(paths, 2)
    seen = Transitions(seen.lags, seen.counts / 2)  # pairs overlap: half of them are independent
    model = Labelled(seen, weak_prior(paths))
    theta = maximise(model, model.start()).theta
    double = markov.generator(unpack(theta.exp(), seen.states)).numpy()
    visited = occupancy(paths) > 0  # rates of the others come from the prior, at whatever lag
    if visited.sum() < 2:
        return []

    def slowest(rates: np.ndarray) -> float:
        return float(relaxation(generator(rates[visited][:, visited])))

    first, second = slowest(estimate.rates), slowest(double)
    if not (np.isfinite([first, second]).all() and abs(second / first - 1) > CHANGE):
        return []
    if estimate.log_covariance is not None or estimate.draws is not None:
        scales = np.array([slowest(F) for F in estimate.posterior(200)])
        scales = scales[np.isfinite(scales)]
        low, high = np.quantile(np.log(scales), [0.159, 0.841]) if len(scales) else (0.0, np.inf)
        if abs(np.log(second / first)) < high - low:  # the middle 68 % are two deviations wide
            return []
    return [
        f"lag-dependent: the slowest time scale goes from {first:.3g} to {second:.3g} {paths.unit}".rstrip()
        + " when the lag is doubled: the labels are not Markovian at this lag; use a longer one, or hmm_em"
    ]
