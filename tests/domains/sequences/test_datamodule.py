"""The data module of sequences, and the shipped experiment on one's own file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sciflow.core.errors import UserError
from sciflow.domains.sequences.datamodule import SequenceData

EXPERIMENT = Path(__file__).resolve().parents[3] / "experiments/sequences/promoters.yaml"


def ready(**arguments) -> SequenceData:
    data = SequenceData(**arguments)
    data.setup("fit")
    return data


def test_batches_are_cut_to_their_longest_sequence():
    data = ready(path=["ACGTACGT", "ACG", "T"], validation=0, test=0, batch_size=2)
    batch = data.samples["train"].batch([1, 2])
    assert batch["seq"].dtype == torch.int64 and batch["seq"].tolist() == [[0, 1, 2], [3, 0, 0]]
    assert batch.layouts["seq"].mask.tolist() == [[1, 1, 1], [1, 0, 0]] and batch.layouts["seq"].sizes == (3, 1)
    assert data.samples["train"].batch([0])["seq"].shape == (1, 8)
    assert data.spec["sizes"] == {"1": 1, "3": 1, "8": 1} and data.features == {"seq": 4}
    assert data.codec.length is None
    assert sum(b.batch for b in data.train_dataloader()) == 3


def test_equal_lengths_need_no_mask():
    data = ready(path=["ACGU", "GGGG", "UUUU"], alphabet="rna", validation=0, test=0)
    assert data.samples["train"].batch([0, 2]).layouts["seq"].mask is None
    assert (data.codec.alphabet.name, data.codec.length) == ("rna", 4)


def test_epochs_repeat_by_seed():
    sequences = [f"{'ACGT'[i % 4]}{'ACGT'[i // 4 % 4]}{'ACGT'[i // 16]}" for i in range(60)]
    first, second = (ready(path=sequences, batch_size=60, seed=3) for _ in range(2))
    batches = [next(iter(data.train_dataloader()))["seq"] for data in (first, second)]
    assert torch.equal(*batches)


def test_skipped_entries_are_in_the_spec(tmp_path):
    path = tmp_path / "own.fasta"
    path.write_text(">a\nACGT\n>b\nNNNN\n>c\nAC\n>d\nGGGG\n")
    data = ready(path=path, length=4, validation=0, test=0)
    assert (data.spec["data"]["read"], data.spec["data"]["skipped"]) == (2, 2) and data.spec["domain"] == "sequences"
    with pytest.raises(UserError, match="got no dna sequence"):
        ready(path=path, length=5)


@pytest.mark.slow
def test_experiment_runs_on_a_file(tmp_path, monkeypatch):
    """The command of the README: fit on one's own FASTA, then sample from the checkpoint alone."""
    import sciflow
    from sciflow.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)  # a setting of the process
    bases = torch.randint(0, 4, (64, 30), generator=torch.Generator().manual_seed(0)).tolist()
    text = "".join(f">{i}\n{''.join('ACGT'[b] for b in row)}\n" for i, row in enumerate(bases))
    (tmp_path / "my.fasta").write_text(text + ">bad\nACGN\n")
    words = ["--trainer.max_steps", "3", "--trainer.precision", "32-true", "--trainer.check_val_every_n_epoch", "1"]
    words += ["--data.batch_size", "16", "--trainer.enable_progress_bar", "false"]
    assert main(["fit", "--config", str(EXPERIMENT), "--data.path", str(tmp_path / "my.fasta"), *words]) == 0
    model = sciflow.load(next(tmp_path.rglob("last.ckpt")))
    samples = model.sample(3, seed=0)
    assert all(len(text) == 30 and set(text) <= set("ACGT") for text in samples)
    assert model.sample(3, seed=0, batch_size=1) == samples
    assert model.spec["data"]["skipped"] == 1
