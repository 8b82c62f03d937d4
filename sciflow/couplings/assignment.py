"""Immiscible diffusion (Li et al. 2024): noise is assigned to data within the batch by least total distance.

The assignment permutes a fixed batch of noise, so the batch law of the noise stays exactly the prior; only the joint
law with the data changes. Nearest-of-k does change it: its noise shrinks towards the data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch

from sciflow.core.coupling import Coupling, squared_distances
from sciflow.core.errors import UserError
from sciflow.core.state import State


class Assignment(Coupling):
    """Hungarian assignment of the Euclidean distance |x0_i - x1_j| (not squared, as in the paper)."""

    preserves_marginal: ClassVar[bool] = True

    def pair(self, x0: State, draw: Callable[[int], State]) -> State:
        """The first draw, permuted."""
        from scipy.optimize import linear_sum_assignment  # not at the top: scipy would load with every coupling

        x1 = draw(0)
        cost = squared_distances(x0, x1).clamp_min(0).sqrt()
        return x1.select(torch.as_tensor(linear_sum_assignment(cost.numpy())[1]))


class NearestOfK(Coupling):
    """Each sample keeps the nearest of k draws: O(B k), but the noise is no longer normal.

    Args:
        k: Draws per sample.
    """

    preserves_marginal: ClassVar[bool] = False

    def __init__(self, k: int = 4) -> None:
        if k < 1:
            raise UserError(f"k must be at least 1, got {k}")
        self.k = k

    def pair(self, x0: State, draw: Callable[[int], State]) -> State:
        """For each sample the nearest of its own k draws.

        Raises:
            UserError: A field is ragged.
        """
        ragged = [name for name, layout in x0.layouts.items() if layout.index is not None]
        if ragged:
            raise UserError(f"fields {ragged} are ragged; choosing among draws per sample needs dense fields")
        draws = [draw(i) for i in range(self.k)]
        distance = torch.stack(
            [
                torch.stack([x0.layouts[f].per_sample((x0[f] - d[f]).double() ** 2) for f in x0.fields]).sum(0)
                for d in draws
            ]
        )
        best = distance.argmin(0)
        rows = torch.arange(x0.batch, device=best.device)
        return draws[0].put(**{f: torch.stack([d[f] for d in draws])[best, rows] for f in x0.fields})
