r"""Drawings of trajectories: paths in two projections (SVG or PNG), Ramachandran maps.

Given frames are black, samples coloured, the true continuation grey. All panels of a drawing have one scale, so that
circles stay circles. SVG needs no library, PNG needs matplotlib (it comes with the base install).
"""

from __future__ import annotations

import html
import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

COLOURS = ("#1f5fa8", "#c4572b", "#3b8f55", "#7a4fa3", "#d69a1e", "#2aa1a1", "#b0457c", "#7c7c2c")
GIVEN, TRUE = "#000000", "#a8a8a8"
AXES = "xyz"
MOST_ATOMS = 40  # drawn at most; of larger systems every n-th
MARGIN = 10  # pixels


class Line(NamedTuple):
    """One atom over consecutive frames, (frames, D), with its colour and width."""

    points: np.ndarray
    colour: str
    width: float


def lines(samples: np.ndarray, truth: np.ndarray | None, observed: np.ndarray | None) -> Iterator[Line]:
    """What is drawn, from the back to the front: truth, samples, given frames.

    Args:
        samples: (K, T, N, D).
        truth: (T, N, D) or None.
        observed: (T,) bool or None. A free stretch is joined to the given frames beside it.
    """
    shape = samples.shape[1:]
    seen = np.zeros(shape[0], bool) if observed is None else np.asarray(observed, bool)
    atoms = range(0, shape[1], -(-shape[1] // MOST_ATOMS))
    free = _stretches(~seen, grow=True)
    if truth is not None:
        yield from (Line(truth[part, atom], TRUE, 2.2) for part in free for atom in atoms)
    for number, one in enumerate(samples):
        colour = COLOURS[number % len(COLOURS)]
        yield from (Line(one[part, atom], colour, 0.9) for part in free for atom in atoms)
    given = samples[0] if truth is None else truth
    yield from (Line(given[part, atom], GIVEN, 1.8) for part in _stretches(seen) for atom in atoms)


def _stretches(chosen: np.ndarray, grow: bool = False) -> list[slice]:
    """Runs of chosen frames; grown by one frame on both sides where asked."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(int), [0]])))
    return [slice(max(a - grow, 0), b + grow) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def projections(dims: int) -> tuple[tuple[int, int], ...]:
    """Pairs of axes: xy and xz, or xy alone in the plane."""
    return ((0, 1), (0, 2)) if dims > 2 else ((0, 1),)


def paths_svg(
    samples: np.ndarray,
    truth: np.ndarray | None = None,
    observed: np.ndarray | None = None,
    size: int = 300,
    title: str = "",
) -> str:
    """Paths of all atoms as inline SVG, one panel per projection; see `lines` for the arguments."""
    drawn = list(lines(samples, truth, observed))
    low, scale = _frame(drawn, size - 2 * MARGIN)
    panels = projections(len(low))
    parts = []
    for number, (a, b) in enumerate(panels):
        left = number * (size + 12)
        parts.append(f'<rect x="{left}" y="0" width="{size}" height="{size}" fill="none" stroke="#ddd"/>')
        label = f"{AXES[a]}{AXES[b]}"
        parts.append(f'<text x="{left + 6}" y="15" font-size="12" font-family="sans-serif" fill="#666">{label}</text>')
        for line in drawn:
            x = left + MARGIN + scale * (line.points[:, a] - low[a])
            y = size - MARGIN - scale * (line.points[:, b] - low[b])
            if len(x) == 1:
                parts.append(f'<circle cx="{x[0]:.1f}" cy="{y[0]:.1f}" r="2" fill="{line.colour}"/>')
                continue
            points = " ".join(f"{u:.1f},{v:.1f}" for u, v in zip(x, y, strict=True))
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-width="{line.width}" '
                f'stroke-opacity="0.8"/>'
            )
    width = len(panels) * (size + 12) - 12
    name = f"<title>{html.escape(title)}</title>" if title else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {size}" width="{width}" height="{size}" '
        f'role="img">{name}{"".join(parts)}</svg>'
    )


def paths_png(
    samples: np.ndarray,
    truth: np.ndarray | None = None,
    observed: np.ndarray | None = None,
    size: int = 450,
    title: str = "",
) -> bytes:
    """The same drawing as the bytes of a PNG file; `size` is the height in pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = list(lines(samples, truth, observed))
    low, scale = _frame(drawn, 1.0)
    high = low + 1 / scale
    pad = 0.03 * (high - low)
    panels = projections(len(low))
    figure = Figure(figsize=(size / 100 * len(panels), size / 100), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (a, b) in zip(np.ravel(figure.subplots(1, len(panels))), panels, strict=True):
        for line in drawn:
            style = {"marker": "."} if len(line.points) == 1 else {}
            axes.plot(line.points[:, a], line.points[:, b], color=line.colour, lw=line.width, alpha=0.8, **style)
        limits = {"xlim": (low[a] - pad[a], high[a] + pad[a]), "ylim": (low[b] - pad[b], high[b] + pad[b])}
        axes.set(xlabel=AXES[a], ylabel=AXES[b], aspect="equal", **limits)
    if title:
        figure.suptitle(title)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _frame(drawn: list[Line], size: float) -> tuple[np.ndarray, float]:
    """Lowest corner of a cube around all points, and pixels per unit."""
    points = np.concatenate([line.points for line in drawn])
    low, high = points.min(0), points.max(0)
    extent = float((high - low).max()) or 1.0
    return (low + high - extent) / 2, size / extent


def ramachandran_svg(counts: np.ndarray, title: str, size: int = 240) -> str:
    """A map of (phi, psi) counts over -180 to 180 degrees; dark is frequent (log scale).

    Args:
        counts: (bins, bins), phi first.
        title: Line above the map.
        size: Of the square in pixels.
    """
    counts = np.asarray(counts, np.float64)
    cell, left, top = size / len(counts), 46, 24
    shade = np.log1p(counts) / max(np.log1p(counts).max(), 1e-12)
    parts = [
        f'<rect x="{left + i * cell:.1f}" y="{top + size - (j + 1) * cell:.1f}" width="{cell:.2f}" '
        f'height="{cell:.2f}" fill="#1f5fa8" fill-opacity="{shade[i, j]:.2f}"/>'
        for i, j in np.argwhere(counts > 0)
    ]
    parts.append(f'<rect x="{left}" y="{top}" width="{size}" height="{size}" fill="none" stroke="#888"/>')
    for degrees in (-180, -90, 0, 90, 180):
        at = size * (degrees + 180) / 360
        parts.append(f'<text x="{left + at:.0f}" y="{top + size + 15}" text-anchor="middle">{degrees}</text>')
        parts.append(f'<text x="{left - 5}" y="{top + size - at + 4:.0f}" text-anchor="end">{degrees}</text>')
    middle = left + size / 2
    parts.append(f'<text x="{middle}" y="15" text-anchor="middle">{html.escape(title)}</text>')
    parts.append(f'<text x="{middle}" y="{top + size + 32}" text-anchor="middle">phi [degrees]</text>')
    turned = f'transform="rotate(-90 11 {top + size / 2})"'
    parts.append(f'<text x="11" y="{top + size / 2}" text-anchor="middle" {turned}>psi [degrees]</text>')
    width, height = left + size + 16, top + size + 38
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="#333">{"".join(parts)}</svg>'
    )
