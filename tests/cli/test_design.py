"""`sciflow design molecule` with an untrained model: files, equal budget, reproducibility, refusals."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

pytest.importorskip("rdkit")
from rdkit import Chem
from rdkit.Chem import QED

from sciflow.cli.design_molecule import training_smiles
from sciflow.core.values import PosteriorMean
from sciflow.domains.molecules.data import molecule_dataset
from sciflow.domains.molecules.design import design_molecules
from sciflow.domains.molecules.rewards import Reward, load_reward
from sciflow.guidance.svdd import SVDD
from sciflow.model import load


def heavy_atoms() -> Reward:
    return Reward("atoms", lambda molecule: molecule.GetNumAtoms(), 0.0)


@pytest.fixture
def model(tiny_model):
    return load(tiny_model)


def test_best_of_takes_the_best_of_each_group(model):
    result = design_molecules(model, heavy_atoms(), 5, candidates=3, seed=1)
    pool = [model.codec.decode(model.generate(np_tensor([i]), 1))[0] for i in range(15)]
    rewards = heavy_atoms()([record.molecule for record in pool])
    assert result.chosen.rewards.tolist() == rewards.reshape(3, 5).max(0).tolist()
    assert result.baselines["unguided"].rewards.tolist() == rewards[:5].tolist()
    assert result.method == "best_of_3"


def np_tensor(values):
    import torch

    return torch.tensor(values)


def test_guided_run_has_a_baseline_of_equal_network_budget(model):
    """4 moves with one call each, the last one without choice: 4 rows for a sample, 4 + 3 * 3 candidates = 13 guided.

    6 designs cost 78 rows, so the baseline has round(78/4) = 20 samples, or 3.33 for each design.
    """
    result = design_molecules(model, heavy_atoms(), 6, lambda reward: SVDD(PosteriorMean(reward), 3, 0.0), seed=1)
    assert result.method == "svdd"
    assert list(result.baselines) == ["unguided", "best_of_3.33"]
    assert result.chosen.network_rows == 6 * 13
    assert result.baselines["best_of_3.33"].network_rows == 20 * 4
    assert result.baselines["unguided"].network_rows == 6 * 4
    assert result.chosen.reward_calls == 6 * (3 * 3 + 1)
    assert result.baselines["best_of_3.33"].reward_calls == 20


def test_guidance_raises_the_reward(model):
    """Greedy choice of the larger molecule at each of 4 moves against none; an untrained network suffices for that."""
    result = design_molecules(model, heavy_atoms(), 64, lambda reward: SVDD(PosteriorMean(reward), 8, 0.0), seed=0)
    assert result.chosen.rewards.mean() > result.baselines["unguided"].rewards.mean()


def test_design_does_not_depend_on_the_batch(model):
    def smiles(batch_size):
        result = design_molecules(
            model, heavy_atoms(), 6, lambda reward: SVDD(PosteriorMean(reward), 3, 0.5), seed=2, batch_size=batch_size
        )
        return [record.smiles for record in result.chosen.records]

    assert smiles(1) == smiles(7) == smiles(256)


def test_table_is_sorted_and_true(model):
    result = design_molecules(model, load_reward("qed"), 8, candidates=2, train=["CC", "C"])
    rewards = [row["reward"] for row in result.table]
    assert rewards == sorted(rewards, reverse=True)
    for row, molecule in zip(result.table, result.molecules, strict=True):
        if molecule is not None:
            assert row["smiles"] == Chem.MolToSmiles(molecule)
            assert row["reward"] == pytest.approx(QED.qed(molecule))
            assert row["novel"] == (row["smiles"] not in ("CC", "C"))
    assert np.isclose(result.summary["best_of_2"]["reward_best"], max(rewards))


@pytest.mark.parametrize("ending", ["smi", "csv", "sdf"])
def test_command_writes_designs_settings_and_report(command, tiny_model, tmp_path, ending):
    out, report = tmp_path / "new" / f"designs.{ending}", tmp_path / "report.html"
    words = (
        "design",
        "molecule",
        "--model",
        tiny_model,
        "--reward",
        "logp",
        "--num",
        4,
        "--candidates",
        2,
        "--out",
        out,
    )
    code, printed, _ = command(*words, "--report", report, "--seed", 3)
    assert code == 0
    assert "best of 2.5" in printed and "reward calls per design" in printed
    settings = json.loads((tmp_path / "new" / f"designs.{ending}.json").read_text())
    assert {settings[name] for name in ("seed", "steps")} == {3, 4}
    assert settings["model"] == "tiny" and settings["reward"] == "logp"
    assert set(settings["summary"]) == {"svdd", "unguided", "best_of_2.5"}
    text = report.read_text()
    assert "<svg" in text and "best of 2.5" in text
    if ending == "csv":
        rows = list(csv.DictReader(out.open()))
        assert len(rows) == 4
        assert [float(row["reward"]) for row in rows] == sorted((float(row["reward"]) for row in rows), reverse=True)
    else:
        assert out.stat().st_size > 0


def test_novelty_is_against_the_model_s_own_split(model, tmp_path):
    """The stored shares and seed give back the training molecules; another seed or share would not."""
    path = tmp_path / "own.smi"
    path.write_text("".join(f"{'C' * n}O\n" for n in range(1, 41)))
    split = molecule_dataset(path, validation=0.2, test=0.3, seed=5)
    model.spec["data"] = split.info
    assert training_smiles(model) == split.train.smiles
    assert split.train.smiles != molecule_dataset(path, validation=0.2, test=0.3, seed=0).train.smiles
    del split.info["shares"], split.info["seed"]  # a model of an older version
    assert training_smiles(model) == molecule_dataset(path, validation=0).train.smiles
    model.spec["data"] = "nowhere.smi"
    assert training_smiles(model) == []


def test_own_reward_function(command, tiny_model, tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text("def size(molecule):\n    return molecule.GetNumAtoms()\n")
    monkeypatch.chdir(tmp_path)
    words = ("design", "molecule", "--model", tiny_model, "--reward", "my_rewards:size", "--guidance", "best_of")
    code, printed, _ = command(*words, "--num", 2, "--candidates", 2, "--out", tmp_path / "designs.smi")
    assert code == 0
    assert "best of 2" in printed


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"domain": "cell"}, "invalid choice: 'cell' (choose from 'molecule', 'sequence'"),
        ({"--reward": "speed"}, "got 'speed', expected one of qed"),
        ({"--reward": "similarity:((("}, "expected a valid SMILES"),
        ({"--reward": "no_such_module:f"}, "no_such_module"),
        ({"--guidance": "magic"}, "got 'magic', expected one of best_of, svdd"),
        ({"--solver": "Magic"}, "unknown solver 'Magic'"),
        ({"--solver": "DDIM"}, "stochastic"),
        ({"--candidates": 0}, "candidates"),
        ({"--num": 0}, "num: got 0"),
        ({"--steps": 0}, "steps must be at least 1"),
        ({"--alpha": -1}, "alpha"),
        ({"--model": "missing.safetensors"}, "no model file 'missing.safetensors'"),
        ({"--out": "designs.xyz"}, "expected one of the endings .smi"),
        ({"--out": "/proc/nowhere/designs.smi"}, "cannot be written"),
    ],
)
def test_refusals(refused, tiny_model, tmp_path, changed, expected):
    options = {"--model": tiny_model, "--reward": "qed", "--num": 2, "--candidates": 2, "--out": tmp_path / "a.smi"}
    options.update({name: value for name, value in changed.items() if name != "domain"})
    words = [word for pair in options.items() for word in pair]
    assert expected in refused("design", changed.get("domain", "molecule"), *words)


def test_corrupt_model_is_refused(refused, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not tensors")
    out = tmp_path / "a.smi"
    assert "cannot read" in refused("design", "molecule", "--model", broken, "--reward", "qed", "--out", out)
    assert not out.exists()


def test_a_graph_model_is_refused(refused, tiny_model, tmp_path):
    from sciflow.domains.graphs.codec import DegreeGraphCodec

    model = load(tiny_model)
    model.codec, model.spec = DegreeGraphCodec(6, 4), {**model.spec, "domain": "graphs"}
    model.save(tmp_path / "graphs.safetensors")
    words = ("--model", tmp_path / "graphs.safetensors", "--reward", "qed", "--out", tmp_path / "a.smi")
    assert "got a model for 'graphs', expected one for molecules" in refused("design", "molecule", *words)
