"""Reverse-diffusion predictor (Song et al. 2021, appendix E): the reversed discrete forward chain of GDSS and
score-SDE.

x_s = x - F x + G^2 score + G z with (F, G) of a table of `scales` levels at t.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from sciflow.core.kernels import Gaussian, Kernel
from sciflow.core.process import Prediction
from sciflow.core.solver import Memory, OneEvaluation
from sciflow.core.state import Layout


class ReverseDiffusion(OneEvaluation):
    """One table level per move: run it with as many moves as the table has levels.

    Args:
        scales: Number of levels of the table.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"discrete_pair"})
    order: ClassVar[float] = 1.0

    def __init__(self, scales: int = 1000) -> None:
        if scales < 2:
            raise ValueError(f"a table needs at least 2 levels, got {scales}")
        self.scales = self.moves = scales

    def kernel(
        self, process: Any, x: Tensor, pred: Prediction, t: Tensor, s: Tensor, layout: Layout, memory: Memory
    ) -> tuple[Kernel, Memory]:
        """The reversed chain's Gaussian."""
        drift, diffusion = process.discrete_pair(t, self.scales, layout, x)
        mean = x - drift * x + diffusion**2 * pred.to("score")
        return Gaussian(mean, diffusion, process.space, layout), memory
