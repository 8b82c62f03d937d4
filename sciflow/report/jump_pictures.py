"""Pictures of estimated jump processes, as PNG in the page: rates, graph, laws, time scales, dwell times, traces."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

COLOURS = ("#1f5fa8", "#c4572b", "#3b8f55", "#7a4fa3", "#b8a01c", "#2aa0a4", "#d0559a", "#666666")
MOST_STATES = 8  # states with a curve of their own; of more, the most frequent
MOST_NUMBERS = 8  # states up to which numbers are written into the matrix
WEAK = 0.01  # flows below this share of the largest are not drawn


def figure(width: float = 4.6, height: float = 3.5) -> tuple[Any, Any]:
    """A matplotlib figure and its axes, independent of any display (size in inches)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(made)
    return made, made.subplots()


def image(made: Any, caption: str = "") -> str:
    """The figure as HTML with the PNG inside."""
    stream = io.BytesIO()
    made.savefig(stream, format="png")
    data = base64.b64encode(stream.getvalue()).decode()
    text = html.escape(caption)
    below = f"<figcaption>{text}</figcaption>" if text else ""
    return f'<img alt="{text}" style="max-width:100%" src="data:image/png;base64,{data}">{below}'


def frequent(law: np.ndarray) -> list[int]:
    """The states that get curves, in order of their number."""
    return sorted(np.argsort(-law)[:MOST_STATES].tolist())


def short(value: float) -> str:
    """About three digits, no trailing noise."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e5 else f"{value:.3g}"


def rates_picture(rates: np.ndarray, stderr: np.ndarray, names: Sequence[str], unit: str) -> str:
    """Off-diagonal rates as colours (log scale) with their standard errors."""
    count = len(rates)
    off = np.where(np.eye(count, dtype=bool) | (rates <= 0), np.nan, rates)
    top = np.nanmax(off) if np.isfinite(off).any() else 1.0
    shade = np.log10(np.maximum(off, 1e-4 * top))
    light = np.log10(top) - 0.6  # brighter colours than this take black text
    made, axes = figure(1.6 + 0.62 * count, 1.1 + 0.55 * count)
    axes.imshow(shade, cmap="Blues", vmin=np.log10(top) - 3.5, vmax=np.log10(top) + 0.8)
    for i in range(count):
        for j in range(count):
            if i != j and count <= MOST_NUMBERS:
                text = short(float(rates[i, j]))
                text += f"\n±{short(float(stderr[i, j]))}" if np.isfinite(stderr[i, j]) else ""
                colour = "white" if shade[i, j] > light else "black"
                axes.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(count), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(count), names, fontsize=8)
    axes.set(xlabel="to", ylabel="from")
    return image(made, f"rates{per(unit)} and standard errors")


def per(unit: str) -> str:
    """Unit of a rate in words."""
    return f" [1/{unit}]" if unit else ""


def graph_picture(rates: np.ndarray, law: np.ndarray, names: Sequence[str], unit: str) -> str:
    """States as discs (area: stationary law), transitions as arrows (width: stationary flow)."""
    count = len(rates)
    angle = 2 * np.pi * np.arange(count) / count + np.pi / 2
    place = np.stack([-np.cos(angle), np.sin(angle)], 1)
    flow = law[:, None] * np.where(np.eye(count, dtype=bool), 0, rates)
    top = flow.max() or 1.0
    made, axes = figure(4.6, 4.6)
    for i, j in zip(*np.nonzero(flow > WEAK * top), strict=True):
        style = {"arrowstyle": "-|>", "color": "#777", "lw": 0.5 + 3.5 * (flow[i, j] / top) ** 0.5}
        style |= {"connectionstyle": "arc3,rad=0.16", "shrinkA": 17, "shrinkB": 17, "mutation_scale": 11}
        axes.annotate("", place[j], place[i], arrowprops=style, zorder=1)
        if count <= 6:
            along = place[j] - place[i]
            x, y = place[i] + 0.5 * along + 0.12 * along[::-1] * (1, -1)
            axes.text(x, y, short(float(rates[i, j])), fontsize=7, ha="center", zorder=3)
    axes.scatter(*place.T, s=200 + 2500 * law, c=[COLOURS[k % len(COLOURS)] for k in range(count)], zorder=2)
    for k, (x, y) in enumerate(place):
        axes.text(1.3 * x, 1.3 * y, f"{names[k]}\n{100 * law[k]:.3g} %", ha="center", va="center", fontsize=8)
    axes.set(xlim=(-1.65, 1.65), ylim=(-1.6, 1.6), aspect="equal")
    axes.axis("off")
    return image(made, f"discs: stationary law; arrows: stationary flow, with rates{per(unit)}")


def laws_picture(
    data: tuple[np.ndarray, np.ndarray, np.ndarray], times: np.ndarray, predicted: np.ndarray, names: Any, unit: str
) -> str:
    """Histograms over time with 95 % binomial bars, and p0 exp(F t).

    Args:
        data: Times (n,), shares (n, S), counts (n,) as of `observed.laws`.
        times: (m,) of the prediction.
        predicted: (m, S).
        names: Of the states.
        unit: Of time.
    """
    moments, shares, count = data
    made, axes = figure(5.2, 3.7)
    for k in frequent(shares.mean(0)):
        colour, p = COLOURS[k % len(COLOURS)], shares[:, k]
        bars = 1.96 * np.sqrt(np.maximum(p * (1 - p), 1 / count) / count)
        axes.errorbar(moments, p, bars, fmt=".", color=colour, ms=4, lw=0.8)
        axes.plot(times, predicted[:, k], color=colour, label=names[k])
    axes.set(xlabel=axis("time", unit), ylabel="share of paths", ylim=(0, None))
    axes.legend(fontsize=7, ncols=2)
    return image(made, "points: data, 95 % bars; lines: initial law times exp(F t) of the estimate")


def axis(name: str, unit: str) -> str:
    """Label of an axis."""
    return f"{name} [{unit}]" if unit else name


def scales_picture(implied: Any, lag: float | None, scales: np.ndarray, unit: str) -> str:
    """Implied time scales over lags with their band, and those of the estimate."""
    made, axes = figure(5.2, 3.7)
    for k in range(min(implied.scales.shape[1], 5)):
        colour = COLOURS[k]
        axes.fill_between(implied.lags, implied.low[:, k], implied.high[:, k], color=colour, alpha=0.2, lw=0)
        axes.plot(implied.lags, implied.scales[:, k], ".-", color=colour, lw=1)
        if k < len(scales) and np.isfinite(scales[k]):
            axes.axhline(scales[k], color=colour, ls="--", lw=1)
    bottom = 0.5 * np.nanmin(np.r_[implied.scales.ravel(), implied.lags[-1]])
    axes.fill_between(implied.lags, bottom, np.maximum(implied.lags, bottom), color="#bbb", alpha=0.5, lw=0)
    axes.set_ylim(bottom, None)
    if lag is not None:
        axes.axvline(lag, color="#444", lw=0.8)
    axes.set(xscale="log", yscale="log", xlabel=axis("lag", unit), ylabel=axis("time scale", unit))
    return image(made, "bands: 90 % bootstrap; dashed: the estimate; upright line: its lag; grey: faster than the lag")


def chapman_picture(lags: np.ndarray, data: Any, predicted: np.ndarray, names: Any, unit: str) -> str:
    """Chapman-Kolmogorov: probability to be back in a state after a lag, frequencies against exp(F D).

    Args:
        lags: (n,).
        data: Frequencies and standard errors, (n, S, S) each.
        predicted: (n, S, S).
        names: Of the states.
        unit: Of time.
    """
    found, errors = data
    made, axes = figure(5.2, 3.7)
    for k in range(min(len(names), MOST_STATES)):
        colour = COLOURS[k % len(COLOURS)]
        axes.errorbar(lags, found[:, k, k], 1.96 * errors[:, k, k], fmt=".", color=colour, ms=5, lw=0.8)
        axes.plot(lags, predicted[:, k, k], color=colour, lw=1, label=names[k])
    axes.set(xlabel=axis("lag", unit), ylabel="probability of the same state", ylim=(0, 1.02))
    axes.legend(fontsize=7, ncols=2)
    return image(made, "points: frequencies with 95 % bars; lines: exp(F D) of the estimate")


def dwell_picture(
    curves: Sequence[tuple[int, np.ndarray, np.ndarray]], exits: np.ndarray, names: Any, unit: str
) -> str:
    """Survival of dwell times, log scale, against exp(F_ii t).

    Args:
        curves: State, times (n,), shares (n,) of each.
        exits: (S,) rates of leaving, -F_ii.
        names: Of the states.
        unit: Of time.
    """
    made, axes = figure(5.2, 3.7)
    for k, times, shares in curves:
        colour, seen = COLOURS[k % len(COLOURS)], shares > 0
        axes.step(times[seen], shares[seen], where="post", color=colour, lw=1.2, label=names[k])
        grid = np.linspace(0, times[seen][-1], 100)
        axes.plot(grid, np.exp(-exits[k] * grid), "--", color=colour, lw=1)
    lowest = min((shares[shares > 0].min() for _, _, shares in curves), default=1e-3)
    axes.set(xlabel=axis("dwell time", unit), ylabel="share still there", yscale="log", ylim=(0.5 * lowest, 1.3))
    if curves:
        axes.legend(fontsize=7, ncols=2)
    return image(made, "steps: data (Kaplan-Meier); dashed: exp(F_ii t) of the estimate")


def traces_picture(data: Sequence[tuple[np.ndarray, np.ndarray]], simulated: Any, names: Any, unit: str) -> str:
    """A few observed paths above as many simulated ones.

    Args:
        data: Times and states of each path.
        simulated: As `data`.
        names: Of the states.
        unit: Of time.
    """
    made, axes = figure(6.4, 4.2)
    offset, step = 0.0, len(names) + 0.5
    for group, colour in ((simulated, COLOURS[1]), (data, COLOURS[0])):
        for times, states in group:
            axes.step(times - times[0], states + offset, where="post", color=colour, lw=0.8)
            offset += step
    axes.set(xlabel=axis("time", unit), yticks=[])
    return image(made, "blue: observed paths; red: simulated from the estimate (states are levels)")


def signal_picture(times: np.ndarray, signal: np.ndarray, states: np.ndarray, levels: np.ndarray, unit: str) -> str:
    """A piece of the signal with the level of its state, and the histogram of all."""
    made, axes = figure(7.0, 3.0)
    axes.plot(times, signal, color="#999", lw=0.5)
    axes.step(times, levels[states], where="post", color=COLOURS[1], lw=1)
    axes.set(xlabel=axis("time", unit), ylabel="signal")
    return image(made, "grey: signal; red: mean signal of the state")
