"""S.U.N.: shares of generated crystals that are stable, unique and novel, by CHGNet and a PARTIAL hull.

A sample is relaxed (cell included); its energy above the partial hull (see `hull`) is at most 0 (stable) or 0.1 eV/atom
(metastable); it is the first of its kind among the samples (unique) and equals no training structure (novel). Equal:
pymatgen's StructureMatcher at its defaults (stol 0.3, 5 degrees, ltol 0.2), after relaxation. All samples are the
denominator: those without a usable structure, an energy or an elemental reference count as nothing.

Since competing phases are missing, the stable shares are upper bounds. They compare with other figures of this very
protocol only; beside them stand those of real crystals, relaxed and judged alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np

from sciflow.core.errors import UserError
from sciflow.domains.crystals.hull import ARCHIVES, PartialHull, energy_above_hull
from sciflow.domains.crystals.kept import kept_each
from sciflow.domains.crystals.matching import SECONDS, STRICT, displacement, distinct
from sciflow.domains.crystals.pool import Failed, each
from sciflow.domains.crystals.relax import Relaxed, chgnet_version, relax

METASTABLE = 0.1  # eV per atom above the hull
MARGIN = 60.0  # seconds that one relaxation may take beyond its own time limit before it is broken off
SHARES = ("stable", "metastable", "unique", "novel", "sun", "metastable_sun")


def evaluate_stability(
    samples: Sequence[Any],
    others: Sequence[Any],
    known: Sequence[Any],
    *,
    count: int = 100,
    seed: int = 0,
    steps: int = 200,
    seconds: float = 300.0,
    hull: PartialHull | None = None,
    progress: Callable[[str, float], None] = lambda stage, share: None,
) -> dict[str, Any]:
    """S.U.N. of samples, and of as many real crystals.

    Args:
        samples: pymatgen structures or None.
        others: Real crystals that were not trained on (the test set); empty: no floor.
        known: Training structures.
        count: Samples that are relaxed, a seeded choice; relaxations are kept, an interrupted run goes on.
        seed: Of the choices.
        steps: Most optimiser steps of one relaxation.
        seconds: Most wall time of one relaxation, ample, as a busy machine must not decide the figures.
        hull: None: that of the archives on this machine.
        progress: Called with (stage, share done).

    Returns:
        What `stable_unique_novel` gives, with `chosen` (places of the relaxed samples), `standard_errors` and
        `floors` (name -> the same shares of real crystals).

    Raises:
        UserError: chgnet is not installed, no archive of the hull is here, no sample, or a count below 1.
    """
    if count < 1 or not len(samples):
        raise UserError(f"S.U.N.: got {len(samples)} samples and a count of {count}, expected at least one of each")
    chgnet_version()
    hull = hull or PartialHull.from_archives()

    def judged(structures: Sequence[Any], stage: str, salt: int) -> dict[str, Any]:
        chosen = np.random.default_rng(seed + salt).permutation(len(structures))[:count].tolist()
        records = relaxed([structures[i] for i in chosen], steps, seconds, partial(progress, stage))
        return {**stable_unique_novel(records, known, hull), "chosen": chosen}

    report = judged(samples, "relaxing", 0)
    tried = len(report["chosen"])
    report["standard_errors"] = {name: float(np.sqrt(report[name] * (1 - report[name]) / tried)) for name in SHARES}
    if len(others):
        floor = judged(others, "relaxing real crystals", 1)
        report["floors"] = {"real_crystals": {name: floor[name] for name in SHARES}}
    limits = f"FIRE with the cell, at most {steps} steps and {seconds:g} s"
    return {**report, "protocol": f"{protocol()}; {limits}; novel against {len(known)} training structures"}


def relaxed(
    structures: Sequence[Any], steps: int, seconds: float, progress: Callable[[float], None] = lambda share: None
) -> list[Relaxed]:
    """`relax`, one after the other, from the cache where it was done before."""
    settings = f"relax 1, chgnet {chgnet_version()}, ase {version('ase')}, {steps} steps, {seconds:g} s"
    function = partial(_relaxation, steps=steps, seconds=seconds)
    found = kept_each(function, structures, "relaxed", settings, seconds + MARGIN, 1, progress)
    return [_record(one, structure) for one, structure in zip(found, structures, strict=True)]


def _relaxation(structure: Any, steps: int, seconds: float) -> dict[str, Any]:
    one = relax([structure], steps=steps, seconds=seconds)[0]
    return {**vars(one), "structure": one.structure.as_dict()}


def _record(found: Any, structure: Any) -> Relaxed:
    from pymatgen.core import Structure

    if isinstance(found, Failed):
        return Relaxed(structure, float("nan"), float("nan"), 0, False, 0.0)
    return Relaxed(**{**found, "structure": Structure.from_dict(found["structure"])})


def stable_unique_novel(relaxed: Sequence[Relaxed], known: Sequence[Any], hull: PartialHull) -> dict[str, Any]:
    """S.U.N. shares of relaxed structures.

    Args:
        relaxed: Of all samples, failures included (they are the denominator too).
        known: Training structures, for novelty; compared within equal formulas.
        hull: Partial, so that the shares are upper bounds.

    Returns:
        Shares `stable`, `metastable`, `unique`, `novel`, `sun`, `metastable_sun` of all samples, the numbers whose
        energy is `unknown` and that are `not_converged`, and `above`: eV per atom above the hull of each, or None.
    """
    usable = [one.structure if np.isfinite(one.energy) else None for one in relaxed]
    above = np.array(
        [
            np.nan if one is None else energy_above_hull(one, record.energy, hull)
            for one, record in zip(usable, relaxed, strict=True)
        ]
    )
    unique = np.array([place == i for i, place in enumerate(distinct(usable))])
    novel = np.array([one is not None for one in usable]) & ~_known(usable, known)
    flags = {"stable": above <= 0, "metastable": above <= METASTABLE, "unique": unique, "novel": novel}
    flags |= {"sun": flags["stable"] & unique & novel, "metastable_sun": flags["metastable"] & unique & novel}
    return {
        **{name: float(flag.mean()) for name, flag in flags.items()},
        "unknown": int(np.isnan(above).sum()),
        "not_converged": sum(np.isfinite(one.energy) and not one.converged for one in relaxed),
        "above": [None if np.isnan(one) else float(one) for one in above],
    }


def _known(structures: Sequence[Any], known: Sequence[Any]) -> np.ndarray:
    """(M,) bool: whether a structure equals a known one. A comparison that fails is no match."""
    wanted = {one.composition.reduced_formula for one in structures if one is not None}
    same: dict[str, list[Any]] = {}
    for other in known:
        formula = other.composition.reduced_formula
        if formula in wanted:
            same.setdefault(formula, []).append(other)
    found = np.zeros(len(structures), bool)
    for i, one in enumerate(structures):
        pairs = [] if one is None else [(one, other) for other in same.get(one.composition.reduced_formula, [])]
        results = each(partial(displacement, tolerances=STRICT), pairs, SECONDS, workers=1)
        found[i] = any(isinstance(value, float) for value in results)
    return found


def protocol() -> str:
    """What decides the figures."""
    matcher = f"StructureMatcher of pymatgen {version('pymatgen')}, defaults"
    return f"CHGNet {chgnet_version()}, PARTIAL hull of {', '.join(ARCHIVES)} and the elements, {matcher}"
