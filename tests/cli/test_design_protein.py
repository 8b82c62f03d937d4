"""`sciflow design protein` with an untrained inverse-folding network on a small made-up backbone."""

from __future__ import annotations

import json
import math

import pytest
import torch

pytest.importorskip("Bio")

from sciflow.domains.sequences.alphabets import PROTEIN
from sciflow.domains.sequences.files import read_sequences
from sciflow.domains.sequences.inverse_folding import InverseFolding
from sciflow.model import Model
from sciflow.processes.masked import Masked
from sciflow.sampling import SamplingPlan
from sciflow.solvers.any_order import AnyOrder

NATIVE = {38: "ALA", 39: "VAL", 40: "ASP", 41: "GLY", 42: "LYS", 43: "TRP"}  # AVDGKW
ATOMS = {"N": (1.5, -0.9, -0.6), "CA": (2.3, 0.0, 0.0), "C": (1.7, 0.7, 1.1), "O": (1.9, 0.6, 2.2)}


@pytest.fixture
def backbone(tmp_path):
    """Six residues of a helix, chain B, numbered from 38."""
    lines = []
    for i, (number, name) in enumerate(NATIVE.items()):
        turn = math.radians(100 * i)
        for atom, (x, y, z) in ATOMS.items():
            place = (x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn), z + 1.5 * i)
            spot = "".join(f"{value:8.3f}" for value in place)
            lines.append(
                f"ATOM  {len(lines) + 1:5d}  {atom:<3} {name} B{number:4d}    {spot}  1.00  0.00           {atom[0]}"
            )
    path = tmp_path / "helix.pdb"
    path.write_text("\n".join([*lines, "END", ""]))
    return path


@pytest.fixture(scope="module")
def folding_model(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("folding") / "folding.safetensors"
    plan = SamplingPlan({"seq": AnyOrder()}, steps=6)
    Model({"seq": Masked(20)}, InverseFolding(neighbours=5), plan, None, {"domain": "sequences"}).save(path)
    return path


def test_plain_designs_keep_fixed_residues_and_report_recovery(command, folding_model, backbone, tmp_path):
    """Fixed 39 and 41 are V and G; recovery counts the four others."""
    out = tmp_path / "p.fasta"
    words = ("--model", folding_model, "--backbone", backbone, "--fix", "39,41", "-n", 12, "--out", out)
    code, printed, err = command("design", "protein", *words, "--report", tmp_path / "p.html")
    assert code == 0, err
    assert "recovery of the native sequence" in printed and "held-out" not in printed
    table, _ = read_sequences(out, PROTEIN)
    assert {one[1] + one[3] for one in table.sequences} == {"VG"}
    assert set(table.numbers()) == {"loglik", "sample"}
    assert table.numbers()["loglik"].tolist() == sorted(table.numbers()["loglik"].tolist(), reverse=True)
    side = json.loads((tmp_path / "p.fasta.json").read_text())
    hits = [sum(one[i] == "AVDGKW"[i] for i in (0, 2, 4, 5)) / 4 for one in table.sequences]
    assert side["summary"]["prior"]["recovery"] == pytest.approx(sum(hits) / 12)
    assert side["steps"] == 4 and "<svg" in (tmp_path / "p.html").read_text()


def test_designs_towards_a_reward(command, folding_model, backbone, tmp_path, monkeypatch):
    (tmp_path / "charges.py").write_text("def positive(sequences):\n    return [s.count('K') for s in sequences]\n")
    monkeypatch.chdir(tmp_path)
    words = ("--model", folding_model, "--backbone", backbone, "--chain", "B", "--reward", "charges:positive", "-n", 8)
    code, printed, err = command("design", "protein", *words, "--alpha", 0.2, "--out", tmp_path / "p.fasta")
    assert code == 0, err
    summary = json.loads((tmp_path / "p.fasta.json").read_text())["summary"]
    assert summary["svdd"]["reward_mean"] > summary["unguided"]["reward_mean"] + 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--chain", "A"), "got chain 'A', expected one of the protein chains B"),
        (("--fix", "39,80"), "chain B has no residue '80'"),
        (("--backbone", "missing.pdb"), "missing.pdb: no such file"),
        (("--reward", "gb1"), "got sequences of length 6, expected 4 or 56"),
        (("--temperature", 0), "temperature"),
        (("--num", 0), "num: got 0, expected at least 1"),
        (("--fix", "38-43"), "all positions are fixed"),
    ],
)
def test_refusals(refused, folding_model, backbone, tmp_path, words, expected):
    given = ("--model", folding_model, "--backbone", backbone, "--out", tmp_path / "p.fasta", *words)
    assert expected in refused("design", "protein", *given)


def test_a_model_without_backbones_is_refused(refused, tiny_model, backbone, tmp_path):
    words = ("--model", tiny_model, "--backbone", backbone, "--out", tmp_path / "p.fasta")
    assert "does not read backbones" in refused("design", "protein", *words)
