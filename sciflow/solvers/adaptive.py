"""Step-size control by step doubling for any deterministic solver: the move t -> s is cut into accepted sub-steps.

A sub-step is taken once whole and once as two halves; the difference over (2^order - 1) estimates the error of the
halves (Hairer, Norsett & Wanner, II.4). The new size is h min(5, max(0.2, 0.9 error^(-1/(order + 1)))).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.kernels import Dirac
from sciflow.core.noise import Draws
from sciflow.core.solver import Memory, Solver, Step
from sciflow.core.state import Layout


class Adaptive(Solver):
    """Wraps a one-step deterministic solver. For states with a single evolving field: several would fall out of step.

    Args:
        solver: A solver that returns `Dirac` kernels and keeps no memory (EulerODE, Heun).
        tolerance: Error allowed per sub-step, absolute plus relative.
        max_steps: Attempts per move before giving up.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"velocity"})
    evaluations: ClassVar[int] = 0
    alone: ClassVar[bool] = True
    couples_samples: ClassVar[bool] = True  # one step size for the batch

    def __init__(self, solver: Solver, tolerance: float = 1e-4, max_steps: int = 1000) -> None:
        if "velocity" not in solver.needs:
            raise UserError(f"Adaptive needs a deterministic solver such as Heun, got {type(solver).__name__}")
        self.solver, self.tolerance, self.max_steps = solver, tolerance, max_steps

    def step(self, process: Any, x: Tensor, t: Tensor, s: Tensor, layout: Layout, memory: Memory, draws: Draws) -> Step:
        """Sub-steps until s.

        Raises:
            UserError: `max_steps` attempts did not reach s; the message names the clock.
        """
        order = self.solver.order
        now, step = t, s - t
        for _ in range(self.max_steps):
            whole = yield from self._advance(process, x, now, now + step, layout, draws)
            half = yield from self._advance(process, x, now, now + step / 2, layout, draws)
            half = yield from self._advance(process, half, now + step / 2, now + step, layout, draws)
            scale = self.tolerance * (1 + torch.maximum(x.abs(), half.abs()))
            error = float((process.space.diff(whole, half).abs() / scale).max()) / (2**order - 1)
            if error <= 1:
                x, now = half, now + step
                if abs(float(s - now)) <= 1e-12 * max(1.0, abs(float(s - t))):
                    return Dirac(x), memory
            step = step * min(5.0, max(0.2, 0.9 * max(error, 1e-10) ** (-1 / (order + 1))))
            step = s - now if abs(float(step)) > abs(float(s - now)) else step
        raise UserError(
            f"adaptive {type(self.solver).__name__} stopped at clock {float(now):.6g} after {self.max_steps} attempts "
            f"(step {float(step):.3g}); raise the tolerance ({self.tolerance:g}) or use a fixed grid"
        )

    def _advance(self, process: Any, x: Tensor, t: Tensor, s: Tensor, layout: Layout, draws: Draws) -> Any:
        kernel, _ = yield from self.solver.step(process, x, t, s, layout, None, draws)
        return kernel.mean
