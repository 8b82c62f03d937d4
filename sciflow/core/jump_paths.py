"""Paths of jump processes as padded arrays: what event-driven solvers and bridges record."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class JumpPaths:
    """Piecewise constant paths observed from a first to a last time.

    Attributes:
        times: (B, E) float64: the start, the times of the jumps, the end; then the end again, up to E entries.
        states: (B, E) or (B, E, ...) int64: the state from that time on; the entry at the end repeats the last state.
        lengths: (B,) int64, number of valid entries: jumps + 2.
    """

    times: Tensor
    states: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, start: Tensor, x: Tensor, rows: Tensor, times: Tensor, states: Tensor, end: Tensor) -> JumpPaths:
        """Paths from a list of events.

        Args:
            start: Time of the start, () or (B,).
            x: (B, ...) states at the start.
            rows: (N,) path of each event; the events of a path stand in the order in which they happen.
            times: (N,) their times.
            states: (N, ...) states after them.
            end: Time of the end, () or (B,).
        """
        order, count = rows.int().argsort(stable=True), torch.bincount(rows, minlength=len(x))
        # entry k of a path shows its event k, counted from 1; before the first is the start, after the last the end
        k, jumps = torch.arange(int(count.max()) + 2 if len(x) else 2, device=x.device), count[:, None]
        event = (count.cumsum(0)[:, None] - jumps + torch.minimum(k, jumps)).flatten()  # in order, counted from 1
        times = torch.cat([times.new_zeros(1), times.index_select(0, order)]).double()
        times = times.index_select(0, event).reshape(len(x), len(k))
        times = torch.where(k == 0, _column(start, x), torch.where(k > jumps, _column(end, x), times))
        states = torch.cat([x[:1], states.index_select(0, order)]).index_select(0, event)
        none = ((k == 0) | (jumps == 0)).reshape(len(x), len(k), *[1] * (x.ndim - 1))
        return cls(times, torch.where(none, x[:, None], states.reshape(len(x), len(k), *x.shape[1:])), count + 2)

    def on_grid(self, times: Tensor) -> Tensor:
        """States at the times (n,) or (B, n): the last one at or before each, (B, n) or (B, n, ...) int64."""
        times = times.to(self.times).expand(len(self.times), -1).contiguous()
        place = (torch.searchsorted(self.times, times, right=True) - 1).clamp_min(0)
        place = place.reshape(*place.shape, *[1] * (self.states.ndim - 2))
        return self.states.take_along_dim(place, 1)

    def statistics(self, states: int) -> tuple[Tensor, Tensor]:
        """Sufficient statistics of all paths (B, E): jumps n_ij (S, S) and time T_i (S,) spent in each state."""
        before, after, elapsed = self.states[:, :-1], self.states[:, 1:], self.times.diff(dim=1)
        moved = before != after
        jumps = torch.bincount(before[moved] * states + after[moved], minlength=states**2)
        dwell = torch.bincount(before.flatten(), elapsed.flatten(), minlength=states)
        return jumps.reshape(states, states).double(), dwell


def _column(time: Tensor, x: Tensor) -> Tensor:
    """A time () or (B,) as (B, 1) float64."""
    return time.to(x.device, torch.float64).expand(len(x))[:, None]


@dataclass(frozen=True, eq=False)
class EventLog:
    """Events of a run, round by round: the memory of event-driven solvers that record.

    Attributes:
        start: Time at which the run began, ().
        x: (B, ...) states then.
        end: Time reached so far, ().
        rounds: (rows (n,), times (n,), states after the event (n, ...), whether anything happened (n,)) of each round.
    """

    start: Tensor
    x: Tensor
    end: Tensor
    rounds: tuple[tuple[Tensor, ...], ...] = ()

    def then(self, end: Tensor, rounds: list[tuple[Tensor, ...]]) -> EventLog:
        """The log after one more move."""
        return EventLog(self.start, self.x, end, (*self.rounds, *rounds))

    def paths(self) -> JumpPaths:
        """The paths as padded arrays. Time must have run forward."""
        device = self.x.device
        nothing = (torch.zeros(0, dtype=torch.long, device=device), torch.zeros(0, dtype=torch.float64, device=device))
        *events, happened = map(torch.cat, zip((*nothing, self.x[:0], nothing[0].bool()), *self.rounds, strict=True))
        if not bool(happened.all()):
            events = [part[happened] for part in events]
        return JumpPaths.of(self.start, self.x, *events, self.end)
