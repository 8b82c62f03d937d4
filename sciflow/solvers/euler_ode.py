"""Euler's method for the deterministic flow: x_s = x + velocity (s - t)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from sciflow.core.kernels import Dirac, Kernel
from sciflow.core.process import Prediction
from sciflow.core.solver import Memory, OneEvaluation
from sciflow.core.state import Layout


class EulerODE(OneEvaluation):
    """First order, one network call."""

    needs: ClassVar[frozenset[str]] = frozenset({"velocity"})
    order: ClassVar[float] = 1.0

    def kernel(
        self, process: Any, x: Tensor, pred: Prediction, t: Tensor, s: Tensor, layout: Layout, memory: Memory
    ) -> tuple[Kernel, Memory]:
        """The Euler point."""
        return Dirac(process.space.add(x, process.velocity(x, pred, t, layout) * layout.rows(s - t, x))), memory
