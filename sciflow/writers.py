"""Final files by domain and ending. Each domain's `files` module knows its formats; settings go into a sidecar JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sciflow.core.errors import UserError
from sciflow.core.files import write_text


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
        raise UserError(f"cannot write {domain} to '{out.name}'; expected one of the endings {', '.join(known)}")
    if ending == ".graphml" and number > 1:
        others = ", ".join(one for one in known if one != ending)
        raise UserError(f"GraphML holds one graph per file, got {number} for '{out.name}'; expected one of {others}")


def write_objects(domain: str, out: Path, objects: Sequence[Any], settings: dict[str, Any]) -> None:
    """Write objects by the ending of `out`, and beside them (`OUT.json`) settings and the count of empty samples."""
    check_ending(domain, out, len(objects))
    if domain == "sequences":
        from sciflow.domains.sequences.files import write_sequences

        write_sequences(out, objects)
    elif domain == "molecules":
        from sciflow.domains.molecules.files import write_molecules

        write_molecules(out, objects)
    else:
        from sciflow.domains.graphs.files import write_graphs

        write_graphs(out, [graph for graph in objects if graph is not None])
    empty = sum(item is None for item in objects)
    write_text(Path(f"{out}.json"), json.dumps({**settings, "empty_samples": empty}, indent=1))
