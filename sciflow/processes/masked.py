r"""Masked (absorbing) processes: a token is replaced by the mask and never comes back (Austin et al. 2021; Sahoo et
al. 2024).

P(still clean at t) = alpha(t), a survival schedule (core/survival.py), 1 - t unless stated. Given a prediction
p(x0 | x_t) of a masked token, for s < t

    P(x_s = k | mask) = (alpha_s - alpha_t)/(1 - alpha_t) p_k,   P(x_s = mask | mask) = (1 - alpha_s)/(1 - alpha_t),

and a clean token is carried over. The field is (rows, ...) int64 with mask id `tokens`, or, for gradients through the
moves, (relaxed) one-hot vectors (rows, ..., tokens + 1), drawn as core/relaxation.py says.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.kernels import Categorical, Dirac, RelaxedCategorical, one_hot
from sciflow.core.process import Prediction, Process
from sciflow.core.relaxation import Relaxation, SecondOrder
from sciflow.core.spaces import Discrete
from sciflow.core.state import Layout
from sciflow.core.survival import LogLinear, Survival


class Masked(Process):
    """Absorbing process on `tokens` tokens; predictions are logits or probabilities (rows, ..., tokens).

    Args:
        tokens: Number K of tokens; the mask has id K.
        kind: "logits" or "data" (probabilities).
        survival: Schedule alpha(t); None: 1 - t.
        relaxation: How a float (relaxed) field is drawn; None: `SecondOrder`.
    """

    kinds: ClassVar[tuple[str, ...]] = ("data", "logits")

    def __init__(
        self,
        tokens: int,
        kind: str = "logits",
        survival: Survival | None = None,
        relaxation: Relaxation | None = None,
    ) -> None:
        super().__init__()
        if kind not in self.kinds:
            raise UserError(f"kind must be one of {', '.join(self.kinds)}, got '{kind}'")
        self.tokens, self.kind = tokens, kind
        self.space = Discrete(tokens + 1)
        self.survival = survival if survival is not None else LogLinear(0.0)
        self.relaxation = relaxation if relaxation is not None else SecondOrder()

    def alpha(self, t: Tensor) -> Tensor:
        """Probability of being clean."""
        return self.survival.alpha(t)

    def masked(self, x: Tensor) -> Tensor:
        """Which entries are masked: bool (rows, ...); of soft vectors those with more than half on the mask."""
        return x[..., -1] > 0.5 if x.is_floating_point() else x == self.tokens

    def relaxed(self, x: Tensor) -> Tensor:
        """Hard tokens as relaxed ones: (rows, ...) -> (rows, ..., tokens + 1)."""
        return x if x.is_floating_point() else one_hot(x, self.tokens + 1)

    def prior(self, like: Tensor, layout: Layout) -> Dirac:
        """All masked."""
        if like.is_floating_point():
            return Dirac(
                one_hot(torch.full(like.shape[:-1], self.tokens, device=like.device), self.tokens + 1).to(like)
            )
        return Dirac(torch.full_like(like, self.tokens))

    def marginal(self, x0: Tensor, t: Tensor, layout: Layout, x1: Tensor | None = None) -> Categorical:
        """Each token masked with probability 1 - alpha; x0 (rows, ...) int64, or probabilities (rows, ..., K)."""
        probs = x0 if x0.is_floating_point() else one_hot(x0, self.tokens)
        alpha = layout.rows(self.alpha(t), probs)
        masked = (1 - alpha) + torch.zeros_like(probs[..., :1])
        return Categorical(torch.cat([alpha * probs, masked], -1), layout)

    def posterior(
        self, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, layout: Layout
    ) -> Categorical | RelaxedCategorical:
        """Law of x_s given x_t and probabilities x0 (rows, ..., K) (or clean tokens, int64)."""
        lost_t, lost_s = self.survival.lost(t), self.survival.lost(s)
        chance = ((lost_t - lost_s) / lost_t).clamp(0, 1)
        return self.unmask(x_t, x0, layout.rows(chance, x0 if x0.is_floating_point() else x0[..., None]), layout)

    def unmask(self, x_t: Tensor, x0: Tensor, chance: Tensor, layout: Layout) -> Categorical | RelaxedCategorical:
        """Masked entries become a token from x0 with probability `chance`, broadcastable to (rows, ..., 1)."""
        probs = x0 if x0.is_floating_point() else one_hot(x0, self.tokens)
        if x_t.is_floating_point():
            return RelaxedCategorical(probs, chance, x_t, self.relaxation, layout)
        stay = (1 - chance) + torch.zeros_like(probs[..., :1])
        fresh = torch.cat([chance * probs, stay], -1)
        return Categorical(torch.where(self.masked(x_t)[..., None], fresh, one_hot(x_t, self.tokens + 1)), layout)

    def reconstruction(self, x_t: Tensor, x0: Tensor, t: Tensor, layout: Layout) -> Categorical | RelaxedCategorical:
        """All that is masked is drawn."""
        return self.unmask(x_t, x0, torch.ones((), device=x_t.device), layout)

    def rates(self, x: Tensor, pred: Prediction, t: Tensor, layout: Layout) -> Tensor:
        """Unmasking rates -alpha'/(1 - alpha) p_k: (rows, ..., K + 1), zero for clean tokens."""
        probs = pred.to("data")
        rate = layout.rows(self.survival.unmask_rate(t), probs) * probs
        rate = torch.cat([rate, torch.zeros_like(rate[..., :1])], -1)
        return torch.where((x == self.tokens)[..., None], rate, torch.zeros_like(rate))

    def decode(self, x: Tensor, data: Tensor | None) -> Tensor:
        """Tokens; those still masked take the most probable one."""
        tokens = x.argmax(-1) if x.is_floating_point() else x
        return tokens if data is None else torch.where(tokens == self.tokens, data.argmax(-1), tokens)
