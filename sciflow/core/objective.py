"""Objectives: how wrong a prediction of one field is, per sample. Weighting and averaging happen once, outside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from sciflow.core.config import Configurable
from sciflow.core.hooks import Denoise
from sciflow.core.process import Prediction
from sciflow.core.state import State


@dataclass(frozen=True, eq=False)
class Example:
    """What an objective may look at.

    Attributes:
        field: Name of the field.
        x0: Its clean value (rows, ...).
        state: The noised state that the network saw, all fields.
        denoise: The denoiser, for objectives that ask again (consistency, ambient data).
        x1: The coupled prior end, where a coupling or bridge gave one.
    """

    field: str
    x0: Tensor
    state: State
    denoise: Denoise
    x1: Tensor | None = None


class Objective(Configurable, ABC):
    """A loss of one field."""

    @abstractmethod
    def __call__(self, pred: Prediction, example: Example) -> Tensor:
        """Loss per sample: (B,)."""
