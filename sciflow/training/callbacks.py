"""Callbacks: averaging of weights."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging


class EMA(EMAWeightAveraging):
    """Exponential moving average of the parameters; buffers are left alone (averaging would truncate integer tables).

    Checkpoints hold the average in `state_dict` (what `sciflow.load` reads) and the raw weights beside it.

    Args:
        decay: Per step.
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__(decay=decay, use_buffers=False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the module after it was sized by the data: Lightning sets callbacks up before modules."""
        pl_module.setup(stage)
        super().setup(trainer, pl_module, stage)
