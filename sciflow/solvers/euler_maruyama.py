"""Euler-Maruyama: x_s = x + drift (s - t) + g sqrt|s - t| z, in either direction of the clock."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.kernels import Gaussian
from sciflow.core.noise import Draws
from sciflow.core.solver import Memory, Query, Solver, Step
from sciflow.core.state import Layout


class EulerMaruyama(Solver):
    """Generates with the reverse SDE (one network call) or noises with the forward SDE (none).

    A process in physical time (`Drift`) has one SDE, that of the network, and runs forward.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"sde"})
    order: ClassVar[float] = 1.0  # strong order for additive noise

    def step(self, process: Any, x: Tensor, t: Tensor, s: Tensor, layout: Layout, memory: Memory, draws: Draws) -> Step:
        """One Euler-Maruyama step.

        Raises:
            UserError: A forward move of a process that has no forward SDE.
        """
        if s > t and not getattr(process, "physical", False):  # clocks live on the host
            if not hasattr(process, "noise_sde"):
                raise UserError(f"{type(process).__name__} has no forward SDE: its grid must run from 1 towards 0")
            drift, g = process.noise_sde(x, t, layout)
        else:
            drift, g = process.sde(x, (yield Query(x, t)), t, layout)
        step = layout.rows(s - t, x)
        return Gaussian(process.space.add(x, drift * step), g * step.abs().sqrt(), process.space, layout), memory
