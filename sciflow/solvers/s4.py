r"""S4, the symmetric splitting solver of GDSS (Jo et al. 2022, section 3.3; gdss.md section 7.5).

One prediction per move serves a Langevin correction and the score part. With h = t - s:

    correction:  x <- Langevin(x; score)                    (NormLangevin, same score)
    half OU:     x <- a x + std z, from t to t - h/2        (linear part of the reverse SDE, exact)
    score:       x <- x + h g(t)^2 score
    half OU:     from t - h/2 to s; its mean is the denoised value.

The exact OU variance is a^2 sigma_t^2 - sigma_s^2; the released code uses it divided by a^2, which agrees to first
order in h (and exactly where alpha = 1).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from sciflow.core.kernels import Gaussian
from sciflow.core.noise import Draws
from sciflow.core.solver import Memory, Query, Solver, Step
from sciflow.core.state import Layout
from sciflow.solvers.langevin import NormLangevin


class S4(Solver):
    """Symmetric splitting with a re-used score.

    Args:
        snr: Of the Langevin correction; 0 leaves the correction out.
        scale: Factor on the correction's noise.
        exact_ou: Exact variance of the OU halves; False is the released first-order one.
        scales: Levels of the table behind the correction's alpha_k.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"score_step"})
    order: ClassVar[float] = 1.0
    couples_samples: ClassVar[bool] = True

    def __init__(self, snr: float = 0.1, scale: float = 1.0, exact_ou: bool = True, scales: int = 1000) -> None:
        self.snr, self.scale, self.exact_ou, self.scales = snr, scale, exact_ou, scales
        self.langevin = NormLangevin(snr, scale, scales)

    def step(self, process: Any, x: Tensor, t: Tensor, s: Tensor, layout: Layout, memory: Memory, draws: Draws) -> Step:
        """Correction, half OU, score, half OU."""
        score = (yield Query(x, t)).to("score")
        middle = (t + s) / 2
        _, g2 = process.score_step(t, layout, x)
        if self.snr > 0:
            x = self.langevin.correct(process, x, score, t, layout, draws)[1]
        mean, std = self._half(process, x, t, middle, layout)
        x = mean + std * process.space.noise(x, layout, draws)
        x = x + layout.rows(t - s, x) * g2 * score
        mean, std = self._half(process, x, middle, s, layout)
        return Gaussian(mean, std, process.space, layout), memory

    def _half(self, process: Any, x: Tensor, t: Tensor, s: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        mean, variance, a = process.linear_step(x, t, s, layout)
        return mean, torch.sqrt(variance if self.exact_ou else variance / a**2)
