"""Files and folders appear whole or not at all."""

from __future__ import annotations

import pytest

from sciflow.core.errors import UserError
from sciflow.core.files import check_writable, replacing, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "old\n")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old\n"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_readers_see_the_old_file_until_the_end(tmp_path):
    path = tmp_path / "a.npz"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".npz" and path.read_text() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_folders(tmp_path):
    with replacing(tmp_path / "graphs") as temporary:
        temporary.mkdir()
        (temporary / "0.txt").write_text("0")
    assert (tmp_path / "graphs" / "0.txt").read_text() == "0"
    with pytest.raises(UserError, match="graphs: cannot be written"):  # a file does not replace a folder
        write_text(tmp_path / "graphs", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["graphs"]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "below.txt", "/proc/nowhere/a.txt"):
        with pytest.raises(UserError, match="cannot be written .*choose another place"):
            write_text(place, "text")
        with pytest.raises(UserError, match="cannot be written"):
            check_writable(place)
    with pytest.raises(UserError, match="is a folder"):
        check_writable(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]  # looking leaves nothing behind


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "written", "")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode
