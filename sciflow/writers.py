"""Final files by domain and ending. Each domain's `files` module knows its formats; settings go into a sidecar JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sciflow.core.errors import UserError
from sciflow.core.files import write_text

ENDINGS = {
    "molecules": (".smi", ".csv", ".sdf"),
    "graphs": (".npz", ".graphml", ".json"),
}


def check_ending(domain: str, out: Path) -> None:
    """Refuse a file ending before hours of sampling.

    Raises:
        UserError: Unknown domain or ending.
    """
    if domain not in ENDINGS:
        raise UserError(f"the model's domain '{domain}' has no file writer; use Model.sample in Python")
    if out.suffix.lower() not in ENDINGS[domain]:
        raise UserError(
            f"cannot write {domain} to '{out.name}'; expected one of the endings {', '.join(ENDINGS[domain])}"
        )


def write_objects(domain: str, out: Path, objects: Sequence[Any], settings: dict[str, Any]) -> None:
    """Write objects in their field's format and the settings of the run beside them (`OUT.json`)."""
    check_ending(domain, out)
    if domain == "molecules":
        from sciflow.domains.molecules.files import write_molecules

        write_molecules(out, objects)
    else:
        from sciflow.domains.graphs.files import write_graphs

        write_graphs(out, objects)
    empty = sum(item is None for item in objects)
    write_text(Path(f"{out}.json"), json.dumps({**settings, "empty_samples": empty}, indent=1))
