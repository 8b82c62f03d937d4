"""Errors that users can act on."""

from __future__ import annotations

import sys

import pytest

from sciflow.core.errors import UserError, require


def test_require_returns_the_module():
    assert require("math", "all").sqrt(4.0) == 2.0
    assert require("xml.dom", "all").__name__ == "xml.dom"


@pytest.mark.parametrize("module", ["no_such_library", "no_such_library.part"])
def test_missing_library_names_the_pip_command(module):
    with pytest.raises(UserError, match=r"pip install 'sciflow\[fcd\]'"):
        require(module, "fcd")


def test_a_broken_import_inside_a_library_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("import something_else_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="something_else_that_is_missing"):
        require("broken_library", "fcd")
    sys.modules.pop("broken_library", None)


def test_user_error_is_a_value_error():
    assert issubclass(UserError, ValueError)
