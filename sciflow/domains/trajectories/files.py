r"""Trajectory files: npz, XYZ and extXYZ (ASE), multi-model PDB (Biopython), and what MDAnalysis reads (TOP:TRAJ).

npz keys: `R` (frames, atoms, D) or (samples, frames, atoms, D), angstrom; `z` (atoms,); `dt_fs` or `times` with `unit`;
optional `bonds` (n, 2), `atom_names`, `resid`, `observed` (frames,); points that are no atoms have `features`
([samples,] atoms, F) and `pairs` ([samples,] atoms, atoms, E) in place of `z`. A file with `resid` and without `z` is a
C-alpha trace: carbon atoms, neighbours along the chain bonded.

Text formats keep sample, time and what was observed in comments that this reader finds again. XYZ and extXYZ without
them, and PDB, are one trajectory in order, one frame per "step". Writing is atomic.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.core.errors import UserError, require
from sciflow.core.files import replacing, write_text
from sciflow.domains.trajectories.data import UNITS, Trajectory, molecule, points
from sciflow.domains.trajectories.text_formats import kind, pdb_text, xyz_text

EXAMPLES_KEPT = 5
READABLE = (".npz", ".xyz", ".extxyz", ".pdb", ".traj")


@dataclass
class ReadReport:
    """What happened while reading.

    Attributes:
        n_read: Trajectories that came out.
        n_skipped: Files that could not be used.
        examples: The first few of those, with the reason.
    """

    n_read: int = 0
    n_skipped: int = 0
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        shown = f" (first: {'; '.join(self.examples)})" if self.examples else ""
        return f"{self.n_read} trajectories read, {self.n_skipped} files skipped{shown}"


def read_trajectories(
    source: str | Path | Sequence[str | Path], dt_fs: float | None = None
) -> tuple[list[Trajectory], ReadReport]:
    """All trajectories of a file, of "TOPOLOGY:TRAJECTORY", of a folder, or of a list of those.

    Args:
        source: Where they are. Among several files, those that cannot be used are skipped and counted.
        dt_fs: Time between frames in femtoseconds, in place of what the files say.

    Raises:
        UserError: Nothing there, a single file that cannot be used, or no usable one among several.
    """
    if dt_fs is not None and not dt_fs > 0:
        raise UserError(f"dt_fs: got {dt_fs}, expected a positive number of femtoseconds")
    files = _files(source)
    found, report = [], ReadReport()
    for file in files:
        try:
            found += _read_one(file, dt_fs)
        except UserError as error:
            if len(files) == 1:
                raise
            report.n_skipped += 1
            if len(report.examples) < EXAMPLES_KEPT:
                report.examples.append(str(error)[:200])
    report.n_read = len(found)
    if not found:
        raise UserError(f"{source}: got no trajectory ({report}), expected at least one")
    return found, report


def read_trajectory(path: str | Path, dt_fs: float | None = None) -> Trajectory:
    """The only trajectory of a file.

    Raises:
        UserError: As `read_trajectories`, or several trajectories.
    """
    found, _ = read_trajectories(path, dt_fs)
    if len(found) != 1:
        raise UserError(f"{path}: got {len(found)} trajectories, expected one; take one of them out")
    return found[0]


def _files(source: str | Path | Sequence[str | Path]) -> list[str]:
    if not isinstance(source, (str, Path)):
        return [file for one in source for file in _files(one)]
    path = Path(source)
    if path.is_dir():
        files = sorted(str(file) for file in path.iterdir() if file.suffix.lower() in READABLE)
        if not files:
            raise UserError(f"{path}: got a folder without trajectories, expected files ending in {' '.join(READABLE)}")
        return files
    return [str(source)]


def _read_one(file: str, dt_fs: float | None) -> list[Trajectory]:
    path = Path(file)
    if not path.is_file():
        topology, _, trajectory = file.rpartition(":")
        if topology and Path(topology).is_file() and Path(trajectory).is_file():
            found = _read_mdanalysis(Path(topology), Path(trajectory))
            return [_retimed(one, dt_fs) for one in found]
        raise UserError(
            f"{file}: no such file, expected one of {' '.join(READABLE)}, a folder of those, or TOPOLOGY:TRAJECTORY"
        )
    readers: dict[str, Callable[[Path], list[Trajectory]]] = {".npz": _read_npz, ".pdb": _read_pdb}
    readers |= dict.fromkeys((".xyz", ".extxyz", ".traj"), _read_ase)
    if path.suffix.lower() not in readers:
        raise UserError(
            f"{path}: got file type '{path.suffix}', expected one of {' '.join(READABLE)}; trajectories of MD programs "
            "are read with their topology: TOPOLOGY:TRAJECTORY, e.g. top.pdb:run.dcd"
        )
    found = readers[path.suffix.lower()](path)
    short = next((one for one in found if one.frames < 2), None)
    if short is not None:
        raise UserError(f"{path}: got a single frame, expected a trajectory of at least 2 frames")
    return [_retimed(one, dt_fs) for one in found]


def _retimed(one: Trajectory, dt_fs: float | None) -> Trajectory:
    return one if dt_fs is None else replace(one, times=np.arange(one.frames) * dt_fs, unit="fs")


# -- readers ---------------------------------------------------------------------------------------------------------
def _read_npz(path: Path) -> list[Trajectory]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            wanted = (
                "R",
                "z",
                "dt_fs",
                "times",
                "unit",
                "bonds",
                "atom_names",
                "resid",
                "observed",
                "features",
                "pairs",
            )
            data = {key: stored[key] for key in wanted if key in stored}
            keys = list(stored)
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as npz ({str(error)[:80]})") from None
    if "old_indices" in keys:
        raise UserError(
            f"{path}: got revised MD17, a random subset of frames without time order, expected a trajectory; use the "
            "original MD17 (sciflow data list md17_ethanol)"
        )
    if "R" not in data or data["R"].ndim not in (3, 4):
        got = f"'R' of shape {data['R'].shape}" if "R" in data else f"the keys {', '.join(keys[:8])}"
        raise UserError(f"{path}: got {got}, expected 'R' (frames, atoms, 3) or (samples, frames, atoms, 3)")
    single = data["R"].ndim == 3
    stack = data["R"][None] if single else data["R"]
    unit = "fs" if "dt_fs" in data else str(data.get("unit", "step"))
    if unit not in UNITS:
        raise UserError(f"{path}: got times in '{unit}', expected one of {', '.join(UNITS)}")
    times = data.get("times", data.get("dt_fs", np.array(1.0)))
    names = [str(path)] if single else [f"{path}, sample {k}" for k in range(len(stack))]
    known = {"unit": unit, "observed": data["observed"].astype(bool) if "observed" in data else None}
    if "observed" in data and data["observed"].shape != (stack.shape[1],):
        raise UserError(f"{path}: got 'observed' of shape {data['observed'].shape}, expected ({stack.shape[1]},)")
    if "z" not in data and "resid" in data:
        data["z"] = np.full(stack.shape[2], 6)
        near = np.flatnonzero(np.diff(data["resid"]) == 1)
        data.setdefault("bonds", np.stack([near, near + 1], 1))
    if "z" in data:
        chemistry = {"bonds": data.get("bonds"), "names": data.get("atom_names"), **known}
        first = molecule(stack[0], times, data["z"], source=names[0], **chemistry)
        chemistry["bonds"] = first.bonds  # of the first sample for all of them
        rest = [molecule(x, times, data["z"], source=name, **chemistry) for x, name in zip(stack[1:], names[1:])]
        return [first, *rest]
    features, pairs = (_per_sample(data.get(key), len(stack), axes) for key, axes in (("features", 2), ("pairs", 3)))
    return [points(x, times, features[k], pairs[k], source=names[k], **known) for k, x in enumerate(stack)]


def _per_sample(values: np.ndarray | None, count: int, axes: int) -> Sequence[np.ndarray | None]:
    """One array per sample, from one for all of them or one each."""
    if values is None or values.ndim == axes:
        return [values] * count
    if len(values) != count:
        raise UserError(f"got features of {len(values)} samples, expected {count}")
    return list(values)


def _read_ase(path: Path) -> list[Trajectory]:
    from ase.io import iread

    frames: list[Any] = []
    try:
        for atoms in iread(str(path), index=":", format="extxyz" if path.suffix.lower() != ".traj" else "traj"):
            frames.append(atoms)
    except Exception as error:  # parsers of free-form text fail in more ways than can be listed
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise UserError(
            f"{path}: frame {len(frames)} cannot be read ({reason}); remove it or cut the file there"
        ) from None
    samples: dict[Any, list[tuple[int, Any]]] = {}
    for number, atoms in enumerate(frames):
        samples.setdefault(atoms.info.get("sample", 0), []).append((number, atoms))
    return [_of_ase(path, part) for part in samples.values()]


def _of_ase(path: Path, part: list[tuple[int, Any]]) -> Trajectory:
    first = part[0][1]
    numbers = first.numbers
    for number, atoms in part:
        if len(atoms) != len(first) or (atoms.numbers != numbers).any():
            raise _changed(path, number, len(atoms), len(first))
    unit = next((unit for unit in UNITS if all(f"time_{unit}" in atoms.info for _, atoms in part)), None)
    times = np.array([atoms.info[f"time_{unit}"] for _, atoms in part], float) if unit else 1.0
    flags = [atoms.info.get("observed") for _, atoms in part]
    return molecule(
        np.stack([atoms.positions for _, atoms in part]),
        times,
        numbers,
        unit=unit or "step",
        bonds=np.reshape(first.info["bonds"], (-1, 2)) if "bonds" in first.info else None,
        observed=None if None in flags else np.array(flags, bool),
        source=str(path),
    )


def _changed(path: Path, frame: int, got: int, expected: int) -> UserError:
    what = f"{got} atoms" if got != expected else "other elements"
    wanted = f"{expected} atoms" if got != expected else "the elements"
    return UserError(f"{path}: got {what} in frame {frame}, expected {wanted} of the first frame in all of them")


def _read_pdb(path: Path) -> list[Trajectory]:
    from Bio.PDB.PDBParser import PDBParser

    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structure: Any = PDBParser(QUIET=True).get_structure("trajectory", str(path))
        models = list(structure)
    except Exception as error:
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise UserError(f"{path}: cannot be read as PDB ({reason})") from None
    if not models:
        raise UserError(f"{path}: got a PDB file without atoms, expected MODEL records with atoms")
    atoms: list[list[Any]] = [list(model.get_atoms()) for model in models]
    numbers = np.array([_number(atom.element) for atom in atoms[0]])
    for frame, one in enumerate(atoms):
        if len(one) != len(numbers) or [_number(atom.element) for atom in one] != numbers.tolist():
            raise _changed(path, frame, len(one), len(numbers))
    names = [f"{atom.get_parent().get_resname().strip()}:{atom.get_name()}" for atom in atoms[0]]
    positions = np.array([[atom.coord for atom in one] for one in atoms], float)
    places = {atom.get_serial_number(): place for place, atom in enumerate(atoms[0])}
    bonds = {tuple(sorted((places[a], places[b]))) for a, b in _conect(lines) if a in places and b in places and a != b}
    known: dict[str, Any] = {"bonds": np.array(sorted(bonds)) if bonds else None, "names": names, "source": str(path)}
    notes = [line.split()[2:] for line in lines if line.startswith("REMARK 250 SAMPLE")]
    if len(notes) != len(models):
        return [molecule(positions, 1.0, numbers, unit="step", **known)]
    owner = np.array([int(note[1]) for note in notes])
    unit, times = notes[0][2].lower().removeprefix("time_"), np.array([float(note[3]) for note in notes])
    flags = np.array([note[5] == "T" for note in notes])
    parts = [owner == sample for sample in dict.fromkeys(owner)]
    first = molecule(positions[parts[0]], times[parts[0]], numbers, unit=unit, observed=_some(flags[parts[0]]), **known)
    known["bonds"] = first.bonds
    rest = [
        molecule(positions[at], times[at], numbers, unit=unit, observed=_some(flags[at]), **known) for at in parts[1:]
    ]
    return [first, *rest]


def _some(flags: np.ndarray) -> np.ndarray | None:
    return flags if flags.any() else None


def _conect(lines: list[str]) -> Iterator[tuple[int, int]]:
    for line in lines:
        if line.startswith("CONECT"):
            serials = [int(cell) for k in range(6, 31, 5) if (cell := line[k : k + 5].strip()).isdigit()]
            yield from ((serials[0], other) for other in serials[1:])


def _number(element: str | None) -> int:
    from ase.data import atomic_numbers

    return atomic_numbers.get((element or "X").strip().capitalize(), 0)


def _initials(names: Sequence[str]) -> list[str]:
    """First letters of atom names such as CA, HB1 and 1HB; for topologies that say no elements."""
    return [str(name).lstrip("0123456789")[:1] for name in names]


def _read_mdanalysis(topology: Path, trajectory: Path) -> list[Trajectory]:
    analysis: Any = require("MDAnalysis", "md")
    source = f"{topology}:{trajectory}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            universe = analysis.Universe(str(topology), str(trajectory))
            steps = [(frame.time, frame.positions.copy()) for frame in universe.trajectory]
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{source}: MDAnalysis cannot read it ({reason})") from None
    atoms = universe.atoms
    names = getattr(atoms, "names", None)
    said = [
        getattr(atoms, "elements", None),
        getattr(atoms, "types", None),
        None if names is None else _initials(names),
    ]
    numbers = [np.array([_number(element) for element in elements]) for elements in said if elements is not None]
    known = next((one for one in numbers if (one > 0).all()), None)
    if known is None:
        raise UserError(f"{source}: got a topology without elements, expected one that names them, e.g. a PDB file")
    bonds = np.array(atoms.bonds.indices) if hasattr(atoms, "bonds") and len(atoms.bonds) else None
    if names is not None and hasattr(atoms, "resnames"):
        names = [f"{residue}:{name}" for residue, name in zip(atoms.resnames, names)]
    times = np.array([time for time, _ in steps]) * 1000  # MDAnalysis counts in picoseconds
    if len(steps) < 2:
        raise UserError(f"{source}: got a single frame, expected a trajectory of at least 2 frames")
    positions = np.stack([x for _, x in steps])
    return [molecule(positions, times, known, unit="fs", bonds=bonds, names=names, source=source)]


# -- writers ---------------------------------------------------------------------------------------------------------
def write_trajectories(path: str | Path, trajectories: Sequence[Trajectory | None]) -> int:
    """Write trajectories by the ending of `path`; None entries are left out.

    Returns:
        Number of trajectories written.

    Raises:
        UserError: Another ending, nothing to write, or a format that cannot hold them.
    """
    path, kept = Path(path), [one for one in trajectories if one is not None]
    ending = path.suffix.lower()
    if ending not in WRITERS:
        raise UserError(f"{path}: got file type '{path.suffix}', expected one of {' '.join(WRITERS)}")
    if not kept:
        raise UserError(f"{path}: got no trajectory to write, expected at least one")
    if ending == ".npz":
        save_npz(path, kept)
    else:
        write_text(path, pdb_text(path, kept) if ending == ".pdb" else xyz_text(kept, ending == ".extxyz"))
    return len(kept)


def save_npz(path: str | Path, trajectories: Sequence[Trajectory]) -> None:
    """Write the npz format (module docstring), atomically; `R` is (samples, frames, atoms, D) float32.

    Raises:
        UserError: Different atoms or times: an npz holds samples of one molecule.
    """
    first = trajectories[0]
    for one in trajectories:
        same = one.positions.shape == first.positions.shape and np.allclose(one.times, first.times)
        if not same or not np.array_equal(kind(one), kind(first)):
            raise UserError(f"{path}: got trajectories of different molecules or times, expected one; write .extxyz")
    arrays: dict[str, Any] = {"R": np.stack([one.positions for one in trajectories]).astype(np.float32)}
    even = first.frames > 1 and np.allclose(np.diff(first.times), first.spacing)
    if first.unit == "fs" and even:
        arrays["dt_fs"] = np.float32(first.spacing)
    else:
        arrays |= {"times": first.times, "unit": np.array(first.unit)}
    if first.numbers is None:
        arrays |= {key: np.stack([getattr(one, key) for one in trajectories]) for key in ("features", "pairs")}
    else:
        arrays |= {"z": first.numbers, "bonds": first.bonds}
        arrays |= {} if first.names is None else {"atom_names": np.asarray(first.names, str)}
    if first.observed is not None:
        arrays["observed"] = first.observed
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)


WRITERS = (".npz", ".extxyz", ".xyz", ".pdb")
