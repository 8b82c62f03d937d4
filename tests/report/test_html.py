"""The page is well-formed, self-contained and escapes what it shows; charts put points where their values say."""

from __future__ import annotations

import html.parser
import json
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from sciflow.core.errors import UserError
from sciflow.core.files import check_writable, write_text
from sciflow.report.files import plain, write_json
from sciflow.report.html import Section, Table, _ticks, histogram, line_chart, page, shown

SVG = "{http://www.w3.org/2000/svg}"


class Balanced(html.parser.HTMLParser):
    """Fails on a tag that is closed but not open, or left open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def example() -> str:
    table = Table(["name", "value"], [["a<b", 0.123456], ["none", None], ["seven", 7]], "note & more")
    chart = line_chart({"one": ([0, 1], [0, 1])}, "x", "y")
    sections = [Section("First", "text <i>", table, [chart]), Section("Long", table=table, folded=True)]
    return page("Title & co", "sub", sections, {"seed": 0, "path": "<x>", "nan": math.nan, "array": np.arange(2)})


def test_page_is_balanced_escaped_and_loads_nothing():
    text = example()
    parser = Balanced()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    assert "a&lt;b" in text and "text &lt;i&gt;" in text and "Title &amp; co" in text and "<i>" not in text
    assert not re.search(r"(src|href)\s*=|url\(|@import|<link|<script|<iframe", text)
    assert '"nan": null' in html.unescape(text) and "<details>" in text


def test_settings_come_back_as_json():
    dump = html.unescape(example().split("<pre>")[1].split("</pre>")[0])
    assert json.loads(dump) == {"seed": 0, "path": "<x>", "nan": None, "array": [0, 1]}


def test_line_chart_places_points_by_value():
    """Ticks enclose the data: (0, 0) and (10, 100) are the corners, (5, 25) is half-way and a quarter up."""
    root = ElementTree.fromstring(line_chart({"curve": ([0, 5, 10], [0, 25, 100])}, "x", "y", size=(400, 300)))
    points = root.find(f"{SVG}polyline").get("points").split()
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in points)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert (y0 - y1) * 4 == pytest.approx(y0 - y2, abs=0.5)
    labels = [text.text for text in root.iter(f"{SVG}text")]
    assert {"0", "10", "100", "curve", "x", "y"} <= set(labels)


def test_charts_leave_out_what_is_not_finite_and_survive_nothing():
    points = ElementTree.fromstring(line_chart({"a": ([0, 1, 2], [1.0, math.nan, 3.0])}, "x", "y"))
    assert len(points.find(f"{SVG}polyline").get("points").split()) == 2
    assert "no data" in line_chart({"a": ([], [])}, "x", "y")
    assert "no data" in histogram({"a": [math.nan, None]}, "x")
    assert "<svg" in line_chart({"a": ([1], [2])}, "x", "y")
    assert "<svg" in histogram({"a": [3.0, 3.0]}, "x")


def test_histogram_heights_are_shares():
    """Three values in the first bin and one in the last: the tallest step is three times the other."""
    root = ElementTree.fromstring(histogram({"a": [0.0, 0.0, 0.0, 1.0]}, "x", bins=4))
    heights = [float(point.split(",")[1]) for point in root.find(f"{SVG}polyline").get("points").split()]
    base = max(heights)
    levels = sorted({round(base - y, 1) for y in heights})
    assert levels[-1] / levels[1] == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.13, 0.97), (-4.2, 3.3), (1e-6, 3e-6), (5, 5), (0, 0), (990, 1010)]
)
def test_ticks_enclose_the_data_in_round_steps(low, high):
    ticks = _ticks(low, high)
    assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12
    assert 2 <= len(ticks) <= 8
    step = ticks[1] - ticks[0]
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(mantissa - m) for m in (1, 2, 2.5, 5)) < 1e-6


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (0.0043219, "0.00432"),
        (3.14159, "3.14"),
        (12345.6, "12346"),
        (True, "yes"),
        (1234, "1\u202f234"),
    ],
)
def test_shown(value, text):
    assert shown(value) == text


def test_table_as_text_is_aligned():
    lines = Table(["", "ours"], [["a", 1.0], ["longer", 22.5]], "word " * 60).text().split("\n")
    assert lines[0] == "         ours" or lines[0].endswith("ours")
    assert [len(line) for line in lines[:4]] == [len(lines[0])] * 4
    assert max(map(len, lines)) <= 110


def test_files_are_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "file.json"
    write_json(target, {"a": math.inf, "b": np.float32(0.5), "c": [np.int64(3)], "d": {1: None}})
    assert json.loads(target.read_text()) == {"a": None, "b": 0.5, "c": [3], "d": {"1": None}}
    write_text(target, "second")
    assert target.read_text() == "second"
    assert [path.name for path in target.parent.iterdir()] == ["file.json"]
    assert plain((1, 2.0, "x", math.nan)) == [1, 2.0, "x", None]


def test_unwritable_places_are_named(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write_text("/proc/nowhere/file", "text")
    with pytest.raises(UserError, match="is a folder"):
        check_writable(tmp_path)


def test_graph_drawing_has_a_dot_per_node_and_a_line_per_edge():
    nx = pytest.importorskip("networkx")
    from sciflow.report.graphs import CELL, draw_graphs

    root = ElementTree.fromstring(draw_graphs([nx.cycle_graph(5), nx.empty_graph(1), nx.star_graph(3)], columns=2))
    assert len(list(root.iter(f"{SVG}circle"))) == 5 + 1 + 4
    assert len(list(root.iter(f"{SVG}line"))) == 5 + 0 + 3
    assert (root.get("width"), root.get("height")) == (str(2 * CELL), str(2 * CELL))
    assert all(0 <= float(dot.get(axis)) <= CELL for dot in root.iter(f"{SVG}circle") for axis in ("cx", "cy"))
