"""Drawings: what is drawn in which colour, one scale, well-formed SVG, PNG bytes."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from sciflow.domains.trajectories.render import (
    COLOURS,
    GIVEN,
    TRUE,
    lines,
    paths_png,
    paths_svg,
    ramachandran_svg,
)

SVG = "{http://www.w3.org/2000/svg}"


def walk(samples: int = 2, frames: int = 6, atoms: int = 3, dims: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(frames, atoms, dims)).cumsum(0)
    observed = np.arange(frames) < 3
    x = np.where(observed[:, None, None], truth, truth + rng.normal(size=(samples, frames, atoms, dims)))
    return x, truth, observed


def test_lines_of_a_forecast():
    """Free stretches start at the last given frame; black ends there; truth lies behind, given frames in front."""
    samples, truth, observed = walk()
    drawn = list(lines(samples, truth, observed))
    assert [line.colour for line in drawn] == [TRUE] * 3 + [COLOURS[0]] * 3 + [COLOURS[1]] * 3 + [GIVEN] * 3
    np.testing.assert_array_equal(drawn[3].points, samples[0, 2:, 0])
    np.testing.assert_array_equal(drawn[-1].points, truth[:3, 2])


def test_lines_between_key_frames_and_without_any():
    samples, _, _ = walk(samples=1)
    keys = np.array([True, False, False, True, False, True])
    drawn = list(lines(samples, None, keys))
    free = [line.points for line in drawn if line.colour == COLOURS[0]]
    np.testing.assert_array_equal(free[0], samples[0, 0:4, 0])
    assert len(free) == 2 * 3
    assert sum(line.colour == GIVEN and len(line.points) == 1 for line in drawn) == 3 * 3
    assert {line.colour for line in lines(samples, None, None)} == {COLOURS[0]}


def test_large_systems_are_thinned():
    assert len(list(lines(np.zeros((1, 4, 500, 3)), None, None))) <= 40


def test_svg_has_two_projections_of_one_scale():
    square = np.array([[0.0, 0, 0], [2, 0, 0], [2, 1, 0], [0, 1, 1]])[None, :, None]
    tree = ElementTree.fromstring(paths_svg(square, title="a < b"))
    assert tree.find(f"{SVG}title").text == "a < b"  # type: ignore[union-attr]
    first, second = tree.findall(f"{SVG}polyline")
    points = np.array([[float(v) for v in pair.split(",")] for pair in first.get("points", "").split()])
    assert np.ptp(points[:, 0]) == pytest.approx(280, abs=0.2)  # the longest extent fills the panel
    assert np.ptp(points[:, 1]) == pytest.approx(140, abs=0.2)  # half of it stays half
    assert points[0, 1] > points[2, 1]  # y grows upwards
    assert len(second.get("points", "").split()) == 4
    assert len(ElementTree.fromstring(paths_svg(square[..., :2])).findall(f"{SVG}polyline")) == 1


def test_motionless_points_can_be_drawn():
    ElementTree.fromstring(paths_svg(np.zeros((1, 3, 2, 3))))
    assert ElementTree.fromstring(paths_svg(np.zeros((1, 1, 2, 3)))).findall(f"{SVG}circle")


def test_png(tmp_path):
    from PIL import Image

    samples, truth, observed = walk()
    place = tmp_path / "paths.png"
    place.write_bytes(paths_png(samples, truth, observed, title="paths"))
    with Image.open(place) as picture:
        assert picture.format == "PNG"
        assert picture.size == (900, 450)
        colours = {colour[:3] for _, colour in picture.convert("RGBA").getcolors(1_000_000)}  # type: ignore[union-attr]
    assert len(colours) > 20
    assert paths_png(samples[..., :2]).startswith(b"\x89PNG")


def test_ramachandran_map():
    counts = np.zeros((36, 36))
    counts[0, 0], counts[10, 35] = 5, 1
    cells = ElementTree.fromstring(ramachandran_svg(counts, "samples")).findall(f"{SVG}rect")[:-1]
    assert [cell.get("fill-opacity") for cell in cells] == ["1.00", "0.39"]  # log 2 / log 6
    low, high = ((float(cell.get("x", 0)), float(cell.get("y", 0))) for cell in cells)
    assert low[0] < high[0]
    assert low[1] > high[1]  # psi grows upwards
