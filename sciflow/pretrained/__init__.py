"""Models that `sciflow.load` knows by name: a card `<name>.json` in this folder with `<name>.safetensors` beside it.

A card may name a builder "module:function" instead, which makes the model from public files; what it makes is kept in
the user cache.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

from sciflow.core.errors import UserError

FOLDER = Path(__file__).parent


def cards() -> dict[str, dict[str, Any]]:
    """Name -> card (domain, data, training, measured figures) of each registered model."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def resolve(source: str | Path) -> Path:
    """Path of a model file, or of a registered model by name; one with a builder is built on first use.

    Raises:
        UserError: Neither exists, or the builder lacks what it needs.
    """
    path = Path(source)
    if path.is_file():
        return path
    shipped = FOLDER / f"{source}.safetensors"
    if shipped.is_file():
        return shipped
    known = cards()
    if "builder" in known.get(str(source), {}):
        return _built(str(source), known[str(source)])
    names = ", ".join(known) or "none"
    raise UserError(f"no model file '{source}' and no shipped model of that name; shipped models: {names}")


def _built(name: str, card: dict[str, Any]) -> Path:
    """The model in the user cache; another version of sciflow or another card builds it again."""
    import sciflow
    from sciflow.data import cache_root

    digest = hashlib.sha256(json.dumps([sciflow.__version__, card["builder"]], sort_keys=True).encode()).hexdigest()[
        :12
    ]
    path = cache_root() / "models" / f"{name}-{digest}.safetensors"
    if not path.is_file():
        module, _, function = card["builder"].partition(":")
        getattr(importlib.import_module(module), function)().save(path)
    return path
