"""`sciflow fit` from the command line: own data, kill -9 and resumption, readable mistakes."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy import ToyNetwork, processes, write_config

from sciflow.cli.fit import run
from sciflow.domains.molecules.datamodule import MoleculeData
from sciflow.model import load
from sciflow.objectives.cross_entropy import CrossEntropy
from sciflow.sampling import SamplingPlan
from sciflow.solvers.ancestral import Ancestral
from sciflow.training.denoising import Denoising

pytestmark = pytest.mark.slow  # every fit is a process of its own that imports Lightning

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(["tests", "."]), "OMP_NUM_THREADS": "1"}


def command(folder: Path, *words: str, run: str = "run") -> list[str]:
    config = write_config(folder)
    version = ["--trainer.logger.init_args.name", run, "--trainer.logger.init_args.version", "0"]
    return [sys.executable, "-m", "sciflow", "fit", "--config", str(config), *version, *words]


def fit(folder: Path, *words: str, run: str = "run") -> subprocess.CompletedProcess:
    return subprocess.run(
        command(folder, *words, run=run), env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )


def test_killed_run_resumes_to_the_same_weights(tmp_path) -> None:
    """kill -9 after some epochs, restart from last.ckpt: the final weights equal an uninterrupted run's bit for bit."""
    epochs = ["--trainer.max_epochs", "60"]
    assert fit(tmp_path, *epochs, run="whole").returncode == 0
    last = tmp_path / "cut/version_0/checkpoints/last.ckpt"
    process = subprocess.Popen(command(tmp_path, *epochs, run="cut"), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    while not last.exists():
        time.sleep(0.05)
        assert process.poll() is None, "the run ended before its first checkpoint"
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = torch.load(last, weights_only=True)["epoch"]
    assert reached < 59, "the run was over before it was killed"
    assert fit(tmp_path, *epochs, "--ckpt_path", str(last), run="cut").returncode == 0
    whole, cut = (
        torch.load(tmp_path / run / "version_0/checkpoints/last.ckpt", weights_only=True) for run in ("whole", "cut")
    )
    assert cut["epoch"] == whole["epoch"] == 59
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(whole[part][name], cut[part][name]) for name in whole[part])


def test_own_csv_gives_a_model_that_samples(tmp_path) -> None:
    """A CSV with a SMILES column: vocabulary and sizes are inferred and stored; config and seed are saved."""
    result = fit(tmp_path, "--trainer.max_epochs", "1")
    assert result.returncode == 0, result.stderr
    assert "12 entries read, 1 skipped" in result.stderr and "C1CC" in result.stderr
    model = load(tmp_path / "run/version_0/checkpoints/last.ckpt")
    assert model.codec.atoms == ["C", "N", "O"] and model.spec["data"]["skipped"] == 1
    assert len(model.sample(4)) == 4
    assert "seed_everything: 3" in (tmp_path / "run/version_0/config.yaml").read_text()


def test_validate_and_test_report_the_loss_of_the_averaged_weights(tmp_path, monkeypatch) -> None:
    """What the commands log equals the loss of the model that `sciflow.load` reads from the checkpoint."""
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)  # a setting of the process

    def main(name: str, *words: str) -> int:
        return run([name, *command(tmp_path, *words, run=name)[4:]])

    assert main("fit", "--trainer.max_epochs", "3", "--ema.decay", "0.9") == 0
    last = tmp_path / "fit/version_0/checkpoints/last.ckpt"
    objectives, plan = {"x": CrossEntropy(), "adj": CrossEntropy()}, SamplingPlan({"x": Ancestral()})
    training = Denoising(processes(), ToyNetwork(), objectives, plan)
    training.model = load(last)
    data = MoleculeData(str(tmp_path / "mine.csv"), batch_size=4, validation=0.1, test=0.1)
    data.setup("test")
    for name, stage, loader in (("validate", "val", data.val_dataloader()), ("test", "test", data.test_dataloader())):
        assert main(name, "--ckpt_path", str(last)) == 0
        with open(tmp_path / name / "version_0/metrics.csv") as stream:
            (logged,) = csv.DictReader(stream)
        (batch,) = loader
        with torch.no_grad():
            losses = training.losses(batch, training._noise(f"{stage}/0", batch))
        for field in ("x", "adj"):
            assert float(logged[f"{stage}/loss_{field}"]) == pytest.approx(losses[field].mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    "words",
    [["--trainer.devices", "2", "--trainer.strategy", "ddp"], ["--trainer.precision", "bf16-mixed"]],
    ids=["two processes", "bf16"],
)
def test_distributed_and_bf16_training_run(tmp_path, words) -> None:
    result = fit(tmp_path, "--trainer.max_epochs", "2", *words)
    assert result.returncode == 0, result.stderr
    weights = load(tmp_path / "run/version_0/checkpoints/last.ckpt").denoiser.state_dict()
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.init_args.source", "no/such.csv"], "no/such.csv"),
        (["--model.init_args.sampling.init_args.stepz", "3"], "stepz"),
    ],
)
def test_mistakes_end_with_code_2(tmp_path, words, message) -> None:
    result = fit(tmp_path, *words)
    assert result.returncode == 2
    assert message in result.stderr
