"""Learning-rate schedules stepped every batch."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Linear warm-up, then half a cosine down to `final` times the peak.

    Args:
        optimizer: The optimizer.
        total_steps: Steps of the whole run.
        warmup_steps: Steps of the rise.
        final: Last factor.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 200, final: float = 0.01) -> None:
        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

        super().__init__(optimizer, factor)
