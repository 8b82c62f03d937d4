"""Structures for a list of compositions: a whole test set, or a table of formulas.

Entry i of M, copy j has the sample index i + j M, so a prediction depends on (seed, i, j) only, never on batches.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sciflow.core.codec import batches_by_size
from sciflow.core.errors import UserError
from sciflow.data import resolve
from sciflow.domains.crystals.arrays import SYMBOLS, CrystalArrays
from sciflow.domains.crystals.codec import CrystalCodec, composition
from sciflow.domains.crystals.data import load_crystals
from sciflow.domains.crystals.files import NAME_COLUMNS, ending, read_crystals
from sciflow.domains.designing import Progress, Shelf

FORMULA_COLUMNS = ("formula", "composition", "pretty_formula", "reduced_formula")
COPY = "__"  # between the name of an entry and the number of a copy


@dataclass(frozen=True)
class Entry:
    """What a structure is wanted for: a name and the atomic numbers of the cell."""

    name: str
    numbers: np.ndarray


def read_compositions(source: str | Path) -> list[Entry]:
    """Entries of a CSV with a column formula (and, if wanted, an id and z, formula units per cell), or of any crystals.

    Args:
        source: A CSV file, a named set, or a file or folder of structures, whose compositions are taken.

    Raises:
        UserError: Not found, no formula in it, or a bad formula (with its line).
    """
    path = resolve(source)
    if path.is_file() and ending(path) == ".csv":
        with open(path, encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            columns = {name.strip().lower(): name for name in reversed(rows.fieldnames or [])}
            formula = next((columns[name] for name in FORMULA_COLUMNS if name in columns), None)
            if formula is not None:
                name = next((columns[key] for key in NAME_COLUMNS if key in columns), None)
                return _formula_entries(list(rows), formula, name, columns.get("z"), path)
    crystals = load_crystals(source)[0] if str(source) != str(path) else read_crystals(path)[0]
    return entries_of(crystals)


def entries_of(crystals: CrystalArrays) -> list[Entry]:
    """The compositions of crystals."""
    return [Entry(name, crystals.numbers[crystals.rows(k)]) for k, name in enumerate(crystals.identifiers)]


def _formula_entries(
    rows: list[dict[str, str]], formula: str, name: str | None, z: str | None, path: Path
) -> list[Entry]:
    entries = []
    for position, row in enumerate(rows):
        try:
            symbols = composition(row[formula] or "", int(row[z]) if z and row[z] else 1)
        except (UserError, ValueError) as error:
            raise UserError(f"{path}, row {position + 1}: {error}") from None
        numbers = np.array([SYMBOLS.index(symbol) for symbol in symbols], np.uint8)
        entries.append(Entry(row[name] if name else f"{position}-{row[formula]}", numbers))
    if not entries:
        raise UserError(f"{path}: got no row, expected at least one formula")
    return entries


def predict_structures(
    model: Any,
    entries: Sequence[Entry],
    copies: int = 1,
    *,
    seed: int = 0,
    steps: int | None = None,
    solver: str | None = None,
    batch_atoms: int = 4096,
    progress: Progress = lambda stage, done: None,
    shelf: Shelf | None = None,
) -> list[list[Any]]:
    """`copies` structures per entry (pymatgen Structure, None where a sample is unusable).

    Args:
        model: `sciflow.Model` for crystals of given species.
        entries: What for.
        copies: Samples per entry.
        seed: Seed of the run.
        steps: Moves of the sampler; None: the model's default.
        solver: Solver for all fields; None: the model's default.
        batch_atoms: Atoms per batch, about.
        progress: Called with (stage, share done).
        shelf: Keeps finished batches on disk, so that a restart goes on.

    Raises:
        UserError: Not such a model, an element it does not know, or too large a cell.
    """
    codec = model.codec
    if not isinstance(codec, CrystalCodec) or codec.species:
        raise UserError("compositions are for models that predict structures of given species (task csp)")
    codec.template_of([entry.numbers for entry in entries])  # unknown elements and sizes show before hours of sampling
    sizes = [len(entry.numbers) for entry in entries] * copies
    batches = batches_by_size(sizes, max(batch_atoms // max(sizes), 1))
    plan = model.sampling.changed(steps, solver)
    found: list[Any] = [None] * len(sizes)
    done = 0
    for number, batch in enumerate(batches):
        part = shelf.get("samples", number) if shelf is not None else None
        if part is None:
            template = codec.template_of([entries[i % len(entries)].numbers for i in batch.samples])
            state = model.generate(torch.tensor(batch.samples), seed, plan=plan, template=template)
            part = {"crystals": [None if one is None else [a.tolist() for a in one] for one in codec.decode(state)]}
            if shelf is not None:
                shelf.put("samples", number, part)
        for i, one in zip(batch.samples, part["crystals"], strict=True):
            found[i] = one
        done += len(batch.samples)
        progress("samples", done / len(sizes))
    structures = [_structure(one) for one in found]
    return [structures[i :: len(entries)] for i in range(len(entries))]


def _structure(parts: Any) -> Any:
    from pymatgen.core import Lattice, Structure

    if parts is None:
        return None
    numbers, coords, lattice = parts
    return Structure(Lattice(lattice), [SYMBOLS[z] for z in numbers], coords)


def named(entries: Sequence[Entry], predictions: Sequence[Sequence[Any]]) -> tuple[list[str], list[Any]]:
    """Names and structures for `files.write_crystals`: the entry's name, with `__k` behind it for several copies."""
    names, structures = [], []
    for entry, several in zip(entries, predictions, strict=True):
        for k, one in enumerate(several):
            names.append(entry.name if len(several) == 1 else f"{entry.name}{COPY}{k}")
            structures.append(one)
    return names, structures


def pair_by_name(names: Sequence[str], structures: Sequence[Any], references: Sequence[str]) -> list[list[Any]]:
    """Predictions of each reference for `metrics.evaluate_csp`: those called like it, or like it with `__k` behind.

    Args:
        names: Of the predictions; a name may have lost characters that file names cannot hold.
        structures: The predictions.
        references: Names of the references; without a prediction: [None].

    Raises:
        UserError: No prediction has a reference.
    """
    known: dict[str, list[Any]] = {}
    for name, one in zip(names, structures, strict=True):
        known.setdefault(re.sub(rf"{COPY}\d+$", "", name), []).append(one)
    paired = [known.get(name) or known.get(re.sub(r"[^\w.-]", "_", name)) for name in references]
    if not any(paired):
        raise UserError(
            f"got predictions called {list(names)[:3]}, expected the names of the references, such as {references[0]}"
        )
    return [several or [None] for several in paired]
