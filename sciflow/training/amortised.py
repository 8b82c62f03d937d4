"""Amortised inference: a network learns posteriors from simulated tasks (FIM-MJP: Berghaus et al., arXiv 2406.06419).

    task generator:  generator -> (observed, truth)      drawn on the fly, nothing is stored
    network:         observed -> prediction
    losses:          (prediction, truth) -> (B,)         their weighted sum is minimised

The module knows nothing about what is inferred. Task number n of a run is a function of (seed, split, n): a resumed run
goes on with the tasks that it would have seen, and validation repeats the same ones in every epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from sciflow import __version__
from sciflow.core.config import Configurable, to_config
from sciflow.core.errors import UserError


class Tasks(Protocol):
    """Task generator."""

    def batch(self, generator: Generator) -> tuple[Any, Any]:
        """(observed, truth) of a batch of tasks."""
        ...


class Loss(Protocol):
    """Compares a prediction with the truth."""

    def __call__(self, prediction: Any, truth: Any) -> Tensor:
        """Loss per task, (B,)."""
        ...


class SimulatedTasks(LightningDataModule):
    """Tasks as data.

    Args:
        tasks: Task generator of training, `Configurable`.
        validation: Task generator of validation; None: that of training.
        steps: Batches per epoch.
        validation_steps: Batches of validation.
        seed: Of the tasks.
    """

    def __init__(
        self,
        tasks: Configurable,
        validation: Configurable | None = None,
        steps: int = 500,
        validation_steps: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.tasks, self.validation = tasks, validation or tasks
        self.steps, self.validation_steps, self.seed = steps, validation_steps, seed

    def train_dataloader(self) -> DataLoader:
        """Fresh tasks in every epoch."""
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        return self._loader("train", self.tasks, range(epoch * self.steps, (epoch + 1) * self.steps))

    def val_dataloader(self) -> DataLoader:
        """The same tasks in every epoch."""
        return self._loader("val", self.validation, range(self.validation_steps))

    def _loader(self, split: str, tasks: Any, numbers: range) -> DataLoader:
        return DataLoader(_Numbered(tasks, f"{self.seed}/{split}", numbers), batch_size=None)


class _Numbered(Dataset):
    """Task batches by number."""

    def __init__(self, tasks: Any, label: str, numbers: range) -> None:
        self.tasks, self.label, self.numbers = tasks, label, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> tuple[Any, Any]:
        if place >= len(self.numbers):
            raise IndexError(place)
        digest = hashlib.blake2b(f"{self.label}/{self.numbers[place]}".encode(), digest_size=7).digest()
        return self.tasks.batch(Generator().manual_seed(int.from_bytes(digest, "little")))

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return (self[place] for place in range(len(self)))


class Amortised(LightningModule):
    """Lightning module around a network and its losses. The trainer must reload data loaders in every epoch.

    Args:
        network: Observed -> prediction; `Configurable`.
        losses: Name -> loss.
        weights: Name -> weight; 1 where not given.
        optimizer: Parameters -> optimizer.
        scheduler: Optimizer -> learning-rate scheduler, stepped every batch; None: constant.
    """

    def __init__(
        self,
        network: nn.Module,
        losses: dict[str, Configurable],
        weights: dict[str, float] | None = None,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.AdamW,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    ) -> None:
        super().__init__()
        unknown = set(weights or {}) - set(losses)
        if unknown:
            raise UserError(f"weights for {sorted(unknown)}, expected losses among {sorted(losses)}")
        self.network, self.losses, self.weights = network, dict(losses), dict(weights or {})
        self.optimizer, self.scheduler = optimizer, scheduler

    def training_step(self, batch: tuple[Any, Any], batch_idx: int) -> Tensor:
        """Weighted sum of the losses, averaged over tasks."""
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[Any, Any], batch_idx: int) -> Tensor:
        """The same on the validation tasks."""
        return self._step(batch, "val")

    def configure_optimizers(self) -> Any:
        """Optimizer and, if given, a scheduler stepped every batch."""
        optimizer = self.optimizer(self.parameters())
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what rebuilds the network without YAML."""
        checkpoint["sciflow"] = {"sciflow": __version__, "network": to_config(self.network)}

    def _step(self, batch: tuple[Any, Any], stage: str) -> Tensor:
        observed, truth = batch
        prediction = self.network(observed)
        losses = {name: loss(prediction, truth).mean() for name, loss in self.losses.items()}  # type: ignore[operator]
        total = torch.stack([self.weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()
        logged = {f"{stage}/loss": total, **{f"{stage}/{name}": loss for name, loss in losses.items()}}
        self.log_dict(logged, batch_size=1, on_epoch=True, on_step=False)
        if stage == "train" and not bool(torch.isfinite(total.detach())):
            raise UserError(
                f"the training loss became NaN or infinite at step {self.global_step}; the last checkpoint is kept. "
                "Lower the learning rate or clip gradients (trainer.gradient_clip_val)"
            )
        return total
