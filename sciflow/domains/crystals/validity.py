"""Validity of a crystal as CDVAE (Xie et al., ICLR 2022) defined it, and the two halves of that.

Structural: atoms at least 0.5 angstrom apart and a volume of at least 0.1 cubic angstrom. Compositional: the reduced
formula is one element, or only metals, or some assignment of smact's oxidation states is neutral and gives every cation
a lower Pauling electronegativity than every anion (a missing electronegativity passes).

The table of oxidation states is that of smact 2 ("smact14"), with which all published figures up to 2025 were made,
whatever version is installed; about 10 % of real MP-20 crystals fail it.
"""

from __future__ import annotations

import itertools
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np

from sciflow.core.errors import require
from sciflow.domains.crystals.arrays import shortest_distance

SHORTEST = 0.5  # angstrom
SMALLEST = 0.1  # cubic angstrom
MAX_ASSIGNMENTS = 2_000_000  # combinations of oxidation states; no crystal of a benchmark comes near


def structurally_valid(structure: Any) -> bool:
    """Distances and volume of a pymatgen structure; False for None."""
    if structure is None or len(structure) == 0:
        return False
    lattice = np.asarray(structure.lattice.matrix)
    if not np.isfinite(lattice).all() or abs(np.linalg.det(lattice)) < SMALLEST:
        return False
    reduced, coords = _reduced_cell(lattice, np.asarray(structure.frac_coords))
    return shortest_distance(reduced, coords) >= SHORTEST


def compositionally_valid(structure: Any) -> bool:
    """Neutral and sensible, by smact's tables (extra `crystal-metrics`); False for None."""
    if structure is None:
        return False
    counts = structure.composition.get_el_amt_dict()
    numbers = [round(count) for count in counts.values()]
    divisor = int(np.gcd.reduce(numbers))
    return _neutral(tuple(sorted(zip(counts, (n // divisor for n in numbers)))))


def smact_version() -> str:
    """Recorded with every figure."""
    require("smact", "crystal-metrics")
    return version("smact")


@cache
def _neutral(formula: tuple[tuple[str, int], ...]) -> bool:
    """Whether a reduced formula ((symbol, count), ...) passes."""
    smact = require("smact", "crystal-metrics")
    if len(formula) == 1 or all(symbol in smact.metals for symbol, _ in formula):
        return True
    elements = [_element(symbol) for symbol, _ in formula]
    states = [states for states, _ in elements]
    if not all(states) or np.prod([len(one) for one in states], dtype=float) > MAX_ASSIGNMENTS:
        return False
    table = np.array(list(itertools.product(*states)))  # (assignments, elements)
    table = table[table @ np.array([count for _, count in formula]) == 0]
    if len(table) == 0:
        return False
    attraction = [value for _, value in elements]
    if any(value is None for value in attraction):
        return True
    values = np.array(attraction, dtype=float)
    cations = np.where(table > 0, values, -np.inf).max(1)
    anions = np.where(table < 0, values, np.inf).min(1)
    return bool(((cations < anions) & (table != 0).all(1) & (table > 0).any(1) & (table < 0).any(1)).any())


@cache
def _element(symbol: str) -> tuple[tuple[int, ...], float | None]:
    """Oxidation states and Pauling electronegativity of an element."""
    element = require("smact", "crystal-metrics").Element(symbol)
    states = getattr(element, "oxidation_states_smact14", None) or element.oxidation_states or ()
    return tuple(states), element.pauling_eneg


def _reduced_cell(lattice: np.ndarray, coords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sciflow.domains.crystals.arrays import canonical

    try:
        return canonical(lattice, coords)
    except np.linalg.LinAlgError:
        return lattice, coords
