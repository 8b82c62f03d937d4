"""Gillespie's direct method: every sample has its own clock inside the move and jumps event by event.

With total rate lambda of a sample, the waiting time is exponential(lambda) and the event is drawn in proportion to
its rate (Gillespie 1977). Exact for rates that do not change between events; for time-dependent rates they are frozen
from one event to the next (`Thinning` is exact for those). A sample without rates is absorbed and holds its state.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.jump_paths import EventLog
from sciflow.core.kernels import Dirac, pick
from sciflow.core.noise import Draws
from sciflow.core.process import Prediction
from sciflow.core.solver import Memory, Query, Solver, Step
from sciflow.core.state import Layout

ROUNDS = 2  # rounds served by one call of the noise: 4 numbers for a sample are one counter of `PerSample`


class Gillespie(Solver):
    """Event-driven simulation of dense fields (B,) or (B, L); asks for rates once per round of events.

    Samples that have reached the end of the move leave the work. Which ones, is the one thing that each round reads on
    the host.

    Args:
        max_events: Events per sample and move after which the rates are taken to have exploded.
        record: Keep all events; the run's `Solution.memory[field].paths()` then holds jump times and states.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"rates"})
    evaluations: ClassVar[int] = 0
    alone: ClassVar[bool] = True

    def __init__(self, max_events: int = 100_000, record: bool = False) -> None:
        self.max_events, self.record = max_events, record

    def step(self, process: Any, x: Tensor, t: Tensor, s: Tensor, layout: Layout, memory: Memory, draws: Draws) -> Step:
        """Events until every clock has reached s.

        Raises:
            UserError: A ragged field, or more than `max_events` events.
        """
        crowd = Crowd(self, x, t, s, layout, draws)
        for _ in range(self.max_events):
            cumulative = crowd.cumulative(process, (yield crowd.query()))
            wait, choice = crowd.uniforms()
            going = crowd.wait(-wait.log() / cumulative[:, -1])
            if len(going) == 0:
                return Dirac(crowd.end), crowd.log(memory)
            crowd.jump(pick(cumulative.index_select(0, going), choice.index_select(0, going)))
        raise crowd.exploded(self.max_events)


class Crowd:
    """The samples of one move that are still on their way, each with the time that it has left.

    Attributes:
        end: (B, ...) the field, with the last states of those that have arrived.
        rows: (n,) samples on their way, increasing.
        x: (n, ...) their states.
        left: (n,) time that they have left, float64.
    """

    def __init__(self, solver: Any, x: Tensor, t: Tensor, s: Tensor, layout: Layout, draws: Draws) -> None:
        if layout.index is not None:
            name = type(solver).__name__
            raise UserError(f"{name} needs a dense field (one row per sample), got a ragged one; use TauLeap")
        self.start, self.t, self.s, self.layout, self.draws, self.record = x, t, s, layout, draws, solver.record
        self.direction = 1.0 if s > t else -1.0
        self.end, self.x = x, x
        self.rows = torch.arange(layout.batch, device=x.device)
        self.left = (s - t).abs().to(x.device, torch.float64).expand(layout.batch)
        self.numbers = self.left.new_empty(layout.batch, 0)
        self.events: list[tuple[Tensor, ...]] = []

    @property
    def clock(self) -> Tensor:
        """(n,) present clocks."""
        return self.s - self.direction * self.left

    def query(self) -> Query:
        """What are the rates now, of those still on their way?"""
        everyone = len(self.rows) == self.layout.batch
        return Query(self.x, self.clock, None if everyone else self.rows)

    def cumulative(self, process: Any, pred: Prediction) -> Tensor:
        """Cumulative rates of the events (n, positions * states): event = position * states + new state."""
        layout = self.layout if len(self.rows) == self.layout.batch else self.layout.select(self.rows)[0]
        rates = process.rates(self.x, pred, pred.t, layout)
        self.states = rates.shape[-1]
        if layout.mask is not None:
            rates = rates * layout.mask[..., None]
        return rates.reshape(len(self.rows), -1).cumsum(1)

    def uniforms(self) -> Tensor:
        """Two numbers (2, n) for the round."""
        if self.numbers.shape[1] == 0:
            here = Layout(self.layout.batch, index=self.rows)
            self.numbers = self.draws.uniform(self.left.new_empty(len(self.rows), 2 * ROUNDS), here)
        now, self.numbers = self.numbers[:, :2], self.numbers[:, 2:]
        return now.T

    def wait(self, times: Tensor) -> Tensor:
        """Let time pass; those who arrive leave. Returns the places (n',) of the others among those before."""
        left = self.left - times
        going = (left > 0).nonzero()[:, 0]  # the look on the host
        self.left = left.index_select(0, going)
        if len(going) < len(self.rows):
            self.rows, self.x, self.numbers = (v.index_select(0, going) for v in (self.rows, self.x, self.numbers))
        return going

    def jump(self, event: Tensor) -> None:
        """One event (n,) each; numbers beyond the last event change nothing."""
        none = event >= self.states * self.x[0].numel()
        if self.x.ndim == 1:
            self.x = torch.where(none, self.x, event)
        else:
            flat = self.x.flatten(1)
            position = (event // self.states).masked_fill(none, 0)[:, None]
            state = torch.where(none[:, None], flat.gather(1, position), (event % self.states)[:, None])
            self.x = flat.scatter(1, position, state).reshape(self.x.shape)
        self.end = self.end.index_copy(0, self.rows, self.x)
        if self.record:
            self.events.append((self.rows, self.clock, self.x, ~none))

    def log(self, memory: EventLog | None) -> EventLog | None:
        """The events so far, if they are recorded."""
        if not self.record:
            return memory
        return (memory or EventLog(self.t, self.start, self.t)).then(self.s, self.events)

    def exploded(self, events: int) -> UserError:
        """The error for too many rounds."""
        return UserError(f"more than {events} events in one move; rates are too large for the interval")
