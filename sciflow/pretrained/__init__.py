"""Models that ship with the library: `<name>.safetensors` and a card `<name>.json` in this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sciflow.core.errors import UserError

FOLDER = Path(__file__).parent


def cards() -> dict[str, dict[str, Any]]:
    """Name -> card (domain, data, training, measured figures) of each shipped model."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def resolve(source: str | Path) -> Path:
    """Path of a model file, or of a shipped model by name.

    Raises:
        UserError: Neither exists.
    """
    path = Path(source)
    if path.is_file():
        return path
    shipped = FOLDER / f"{source}.safetensors"
    if shipped.is_file():
        return shipped
    names = ", ".join(p.stem for p in sorted(FOLDER.glob("*.safetensors"))) or "none"
    raise UserError(f"no model file '{source}' and no shipped model of that name; shipped models: {names}")
