"""Ancestral sampling: draw x_s from the posterior at the predicted x0 (Ho et al. 2020), for any process with one."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from sciflow.core.kernels import Kernel
from sciflow.core.process import Prediction
from sciflow.core.solver import Memory, OneEvaluation
from sciflow.core.state import Layout


class Ancestral(OneEvaluation):
    """q(x_s | x_t, x0 = prediction). A plug-in mean loses O(1/steps) of the variance."""

    needs: ClassVar[frozenset[str]] = frozenset({"posterior"})
    order: ClassVar[float] = 1.0

    def kernel(
        self, process: Any, x: Tensor, pred: Prediction, t: Tensor, s: Tensor, layout: Layout, memory: Memory
    ) -> tuple[Kernel, Memory]:
        """The posterior."""
        return process.posterior(x, pred.to("data"), t, s, layout), memory
