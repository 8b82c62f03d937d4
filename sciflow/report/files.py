"""Text and JSON files written in one step: a reader sees the old file or the whole new one."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from sciflow.core.errors import UserError


def check_writable(path: str | Path) -> Path:
    """The path, once a file can be made beside it; called before long work whose result goes there.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, probe = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
    os.close(handle)
    os.unlink(probe)
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected the name of a file")
    return path


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file atomically.

    Raises:
        UserError: the place cannot be written to.
    """
    path = check_writable(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
