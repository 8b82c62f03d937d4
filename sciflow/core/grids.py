"""Grids: the moves of the sampler as numbers on the host. A grid is made for a number of steps and a schedule.

`moves(n)` gives the list of (t, s). Most grids are points t_0 > t_1 > ... and their consecutive pairs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.core.schedules import Schedule


class Grid(Configurable, ABC):
    """A way to place moves."""

    @abstractmethod
    def points(self, steps: int) -> Tensor:
        """Clocks of `steps` moves: (steps + 1,) float64."""

    def moves(self, steps: int) -> list[tuple[float, float]]:
        """(t, s) of each move."""
        if steps < 1:
            raise UserError(f"steps must be at least 1, got {steps}")
        clocks = self.points(steps).tolist()
        return list(zip(clocks[:-1], clocks[1:], strict=True))


class Uniform(Grid):
    """Equal steps from `start` to `end`."""

    def __init__(self, start: float = 1.0, end: float = 1e-3) -> None:
        self.start, self.end = start, end

    def points(self, steps: int) -> Tensor:
        """linspace(start, end)."""
        return torch.linspace(self.start, self.end, steps + 1, dtype=torch.float64)


class Power(Grid):
    """t = end + (start - end) u^exponent with u from 1 to 0: more steps near data for exponent > 1."""

    def __init__(self, start: float = 1.0, end: float = 1e-3, exponent: float = 2.0) -> None:
        if exponent <= 0:
            raise UserError(f"exponent must be positive, got {exponent}")
        self.start, self.end, self.exponent = start, end, exponent

    def points(self, steps: int) -> Tensor:
        """Power law in the clock."""
        u = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return self.end + (self.start - self.end) * u**self.exponent


class _BySchedule(Grid):
    """Levels are placed in a function of sigma/alpha and mapped back to clocks by the schedule."""

    def __init__(self, schedule: Schedule, start: float = 1.0, end: float = 1e-3) -> None:
        self.schedule, self.start, self.end = schedule, start, end

    def ends(self) -> Tensor:
        """lambda at start and end: (2,).

        Raises:
            UserError: lambda is infinite at an end.
        """
        ends = self.schedule.log_snr(torch.tensor([self.start, self.end], dtype=torch.float64))
        if not ends.isfinite().all():
            raise UserError(
                f"log(alpha/sigma) of {type(self.schedule).__name__} is {ends.tolist()} at the ends "
                f"{self.start} and {self.end}; move them inside (0, 1)"
            )
        return ends

    def clocks(self, log_snr: Tensor) -> Tensor:
        """Clocks at the levels, with the ends exact."""
        points = self.schedule.time_at(log_snr)
        points[0], points[-1] = self.start, self.end
        return points


class LogSNR(_BySchedule):
    """Equal steps in lambda = log(alpha/sigma)."""

    def points(self, steps: int) -> Tensor:
        """linspace in lambda."""
        first, last = self.ends().tolist()
        return self.clocks(torch.linspace(first, last, steps + 1, dtype=torch.float64))


class Karras(_BySchedule):
    """Equal steps in (sigma/alpha)^(1/rho) (Karras et al. 2022, equation 5)."""

    def __init__(self, schedule: Schedule, start: float = 1.0, end: float = 1e-3, rho: float = 7.0) -> None:
        super().__init__(schedule, start, end)
        self.rho = rho

    def points(self, steps: int) -> Tensor:
        """Karras levels."""
        high, low = ((-self.ends()).exp() ** (1 / self.rho)).tolist()
        level = torch.linspace(high, low, steps + 1, dtype=torch.float64) ** self.rho
        return self.clocks(-level.log())


class Explicit(Grid):
    """Given clocks; the number of steps must agree. Physical times (increasing) are given this way too."""

    def __init__(self, clocks: Sequence[float]) -> None:
        if len(clocks) < 2:
            raise UserError(f"an explicit grid needs at least 2 clocks, got {len(clocks)}")
        self.clocks = list(clocks)

    def points(self, steps: int) -> Tensor:
        """The given clocks."""
        if steps != len(self.clocks) - 1:
            raise UserError(f"this grid has {len(self.clocks) - 1} moves, {steps} were asked for")
        return torch.tensor(self.clocks, dtype=torch.float64)


class Below(Grid):
    """The moves of another grid below a clock, the first of them shortened: a run that starts from noised data.

    Args:
        grid: The grid of the whole run; its number of steps is asked for.
        start: Clock inside the grid.
    """

    def __init__(self, grid: Grid, start: float) -> None:
        self.grid, self.start = grid, start

    def points(self, steps: int) -> Tensor:
        """`start` and the clocks below it: at most steps + 1.

        Raises:
            UserError: `start` lies outside the grid.
        """
        clocks = self.grid.points(steps)
        if not float(clocks[-1]) < self.start < max(float(clocks[0]), 1.0):
            raise UserError(f"start: got clock {self.start}, expected one between {float(clocks[-1]):g} and 1")
        return torch.cat([clocks.new_tensor([self.start]), clocks[clocks < self.start]])


class Physical(Uniform):
    """Equal steps in physical time from `start` to `end` > start: simulation of jump processes and drifts."""

    def __init__(self, start: float = 0.0, end: float = 1.0) -> None:
        if end <= start:
            raise UserError(f"physical time runs forward: need end > start, got {start} and {end}")
        super().__init__(start, end)


class FixedStep(Grid):
    """Moves t_i -> t_i - (start - 0)/steps from t_i = linspace(start, end, steps): the grid of the released GDSS
    samplers.

    Their step size is 1/steps although the clocks run from 1 to `end` inclusive (gdss.md, section 7): the end of one
    move is not the start of the next.
    """

    def __init__(self, start: float = 1.0, end: float = 1e-4) -> None:
        self.start, self.end = start, end

    def points(self, steps: int) -> Tensor:
        """Start clocks, and the end of the last move."""
        starts = torch.linspace(self.start, self.end, steps, dtype=torch.float64)
        return torch.cat([starts, starts[-1:] - self.start / steps])

    def moves(self, steps: int) -> list[tuple[float, float]]:
        """(t_i, t_i - start/steps)."""
        return [(t, t - self.start / steps) for t in self.points(steps).tolist()[:-1]]
