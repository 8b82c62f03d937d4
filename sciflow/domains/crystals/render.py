"""Unit cells as SVG: a parallel projection with edges, atoms as shaded discs, and a legend. No libraries are needed.

Atoms on a face, edge or corner are drawn at every place of the cell that they occupy, as in textbooks.
"""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import numpy as np

BOUNDARY = 0.02  # fractional; atoms this close to a face are drawn on both sides
RADII = 0.45  # share of the atomic radius that is drawn
VIEW = np.radians([-72.0, 0.0, -20.0])  # turns about x, y, z, applied z first


def unit_cell_svg(structure: Any, width: int = 240) -> str:
    """An SVG drawing of a pymatgen structure.

    Args:
        structure: Ordered structure.
        width: Width and height in pixels.
    """
    lattice = np.asarray(structure.lattice.matrix)
    symbols, coords = _with_images([site.specie.symbol for site in structure], np.asarray(structure.frac_coords))
    turn = _turn(*VIEW)
    centre = 0.5 * lattice.sum(0)
    points = (coords @ lattice - centre) @ turn.T
    corners = np.array(list(product((0, 1), repeat=3)), dtype=float)
    box = (corners @ lattice - centre) @ turn.T
    radii = np.array([RADII * _radius(symbol) for symbol in symbols])
    reach = max(np.abs(box[:, :2]).max(), (np.abs(points[:, :2]).max(1) + radii).max()) * 1.06
    scale, legend = width / (2 * reach), 22

    def place(point: np.ndarray) -> tuple[float, float]:
        return width / 2 + scale * point[0], width / 2 - scale * point[1]

    shapes = []
    for i, j in combinations(range(8), 2):
        if np.abs(corners[i] - corners[j]).sum() != 1:
            continue
        (x1, y1), (x2, y2) = place(box[i]), place(box[j])
        line = f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#888" stroke-width="1"/>'
        shapes.append((min(box[i, 2], box[j, 2]), line))
    for symbol, point, radius in zip(symbols, points, radii, strict=True):
        x, y = place(point)
        disc = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{scale * radius:.1f}" fill="{_colour(symbol)}" stroke="#333"/>'
        shapes.append((point[2], disc))
    drawn = [shape for _, shape in sorted(shapes, key=lambda shape: shape[0])]  # what is nearer covers what is behind
    names = list(dict.fromkeys(site.specie.symbol for site in structure))
    for i, symbol in enumerate(names):
        x = 10 + 38 * i
        drawn.append(f'<circle cx="{x}" cy="{width + 10}" r="6" fill="{_colour(symbol)}" stroke="#333"/>')
        drawn.append(f'<text x="{x + 9}" y="{width + 14}" font-size="12" font-family="sans-serif">{symbol}</text>')
    title = f"<title>{structure.composition.reduced_formula}</title>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{width + legend}" role="img">'
    return head + title + "".join(drawn) + "</svg>"


def _with_images(symbols: list[str], coords: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Atoms in [0, 1], those at a face on both sides."""
    coords = np.mod(coords, 1.0)
    coords = np.where(coords > 1 - BOUNDARY, coords - 1, coords)
    names, places = [], []
    for symbol, place in zip(symbols, coords, strict=True):
        for shift in product(*[(0, 1) if x < BOUNDARY else (0,) for x in place]):
            names.append(symbol)
            places.append(place + shift)
    return names, np.array(places)


def _turn(x: float, y: float, z: float) -> np.ndarray:
    cx, sx, cy, sy, cz, sz = np.cos(x), np.sin(x), np.cos(y), np.sin(y), np.cos(z), np.sin(z)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def _radius(symbol: str) -> float:
    from ase.data import atomic_numbers, covalent_radii

    return float(covalent_radii[atomic_numbers[symbol]])


def _colour(symbol: str) -> str:
    from ase.data import atomic_numbers
    from ase.data.colors import jmol_colors

    return "#" + "".join(f"{round(255 * channel):02x}" for channel in jmol_colors[atomic_numbers[symbol]])
