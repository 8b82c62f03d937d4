"""Minibatch optimal transport (Tong et al. 2024; Pooladian et al. 2023): exact plan of squared distances within a
batch.

Between batches of equal size and weight an optimal plan is a permutation, so each law keeps its marginal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch

from sciflow.core.coupling import Coupling, squared_distances
from sciflow.core.errors import require
from sciflow.core.state import State


class MinibatchOT(Coupling):
    """Optimal transport by POT's network simplex, squared Euclidean cost."""

    preserves_marginal: ClassVar[bool] = True

    def pair(self, x0: State, draw: Callable[[int], State]) -> State:
        """The first draw, permuted along the optimal plan."""
        ot = require("ot", "all")
        x1 = draw(0)
        plan = ot.emd([], [], squared_distances(x0, x1).numpy())
        return x1.select(torch.as_tensor(plan.argmax(1)))
