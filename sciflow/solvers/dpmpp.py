r"""DPM-Solver++(2M): exponential multistep method in lambda = log(alpha/sigma) (Lu et al. 2022, algorithm 2).

The linear part is exact. With h = lambda_s - lambda_t and the previous step h', the data prediction is extrapolated to
the middle of the step, D = x0 + h/(2 h') (x0 - x0'), and then x_s = (sigma_s/sigma_t) x - alpha_s (e^{-h} - 1) D.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from sciflow.core.kernels import Dirac, Kernel
from sciflow.core.process import Prediction
from sciflow.core.solver import Memory, OneEvaluation
from sciflow.core.state import Layout


class DPMpp2M(OneEvaluation):
    """Second order, one network call; the first move is DDIM."""

    needs: ClassVar[frozenset[str]] = frozenset({"flow_step"})
    order: ClassVar[float] = 2.0

    def kernel(
        self, process: Any, x: Tensor, pred: Prediction, t: Tensor, s: Tensor, layout: Layout, memory: Memory
    ) -> tuple[Kernel, Memory]:
        """Exponential step with extrapolated data; remembers (x0, h)."""
        data, h = pred.to("data"), process.log_snr(s) - process.log_snr(t)
        middle = data
        if memory is not None:
            last_data, last_h = memory
            middle = data + layout.rows(h / (2 * last_h), x) * (data - last_data)
        return Dirac(process.flow_step(x, middle, t, s, layout)), (data, h)


class DDIM(OneEvaluation):
    """First-order exponential step (Song et al. 2021, DDIM with eta = 0)."""

    needs: ClassVar[frozenset[str]] = frozenset({"flow_step"})
    order: ClassVar[float] = 1.0

    def kernel(
        self, process: Any, x: Tensor, pred: Prediction, t: Tensor, s: Tensor, layout: Layout, memory: Memory
    ) -> tuple[Kernel, Memory]:
        """Exact flow for constant data."""
        return Dirac(process.flow_step(x, pred.to("data"), t, s, layout)), memory
