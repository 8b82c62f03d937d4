"""Sampling on several devices: Lightning starts the processes, each takes its share of the batches.

Batches are files and noise is keyed by the sample index, so nothing is gathered and the result does not depend on the
number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from sciflow.streaming import Job


class _Generate(LightningModule):
    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job, self.model = job, job.model

    def predict_step(self, batch: Tensor, batch_idx: int) -> None:
        for number in batch.tolist():
            if not self.job.path(number).exists():
                self.job.generate(number)


def generate_distributed(job: Job, batches: Sequence[int], devices: int) -> None:
    """Generate the given batches of a job on `devices` processes.

    Args:
        job: The opened job.
        batches: Numbers of batches to do.
        devices: Number of processes; one per GPU if there are GPUs, else CPU processes (gloo).
    """
    if not batches:
        return
    gpu = torch.cuda.is_available()
    trainer = Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=devices,
        strategy="ddp_spawn",  # "ddp" would start the whole command once more for every process
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    loader = DataLoader(torch.tensor(list(batches)), batch_size=1)  # type: ignore[arg-type]
    trainer.predict(_Generate(job), loader, return_predictions=False)
