"""Model files: what is no model is refused with its name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from toy import toy_model

from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.process import Process
from sciflow.domains.sequences.codec import SequenceCodec
from sciflow.domains.sequences.network import SequenceCNN
from sciflow.model import Model, load
from sciflow.processes.masked import Masked
from sciflow.processes.uniform_tokens import UniformTokens
from sciflow.sampling import SamplingPlan
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.tau_leap import TauLeap


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ("{}", "cannot read .*model.safetensors' as a sciflow model: KeyError: 'processes'"),
        ("no json", "cannot read .*model.safetensors' as a sciflow model: JSONDecodeError"),
        (None, "holds tensors but no sciflow model"),
    ],
)
def test_foreign_safetensors(tmp_path, note, message) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata=None if note is None else {"sciflow": note})
    with pytest.raises(UserError, match=message):
        load(path)


def test_a_refused_argument_names_its_class(tmp_path) -> None:
    model, path = toy_model(), tmp_path / "model.safetensors"
    config = model.config()
    config["processes"]["x"]["init_args"]["kind"] = "foo"
    save_file(model.denoiser.state_dict(), path, metadata={"sciflow": json.dumps(config)})
    with pytest.raises(UserError, match="GaussianProcess refuses its arguments .*got 'foo'"):
        load(path)


def test_cut_off_file(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    toy_model().save(path)
    load(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="cannot read .*model.safetensors'"):
        load(path)


def token_model(process: Process) -> Model:
    plan = SamplingPlan({"seq": Ancestral()}, Uniform(end=0.0), 5, final="sample")
    return Model({"seq": process}, SequenceCNN(4, 8, 1), plan, SequenceCodec("dna"), {})


def known(model: Model, fixed: torch.Tensor) -> torch.Tensor:
    assert model.codec is not None
    template = model.codec.template([4, 4]).condition(fixed=fixed)
    return model.generate(torch.arange(2), template=template)["seq"]


def test_known_tokens_are_kept_by_masked_processes() -> None:
    fixed = torch.tensor([[3, -1, -1, 0], [-1, -1, 2, -1]])
    assert torch.equal(torch.where(fixed < 0, fixed, known(token_model(Masked(4)), fixed)), fixed)


@pytest.mark.parametrize(
    ("process", "fixed", "message"),
    [
        (UniformTokens(4), torch.full((2, 4), -1), "0 masked token fields among seq, expected exactly one"),
        (Masked(4), torch.full((2, 3), -1), r"got torch.int64 \(2, 3\), expected integers \(2, 4\) below 4"),
        (Masked(4), torch.full((2, 4), 4), "below 4, -1 where free"),
    ],
    ids=["uniform", "shape", "mask as token"],
)
def test_known_tokens_that_would_be_lost_are_refused(process, fixed, message) -> None:
    """Without the refusal a uniform process drew over them without a word."""
    with pytest.raises(UserError, match=message):
        known(token_model(process), fixed)


@pytest.mark.parametrize("grid", [Uniform(end=0.0), Uniform(end=0.3)])
def test_tokens_that_a_solver_left_masked_are_drawn(grid) -> None:
    """Tau-leaping leaves a masked token with probability e^-1 in its last move, an early end even more."""
    torch.manual_seed(0)
    plan = SamplingPlan({"seq": TauLeap()}, grid, 6, final="sample")
    model = Model({"seq": Masked(4)}, SequenceCNN(4, 8, 1), plan, SequenceCodec("dna"), {"sizes": {"5": 1, "9": 1}})
    sequences = model.sample(64, seed=1)
    assert all(one is not None and set(one) <= set("ACGT") for one in sequences)
    assert {len(one) for one in sequences} == {5, 9}
    assert model.sample(64, seed=1, batch_size=7) == sequences
