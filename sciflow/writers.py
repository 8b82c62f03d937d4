"""Final files by domain and ending. Each domain's `files` module knows its formats; settings go into a sidecar JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sciflow.core.errors import UserError
from sciflow.core.files import check_writable, write_text


def endings(domain: str) -> tuple[str, ...]:
    """File endings that the writers of a domain know.

    Raises:
        UserError: The domain has no writers.
    """
    if domain == "molecules":
        from sciflow.domains.molecules.files import WRITERS

        return tuple(WRITERS)
    if domain == "graphs":
        from sciflow.domains.graphs.files import WRITERS

        return (".npz", *WRITERS)
    if domain == "sequences":
        from sciflow.domains.sequences.files import WRITERS

        return tuple(WRITERS)
    if domain == "crystals":
        from sciflow.domains.crystals.files import WRITERS

        return tuple(WRITERS)
    if domain == "trajectories":
        from sciflow.domains.trajectories.files import WRITERS

        return tuple(WRITERS)
    raise UserError(f"the model's domain '{domain}' has no file writer; use Model.sample in Python")


def check_ending(domain: str, out: Path, number: int) -> None:
    """Refuse a file that cannot hold `number` objects of a domain, before hours of sampling.

    Raises:
        UserError: Unknown domain or ending, or more than one graph for GraphML.
    """
    known, ending = endings(domain), out.suffix.lower()
    if domain == "sequences" and ending == ".gz":
        ending = Path(out.stem).suffix.lower()
    if ending not in known:
        shown = ", ".join(one for one in known if one) + (", or a folder" if "" in known else "")
        raise UserError(f"cannot write {domain} to '{out.name}'; expected one of the endings {shown}")
    if domain == "crystals" and ending in (".vasp", ".poscar") and number > 1:
        raise UserError(f"a POSCAR holds one structure, got {number} for '{out.name}'; expected a folder or .extxyz")
    if ending == ".graphml" and number > 1:
        others = ", ".join(one for one in known if one != ending)
        raise UserError(f"GraphML holds one graph per file, got {number} for '{out.name}'; expected one of {others}")


def check_target(domain: str, out: Path, number: int) -> None:
    """Refuse, before long work, a file or folder that cannot be written; a folder must be new or empty.

    Raises:
        UserError: As `check_ending` and `check_writable`, or a folder with something in it.
    """
    check_ending(domain, out, number)
    if domain == "crystals" and out.suffix == "" and out.is_dir():
        if any(out.iterdir()):
            raise UserError(f"{out}: is a folder with files in it, expected a new one; choose another --out")
        return
    check_writable(out)


def write_objects(domain: str, out: Path, objects: Sequence[Any], settings: dict[str, Any]) -> None:
    """Write objects by the ending of `out`, and beside them (`OUT.json`) settings and the count of empty samples."""
    check_ending(domain, out, len(objects))
    if domain == "sequences":
        from sciflow.domains.sequences.files import write_sequences

        write_sequences(out, objects)
    elif domain == "crystals":
        from sciflow.domains.crystals.files import write_crystals

        write_crystals(out, objects, [f"sample_{i}" for i in range(len(objects))])
    elif domain == "trajectories":
        from sciflow.domains.trajectories.files import write_trajectories

        write_trajectories(out, [one for one in objects if one is not None])
    elif domain == "molecules":
        from sciflow.domains.molecules.files import write_molecules

        write_molecules(out, objects)
    else:
        from sciflow.domains.graphs.files import write_graphs

        write_graphs(out, [graph for graph in objects if graph is not None])
    empty = sum(item is None for item in objects)
    write_text(Path(f"{out}.json"), json.dumps({**settings, "empty_samples": empty}, indent=1))
