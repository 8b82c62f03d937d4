"""Heun's method for the deterministic flow: mean of the velocities at both ends (Karras et al. 2022, algorithm 1)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from sciflow.core.kernels import Dirac
from sciflow.core.noise import Draws
from sciflow.core.solver import Memory, Query, Solver, Step
from sciflow.core.state import Layout


class Heun(Solver):
    """Second order, two network calls."""

    needs: ClassVar[frozenset[str]] = frozenset({"velocity"})
    order: ClassVar[float] = 2.0
    evaluations: ClassVar[int] = 2

    def step(self, process: Any, x: Tensor, t: Tensor, s: Tensor, layout: Layout, memory: Memory, draws: Draws) -> Step:
        """Euler predictor, trapezoidal corrector."""
        step = layout.rows(s - t, x)
        start = process.velocity(x, (yield Query(x, t)), t, layout)
        guess = process.space.add(x, start * step)
        end = process.velocity(guess, (yield Query(guess, s)), s, layout)
        return Dirac(process.space.add(x, (start + end) / 2 * step)), memory
