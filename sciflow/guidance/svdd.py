r"""SVDD: soft-value decoding, a derivative-free guide towards a reward (Li et al., arXiv 2408.08252, 2024).

The target is p(x0) exp(r(x0)/alpha), r any function of the finished object. After each move the sampler has drawn M
candidates from the SAME kernel p(x_s | x_t); one of them goes on, chosen per sample with probability

    w_m ~ exp(v_s(x^m)/alpha),     v_s(x) = alpha log E[exp(r(x0)/alpha) | x_s = x].

v_s comes from a `Value` (`sciflow.core.values`): the posterior-mean estimate (SVDD-PM), sampled completions, or a
learned network (SVDD-MC). No gradient of the reward is needed. With the exact soft value the law tends to the target as
M grows; finite M is biased towards the unguided law. alpha = 0 takes the best.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.hooks import Hook, Transition
from sciflow.core.noise import Move
from sciflow.core.state import Layout, State
from sciflow.core.values import CommonNoise, Value


class SVDD(Hook):
    """Chooses among candidate draws by their value.

    Args:
        value: Values of states, e.g. `PosteriorMean(reward)`; NaN counts as the worst.
        candidates: M >= 1 draws per move; 1 is the unguided sampler.
        alpha: Temperature in units of the reward; 0 takes the best candidate, ties by lot.
        start: Acts on moves that begin at a clock <= start. Early predictions say little; 0.5 saves half the cost.
        every: Acts on every k-th of those moves.

    Raises:
        UserError: An argument out of range; while sampling: the solver is deterministic, so there is nothing to choose.
    """

    def __init__(
        self, value: Value, candidates: int = 8, alpha: float = 0.1, start: float = 1.0, every: int = 1
    ) -> None:
        if candidates < 1 or every < 1 or alpha < 0:
            raise UserError(
                f"SVDD: got candidates={candidates}, alpha={alpha}, every={every}; "
                "expected candidates >= 1, alpha >= 0, every >= 1"
            )
        self.value, self.candidates, self.alpha, self.start, self.every = value, candidates, alpha, start, every

    def selects(self, move: Move) -> bool:
        """Whether it chooses at this move."""
        return move.t <= self.start and move.index % self.every == 0

    def select(self, options: Sequence[State], transition: Transition) -> State:
        """Per sample one of the options; the choice uses `noise.at("svdd", move)`, so it is the same in any batch."""
        fields, move, noise = options[0].fields, transition.move, transition.noise
        if move.s > 0 and all(_same(options[0][name], options[1][name]) for name in fields):
            raise UserError(
                "SVDD: all candidates are the same, the solver leaves nothing to draw (it is deterministic, or draws "
                "by itself like FirstHitting and Gillespie); choose a stochastic one such as Ancestral, AnyOrder"
            )
        copies = options[0].repeat(len(options)).put(**{name: torch.cat([o[name] for o in options]) for name in fields})
        values = self.value(copies, move, transition.denoise, CommonNoise(noise, len(options)))
        values = values.reshape(len(options), options[0].batch)
        probabilities = selection_weights(values.double(), self.alpha)
        draws = noise.at("svdd", move).uniform(probabilities[0], Layout(options[0].batch)).to(probabilities)
        chosen = (probabilities.cumsum(0) < draws).sum(0).clamp_max(len(options) - 1)
        layouts = options[0].layouts
        return options[0].put(**{name: _pick([o[name] for o in options], chosen, layouts[name]) for name in fields})


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal continuous fields; tokens may well agree by chance, but two draws of a kernel are never ONE tensor."""
    return one is other or (one.is_floating_point() and torch.equal(one, other))


def selection_weights(values: Tensor, alpha: float) -> Tensor:
    """softmax(values/alpha) over candidates (M, B); alpha = 0: even among the best.

    NaN and -inf candidates are never taken, unless all M of a sample are such: then all are equally likely.
    """
    values = values.nan_to_num(nan=-torch.inf, posinf=torch.finfo(values.dtype).max, neginf=-torch.inf)
    values = torch.where(values.isneginf().all(0), torch.zeros_like(values), values)
    best = values.amax(0)
    weights = (values == best).to(values) if alpha == 0 else ((values - best) / alpha).exp()
    return weights / weights.sum(0)


def _pick(values: Sequence[Tensor], chosen: Tensor, layout: Layout) -> Tensor:
    """Rows of the chosen option of each sample; `chosen` (B,)."""
    rows = (chosen if layout.index is None else chosen[layout.index]).to(values[0].device)
    return torch.stack(list(values))[rows, torch.arange(len(rows), device=rows.device)]
