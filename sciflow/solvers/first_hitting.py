"""First-hitting sampling: exact simulation of the reverse jump process of a masked field (Zheng et al. 2024).

Each of n masked positions survives from clock u to u' < u with probability (1 - alpha(u'))/(1 - alpha(u)), whatever the
network says. So the next event is at 1 - alpha(u') = (1 - alpha(u)) U^(1/n), at a uniformly random masked position,
whose token is drawn from the network's law at u'. The process has no memory: stopping at the end of a move and drawing
the waiting time anew is exact too, for any grid ("Masked diffusion models are secretly time-agnostic masked models").
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.kernels import Dirac
from sciflow.core.noise import Draws
from sciflow.core.solver import Memory, Query, Solver, Step
from sciflow.core.state import Layout
from sciflow.solvers.any_order import masked_positions, random_positions


class FirstHitting(Solver):
    """Event by event, every sample on its own clock inside the move; one network call per round of events.

    A run to t = 0 takes as many calls as the longest sample has masked tokens. Each round looks at one flag on the
    host, since the number of rounds depends on the draws. Exact for networks that know the clock, too.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"masked", "unmask"})
    evaluations: ClassVar[int] = 0

    def step(self, process: Any, x: Tensor, t: Tensor, s: Tensor, layout: Layout, memory: Memory, draws: Draws) -> Step:
        """Events until every clock has reached s.

        Raises:
            UserError: A ragged field.
        """
        if layout.index is not None:
            raise UserError("FirstHitting needs a dense field (one row per sample), got a ragged one; use Ancestral")
        clock = t.to(x.device).expand(layout.batch)
        while True:
            masked = masked_positions(process, x, layout)
            count = masked.reshape(layout.batch, -1).sum(1)
            u = draws.uniform(torch.empty_like(clock), Layout(layout.batch))
            lost = process.survival.lost(clock) * u ** (1 / count)  # no mask left: 1/0 gives u**inf = 0
            clock = process.survival.time_at(lost).clamp_min(s.to(clock))
            jumps = (count > 0) & (lost > process.survival.lost(s))
            if not bool(jumps.any()):
                return Dirac(x), memory
            pred = yield Query(x, clock)
            chosen = random_positions(masked, jumps.long(), draws)
            kernel = process.unmask(x, pred.to("data"), chosen[..., None].to(pred.value.dtype), layout)
            x = kernel.sample(draws)
