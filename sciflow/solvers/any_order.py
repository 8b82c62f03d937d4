"""Any-order sampling of masked fields: a fixed number of tokens per move, at positions in uniformly random order.

Under an absorbing process the masked positions are revealed in uniformly random order, each from the network's law
given those revealed before. What a sample looks like depends on that order only, not on the clock, so revealing ONE
position per move has the law of the continuous-time process, without its random waiting times (Uria et al. 2014;
Hoogeboom et al. 2022, "Autoregressive diffusion models"; drakes.md, section 4). Several per move: independent draws.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.noise import Draws
from sciflow.core.solver import Memory, Query, Solver, Step
from sciflow.core.state import Layout


class AnyOrder(Solver):
    """A move t -> s reveals n - round(n s/t) of the n masked positions of each sample.

    On a uniform grid from 1 to 0 with as many steps as tokens that is one token per move, with L/k steps k per move;
    shorter samples and partly known starts finish at the same clock. The positions are drawn in the step, so the kernel
    is random in the chosen positions only and never gives a mask there. Nothing is read back to the host.
    Dense fields (B, ...) only; the grid should end at 0, else round(n s/t) may leave masks to `process.decode`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"masked", "unmask"})
    order: ClassVar[float] = 1.0

    def step(self, process: Any, x: Tensor, t: Tensor, s: Tensor, layout: Layout, memory: Memory, draws: Draws) -> Step:
        """Ask once, choose positions, return the kernel that reveals them.

        Raises:
            UserError: A ragged field, or a move away from data.
        """
        if layout.index is not None:
            raise UserError("AnyOrder needs a dense field (one row per sample), got a ragged one; use Ancestral")
        pred = yield Query(x, t)
        masked = masked_positions(process, x, layout)
        count = masked.reshape(layout.batch, -1).sum(1)
        revealed = count - (count * (s / t)).round()
        chosen = random_positions(masked, revealed, draws)
        return process.unmask(x, pred.to("data"), chosen[..., None].to(pred.value.dtype), layout), memory


def masked_positions(process: Any, x: Tensor, layout: Layout) -> Tensor:
    """Masked entries that are not padding: bool, (B, ...)."""
    masked = process.masked(x)
    if layout.mask is None:
        return masked
    return masked & (layout.mask.reshape(layout.mask.shape[: masked.ndim]) > 0)


def random_positions(masked: Tensor, count: Tensor, draws: Draws) -> Tensor:
    """`count` (B,) of the masked positions of each sample, every subset equally likely: bool (B, ...) like `masked`."""
    scores = draws.uniform(torch.empty(masked.shape, device=masked.device), Layout(len(masked)))
    scores = torch.where(masked, scores, torch.full_like(scores, 2.0)).reshape(len(masked), -1)
    ranks = scores.argsort(-1).argsort(-1)
    return (ranks < count[:, None]).reshape(masked.shape) & masked
