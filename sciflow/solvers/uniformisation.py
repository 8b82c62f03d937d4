"""Uniformisation: exact paths of a chain with constant, known rates, without a loop over their jumps.

Jumps and non-jumps come at the constant rate mu = max_i -F_ii, the states follow the chain I + F/mu (Jensen 1953;
`core.uniformisation`). The method for few long paths; `Gillespie` is cheaper for thousands of short ones.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.jump_paths import EventLog
from sciflow.core.kernels import Dirac
from sciflow.core.noise import Draws
from sciflow.core.solver import Memory, Query, Solver, Step
from sciflow.core.state import Layout
from sciflow.core.uniformisation import free_events


class Uniformisation(Solver):
    """Exact moves of any length of a field (B,); asks no network.

    Args:
        record: Keep all jumps; the run's `Solution.memory[field].paths()` then holds their times and states.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"generator"})
    evaluations: ClassVar[int] = 0

    def __init__(self, record: bool = False) -> None:
        self.record = record

    def step(self, process: Any, x: Tensor, t: Tensor, s: Tensor, layout: Layout, memory: Memory, draws: Draws) -> Step:
        """All jumps from t to s > t.

        Raises:
            UserError: A field that is not (B,), or clocks that run backwards.
        """
        if x.ndim != 1 or layout.index is not None or s < t:
            raise UserError(
                f"Uniformisation moves a field (B,) forward in physical time, got shape {tuple(x.shape)} and a move "
                f"from {float(t):g} to {float(s):g}; use Gillespie or TauLeap"
            )
        rows, times, states = free_events(process.generator, x, s - t, draws)
        rounds = [(rows, t + times, states, states >= 0)]  # every event listed is a jump
        end = EventLog(t, x, t).then(s, rounds).paths().states[:, -1]
        return Dirac(end), (memory or EventLog(t, x, t)).then(s, rounds) if self.record else None
        yield Query(x, t)  # never reached: it makes the step a coroutine
