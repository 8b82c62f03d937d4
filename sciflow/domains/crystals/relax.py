"""Energies and relaxation by CHGNet (Deng et al., Nature Machine Intelligence 5, 1031, 2023; extra `chgnet`).

The weights (0.3.0, 0.41 M parameters) ship in its wheel, so nothing is downloaded. Energies are those of Materials
Project DFT (PBE / PBE+U, corrected), in eV per atom; formation energies agree with Materials Project to about 0.03.
One evaluation of a small cell costs about 0.07 s of one CPU core, a relaxation some ten to a hundred evaluations.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from sciflow.core.errors import require
from sciflow.domains.crystals.arrays import from_atoms, to_atoms
from sciflow.domains.crystals.validity import structurally_valid

FORCE = 0.05  # eV/angstrom, where a relaxation stops


@dataclass(frozen=True)
class Relaxed:
    """A relaxed crystal.

    Attributes:
        structure: pymatgen Structure; as it was given if it cannot be computed.
        energy: eV per atom at the end; NaN if it cannot be computed.
        start_energy: eV per atom before.
        steps: Optimiser steps.
        converged: Whether all forces (and the stress) fell below the bound.
        seconds: Wall time.
    """

    structure: Any
    energy: float
    start_energy: float
    steps: int
    converged: bool
    seconds: float


def energies(structures: Sequence[Any], batch_size: int = 16) -> np.ndarray:
    """(M,) energies in eV per atom; NaN for None, for overlapping atoms and for atoms without a neighbour within 6 A.

    Raises:
        UserError: chgnet is not installed.
    """
    model = _model()
    found = np.full(len(structures), np.nan)
    usable = [i for i, one in enumerate(structures) if structurally_valid(one)]
    for start in range(0, len(usable), batch_size):
        chunk = usable[start : start + batch_size]
        found[chunk] = _batch_energies(model, [structures[i] for i in chunk])
    return found


def relax(
    structures: Sequence[Any],
    steps: int = 200,
    force: float = FORCE,
    seconds: float = 60.0,
    cell: bool = True,
    held: int = 0,
) -> list[Relaxed]:
    """Each structure relaxed by FIRE, cell included; the state reached is kept when steps or time run out.

    Args:
        structures: pymatgen structures or None.
        steps: Most optimiser steps of one structure.
        force: Bound of the largest force, eV/angstrom.
        seconds: Most processor time of one structure; unlike wall time it is about the same on a busy machine.
        cell: Whether the cell relaxes too.
        held: So many first atoms of each structure keep their fractional coordinates.

    Raises:
        UserError: chgnet is not installed.
    """
    calculator = _calculator()
    return [_relax_one(one, calculator, steps, force, seconds, cell, held) for one in structures]


def _relax_one(one: Any, calculator: Any, steps: int, force: float, seconds: float, cell: bool, held: int) -> Relaxed:
    from ase.constraints import FixAtoms
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    start, used = time.perf_counter(), time.thread_time()
    if not structurally_valid(one):
        return Relaxed(one, np.nan, np.nan, 0, False, 0.0)
    atoms = to_atoms(one)
    atoms.set_constraint(FixAtoms(range(held)))
    atoms.calc, first, count, converged = calculator, np.nan, 0, False
    with _quiet(), contextlib.suppress(Exception):  # isolated atoms, exploding cells: keep what was reached
        first = float(atoms.get_potential_energy()) / len(atoms)
        target: Any = FrechetCellFilter(atoms) if cell else atoms
        for reached_bound in FIRE(target, logfile=os.devnull).irun(fmax=force, steps=steps):
            count, converged = count + 1, bool(reached_bound)
            if time.thread_time() - used > seconds:
                break
        energy = float(atoms.get_potential_energy()) / len(atoms)
        reached = from_atoms(atoms)
        if np.isfinite(energy) and structurally_valid(reached):
            return Relaxed(reached, energy, first, max(count - 1, 0), converged, time.perf_counter() - start)
    return Relaxed(one, np.nan, first, count, False, time.perf_counter() - start)


def _batch_energies(model: Any, structures: list[Any]) -> list[float]:
    with _quiet():
        try:
            found = model.predict_structure(structures, task="e", batch_size=len(structures))
            return [float(one["e"]) for one in (found if isinstance(found, list) else [found])]
        except ValueError:  # an atom without neighbours; it spoils the batch
            if len(structures) == 1:
                return [np.nan]
    return [energy for one in structures for energy in _batch_energies(model, [one])]


@cache
def _model() -> Any:
    model = require("chgnet.model", "chgnet")
    with _quiet():
        return model.CHGNet.load(use_device="cpu", verbose=False)


@cache
def _calculator() -> Any:
    dynamics = require("chgnet.model.dynamics", "chgnet")
    with _quiet():
        return dynamics.CHGNetCalculator(_model(), use_device="cpu", on_isolated_atoms="error")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """chgnet reports its device and warns of magnetic moments; neither is news."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def chgnet_version() -> str:
    """Recorded with every energy."""
    from importlib.metadata import version

    require("chgnet", "chgnet")
    return f"{version('chgnet')} (weights 0.3.0)"
