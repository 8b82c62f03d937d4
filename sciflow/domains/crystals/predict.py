"""Structures for a list of compositions: a whole test set, or a table of formulas.

Entry i of M, copy j has the sample index i + j M, so a prediction depends on (seed, i, j) only, never on batches. A
batch holds structures of similar size, up to a number of atoms; with a shelf each finished batch is one file, which any
of several processes may have made.
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

from sciflow.core.codec import Batch
from sciflow.core.errors import UserError
from sciflow.data import resolve
from sciflow.domains.crystals.arrays import SYMBOLS, CrystalArrays
from sciflow.domains.crystals.codec import CrystalCodec, composition, structure_of
from sciflow.domains.crystals.data import load_crystals
from sciflow.domains.crystals.files import NAME_COLUMNS, ending, read_crystals
from sciflow.domains.designing import Progress, Shelf

FORMULA_COLUMNS = ("formula", "composition", "pretty_formula", "reduced_formula")
FILE_COLUMNS = ("file", "path", "filename")
COPY = "__"  # between the name of an entry and the number of a copy


@dataclass(frozen=True)
class Entry:
    """What a structure is wanted for: a name and the atomic numbers of the cell."""

    name: str
    numbers: np.ndarray


def read_compositions(source: str | Path) -> list[Entry]:
    """Entries of a CSV with a column formula (if wanted also id and z, formula units per cell) or a column file
    (structure files, places relative to the CSV), or of any crystals.

    Args:
        source: A CSV file, a named set, or a file or folder of structures, whose compositions are taken.

    Raises:
        UserError: Not found, nothing in it, or a bad formula or file (with its row).
    """
    path = resolve(source)
    if path.is_file() and ending(path) == ".csv":
        with open(path, encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream)
            columns = {name.strip().lower(): name for name in reversed(table.fieldnames or []) if name}
            formula, file, name = (
                next((columns[key] for key in keys if key in columns), None)
                for keys in (FORMULA_COLUMNS, FILE_COLUMNS, NAME_COLUMNS)
            )
            rows = list(table) if formula or file else []
        if not columns or ((formula or file) and not rows):
            raise UserError(f"{path}: is empty, expected a header with a column formula and at least one row")
        if formula is not None:
            return _formula_entries(rows, formula, name, columns.get("z"), path)
        if file is not None:
            return _file_entries(rows, file, name, path)
    crystals = load_crystals(source)[0] if str(source) != str(path) else read_crystals(path)[0]
    return entries_of(crystals)


def entries_of(crystals: CrystalArrays) -> list[Entry]:
    """The compositions of crystals."""
    return [Entry(name, crystals.numbers[crystals.rows(k)]) for k, name in enumerate(crystals.identifiers)]


def _units(text: str) -> int:
    if not text.strip().isdigit() or int(text) < 1:
        raise UserError(f"z: got '{text}', expected a whole number of formula units")
    return int(text)


def _formula_entries(
    rows: list[dict[str, str]], formula: str, name: str | None, z: str | None, path: Path
) -> list[Entry]:
    entries = []
    for position, row in enumerate(rows):
        try:
            symbols = composition(row[formula] or "", _units(row[z]) if z and row[z] else 1)
        except UserError as error:
            raise UserError(f"{path}, row {position + 1}: {error}") from None
        numbers = np.array([SYMBOLS.index(symbol) for symbol in symbols], np.uint8)
        entries.append(Entry(row[name] if name else f"{position}-{row[formula]}", numbers))
    return entries


def _file_entries(rows: list[dict[str, str]], file: str, name: str | None, path: Path) -> list[Entry]:
    entries = []
    for position, row in enumerate(rows):
        try:
            found = entries_of(read_crystals(path.parent / (row[file] or "(no name)"))[0])
        except UserError as error:
            raise UserError(f"{path}, row {position + 1}: {error}") from None
        own = row[name] if name else Path(row[file]).stem
        names = [own] if len(found) == 1 else [f"{own}-{one.name}" for one in found]
        entries += [Entry(called, one.numbers) for called, one in zip(names, found, strict=True)]
    return entries


class PredictionJob:
    """The batches of a list of compositions.

    Args:
        model: `sciflow.Model` for crystals of given species.
        entries: What for.
        copies: Samples per entry.
        seed: Seed of the run.
        plan: How to sample; None: the model's default.
        batch_atoms: Atoms per batch; a larger crystal has a batch of its own.
        shelf: Keeps finished batches on disk.

    Raises:
        UserError: Not such a model, an element it does not know, or too large a cell.
    """

    def __init__(
        self,
        model: Any,
        entries: Sequence[Entry],
        copies: int = 1,
        seed: int = 0,
        plan: Any = None,
        batch_atoms: int = 4096,
        shelf: Shelf | None = None,
    ) -> None:
        if not isinstance(model.codec, CrystalCodec) or model.codec.species:
            raise UserError("compositions are for models that predict structures of given species (task csp)")
        for entry in entries:  # unknown elements and sizes show before hours of sampling
            try:
                model.codec.template_of([entry.numbers])
            except UserError as error:
                raise UserError(f"entry '{entry.name}': {error}") from None
        self.model, self.entries, self.seed, self.shelf = model, entries, seed, shelf
        self.plan = plan if plan is not None else model.sampling
        self.batches = batches_by_atoms([len(entry.numbers) for entry in entries] * copies, batch_atoms)

    def path(self, number: int) -> Path:
        """File of one batch."""
        assert self.shelf is not None
        return self.shelf.path("samples", number)

    def missing(self) -> list[int]:
        """Numbers of the batches that are not on disk yet."""
        return [i for i in range(len(self.batches)) if not self.path(i).exists()]

    def generate(self, number: int) -> list[Any]:
        """One batch: (atomic numbers, coordinates, lattice) as lists, or None; stored if there is a shelf."""
        codec, samples = self.model.codec, self.batches[number].samples
        template = codec.template_of([self.entries[i % len(self.entries)].numbers for i in samples])
        state = self.model.generate(torch.tensor(samples), self.seed, plan=self.plan, template=template)
        crystals = [None if one is None else [array.tolist() for array in one] for one in codec.decode(state)]
        if self.shelf is not None:
            self.shelf.put("samples", number, {"crystals": crystals})
        return crystals

    def crystals(self, number: int) -> list[Any]:
        """One batch, from disk if it is there."""
        part = None if self.shelf is None else self.shelf.get("samples", number)
        return self.generate(number) if part is None else part["crystals"]


def batches_by_atoms(sizes: Sequence[int], atoms: int) -> list[Batch]:
    """Batches of samples of similar size, at most `atoms` atoms together; a larger sample is alone."""
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i], i))
    batches, total = [], 0
    for i in order:
        if not batches or total + sizes[i] > atoms:
            batches.append(Batch([], []))
            total = 0
        batches[-1].samples.append(i)
        batches[-1].sizes.append(sizes[i])
        total += sizes[i]
    return batches


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
        batch_atoms: Atoms per batch; a larger crystal has a batch of its own.
        progress: Called with (stage, share done).
        shelf: Keeps finished batches on disk, so that a restart goes on.

    Raises:
        UserError: As `PredictionJob`.
    """
    plan = model.sampling.changed(steps, solver)
    return collected(PredictionJob(model, entries, copies, seed, plan, batch_atoms, shelf), progress)


def collected(job: PredictionJob, progress: Progress = lambda stage, done: None) -> list[list[Any]]:
    """The structures of each entry; batches that are not on disk are made."""
    total = sum(len(batch.samples) for batch in job.batches)
    found: list[Any] = [None] * total
    done = 0
    for number, batch in enumerate(job.batches):
        for i, one in zip(batch.samples, job.crystals(number), strict=True):
            found[i] = structure_of(one)
        done += len(batch.samples)
        progress("samples", done / total)
    return [found[i :: len(job.entries)] for i in range(len(job.entries))]


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
