"""Couplings: which prior end belongs to which data sample in a training batch.

A coupling pairs whole samples (all fields together). It must say whether it leaves the law of the prior ends unchanged:
if not, sampling does not start where training ended.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.core.state import State


class Coupling(Configurable, ABC):
    """Pairs data with prior ends.

    Attributes:
        preserves_marginal: Whether the prior ends of a paired batch still follow the prior.
    """

    preserves_marginal: ClassVar[bool]

    @abstractmethod
    def pair(self, x0: State, draw: Callable[[int], State]) -> State:
        """The prior ends for the samples of `x0`.

        Args:
            x0: Clean batch.
            draw: draw(k) gives the k-th independent batch of prior ends, with the layouts of `x0`.
        """


def squared_distances(x0: State, x1: State) -> Tensor:
    """(B, B) squared Euclidean distances over all dense fields; masked entries of data sample i do not count.

    Raises:
        UserError: A field is ragged.
    """
    total = torch.zeros(x0.batch, x0.batch, dtype=torch.float64)
    for name, x in x0.fields.items():
        layout = x0.layouts[name]
        if layout.index is not None:
            raise UserError(f"field '{name}' is ragged; distances between samples need dense fields")
        mask = torch.ones_like(x) if layout.mask is None else layout.mask.expand_as(x).to(x)
        a, b, m = (v.reshape(x0.batch, -1).double().cpu() for v in (x * mask, x1[name], mask))
        total += (a**2).sum(1)[:, None] - 2 * a @ b.T + m @ (b**2).T
    return total
