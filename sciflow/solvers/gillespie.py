"""Gillespie's direct method: every sample has its own clock inside the move and jumps event by event.

With total rate lambda of a sample, the waiting time is exponential(lambda) and the event is drawn in proportion to
its rate.
Exact for rates that do not change between events; for time-dependent rates they are frozen from one event to the next.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.kernels import Categorical, Dirac
from sciflow.core.noise import Draws
from sciflow.core.solver import Memory, Query, Solver, Step
from sciflow.core.state import Layout


class Gillespie(Solver):
    """Event-driven simulation of dense fields (B,) or (B, L); asks for rates once per round of events.

    The number of rounds depends on the draws, so each round looks at one flag on the host.

    Args:
        max_events: Events per sample and move after which the rates are taken to have exploded.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"rates"})
    evaluations: ClassVar[int] = 0

    def __init__(self, max_events: int = 100_000) -> None:
        self.max_events = max_events

    def step(self, process: Any, x: Tensor, t: Tensor, s: Tensor, layout: Layout, memory: Memory, draws: Draws) -> Step:
        """Events until every clock has reached s.

        Raises:
            UserError: A ragged field, or more than `max_events` events.
        """
        if layout.index is not None:
            raise UserError("Gillespie needs a dense field (one row per sample), got a ragged one; use TauLeap")
        direction = 1.0 if s > t else -1.0
        left = (s - t).abs().to(x.device).expand(layout.batch).clone()  # time still to go, per sample
        for _ in range(self.max_events):
            rates = process.rates(x, (yield Query(x, s - direction * left)), s - direction * left, layout)
            if layout.mask is not None:
                rates = rates * layout.mask[..., None]
            flat = rates.reshape(layout.batch, -1)
            total = flat.sum(1)
            left = left - (-draws.uniform(total, layout).log() / total)
            jumps = left > 0
            if not bool(jumps.any()):
                return Dirac(x), memory
            event = Categorical(flat, Layout(layout.batch)).sample(draws)
            x = torch.where(jumps.reshape(-1, *[1] * (x.ndim - 1)), self._apply(x, event, rates.shape[-1]), x)
            left = left.clamp_min(0)
        raise UserError(f"more than {self.max_events} events in one move; rates are too large for the interval")

    @staticmethod
    def _apply(x: Tensor, event: Tensor, states: int) -> Tensor:
        """The field after one event per sample, numbered position * states + new state."""
        flat = x.reshape(len(x), -1)
        position, state = event // states, event % states
        return flat.scatter(1, position[:, None], state[:, None]).reshape(x.shape)
