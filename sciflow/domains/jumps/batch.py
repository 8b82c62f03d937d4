"""Batches of systems as tensors (section 15 of the specification of FIM-MJP; Berghaus et al., arXiv 2406.06419)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.domains.jumps.data import Paths


class _Movable:
    """Dataclass of tensors that Lightning can move."""

    def to(self, *args: Any, **options: Any) -> Self:
        """All tensors by `Tensor.to`."""
        moved = {
            field.name: value.to(*args, **options)
            for field in fields(self)  # type: ignore[arg-type]
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class PathBatch(_Movable):
    """Paths of B systems with up to K paths, L observations and S states. Times are physical, never normalised.

    Attributes:
        times: (B, K, L) float64, not decreasing along the valid part; (B, 1, L) where the paths of each system share
            one grid. What padding holds is ignored.
        states: (B, K, L) integers, labels in 0..n_states-1.
        lengths: (B, K) numbers of observations; 0 where a system has fewer than K paths.
        starts: (B, K) bool, whether the first observation is a draw of the initial law.
        n_states: (B,) numbers of states; rates have the size of the largest.
        size: S, the number of rows and columns of outputs.
    """

    times: Tensor
    states: Tensor
    lengths: Tensor
    starts: Tensor
    n_states: Tensor
    size: int

    def __len__(self) -> int:
        return len(self.n_states)

    @classmethod
    def of(cls, systems: Sequence[Paths]) -> PathBatch:
        """A batch of systems with any numbers of paths, observations and states.

        Raises:
            UserError: No system, or one without labels.
        """
        if not systems:
            raise UserError("got no system, expected at least one set of paths")
        labels = [one.states for one in systems if one.states is not None]
        if len(labels) < len(systems):
            raise UserError("got a raw signal, expected labelled paths; label the signal first")
        shape = (len(systems), max(map(len, systems)), max(one.times.shape[1] for one in systems))
        times, states = np.zeros(shape), np.zeros(shape, np.int64)
        lengths, starts = np.zeros(shape[:2], np.int64), np.zeros(shape[:2], bool)
        for row, one in enumerate(systems):
            paths, points = one.times.shape
            times[row, :paths, :points], states[row, :paths, :points] = one.times, labels[row]
            lengths[row, :paths], starts[row, :paths] = one.lengths, one.starts
        counts = torch.tensor([one.states_count for one in systems])
        tensors = [torch.from_numpy(values) for values in (times, states, lengths, starts)]
        return cls(*tensors, n_states=counts, size=int(counts.max()))


@dataclass(frozen=True, eq=False)
class Truth(_Movable):
    """What generated a batch: the training targets.

    Attributes:
        rates: (B, S, S) rates off the diagonal, 0 on it and where there is no edge.
        initial: (B, S) initial law.
        noise: (B,) probability that an observed label is replaced by a uniform state.
        n_states: (B,) numbers of states.
    """

    rates: Tensor
    initial: Tensor
    noise: Tensor
    n_states: Tensor

    @property
    def edges(self) -> Tensor:
        """(B, S, S) bool, the ordered pairs of different states: where rates are defined."""
        return pairs(self.n_states, self.rates.shape[-1])


def pairs(n_states: Tensor, size: int) -> Tensor:
    """(B, S, S) bool: ordered pairs of different states below `n_states`."""
    real = torch.arange(size, device=n_states.device) < n_states[:, None]
    return real[:, :, None] & real[:, None, :] & ~torch.eye(size, dtype=torch.bool, device=n_states.device)
