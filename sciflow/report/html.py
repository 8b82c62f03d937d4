"""One self-contained HTML page: sections of text, tables and figures, and the settings of the run as JSON.

Nothing is loaded from outside: figures are inline SVG, the style stands in the page. `Table` also prints to a terminal.
"""

from __future__ import annotations

import html
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sciflow.report.files import plain

COLOURS = ("#1f5fa8", "#c4572b", "#3b8f55", "#7a4fa3", "#666666")
STYLE = """
body { font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #222; background: #fff;
       max-width: 1120px; margin: 2em auto; padding: 0 1.5em; }
h1 { font-size: 1.7em; margin: 0; } h2 { font-size: 1.2em; margin: 2em 0 .4em; border-bottom: 1px solid #ddd; }
p { max-width: 52em; } .subtitle, .note { color: #666; } .note { font-size: .87em; margin: .3em 0; }
.wide { overflow-x: auto; } figure { margin: .8em 0; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; margin: .6em 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .8em; text-align: right; border-bottom: 1px solid #eee; white-space: nowrap; }
th { border-bottom: 2px solid #bbb; font-weight: 600; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; } td.text { text-align: left; font-family: monospace; }
tr.strong td { font-weight: 600; } details { margin: 1em 0; } summary { cursor: pointer; color: #1f5fa8; }
pre { background: #f6f6f6; padding: .8em; overflow-x: auto; font-size: .85em; }
.row { display: flex; flex-wrap: wrap; gap: 1.5em; }
"""


class Table(NamedTuple):
    """Rows under column names; the first column is the name of the row.

    Attributes:
        columns: Headings.
        rows: One entry per column: text, numbers, or None for "not available".
        note: What the reader must know: sources, units, numbers of samples.
        text_columns: Columns shown left-aligned in a fixed-width face (SMILES).
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    text_columns: frozenset[int] = frozenset()

    def html(self) -> str:
        """The table as HTML."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(f"<tr>{''.join(self._cell(i, cell) for i, cell in enumerate(row))}</tr>\n" for row in self.rows)
        note = f'<p class="note">{html.escape(self.note)}</p>' if self.note else ""
        return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>{note}'

    def _cell(self, column: int, cell: Any) -> str:
        kind = ' class="text"' if column in self.text_columns else ""
        return f"<td{kind}>{html.escape(shown(cell))}</td>"

    def text(self) -> str:
        """The table for a terminal, first column left-aligned, the rest right-aligned."""
        lines = [list(self.columns), *[[shown(cell) for cell in row] for row in self.rows]]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        first, *others = widths
        body = [
            f"{row[0]:{first}}" + "".join(f"  {cell:>{w}}" for cell, w in zip(row[1:], others, strict=True))
            for row in lines
        ]
        body.insert(1, "-" * len(body[0]))
        return "\n".join([*(line.rstrip() for line in body), *textwrap.wrap(self.note, 110)])


class Section(NamedTuple):
    """A heading with text, a table and figures (inline SVG or other HTML); empty parts are left out.

    Attributes:
        title: Heading.
        text: One or more paragraphs, separated by empty lines.
        table: Table.
        figures: HTML fragments, laid side by side where there is room.
        folded: The table is hidden behind a line to click on (long tables).
    """

    title: str
    text: str = ""
    table: Table | None = None
    figures: Sequence[str] = ()
    folded: bool = False

    def html(self) -> str:
        """The section as HTML."""
        parts = [f"<h2>{html.escape(self.title)}</h2>"]
        parts += [f"<p>{html.escape(block)}</p>" for block in self.text.split("\n\n") if block]
        if self.table is not None and self.table.rows:
            table = self.table.html()
            label = f"show {len(self.table.rows)} rows"
            parts.append(f"<details><summary>{label}</summary>{table}</details>" if self.folded else table)
        if self.figures:
            parts.append('<div class="row">' + "".join(f"<figure>{one}</figure>" for one in self.figures) + "</div>")
        return "\n".join(parts)


def page(title: str, subtitle: str, sections: Sequence[Section], settings: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        title: Heading and window title.
        subtitle: One line below it.
        sections: In order.
        settings: Everything that reproduces the run; shown as JSON at the end.
    """
    dump = html.escape(json.dumps(plain(dict(settings)), indent=1, ensure_ascii=False))
    body = "\n".join(section.html() for section in sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>\n"
        f'<h1>{html.escape(title)}</h1><p class="subtitle">{html.escape(subtitle)}</p>\n{body}\n'
        f"<h2>Settings</h2><pre>{dump}</pre>\n</body></html>\n"
    )


def shown(value: Any) -> str:
    """A cell: text as it is, numbers with about 3 significant digits, None and NaN as a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
    return str(value)


def line_chart(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    size: tuple[int, int] = (350, 270),
    steps: bool = False,
) -> str:
    """Curves as inline SVG.

    Args:
        series: Name -> (x, y); points that are not finite are left out.
        x_label: Label of the horizontal axis.
        y_label: Label of the vertical axis.
        size: Width and height [pixels].
        steps: Draw a staircase: y[i] holds from x[i] to x[i + 1].
    """
    points = {
        name: [(float(a), float(b)) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
        for name, (x, y) in series.items()
    }
    flat = [point for curve in points.values() for point in curve]
    if not flat:
        return f'<p class="note">{html.escape(y_label)}: no data</p>'
    width, height = size
    left, right, top, bottom = 58, width - 14, 14 + 17 * len(points), height - 42
    x_ticks, y_ticks = (_ticks(min(p[i] for p in flat), max(p[i] for p in flat)) for i in (0, 1))

    def place(x: float, y: float) -> str:
        u = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        v = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return f"{left + u * (right - left):.1f},{bottom - v * (bottom - top):.1f}"

    parts = []
    for x in x_ticks:
        px = place(x, y_ticks[0]).split(",")[0]
        parts.append(f'<text x="{px}" y="{bottom + 17}" text-anchor="middle">{x:g}</text>')
        parts.append(f'<line x1="{px}" x2="{px}" y1="{bottom}" y2="{bottom + 4}" stroke="#888"/>')
    for y in y_ticks:
        py = place(x_ticks[0], y).split(",")[1]
        parts.append(f'<text x="{left - 6}" y="{float(py) + 4:.1f}" text-anchor="end">{y:g}</text>')
        parts.append(f'<line x1="{left}" x2="{right}" y1="{py}" y2="{py}" stroke="#e6e6e6"/>')
    for number, (name, curve) in enumerate(points.items()):
        colour, y = COLOURS[number % len(COLOURS)], 12 + 17 * number
        corners = [corner for a, b in zip(curve, curve[1:]) for corner in (a, (b[0], a[1]))]
        line = " ".join(place(*point) for point in ([*corners, curve[-1]] if steps else curve) if curve)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<line x1="{left}" x2="{left + 20}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="3"/>'
        )
        parts.append(f'<text x="{left + 27}" y="{y}">{html.escape(name)}</text>')
    parts.append(f'<line x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="#888"/>')
    parts.append(f'<text x="{(left + right) / 2}" y="{height - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    middle = (top + bottom) / 2
    turned = f'transform="rotate(-90 13 {middle})"'
    parts.append(f'<text x="13" y="{middle}" text-anchor="middle" {turned}>{html.escape(y_label)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="#333">{"".join(parts)}</svg>'
    )


def histogram(groups: Mapping[str, Sequence[float]], label: str, bins: int | None = None) -> str:
    """Shares of several sets of values over common bins, as staircases in one chart.

    Args:
        groups: Name -> values; those that are not finite are left out.
        label: Label of the horizontal axis.
        bins: Number of bins over the joint range; None: twice the cube root of the smallest set, 5 to 20.
    """
    kept = {name: [float(v) for v in values if v is not None and math.isfinite(v)] for name, values in groups.items()}
    flat = [value for values in kept.values() for value in values]
    if not flat:
        return f'<p class="note">{html.escape(label)}: no data</p>'
    if bins is None:
        bins = round(min(max(2 * min(len(values) for values in kept.values() if values) ** (1 / 3), 5), 20))
    low, high = min(flat), max(flat)
    width = (high - low) / bins or 1.0
    edges = [low + i * width for i in range(bins + 1)]
    series = {}
    for name, values in kept.items():
        counts = [0] * bins
        for value in values:
            counts[min(int((value - low) / width), bins - 1)] += 1
        heights = [100 * count / max(len(values), 1) for count in counts]
        series[name] = ([edges[0], *edges, edges[-1]], [0.0, *heights, heights[-1], 0.0])
    return line_chart(series, label, "share [%]", steps=True)


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that enclose [low, high]."""
    span = high - low or abs(high) or 1.0
    raw = span / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]
