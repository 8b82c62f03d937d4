"""Comparison of crystal structures: pymatgen's StructureMatcher with the tolerances of the benchmarks.

The displacement of a match is the root mean square over its sites divided by (V/N)^(1/3). Structures are matched
whatever their space groups (pymatgen issue 3796), and left- and right-handed forms count as equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from sciflow.domains.crystals.pool import Failed, each

SECONDS = 20.0  # time limit of one comparison


@dataclass(frozen=True)
class Tolerances:
    """Of the StructureMatcher.

    Attributes:
        stol: Largest site displacement, in units of (V/N)^(1/3).
        angle: Of cell angles, degrees.
        ltol: Of cell lengths, relative.
    """

    stol: float = 0.5
    angle: float = 10.0
    ltol: float = 0.3


USUAL = Tolerances()
STRICT = Tolerances(0.3, 5.0, 0.2)


def displacement(pair: tuple[Any, Any], tolerances: Tolerances = USUAL) -> float | None:
    """RMS displacement of (prediction, reference), None without a match. Either may be None."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    prediction, reference = pair
    if (
        prediction is None
        or reference is None
        or prediction.composition.reduced_formula != reference.composition.reduced_formula
    ):
        return None
    matcher = StructureMatcher(stol=tolerances.stol, angle_tol=tolerances.angle, ltol=tolerances.ltol)
    found = matcher.get_rms_dist(prediction, reference)
    return None if found is None else float(found[0])


def displacements(
    pairs: Sequence[tuple[Any, Any]],
    tolerances: Tolerances = USUAL,
    seconds: float = SECONDS,
    workers: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[np.ndarray, int]:
    """RMS displacements of many pairs, NaN without a match, and how many comparisons failed or took too long."""
    function = partial(displacement, tolerances=tolerances)
    found = each(function, pairs, seconds, workers, lambda place, _: progress((place + 1) / len(pairs)), _import)
    failures = sum(isinstance(one, Failed) for one in found)
    return np.array([one if isinstance(one, float) else np.nan for one in found], dtype=float), failures


def _import() -> None:
    import pymatgen.analysis.structure_matcher  # noqa: F401


def distinct(structures: Sequence[Any], tolerances: Tolerances | None = None) -> list[int]:
    """For each structure the place of the first one that it equals (its own if there is none); -1 for None.

    Args:
        structures: pymatgen structures or None.
        tolerances: None: pymatgen's defaults (stol 0.3, 5 degrees, ltol 0.2).
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    chosen = tolerances or STRICT
    matcher = StructureMatcher(stol=chosen.stol, angle_tol=chosen.angle, ltol=chosen.ltol)
    first: list[int] = []
    kinds: dict[str, list[int]] = {}
    for i, one in enumerate(structures):
        if one is None:
            first.append(-1)
            continue
        known = kinds.setdefault(one.composition.reduced_formula, [])
        equal = next((j for j in known if matcher.fit(structures[j], one)), i)
        if equal == i:
            known.append(i)
        first.append(equal)
    return first
