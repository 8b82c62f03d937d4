"""`sciflow demo` end to end with an untrained model and a small reference file."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("rdkit")
from rdkit import Chem


@pytest.fixture
def reference(tmp_path):
    path = tmp_path / "reference.csv"
    chains = (
        ["C" * n for n in range(1, 9)]
        + ["C" * n + "O" for n in range(1, 9)]
        + ["C1CCCCC1", "c1ccccc1", "CC(=O)O", "CCN"]
    )
    path.write_text("smiles\n" + "\n".join(chains) + "\n")
    return path


def test_demo_writes_what_it_says(command, tiny_model, reference, tmp_path):
    out = tmp_path / "demo"
    words = (
        "demo",
        "--model",
        tiny_model,
        "--reference",
        reference,
        "--out",
        out,
        "--num",
        12,
        "--designs",
        3,
        "--quick",
    )
    code, printed, _ = command(*words)
    assert code == 0
    assert str(out / "report.html") in printed
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["samples"] == 12
    assert metrics["metrics"]["validity"]["value"] == metrics["molecules"] / 12
    assert set(metrics["design"]) == {"svdd", "unguided", "best_of_7"}
    names = [line.split()[1] for line in (out / "molecules.smi").read_text().splitlines()]
    assert len(names) == metrics["molecules"] and set(names) <= {str(i) for i in range(12)}
    assert [mol.GetProp("_Name") for mol in Chem.SDMolSupplier(str(out / "molecules.sdf"))] == names
    text = (out / "report.html").read_text()
    assert text.count("<svg") >= 5
    assert not re.search(
        r"""(src|href)\s*=|url\(|@import|<link|<script|<iframe""", text
    )  # nothing is loaded from outside


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--model", "nothing-of-that-name"), "no shipped model of that name"),
        (("--reward", "speed"), "expected one of qed"),
        (("--out", "/proc/nowhere"), "cannot be written"),
    ],
)
def test_refusals(refused, tiny_model, tmp_path, words, expected):
    given = {"--model": tiny_model, "--out": tmp_path / "demo", **dict([words])}
    assert expected in refused("demo", *(word for pair in given.items() for word in pair))
