"""Codecs: the border between a science's own objects and states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciflow.core.config import Configurable
from sciflow.core.noise import PRIOR, PerSample
from sciflow.core.state import Layout, State


class Codec(Configurable, ABC):
    """Turns objects (molecules, graphs, structures ...) into states and back. Constructor arguments are plain JSON."""

    @abstractmethod
    def to_state(self, objects: Sequence[Any]) -> State:
        """Objects -> state. Objects that do not fit raise `UserError`; filter them when reading."""

    @abstractmethod
    def template(self, sizes: Sequence[int]) -> State:
        """A state of zeros for samples with the given numbers of nodes (atoms, tokens), layouts included."""

    @abstractmethod
    def to_objects(self, state: State) -> list[Any]:
        """State -> objects, one per sample; None where a sample decodes to nothing."""


def draw_sizes(histogram: Mapping[str, int], seed: int, samples: Tensor) -> list[int]:
    """Sizes of samples with the given global indices, each depending on (seed, index) only.

    Args:
        histogram: Size (as a string, for JSON) -> count in the training data.
        seed: Seed of the run.
        samples: (B,) global indices.
    """
    sizes = sorted(int(size) for size in histogram)
    weights = torch.tensor([float(histogram[str(size)]) for size in sizes], dtype=torch.float64)
    layout = Layout(len(samples))
    u = PerSample(seed, samples).at("size", PRIOR).uniform(torch.empty(len(samples), dtype=torch.float64), layout)
    chosen = torch.searchsorted((weights / weights.sum()).cumsum(0), u, right=True).clamp_max(len(sizes) - 1)
    return [sizes[i] for i in chosen.tolist()]


class Batch(NamedTuple):
    """Samples that are generated together.

    Attributes:
        samples: Positions in the list of sizes; global indices if that starts with sample 0.
        sizes: Numbers of nodes.
    """

    samples: list[int]
    sizes: list[int]


def batches_by_size(sizes: Sequence[int], batch_size: int) -> list[Batch]:
    """Batches of samples of similar size, so that little is padded. Samples do not depend on their batch-mates."""
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i], i))
    chunks = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [Batch(chunk, [sizes[i] for i in chunk]) for chunk in chunks]
