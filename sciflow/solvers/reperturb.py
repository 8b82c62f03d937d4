"""Re-perturbation: noise the predicted x0 afresh to level s ("end-back" of the released CrysBFN sampler)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from sciflow.core.kernels import Kernel
from sciflow.core.process import Prediction
from sciflow.core.solver import Memory, OneEvaluation
from sciflow.core.state import Layout


class Reperturb(OneEvaluation):
    """q(x_s | x0 = prediction). Exact when the prediction is a draw from p(x0 | x_t); with a mean it loses variance."""

    needs: ClassVar[frozenset[str]] = frozenset({"prior", "marginal"})

    def kernel(
        self, process: Any, x: Tensor, pred: Prediction, t: Tensor, s: Tensor, layout: Layout, memory: Memory
    ) -> tuple[Kernel, Memory]:
        """The marginal."""
        return process.marginal(pred.to("data"), s, layout), memory
