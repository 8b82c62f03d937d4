r"""Row cache: the network sees no sample twice in a row.

In discrete diffusion many moves leave a sample as it was (with N moves and L tokens with probability (1 - 1/N)^L),
candidates of a hook are often equal, and the candidate that goes on has just been scored. Rows are named by a 64-bit
hash of everything the network may look at: fields, masks, anchors, per-sample conditions and, unless it ignores them,
clocks. Two different rows share a name with probability about rows^2 2^-64.

The number of new rows decides the shape of the network's batch, so one number per call is read on the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.hooks import Denoise, Hook
from sciflow.core.process import Prediction
from sciflow.core.state import State

WORD = 0x9E3779B97F4A7C15 - (1 << 64)  # odd; the multiplier of a 64-bit multiplicative hash (Knuth)


class RowCache(Hook):
    """Evaluates each distinct row once, and not again if it was in the last call. Give it as first hook.

    For dense states without gradients; ragged ones and relaxed tokens pass through. Conditions may change between
    calls (guidance without classifier) if they are there when the run begins.

    Args:
        clock_free: The network ignores clocks (`network.clock_free`), so that rows are the same at any clock.
        rows: At most so many rows per network call; None: all at once.

    Attributes:
        evaluated: Rows that the network has seen since the run began.
        asked: Rows that were asked for.
    """

    def __init__(self, clock_free: bool = False, rows: int | None = None) -> None:
        if rows is not None and rows < 1:
            raise UserError(f"RowCache: got rows={rows}, expected at least 1")
        self.clock_free, self.rows = clock_free, rows
        self.evaluated = self.asked = 0
        self.known: tuple[Tensor, dict[str, Prediction]] | None = None
        self.conditions: tuple[str, ...] = ()
        self.common: list[Any] = []

    def prepare(self, state: State) -> None:
        """Forget the last run; what the network will compute from these conditions needs no hash."""
        self.evaluated = self.asked = 0
        self.known, self.conditions = None, tuple(state.cond)

    def wrap(self, denoise: Denoise) -> Denoise:
        """Ask for the rows that are new, and put the others in."""

        def cached(state: State, clocks: Mapping[str, Tensor]) -> dict[str, Prediction]:
            self.asked += state.batch
            if torch.is_grad_enabled() or any(layout.index is not None for layout in state.layouts.values()):
                self.evaluated += state.batch
                return denoise(state, clocks)
            common = [value for value in map(state.cond.get, self.conditions) if not _per_sample(value, state.batch)]
            if len(common) != len(self.common) or any(a is not b for a, b in zip(common, self.common, strict=True)):
                self.known, self.common = None, common  # other conditions for all samples: nothing is known any more
            names = row_names(state, {} if self.clock_free else clocks, self.conditions)
            values = self._values(state, clocks, names, denoise)
            self.known = (names, values)
            return {
                name: Prediction(
                    one.value, one.kind, one.process, state[name], clocks[name], state.layouts[name], one.variance
                )
                for name, one in values.items()
            }

        return cached

    def _values(
        self, state: State, clocks: Mapping[str, Tensor], names: Tensor, denoise: Denoise
    ) -> dict[str, Prediction]:
        """Predictions of all rows, from the last call or the network."""
        old, table = (names[:0], None) if self.known is None else self.known
        unique, row = torch.unique(torch.cat([old, names]), return_inverse=True)
        source = row.new_full((len(unique),), len(row)).scatter_reduce(0, row, torch.arange(len(row)).to(row), "amin")
        first = source[row[len(old) :]]  # where the row occurs first: in the last call, or in this one
        new = torch.unique(first[first >= len(old)])
        self.evaluated += len(new)
        if len(new) == len(names) and table is None:
            return self._call(state, clocks, denoise)
        if len(new) == 0 and table is not None:
            return _rows(table, first)
        position = row.new_zeros(len(row)).scatter(0, new, torch.arange(len(new)).to(row) + len(old))
        place = torch.where(first < len(old), first, position[first])
        picked = new - len(old)
        chosen = {name: clock if clock.ndim == 0 else clock[picked] for name, clock in clocks.items()}
        fresh = self._call(state.select(picked), chosen, denoise)
        return _rows(fresh if table is None else _joined(table, fresh), place)

    def _call(self, state: State, clocks: Mapping[str, Tensor], denoise: Denoise) -> dict[str, Prediction]:
        """The network, `rows` at a time."""
        if self.rows is None or state.batch <= self.rows:
            return denoise(state, clocks)
        parts = []
        for rows in torch.arange(state.batch).split(self.rows):
            chosen = {name: clock if clock.ndim == 0 else clock[rows] for name, clock in clocks.items()}
            parts.append(denoise(state.select(rows), chosen))
        joined = parts[0]
        for part in parts[1:]:
            joined = _joined(joined, part)
        return joined


def row_names(state: State, clocks: Mapping[str, Tensor], conditions: Sequence[str]) -> Tensor:
    """A 64-bit number per sample (B,), equal for equal samples."""
    per_sample = [*state.fields.values(), *clocks.values()]
    per_sample += [
        part for layout in state.layouts.values() for part in (layout.mask, layout.anchor) if part is not None
    ]
    per_sample += [state.cond[one] for one in conditions if _per_sample(state.cond.get(one), state.batch)]
    name = torch.zeros(state.batch, dtype=torch.int64, device=next(iter(state.fields.values())).device)
    for value in per_sample:
        if value.ndim == 0:
            value = value.expand(state.batch)
        if len(value) != state.batch:  # one for all samples
            continue
        words = value.reshape(state.batch, -1).to(name.device)
        if words.is_floating_point():  # bits, not values
            words = words.double().view(torch.int64)
        name = _mix(name * WORD + (_mix(words.long() * WORD + _weights(words.shape[1], name.device)) * WORD).sum(1))
    return name


def _per_sample(value: Any, batch: int) -> bool:
    """Whether a condition has an entry for each sample, as in `State`."""
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch


def _mix(words: Tensor) -> Tensor:
    """High bits into low ones (the finaliser of a multiplicative hash)."""
    words = (words ^ (words >> 29)) * WORD
    return words ^ (words >> 32)


def _weights(count: int, device: torch.device) -> Tensor:
    """A different word for every column."""
    return _mix((torch.arange(count, device=device) + 1) * WORD)


def _rows(table: dict[str, Prediction], rows: Tensor) -> dict[str, Prediction]:
    return {name: _changed(one, one.value[rows], _maybe(one.variance, rows)) for name, one in table.items()}


def _joined(one: dict[str, Prediction], other: dict[str, Prediction]) -> dict[str, Prediction]:
    joined = {}
    for name, first in one.items():
        second = other[name]
        both = None if first.variance is None or second.variance is None else (first.variance, second.variance)
        variance = None if both is None else torch.cat(both)
        joined[name] = _changed(first, torch.cat([first.value, second.value]), variance)
    return joined


def _maybe(value: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if value is None else value[rows]


def _changed(one: Prediction, value: Tensor, variance: Tensor | None) -> Prediction:
    return Prediction(value, one.kind, one.process, one.x, one.t, one.layout, variance)
