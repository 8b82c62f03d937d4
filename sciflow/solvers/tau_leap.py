"""Tau-leaping: every row jumps at most once per move, with rates frozen at t (Gillespie 2001; Campbell et al. 2022).

P(stay) = exp(-lambda |s - t|) with lambda the total rate; otherwise state k with probability rate_k/lambda.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from sciflow.core.kernels import Categorical, Kernel
from sciflow.core.process import Prediction
from sciflow.core.solver import Memory, OneEvaluation
from sciflow.core.state import Layout


class TauLeap(OneEvaluation):
    """First (weak) order; all rows move at once."""

    needs: ClassVar[frozenset[str]] = frozenset({"rates"})
    order: ClassVar[float] = 1.0

    def kernel(
        self, process: Any, x: Tensor, pred: Prediction, t: Tensor, s: Tensor, layout: Layout, memory: Memory
    ) -> tuple[Kernel, Memory]:
        """Categorical law of the next state."""
        rates = process.rates(x, pred, t, layout)
        total = rates.sum(-1, keepdim=True)
        stay = (-total * layout.rows((s - t).abs(), total)).exp()
        probs = rates / total.clamp_min(1e-30) * (1 - stay)
        return Categorical(probs.scatter_add(-1, x[..., None], stay), layout), memory
