"""`sciflow design sequence` and `protein`: files, equal budget, restart, words of the report, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sciflow.domains.designing import Way
from sciflow.domains.sequences.alphabets import DNA
from sciflow.domains.sequences.codec import SequenceCodec
from sciflow.domains.sequences.design import alphabet_of_model, any_order_plan, design_sequences, prior_likelihood
from sciflow.domains.sequences.files import read_sequences
from sciflow.domains.sequences.network import SequenceCNN
from sciflow.domains.sequences.rewards import load_reward
from sciflow.guidance.gradient import GradientGuidance
from sciflow.model import Model, load
from sciflow.processes.masked import Masked
from sciflow.sampling import SamplingPlan
from sciflow.solvers.any_order import AnyOrder

LENGTH = 6
REWARDS = """
import torch

calls = {"left": None}


def count_g(sequences):
    if calls["left"] is not None:
        calls["left"] -= 1
        if calls["left"] < 0:
            raise RuntimeError("instrument offline")
    return [one.count("G") for one in sequences]


def count_a(sequences):
    return [float(one.count("A")) for one in sequences]


def minus_g(sequences):
    return [-float(one.count("G")) for one in sequences]


def always_nan(sequences):
    return [float("nan")] * len(sequences)


def often_nan(sequences):
    return [float("nan") if one.startswith("A") else one.count("G") for one in sequences]


def short(sequences):
    return [0.0 for _ in sequences]


short.length = 5


class Soft(torch.nn.Module):
    def forward(self, x):
        return x[:, :, 2].sum(1)
"""


@pytest.fixture(scope="module")
def dna_model(tmp_path_factory):
    """An untrained network on sequences of six letters."""
    torch.manual_seed(0)
    network = SequenceCNN(4, 8, 1)
    plan = SamplingPlan({"seq": AnyOrder()}, steps=LENGTH)
    spec = {"name": "toy", "domain": "sequences", "sizes": {str(LENGTH): 1}}
    path = tmp_path_factory.mktemp("dna") / "toy.safetensors"
    Model({"seq": Masked(4)}, network, plan, SequenceCodec("dna", LENGTH), spec).save(path)
    return path


@pytest.fixture
def rewards(tmp_path, monkeypatch):
    """A folder to work in, with a module of rewards of its own name (modules are imported once per process)."""
    monkeypatch.chdir(tmp_path)
    name = f"rewards_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(REWARDS)
    return name


@pytest.mark.slow
def test_the_documented_command_on_gb1(command, data_dir, tmp_path, monkeypatch):
    """The exact line of the manual; E r with exact values is 0.514 (data README), here children are valued by 8
    one-shot completions. 512 designs have a standard error of 0.027 and E r of this law is within 0.03 of 0.5
    (measured), so that 0.35..0.65 is more than 4.4 standard errors away (false alarm < 1e-5).
    """
    monkeypatch.setenv("SCIFLOW_DATA", str(data_dir))
    monkeypatch.chdir(tmp_path)
    words = "design sequence --model gb1-mpnn --reward gb1 --alpha 0.5 --method svdd -n 512 --out d.fasta"
    code, printed, _ = command(*words.split())
    assert code == 0 and "No held-out reward was given" in " ".join(printed.split())
    table, report = read_sequences(tmp_path / "d.fasta", alphabet_of_model(load("gb1-mpnn")))
    assert report.n_read == 512 and table.names[0] == "design_0001" and len(table.names[-1]) == len("design_0512")
    numbers = table.numbers()
    assert set(numbers) == {"reward", "loglik", "sample"}
    assert np.allclose(numbers["reward"], load_reward("gb1", "protein")(table.sequences), atol=1e-5)
    assert 0.35 < numbers["reward"].mean() < 0.65
    assert sorted(numbers["sample"]) == list(range(512))
    side = json.loads((tmp_path / "d.fasta.json").read_text())
    assert side["summary"]["svdd"]["reward_mean"] == pytest.approx(float(numbers["reward"].mean()), abs=1e-4)
    assert list(side["summary"])[:2] == ["svdd", "unguided"] and side["seed"] == 0 and side["sciflow"]
    assert not (tmp_path / "d.fasta.parts").exists()


@pytest.mark.parametrize(
    "method", ["svdd", "smc", pytest.param("drakes", marks=pytest.mark.slow), "best_of", "guidance"]
)
def test_every_method_raises_the_reward(command, dna_model, rewards, tmp_path, method):
    """Mean number of G of 64 designs against the plain samples of the same run, alpha 0.3.

    The untrained network is near uniform: plain samples have 1.5 G with a standard error of 0.13; p* has 6 x 0.9.
    """
    words = ("--model", dna_model, "--reward", f"{rewards}:Soft", "--heldout", f"{rewards}:count_a", "--alpha", 0.3)
    options = ("--method", method, "-n", 64, "--particles", 8, "--updates", 40, "--learning-rate", 0.03)
    out = tmp_path / "d.fasta"
    code, _, err = command("design", "sequence", *words, *options, "--out", out, "--report", tmp_path / "r.html")
    assert code == 0, err
    side = json.loads((tmp_path / "d.fasta.json").read_text())
    first, *others = side["summary"].values()
    assert first["reward_mean"] > others[0]["reward_mean"] + 1
    assert first["heldout_mean"] < others[0]["heldout_mean"]  # letters that are G are not A
    assert any("Reward hacking: against unguided" in remark for remark in side["remarks"])
    table, _ = read_sequences(out, DNA)
    assert {"reward", "heldout", "loglik", "sample"} == set(table.numbers())
    text = (tmp_path / "r.html").read_text()
    assert "Reward hacking" in text and text.count("<svg") >= 5


def test_budgets_are_equal_and_rows_are_those_that_were_evaluated(dna_model):
    """N of the best-of-N follows from rows that the network saw, not from rows that were asked for."""
    from sciflow.core.values import PosteriorMean
    from sciflow.domains.designing import Way, counted_rows
    from sciflow.guidance.enumeration import Enumeration

    model = load(dna_model)
    reward = load_reward(lambda sequences: [one.count("G") for one in sequences], "dna")
    way = Way("svdd", lambda value: Enumeration(PosteriorMean(value), 0.3))
    result = design_sequences(model, reward, 32, way)
    chosen, unguided, best = (one.designs for one in result.methods.values())
    assert chosen.network_rows < 32 * LENGTH * 4  # what a plain loop would evaluate
    ratio = chosen.network_rows / unguided.network_rows
    assert list(result.methods)[2] == f"best_of_{round(ratio * 32) / 32:.3g}"
    assert best.network_rows == pytest.approx(chosen.network_rows, rel=0.25)
    with counted_rows(model) as rows:
        model.generate(torch.arange(32), 0, plan=any_order_plan(model))
    assert rows() == unguided.network_rows
    assert rows() <= 1 + 31 * LENGTH  # the first row is all masks for everyone
    with counted_rows(model) as rows:
        pass
    assert rows() == 0


def test_smc_rounds_up_to_groups_and_keeps_n(command, dna_model, rewards, tmp_path):
    words = ("--model", dna_model, "--reward", f"{rewards}:count_g", "--method", "smc", "--particles", 4, "-n", 6)
    assert command("design", "sequence", *words, "--alpha", 0.5, "--out", tmp_path / "d.csv")[0] == 0
    table, _ = read_sequences(tmp_path / "d.csv", DNA)
    assert sorted(table.numbers()["sample"]) == list(range(6))


@pytest.mark.parametrize("batch_size", [4, 256])
def test_a_failure_keeps_what_is_finished_and_the_same_command_goes_on(
    command, refused, dna_model, rewards, tmp_path, batch_size
):
    import importlib
    import sys

    sys.path.insert(0, str(tmp_path))
    module = importlib.import_module(rewards)
    sys.path.remove(str(tmp_path))
    out, whole = tmp_path / "d.fasta", tmp_path / "whole.fasta"
    words = ("design", "sequence", "--model", dna_model, "--reward", f"{rewards}:count_g", "-n", 8)
    words = (*words, "--method", "best_of", "--candidates", 3, "--batch-size", batch_size)
    module.calls["left"] = 2 if batch_size == 4 else 0
    message = refused(*words, "--out", out)
    assert "instrument offline" in message
    parts = tmp_path / "d.fasta.parts"
    assert (f"kept in '{parts}'" in message) == (batch_size == 4)
    kept = {file: file.stat().st_mtime_ns for file in parts.glob("best_of_N-*.json")}
    assert bool(kept) == (batch_size == 4)
    for file in kept:
        assert set("".join(json.loads(file.read_text())["records"])) <= set("ACGT")
    if kept:
        assert "other settings" in refused(*words, "--seed", 1, "--out", out)
    module.calls["left"] = None
    assert command(*words, "--out", out)[0] == 0
    assert command(*words, "--out", whole)[0] == 0
    assert out.read_text() == whole.read_text() and not parts.exists()


def test_nan_rewards_are_counted_and_avoided(command, dna_model, rewards, tmp_path):
    words = ("--model", dna_model, "--reward", f"{rewards}:often_nan", "--alpha", 0.3, "-n", 32)
    code, printed, _ = command("design", "sequence", *words, "--out", tmp_path / "d.fasta")
    assert code == 0 and "The reward was NaN or infinite for" in " ".join(printed.split())
    side = json.loads((tmp_path / "d.fasta.json").read_text())
    svdd, unguided = side["summary"]["svdd"], side["summary"]["unguided"]
    assert unguided["without_reward"] > svdd["without_reward"]  # a quarter of all sequences begin with A
    assert unguided["reward_mean"] >= 0  # the floor is not in the mean


def test_a_reward_without_any_value_is_an_error_and_the_designs_are_kept(command, dna_model, rewards, tmp_path):
    out = tmp_path / "n.fasta"
    code, _, err = command(
        "design", "sequence", "--model", dna_model, "--reward", f"{rewards}:always_nan", "-n", 4, "--out", out
    )
    assert code == 2 and "no finite value for any of the 4 designs" in err
    assert out.read_text().count(">") == 4


def test_a_nan_gradient_steers_nothing_and_is_counted(dna_model):
    """A reward without a finite gradient must leave the prior's samples, not the letter that NaN happens to choose."""

    class Broken(torch.nn.Module):
        def forward(self, x):
            return (x[..., 0].sum(1) * 0).sqrt()  # finite, with the gradient 0 * inf

    class Lost(torch.nn.Module):
        def forward(self, x):
            return x.sum((1, 2)) * float("nan")

    model = load(dna_model)
    for module, lost in ((Broken(), False), (Lost(), True)):
        reward = load_reward(module, "dna")
        way = Way("guidance", lambda reward: GradientGuidance(reward, 2.0))
        result = design_sequences(model, reward, 16, way)
        sequences = {name: one.designs.records for name, one in result.methods.items()}
        assert sequences["guidance"] == sequences["unguided"]
        assert result.not_finite >= 16 * LENGTH  # every move of every design
        assert all(np.isnan(row["reward"]) == lost for row in result.table)


def test_fixed_positions_keep_their_letters(command, dna_model, rewards, tmp_path):
    words = ("--model", dna_model, "--reward", f"{rewards}:count_g", "--fix", "1,3-4", "--start", "CATTAC", "-n", 16)
    assert command("design", "sequence", *words, "--alpha", 3, "--out", tmp_path / "d.fasta")[0] == 0
    table, _ = read_sequences(tmp_path / "d.fasta", DNA)
    assert {one[0] + one[2:4] for one in table.sequences} == {"CTT"}
    assert json.loads((tmp_path / "d.fasta.json").read_text())["steps"] == 3
    assert len(set(table.sequences)) > 1


def test_likelihood_is_of_the_free_positions(dna_model):
    """With one free position the bound has one term, log p(letter | the rest): no estimate, equal to the network."""
    model = load(dna_model)
    state = model.codec.to_state(["CATTAC", "CAGTAC"])
    fixed = model.codec.to_state(["CATTAC"])["seq"][0].clone()
    fixed[2] = -1
    found = prior_likelihood(model, fixed)(state)
    masked = state.put(seq=torch.where(fixed < 0, 4, state["seq"]))
    logits = model.denoiser.network(masked, {})["seq"].double().log_softmax(-1)[:, 2]
    assert torch.allclose(found, logits[[0, 1], [3, 2]].double(), atol=1e-5)


def test_samples_do_not_depend_on_the_batch(dna_model):
    model = load(dna_model)
    results = [design_sequences(model, None, 9, batch_size=size, seed=3) for size in (2, 256)]
    assert [row["sequence"] for row in results[0].table] == [row["sequence"] for row in results[1].table]
    direct = model.generate(torch.arange(9), 3, plan=any_order_plan(model))
    assert sorted(model.codec.to_objects(direct)) == sorted(row["sequence"] for row in results[0].table)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"--method": "magic"}, "method: got 'magic', expected one of svdd, smc, drakes, best_of, guidance"),
        ({"--num": 0}, "num: got 0, expected at least 1"),
        ({"--num": "many"}, "invalid int value: 'many'"),
        ({"--reward": "gb1"}, "reward 'gb1' is for protein, but the sequences are dna"),
        ({"--reward": "{}:short"}, "got sequences of length 6, expected 5"),
        ({"--reward": "speed"}, "got 'speed', expected one of gb1"),
        ({"--heldout": "{}:short"}, "got sequences of length 6, expected 5"),
        ({"--method": "drakes"}, "has no gradient, but method drakes follows it; use --method svdd or smc"),
        ({"--method": "guidance"}, "has no gradient, but method guidance follows it; use --method svdd or smc"),
        ({"--method": "smc", "--alpha": 0}, "alpha: got 0"),
        ({"--alpha": -1}, "alpha: got -1"),
        ({"--alpha": "nan"}, "alpha: got nan"),
        ({"--candidates": "few"}, "candidates: got 'few', expected a number of at least 1, or all"),
        ({"--candidates": "all", "--steps": 2}, "needs one token per move"),
        ({"--value": "mode"}, "value: got 'mode', expected samples or mean"),
        ({"--steps": 0}, "steps must be at least 1"),
        ({"--particles": 0}, "particles: got 0"),
        ({"--fix": "1,2"}, "belong together"),
        ({"--fix": "9", "--start": "CATTAC"}, "fixed positions: got 9, expected 1 to 6"),
        ({"--fix": "a-b", "--start": "CATTAC"}, "fix: got 'a-b'"),
        ({"--fix": "1", "--start": "CATXAC"}, "'X' at position 4"),
        ({"--fix": "1", "--start": "CAT"}, "expected 6"),
        ({"--fix": "1-6", "--start": "CATTAC"}, "all positions are fixed"),
        ({"--model": "missing.safetensors"}, "no model file 'missing.safetensors'"),
        ({"--out": "designs.xyz"}, "expected one of the endings .fasta"),
        ({"--out": "/proc/nowhere/designs.fasta"}, "cannot be written"),
    ],
)
def test_refusals(refused, dna_model, rewards, tmp_path, changed, expected):
    options = {"--model": dna_model, "--reward": f"{rewards}:count_g", "--num": 2, "--out": tmp_path / "a.fasta"}
    options |= {name: str(value).format(rewards) for name, value in changed.items()}
    words = [word for pair in options.items() for word in pair]
    assert expected in refused("design", "sequence", *words)
    assert not (tmp_path / "a.fasta").exists()


def test_a_molecule_model_is_refused(refused, tiny_model, tmp_path):
    words = ("--model", tiny_model, "--reward", "gb1", "--out", tmp_path / "a.fasta")
    assert "got a model for 'molecules', expected one for sequences" in refused("design", "sequence", *words)


def test_sampling_sequences(command, dna_model, tmp_path):
    assert command("sample", dna_model, "--num", 5, "--out", tmp_path / "x.fasta.gz", "--seed", 4)[0] == 0
    table, _ = read_sequences(tmp_path / "x.fasta.gz", DNA)
    assert len(table.sequences) == 5 and table.sequences == load(dna_model).sample(5, seed=4)
