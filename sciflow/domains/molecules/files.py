"""Molecule files of every day: SMILES lists, CSV with a SMILES column, SDF, folders of those; plain or gzip.

Reading never crashes on a broken entry: it is skipped, counted and shown in the `ReadReport`. Columns and SD tags
become RDKit properties of the molecules, and are written back. Writing is atomic.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor

from sciflow.core.errors import UserError
from sciflow.core.files import write_text

SMILES_COLUMNS = ("smiles", "canonical_smiles", "isomeric_smiles", "can_smiles", "mol_smiles", "structure")
READABLE = (".smi", ".smiles", ".txt", ".csv", ".tsv", ".sdf")
FLAGS = {"corrected=0", "corrected=1", "connected=0", "connected=1"}  # how a sample decoded; behind its name in .smi
EXAMPLES_KEPT = 5

Entry = tuple[str, str, Chem.Mol | None]  # (identifier, text for the report, molecule or None if broken)


@dataclass
class ReadReport:
    """What happened while reading.

    Attributes:
        n_read: molecules that came out.
        n_skipped: entries that RDKit refused.
        examples: the first few refused entries, ``"file: entry"``.
        identifiers: one per molecule: its name or ``index`` column, otherwise its 0-based position in the file.
    """

    n_read: int = 0
    n_skipped: int = 0
    examples: list[str] = field(default_factory=list)
    identifiers: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        shown = f" (first: {'; '.join(self.examples)})" if self.examples else ""
        return f"{self.n_read} molecules read, {self.n_skipped} skipped{shown}"


def iterate_molecules(path: str | Path, report: ReadReport) -> Iterator[Chem.Mol]:
    """Molecules of a file or folder one by one; `report` is filled on the way.

    Raises:
        UserError: no such path, an unknown file type, a CSV without a SMILES column, no readable file in a folder.
    """
    for file in _files(Path(path)):
        try:
            yield from _accepted(_reader(file)(file), file.name, report)
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, csv.Error) as error:
            raise UserError(f"{file}: cannot be read as a {_ending(file)} file ({error})") from error


def iterate_objects(objects: Iterable[str | Chem.Mol | None], report: ReadReport) -> Iterator[Chem.Mol]:
    """Molecules of SMILES strings and RDKit molecules, as `iterate_molecules` gives them from files."""
    entries = (
        (str(position), str(item), Chem.MolFromSmiles(item) if isinstance(item, str) else item)
        for position, item in enumerate(objects)
    )
    return _accepted(entries, "object", report)


def _accepted(entries: Iterable[Entry], source: str, report: ReadReport) -> Iterator[Chem.Mol]:
    for identifier, text, molecule in entries:
        if molecule is None or molecule.GetNumAtoms() == 0:
            report.n_skipped += 1
            if len(report.examples) < EXAMPLES_KEPT:
                report.examples.append(f"{source}: {text[:80]}")
        else:
            report.n_read += 1
            report.identifiers.append(identifier)
            yield molecule


def read_molecules(path: str | Path) -> tuple[list[Chem.Mol], ReadReport]:
    """All molecules of a file (.smi .txt .csv .tsv .sdf, each also .gz) or of a folder of such files.

    Raises:
        UserError: as `iterate_molecules`, and when not a single molecule could be read.
    """
    report = ReadReport()
    with rdBase.BlockLogs():
        molecules = list(iterate_molecules(path, report))
    if not molecules:
        raise UserError(f"{path}: got no molecule ({report}), expected at least one valid SMILES or SDF entry")
    return molecules, report


def _ending(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder, expected one of {' '.join(READABLE)} (also .gz) or a folder")
    if path.is_file():
        return [path]
    files = sorted(file for file in path.iterdir() if file.is_file() and _ending(file) in READABLE)
    if not files:
        raise UserError(f"{path}: got a folder without molecule files, expected files ending in {' '.join(READABLE)}")
    return files


def _reader(path: Path) -> Callable[[Path], Iterator[Entry]]:
    ending = _ending(path)
    if ending == ".sdf":
        return _read_sdf
    if ending in (".csv", ".tsv"):
        return _read_csv
    if ending in READABLE:
        return _read_smi
    raise UserError(f"{path}: got file type '{ending}', expected one of {' '.join(READABLE)} (also .gz)")


def _open_text(path: Path) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return open(path, encoding="utf-8-sig", newline="")


def _read_smi(path: Path) -> Iterator[Entry]:
    with _open_text(path) as stream:
        position = 0
        for number, line in enumerate(stream):
            parts = line.replace(",", " ").split()
            if not parts or parts[0].startswith("#") or (number == 0 and parts[0].lower() in SMILES_COLUMNS):
                continue
            smiles, *words = parts
            molecule = Chem.MolFromSmiles(smiles)
            if molecule is not None:
                for flag in FLAGS.intersection(words):
                    molecule.SetIntProp(flag[:-2], int(flag[-1]))
            yield " ".join(word for word in words if word not in FLAGS) or str(position), smiles, molecule
            position += 1


def _read_csv(path: Path) -> Iterator[Entry]:
    with _open_text(path) as stream:
        header = stream.readline()
        delimiter = max("\t;,", key=header.count)
        columns = next(csv.reader([header], delimiter=delimiter), [])
        known = {name.strip().lower(): name for name in reversed(columns)}
        smiles = next((known[name] for name in SMILES_COLUMNS if name in known), None)
        if smiles is None:
            raise UserError(f"{path}: got the columns {columns}, expected one named smiles (any case)")
        label = known.get("index")
        others = [name for name in columns if name not in (smiles, label)]
        for position, row in enumerate(csv.DictReader(stream, fieldnames=columns, delimiter=delimiter)):
            text = (row[smiles] or "").strip()
            molecule = Chem.MolFromSmiles(text) if text else None
            if molecule is not None:
                for name in others:
                    molecule.SetProp(name, row[name] or "")
            yield row[label] if label else str(position), text, molecule


def _read_sdf(path: Path) -> Iterator[Entry]:
    with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as stream:
        for position, molecule in enumerate(Chem.ForwardSDMolSupplier(stream)):
            name = molecule.GetProp("_Name") if molecule is not None and molecule.HasProp("_Name") else ""
            yield name or str(position), f"entry {position}", molecule


def write_molecules(path: str | Path, molecules: Sequence[Chem.Mol | None]) -> int:
    """Writes molecules by the ending of `path`: .smi, .csv or .sdf (2-D coordinates unless a conformer is there).

    Sample i keeps its number i as its name (.smi, .sdf) or in the column ``index`` (.csv). RDKit properties of the
    molecules become SD tags or columns; .smi keeps only those of `FLAGS`, behind the name. None has no line in .smi and
    .sdf, and an empty SMILES in .csv.

    Returns:
        Number of molecules written (without the None entries).

    Raises:
        UserError: another ending, or the place cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITERS:
        raise UserError(f"{path}: got file type '{path.suffix}', expected one of {' '.join(WRITERS)}")
    write_text(path, WRITERS[path.suffix.lower()](molecules))
    return sum(molecule is not None for molecule in molecules)


def _smi_text(molecules: Sequence[Chem.Mol | None]) -> str:
    lines = []
    for index, molecule in enumerate(molecules):
        if molecule is not None:
            properties = molecule.GetPropsAsDict()
            flags = [word for word in sorted(FLAGS) if str(properties.get(word[:-2])) == word[-1]]
            lines.append(" ".join([Chem.MolToSmiles(molecule), str(index), *flags]) + "\n")
    return "".join(lines)


def _csv_text(molecules: Sequence[Chem.Mol | None]) -> str:
    rows: list[dict[str, Any]] = []
    for index, molecule in enumerate(molecules):
        tags = {} if molecule is None else molecule.GetPropsAsDict()
        rows.append({**tags, "index": index, "smiles": "" if molecule is None else Chem.MolToSmiles(molecule)})
    columns = dict.fromkeys(["index", "smiles", *(name for row in rows for name in row)])
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _sdf_text(molecules: Sequence[Chem.Mol | None]) -> str:
    stream = io.StringIO()
    writer = Chem.SDWriter(stream)
    for index, molecule in enumerate(molecules):
        if molecule is None:
            continue
        entry = Chem.Mol(molecule)
        if entry.GetNumConformers() == 0:
            rdDepictor.Compute2DCoords(entry)
        entry.SetProp("_Name", str(index))
        writer.write(entry)
    writer.close()
    return stream.getvalue()


WRITERS: dict[str, Callable[[Sequence[Chem.Mol | None]], str]] = {
    ".smi": _smi_text,
    ".csv": _csv_text,
    ".sdf": _sdf_text,
}
