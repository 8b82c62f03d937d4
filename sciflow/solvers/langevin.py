r"""Langevin correctors: x <- x + e score + sqrt(2 e) z at fixed clock.

`Langevin` uses e = 2 (snr sigma_t)^2: no coupling between samples, right in any dimension. `NormLangevin` is the rule
of Song et al. 2021 and GDSS, e = 2 alpha_k (snr |z|/|score|)^2 with norms averaged over the batch, which makes a sample
depend on its batch-mates: for parity with published samplers only.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from sciflow.core.kernels import Dirac, Gaussian, Kernel
from sciflow.core.noise import Draws
from sciflow.core.process import Prediction
from sciflow.core.solver import Memory, OneEvaluation, Query, Solver, Step
from sciflow.core.state import Layout


class Langevin(OneEvaluation):
    """Corrector with a step set by the noise level.

    Args:
        snr: Signal-to-noise parameter r; e = 2 (r sigma_t)^2. The stationary variance of a Gaussian of variance V
            is V/(1 - e/(2V)): keep e << V.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"score_step"})
    corrector: ClassVar[bool] = True

    def __init__(self, snr: float = 0.1) -> None:
        if snr <= 0:
            raise ValueError(f"snr must be positive, got {snr}")
        self.snr = snr

    def kernel(
        self, process: Any, x: Tensor, pred: Prediction, t: Tensor, s: Tensor, layout: Layout, memory: Memory
    ) -> tuple[Kernel, Memory]:
        """One unadjusted Langevin step."""
        sigma, _ = process.score_step(t, layout, x)
        step = 2 * (self.snr * sigma) ** 2
        return Gaussian(process.space.add(x, step * pred.to("score")), (2 * step).sqrt(), process.space, layout), memory


class NormLangevin(Solver):
    """Corrector of the released score-SDE and GDSS samplers.

    Args:
        snr: r in e = 2 alpha_k (r |z|/|score|)^2, norms averaged over the batch.
        scale: Factor on the noise (GDSS's scale_eps).
        scales: Levels of the table behind alpha_k.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"score_step"})
    corrector: ClassVar[bool] = True
    couples_samples: ClassVar[bool] = True

    def __init__(self, snr: float = 0.1, scale: float = 1.0, scales: int = 1000) -> None:
        self.snr, self.scale, self.scales = snr, scale, scales

    def step(self, process: Any, x: Tensor, t: Tensor, s: Tensor, layout: Layout, memory: Memory, draws: Draws) -> Step:
        """One corrector move with batch-mean norms."""
        score = (yield Query(x, t)).to("score")
        return Dirac(self.correct(process, x, score, t, layout, draws)[1]), memory

    def correct(
        self, process: Any, x: Tensor, score: Tensor, t: Tensor, layout: Layout, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """(mean, draw) of one move with a given score."""
        z = process.space.noise(x, layout, draws)
        ratio = layout.per_sample(z**2).sqrt().mean() / layout.per_sample(score**2).sqrt().mean()
        step = 2 * process.langevin_alpha(t, self.scales) * (self.snr * ratio) ** 2
        mean = x + step * score
        return mean, mean + (2 * step).sqrt() * z * self.scale
