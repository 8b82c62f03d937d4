"""Files and folders written in one step: a reader sees the old one or the whole new one, never a part."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sciflow.core.errors import UserError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A place to write to; at the end of the block it becomes `path`, after an error it is removed.

    The place has the name of `path` and lies in a temporary folder beside it (hence on the same file system), so a
    writer that looks at the ending sees the right one, and whole folders can be written as well.

    Raises:
        UserError: The folder of `path` cannot be made or written to, or `path` is a folder that is in use.
    """
    path = Path(path)
    folder = _folder_beside(path)
    try:
        yield folder / path.name
        try:
            os.replace(folder / path.name, path)
        except OSError as error:
            raise _unwritable(path, error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8, line ends as given) in one step.

    Raises:
        UserError: As `replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def check_writable(path: str | Path) -> Path:
    """The path, once a file can be made beside it; called before long work whose result goes there.

    Raises:
        UserError: The folder cannot be made or written to, or `path` is a folder.
    """
    path = Path(path)
    _folder_beside(path).rmdir()
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected the name of a file")
    return path


def _folder_beside(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written ({error.strerror}); choose another place")
