"""Errors that users can act on: what was got, what was expected, what to do."""

from __future__ import annotations

import importlib
from types import ModuleType


class UserError(ValueError):
    """A mistake in the input, not in the library. The command line prints it as one line and exits with code 2."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional library.

    Args:
        module: Dotted module name, e.g. `fcd_torch`.
        extra: The extra of sciflow that installs it, e.g. `fcd`.

    Raises:
        UserError: The library is not installed; the message holds the pip command.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".")[0]:
            raise  # the library is there, one of ITS imports is not: do not hide that
        raise UserError(f"'{module}' is not installed; run: pip install 'sciflow[{extra}]'") from None
