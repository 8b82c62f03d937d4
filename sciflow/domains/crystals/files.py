"""Crystal files: CIF, POSCAR, extXYZ, CSV with a cif column, pymatgen JSON, npz, LMDB of OMatG, and folders of those.

Reading never crashes on a broken entry: it is skipped, counted and shown in the `ReadReport`. Properties (columns of a
CSV, the info line of an extXYZ) come along where they are numbers. Writing is atomic. `None` has no entry in a file.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.core.errors import UserError
from sciflow.core.files import replacing, write_text
from sciflow.domains.crystals.arrays import CrystalArrays, from_atoms, from_structures, to_atoms
from sciflow.domains.crystals.data import load_npz, save_npz
from sciflow.domains.crystals.lmdb_files import read_lmdb
from sciflow.domains.crystals.pool import Failed, each

EXAMPLES_KEPT = 5
CIF_COLUMNS = ("cif", "structure", "cif_str", "cif.conv")
NAME_COLUMNS = ("material_id", "id", "identifier", "name", "mp_id")
PARSE_SECONDS = 30.0
READABLE = (".cif", ".csv", ".xyz", ".extxyz", ".vasp", ".poscar", ".json", ".npz", ".lmdb")

Entry = tuple[str, Any, dict[str, float]]  # (name, pymatgen Structure or the reason why there is none, properties)


@dataclass
class ReadReport:
    """What happened while reading.

    Attributes:
        n_read: Crystals that came out.
        n_skipped: Entries that could not be read.
        examples: The first few of those, ``"entry: reason"``.
    """

    n_read: int = 0
    n_skipped: int = 0
    examples: list[str] = field(default_factory=list)

    def skip(self, name: str, reason: Any) -> None:
        """Count one entry."""
        self.n_skipped += 1
        if len(self.examples) < EXAMPLES_KEPT:
            self.examples.append(f"{name}: {' '.join(str(reason).split())[:100]}")

    def __str__(self) -> str:
        shown = f" (first: {'; '.join(self.examples)})" if self.examples else ""
        return f"{self.n_read} crystals read, {self.n_skipped} skipped{shown}"


def read_crystals(path: str | Path) -> tuple[CrystalArrays, ReadReport]:
    """All crystals of a file or folder, cells as they are there.

    Raises:
        UserError: No such path, an unknown file type, a damaged file, or not a single crystal in it.
    """
    path, report = Path(path), ReadReport()
    if path.is_file() and ending(path) == ".npz":
        crystals, _ = load_npz(path)
        report.n_read = len(crystals)
        return crystals, report
    structures, names, properties = [], [], []
    for name, structure, known in _entries(path):
        fault = structure if isinstance(structure, str) else _fault(structure)
        if fault is not None:
            report.skip(name, fault)
            continue
        structures.append(structure)
        names.append(name)
        properties.append(known)
    report.n_read = len(structures)
    if not structures:
        raise UserError(f"{path}: got no crystal ({report}), expected at least one ordered crystal structure")
    keys = dict.fromkeys(key for known in properties for key in known)
    columns = {key: np.array([known.get(key, np.nan) for known in properties]) for key in keys}
    arrays = from_structures(structures, names)
    return replace(arrays, properties=columns), report


def read_structures(path: str | Path) -> tuple[list[Any], list[str], ReadReport]:
    """As `read_crystals`, as pymatgen structures with their names."""
    crystals, report = read_crystals(path)
    return crystals.structures(), crystals.identifiers, report


def ending(path: Path) -> str:
    """File type by name; POSCAR and CONTCAR files often have no ending."""
    stem = path.name.upper()
    return ".vasp" if stem.startswith(("POSCAR", "CONTCAR")) else path.suffix.lower()


def _fault(structure: Any) -> str | None:
    if len(structure) == 0:
        return "no atoms"
    if not structure.is_ordered:
        return "partial occupancy"
    if any(not hasattr(site.specie, "Z") or site.specie.Z < 1 for site in structure):
        return "an atom without an element"
    return None


def _entries(path: Path) -> Iterator[Entry]:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder, expected one of {' '.join(READABLE)} or a folder of those")
    if path.is_file() or ending(path) == ".lmdb":  # LMDB may be a file or a folder
        yield from _reader(path)(path)
        return
    files = sorted(file for file in path.iterdir() if file.is_file() and ending(file) in READABLE)
    if not files:
        raise UserError(f"{path}: got a folder without crystal files, expected files ending in {' '.join(READABLE)}")
    for file in files:
        yield from _reader(file)(file)


def _reader(path: Path) -> Callable[[Path], Iterator[Entry]]:
    readers = {".cif": _read_cif, ".csv": _read_csv, ".json": _read_json, ".npz": _read_npz, ".lmdb": read_lmdb}
    readers |= dict.fromkeys((".xyz", ".extxyz"), _read_xyz) | dict.fromkeys((".vasp", ".poscar"), _read_poscar)
    if ending(path) not in readers:
        raise UserError(f"{path}: got file type '{path.suffix}', expected one of {' '.join(READABLE)} or POSCAR")
    return readers[ending(path)]


def structure_of_cif(text: str) -> Any:
    """The pymatgen Structure of one CIF block, expanded to P1, or the reason why there is none."""
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = CifParser.from_str(text).parse_structures(primitive=False, on_error="ignore")
        except Exception as error:  # parsers of free-form text fail in more ways than can be listed
            return str(error) or type(error).__name__
    return found[0] if found else "no structure in the CIF (no atoms, or occupancies above 1)"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return path.read_text(encoding="latin-1")


def _read_cif(path: Path) -> Iterator[Entry]:
    blocks = re.split(r"(?m)^(?=data_)", _text(path))
    blocks = [block for block in blocks if block.startswith("data_")]
    if len(blocks) <= 1:
        yield path.stem, structure_of_cif(blocks[0]) if blocks else "no data block", {}
        return
    for block in blocks:
        yield block[5:].split(None, 1)[0], structure_of_cif(block), {}


def _read_poscar(path: Path) -> Iterator[Entry]:
    from pymatgen.io.vasp import Poscar

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield path.name, Poscar.from_str(_text(path)).structure, {}
        except Exception as error:
            yield path.name, str(error) or type(error).__name__, {}


def _read_csv(path: Path) -> Iterator[Entry]:
    csv.field_size_limit(sys.maxsize)
    with open(path, encoding="utf-8-sig", newline="") as stream:
        rows = csv.DictReader(stream)
        columns = {name.strip().lower(): name for name in reversed(rows.fieldnames or [])}
        cif = next((columns[name] for name in CIF_COLUMNS if name in columns), None)
        if cif is None:
            raise UserError(f"{path}: got the columns {list(columns.values())}, expected one named cif")
        name = next((columns[key] for key in NAME_COLUMNS if key in columns), None)
        table = list(rows)
        structures = each(structure_of_cif, [row[cif] or "" for row in table], PARSE_SECONDS)  # 5-10 ms of a core each
        for position, (row, one) in enumerate(zip(table, structures, strict=True)):
            numbers = {key: _number(value) for key, value in row.items() if key and key not in (cif, name)}
            known = {key: value for key, value in numbers.items() if value is not None}
            yield row[name] if name else str(position), one.reason if isinstance(one, Failed) else one, known


def _read_xyz(path: Path) -> Iterator[Entry]:
    from ase.io import iread

    try:
        for position, atoms in enumerate(iread(path, index=":", format="extxyz")):
            computed = {} if atoms.calc is None else atoms.calc.results  # ASE puts energies there
            info = {**computed, **atoms.info}
            known = {key: number for key, value in info.items() if (number := _number(value)) is not None}
            name = str(next((atoms.info[key] for key in NAME_COLUMNS if key in atoms.info), position))
            known = {key: value for key, value in known.items() if key not in NAME_COLUMNS}
            if abs(np.linalg.det(atoms.cell.array)) < 1e-6:
                yield name, "no unit cell", known
                continue
            yield name, from_atoms(atoms), known
    except Exception as error:  # one frame of the wrong length spoils the rest of the file
        yield path.name, f"not readable from here on: {error or type(error).__name__}", {}


def _read_json(path: Path) -> Iterator[Entry]:
    from pymatgen.core import Structure

    try:
        content = json.loads(_text(path))
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if isinstance(content, dict) and ("lattice" in content or "structure" in content):
        content = {path.stem: content}
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for name, entry in items:
        entry = entry.get("structure", entry) if isinstance(entry, dict) else entry
        try:
            yield str(name), Structure.from_dict(entry), {}
        except Exception as error:
            yield str(name), f"not a pymatgen structure ({type(error).__name__})", {}


def _read_npz(path: Path) -> Iterator[Entry]:
    crystals, _ = load_npz(path)
    for k, name in enumerate(crystals.identifiers):
        yield name, crystals.structure(k), {key: values[k].item() for key, values in crystals.properties.items()}


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


# -- writing ---------------------------------------------------------------------------------------------------------
def write_crystals(path: str | Path, structures: Sequence[Any], names: Sequence[str] | None = None) -> int:
    """Writes pymatgen structures by the ending of `path`; without an ending, a folder with one CIF per structure.

    Structure i is called `names[i]`, or i. Numbers in `structure.properties` go into .extxyz, .json and .npz.

    Returns:
        Number of structures written (without the None entries).

    Raises:
        UserError: Another ending, several structures for a POSCAR, or the place cannot be written to.
    """
    path = Path(path)
    names = [str(name) for name in names] if names is not None else [str(i) for i in range(len(structures))]
    kept = [(name, one) for name, one in zip(names, structures, strict=True) if one is not None]
    if path.suffix.lower() not in WRITERS:
        raise UserError(f"{path}: got file type '{path.suffix}', expected one of {' '.join(WRITERS)} or a folder")
    if path.suffix == "":
        with replacing(path) as folder:
            folder.mkdir()
            for (_, one), name in zip(kept, _file_names([name for name, _ in kept]), strict=True):
                (folder / f"{name}.cif").write_text(one.to(fmt="cif"), encoding="utf-8")
    elif path.suffix.lower() == ".npz":
        arrays = from_structures([one for _, one in kept], [name for name, _ in kept])
        columns = _properties([one for _, one in kept])
        save_npz(
            path, CrystalArrays(arrays.identifiers, arrays.ptr, arrays.numbers, arrays.coords, arrays.lattices, columns)
        )
    else:
        write_text(path, WRITERS[path.suffix.lower()](kept))
    return len(kept)


def _file_names(names: Sequence[str]) -> list[str]:
    """Names as file names: other characters than letters, digits, dot, dash and underscore become underscores."""
    safe = [re.sub(r"[^\w.-]", "_", name) or "_" for name in names]
    seen: set[str] = set()
    for i, name in enumerate(safe):
        while safe[i] in seen:
            safe[i] = f"{name}_{i}"
        seen.add(safe[i])
    return safe


def _properties(structures: Sequence[Any]) -> dict[str, np.ndarray]:
    known = [_numbers(one) for one in structures]
    keys = dict.fromkeys(key for one in known for key in one)
    return {key: np.array([one.get(key, np.nan) for one in known]) for key in keys}


def _numbers(structure: Any) -> dict[str, float]:
    found = {key: _number(value) for key, value in structure.properties.items() if not isinstance(value, str)}
    return {key: value for key, value in found.items() if value is not None}


def _cif_text(kept: list[tuple[str, Any]]) -> str:
    names = _file_names([name for name, _ in kept])
    texts = [one.to(fmt="cif") for _, one in kept]
    return "".join(re.sub(r"(?m)^data_\S*", f"data_{name}", text, count=1) for name, text in zip(names, texts))


def _poscar_text(kept: list[tuple[str, Any]]) -> str:
    if len(kept) != 1:
        raise UserError(f"a POSCAR holds one structure, got {len(kept)}; use .extxyz, .cif, .npz or a folder")
    return kept[0][1].to(fmt="poscar")


def _xyz_text(kept: list[tuple[str, Any]]) -> str:
    from ase.io import write

    frames = [to_atoms(one, {"material_id": name, **_numbers(one)}) for name, one in kept]
    stream = io.StringIO()
    if frames:
        write(stream, frames, format="extxyz")
    return stream.getvalue()


def _json_text(kept: list[tuple[str, Any]]) -> str:
    return json.dumps({name: one.as_dict() for name, one in kept}, default=float)


WRITERS: dict[str, Callable[[list[tuple[str, Any]]], str]] = {
    "": _cif_text,
    ".cif": _cif_text,
    ".extxyz": _xyz_text,
    ".xyz": _xyz_text,
    ".npz": _json_text,
    ".json": _json_text,
    ".vasp": _poscar_text,
    ".poscar": _poscar_text,
}
