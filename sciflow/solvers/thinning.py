"""Thinning: exact simulation of jump processes whose rates depend on time (Lewis and Shedler 1979; Ogata 1981).

Events are proposed at the constant rate `bound`, which must not lie below the total rate lambda(x, t) at any time, and
event k happens with probability rate_k(x, t) / bound; with probability 1 - lambda / bound nothing does.
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
from sciflow.solvers.gillespie import Crowd


class Thinning(Solver):
    """Event-driven simulation as `Gillespie`, exact for rates that change between events too.

    Costs about bound * time rounds, each a network call for the samples that are still on their way. The largest rate
    is read on the host once per move.

    Args:
        bound: Upper limit of the total rate of a sample (summed over its positions), per unit of clock.
        max_events: Proposals per sample and move after which the run is given up.
        record: Keep all events; the run's `Solution.memory[field].paths()` then holds jump times and states.

    Raises:
        UserError: The bound is not positive.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"rates"})
    evaluations: ClassVar[int] = 0
    alone: ClassVar[bool] = True

    def __init__(self, bound: float, max_events: int = 100_000, record: bool = False) -> None:
        if not bound > 0:
            raise UserError(f"Thinning: got bound {bound}, expected a positive upper limit of the total rate")
        self.bound, self.max_events, self.record = bound, max_events, record

    def step(self, process: Any, x: Tensor, t: Tensor, s: Tensor, layout: Layout, memory: Memory, draws: Draws) -> Step:
        """Proposals until every clock has reached s.

        Raises:
            UserError: A ragged field, rates above the bound, or more than `max_events` proposals.
        """
        crowd = Crowd(self, x, t, s, layout, draws)
        largest = torch.zeros((), dtype=torch.float64, device=x.device)
        for _ in range(self.max_events):
            wait, choice = crowd.uniforms()
            going = crowd.wait(-wait.log() / self.bound)
            if len(going) == 0:
                if float(largest) > self.bound * (1 + 1e-6):  # rounding of single precision is not an excess
                    raise UserError(
                        f"Thinning: got a total rate of {float(largest):.6g}, above the bound {self.bound:g}; "
                        "give a larger bound"
                    )
                return Dirac(crowd.end), crowd.log(memory)
            cumulative = crowd.cumulative(process, (yield crowd.query()))
            largest = torch.maximum(largest, cumulative[:, -1].max())
            level = (choice[going] * self.bound).to(cumulative)
            crowd.jump(torch.searchsorted(cumulative, level[:, None], right=True)[:, 0])
        raise crowd.exploded(self.max_events)
