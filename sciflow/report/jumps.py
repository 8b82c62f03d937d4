"""Report of an estimated jump process: rates with errors, what follows from them, how well they fit the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sciflow.core.errors import UserError
from sciflow.core.markov import transition_matrices
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.implied import implied_timescales
from sciflow.domains.jumps.observed import laws, runs, survival
from sciflow.domains.jumps.result import Estimate
from sciflow.domains.jumps.windows import at_lag, spacing
from sciflow.report.html import Section, Table
from sciflow.report.jump_pictures import (
    chapman_picture,
    dwell_picture,
    frequent,
    graph_picture,
    laws_picture,
    per,
    rates_picture,
    scales_picture,
    signal_picture,
    traces_picture,
)

LEVEL = 0.9  # of the intervals
ENOUGH_STARTS = 20  # paths from p0 from which on their law over time is shown
SHOWN = 1500  # points of a drawn signal
TRACES = 4


def state_table(found: Estimate, paths: Paths) -> Table:
    """The states: share of the observations, stationary law with interval, initial law, mean dwell time."""
    law, known = found.stationary(), found.log_covariance is not None or found.draws is not None
    low, high = found.intervals(LEVEL, found.stationary) if known else (None, None)
    share = None if paths.states is None else _occupied(paths, found.states)
    rows = []
    for s in range(found.states):
        band = None if low is None or high is None or not found.visited[s] else f"{low[s]:.3g} - {high[s]:.3g}"
        exit_rate = -found.rates[s, s]
        dwell = 1 / exit_rate if exit_rate > 0 else float("inf")
        level = [] if found.means is None else [float(found.means[s])]
        seen = None if share is None else float(share[s] / share.sum())
        rows.append([found.names[s], *level, seen, float(law[s]), band, float(found.initial[s]), float(dwell)])
    columns = ["state", *([] if found.means is None else ["level"]), "share of data", "stationary", "90 %", "initial"]
    unit = f" [{found.unit}]" if found.unit else ""
    return Table([*columns, f"mean dwell time{unit}"], rows)


def _occupied(paths: Paths, states: int) -> np.ndarray:
    """Observations in each state, or the time spent there where every jump is known."""
    assert paths.states is not None
    if paths.complete:
        return np.bincount(paths.states[:, :-1].ravel(), np.diff(paths.times, axis=1).ravel(), minlength=states)
    return np.bincount(paths.states[paths.mask], minlength=states)


def rate_table(found: Estimate) -> Table:
    """Every rate with its standard error and interval, the largest first."""
    known = found.log_covariance is not None or found.draws is not None
    low, high = found.intervals(LEVEL) if known else (np.full_like(found.rates, np.nan),) * 2
    edges = [(i, j) for i in range(found.states) for j in range(found.states) if i != j]
    rows = [
        [f"{found.names[i]} → {found.names[j]}", *(float(m[i, j]) for m in (found.rates, found.stderr, low, high))]
        for i, j in sorted(edges, key=lambda edge: -found.rates[edge])
    ]
    columns = ["", f"rate{per(found.unit)}", "standard error", "90 % from", "to"]
    return Table(columns, rows, "Standard errors by the observed information; a dash: the data say nothing.")


def scale_table(found: Estimate) -> Table:
    """Time scales with their intervals, and what else describes the whole process."""
    unit = f" [{found.unit}]" if found.unit else ""
    known = found.log_covariance is not None or found.draws is not None
    low, high = found.timescale_intervals(LEVEL) if known else (np.full(found.states - 1, np.nan),) * 2
    period, visited = found.periods(), int(found.visited.sum())
    rows: list[list[Any]] = []
    for k, scale in enumerate(found.timescales()[: visited - 1]):
        band = f"{low[k]:.3g} - {high[k]:.3g}" if np.isfinite(high[k]) else None
        swing = f"oscillates, period {period[k]:.3g}" if np.isfinite(period[k]) else ""
        rows.append([f"time scale {k + 1}{unit}", float(scale), band, swing])
    edges = found.one_way_edges()
    one_way = f"without {len(edges)} edges that go one way (each makes it infinite)" if edges else ""
    rows.append([f"entropy production{per(found.unit)}", found.entropy_production(), None, one_way])
    if found.noise_rate is not None:
        rows.append(["share of wrong labels", found.noise_rate, None, ""])
    if found.loglik is not None:
        rows.append(["log-likelihood", found.loglik, None, ""])
    note = "" if found.visited.all() else f"Of the {visited} states that occur (of {found.states})."
    return Table(["", "estimate", "90 %", ""], rows, note)


def passage_table(found: Estimate) -> Table:
    """Mean first-passage times from row to column."""
    rows = [[f"from {name}", *map(float, row)] for name, row in zip(found.names, found.mfpt(), strict=True)]
    unit = f", {found.unit}" if found.unit else ""
    return Table([f"mean first passage{unit}", *(f"to {name}" for name in found.names)], rows)


def jump_sections(found: Estimate, paths: Paths, lag: float | None = None, seed: int = 0) -> list[Section]:
    """The page, section by section.

    Args:
        found: The estimate.
        paths: All the data that it was made of, at their own spacing.
        lag: At which the estimate looked at them, None: their own.
        seed: Of bootstrap and simulation.
    """
    labelled = paths if paths.states is not None else by_level(paths, found)
    law, seen = found.stationary(), _thinned(labelled, lag)
    sections = [Section("Warnings", "\n\n".join(found.warnings) or "None.")]
    if paths.signal is not None and found.means is not None:
        sections.append(Section("Signal", "A piece around a jump.", figures=[_signal(labelled, found)]))
    sections += [
        Section(
            "States and rates",
            _described(paths, found, lag),
            state_table(found, labelled),
            [
                rates_picture(found.rates, found.stderr, found.names, found.unit),
                graph_picture(found.rates, law, found.names, found.unit),
            ],
        ),
        Section("All rates", "", rate_table(found), folded=True),
        Section("Time scales", "", scale_table(found)),
        Section("Mean first-passage times", "", passage_table(found)),
        *_memory(found, labelled, lag, seed),
        Section(
            "Dwell times",
            "At the spacing (lag) that the estimate saw. Jumps back between two observations are not seen: steps above "
            "the dashed line are expected where the spacing is long against the dwell time.",
            figures=[_dwells(found, seen)],
        ),
        _simulation(found, labelled, seen, seed),
    ]
    return sections


def by_level(paths: Paths, found: Estimate) -> Paths:
    """A signal labelled by the likeliest state of each value alone (Gaussian emissions, stationary law)."""
    assert paths.signal is not None and found.means is not None and found.deviations is not None
    z = (paths.signal[..., None] - found.means) / found.deviations
    score = np.log(np.maximum(found.stationary(), 1e-300)) - np.log(found.deviations) - 0.5 * z**2
    return paths.with_states(score.argmax(-1), found.states, found.names)


def _described(paths: Paths, found: Estimate, lag: float | None) -> str:
    at = "" if lag is None else f" Seen every {lag:g} {paths.unit} (sliding windows)."
    return (
        f"{len(paths)} paths, {paths.observations} observations, {paths.duration:.6g} {paths.unit or 'time units'} in "
        f"all.{at} Method {found.method}."
    )


def _memory(found: Estimate, paths: Paths, lag: float | None, seed: int) -> list[Section]:
    """Implied time scales and the Chapman-Kolmogorov test, where times lie on a common spacing."""
    text = (
        "Constant time scales over lags, and frequencies on the lines: the labels behave as a chain. Time scales that "
        "rise with the lag say that they have memory; estimate at a lag where they have settled (--lag)."
    )
    try:
        implied = implied_timescales(paths, seed=seed)
        own = lag or spacing(paths)
        assert own is not None
        longest = float((paths.times[:, -1] - paths.times[:, 0]).max()) / 2
        test = found.ck_test(paths, [k * own for k in (1, 2, 3, 4, 6, 8, 12, 16) if k * own <= max(longest, own)])
    except UserError as error:
        return [Section("Is it a chain?", f"Not tested: {error}.")]
    wrong = test.largest_z
    text += f" Largest deviation: {wrong:.1f} standard errors." if np.isfinite(wrong) else ""
    figures = [
        scales_picture(implied, lag, found.timescales(), found.unit),
        chapman_picture(test.lags, (test.observed, test.stderr), test.predicted, found.names, found.unit),
    ]
    return [Section("Is it a chain?", text, figures=figures)]


def _dwells(found: Estimate, paths: Paths) -> str:
    states, durations, ended = runs(paths)
    curves = []
    for s in frequent(np.bincount(states, minlength=found.states)):
        here = states == s
        if ended[here].sum() > 1:
            curves.append((s, *survival(durations[here], ended[here])))
    return dwell_picture(curves, -found.rates.diagonal(), found.names, found.unit)


def _thinned(paths: Paths, lag: float | None) -> Paths:
    """What the estimate saw, without overlap: observations one lag apart, from the first one of each path on."""
    if lag is None:
        return paths
    seen, first = at_lag(paths, lag)
    return seen.take(first)


def _simulation(found: Estimate, paths: Paths, seen: Paths, seed: int) -> Section:
    """Histograms over time, distance to simulated paths, and paths of both."""
    figures = []
    if paths.starts.sum() >= ENOUGH_STARTS:
        moments, shares, count = laws(paths)
        times = np.linspace(0, moments[-1], 100)
        predicted = found.initial @ transition_matrices(torch.from_numpy(found.rates), torch.from_numpy(times)).numpy()
        figures.append(
            laws_picture((moments, shares, count), times, _as_labels(predicted, found), found.names, found.unit)
        )
    few = seen.take(np.arange(min(TRACES, len(seen))))
    assert few.states is not None
    pieces = [(t[:n][:SHOWN], s[:n][:SHOWN]) for t, s, n in zip(few.times, few.states, few.lengths, strict=True)]
    grid = max((times - times[0] for times, _ in pieces), key=len)
    grid = np.linspace(0, max(times[-1] - times[0] for times, _ in pieces), SHOWN) if paths.complete else grid
    made = found.simulate(len(pieces), grid, seed)
    assert made.states is not None
    simulated = list(zip(made.times, made.states, strict=True))
    figures.append(traces_picture(pieces, simulated, found.names, found.unit))
    score = found.hellinger(seen, seed=seed)
    text = (
        f"Time-averaged Hellinger distance of simulated paths to the data: {100 * score.score:.2f} ± "
        f"{100 * score.deviation:.2f} (in 0.01); two samples of equal laws of this size: {100 * score.floor:.2f} ± "
        f"{100 * score.floor_deviation:.2f}."
    )
    return Section("Simulated paths against the data", text, figures=figures)


def _as_labels(law: np.ndarray, found: Estimate) -> np.ndarray:
    """The law of labels where some of them are wrong."""
    if found.confusion is not None:
        return law @ found.confusion
    wrong = found.noise_rate or 0.0
    return law * (1 - wrong) + (1 - law) * wrong / max(found.states - 1, 1)


def _signal(paths: Paths, found: Estimate) -> str:
    """A piece of the first path around its first jump away from the commonest state."""
    assert paths.signal is not None and paths.states is not None and found.means is not None
    length = int(paths.lengths[0])
    away = np.flatnonzero(paths.states[0, :length] != np.bincount(paths.states[0, :length]).argmax())
    first = max(0, int(away[0]) - SHOWN // 4) if away.size else 0
    piece = slice(first, min(length, first + SHOWN))
    return signal_picture(
        paths.times[0, piece], paths.signal[0, piece], paths.states[0, piece], found.means, found.unit
    )
