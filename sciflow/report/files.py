"""JSON files of plain data, written in one step."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from sciflow.core.files import write_text


def write_json(path: str | Path, content: Any) -> None:
    """Writes plain data as JSON, atomically; NaN and infinities (no JSON numbers) become null."""
    write_text(path, json.dumps(plain(content), indent=1) + "\n")


def plain(value: Any) -> Any:
    """Dicts, lists, strings, bools and finite numbers only: NumPy scalars become Python's, NaN becomes None."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy and torch
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
