"""Model files: what is no model is refused with its name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from toy import toy_model

from sciflow.core.errors import UserError
from sciflow.model import load


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
