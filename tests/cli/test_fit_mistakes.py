"""Mistakes in the input of `sciflow fit`, in this process: exit code 2 and one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import write_config

pytest.importorskip("rdkit")


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Lightning and all components, so that the first test is not charged for them."""
    from sciflow.cli.fit import import_components

    import_components()


@pytest.fixture
def mistake(command, tmp_path, monkeypatch):
    """Run `sciflow fit` on the toy configuration with more words; what it says of the mistake."""
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)  # a setting of the process

    def run(*words: str) -> str:
        code, _, err = command("fit", "--config", write_config(tmp_path), *words)
        assert code == 2
        (line,) = (line for line in err.splitlines() if line.startswith("sciflow fit: error: "))
        assert "Traceback" not in err and "Namespace" not in line and len(line) < 300
        return line

    return run


PROCESS = "--model.init_args.processes.x.init_args"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([f"{PROCESS}.kind", "foo"], "kind must be one of data, noise, score, v, velocity, got 'foo'"),
        ([f"{PROCESS}.schedule.init_args.alpha_end", "5"], "alpha_end must lie in (0, 1), got 5.0"),
        (["--model.init_args.optimizer.init_args.lr", "-1"], "Invalid learning rate: -1.0"),  # torch's own ValueError
        (["--data.init_args.batch_size", "0"], "batch_size must be at least 1, got 0"),
        (["--ckpt_path", "no/such.ckpt"], "no file 'no/such.ckpt'; give a .ckpt file"),
    ],
)
def test_one_line_each(mistake, words, message) -> None:
    assert message in mistake(*words)


def test_a_missing_accelerator(mistake, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "No supported gpu backend found" in mistake("--trainer.accelerator", "gpu")


def test_damaged_checkpoints_are_named(mistake, tmp_path: Path) -> None:
    whole, cut, other = (tmp_path / name for name in ("whole.ckpt", "cut.ckpt", "other.ckpt"))
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, whole)
    cut.write_bytes(whole.read_bytes()[:-100])
    other.write_text("not a checkpoint")
    for path in (cut, other):
        assert f"'{path}' is cut off or no checkpoint" in mistake("--ckpt_path", str(path))
    from sciflow.cli.fit import check_checkpoint

    for path in (whole, None, "last", "best"):  # these pass
        check_checkpoint(path)


def test_a_checkpoint_of_another_network(mistake, command, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    words = ["--trainer.max_epochs", "1", "--trainer.default_root_dir", tmp_path]
    code, _, err = command("fit", "--config", config, *words, "--checkpoint.dirpath", tmp_path / "run")
    assert code == 0, err
    message = mistake(
        "--ckpt_path", str(tmp_path / "run" / "last.ckpt"), "--model.init_args.network.init_args.hidden", "5"
    )
    assert "weights of another network" in message and "leave out --ckpt_path" in message
