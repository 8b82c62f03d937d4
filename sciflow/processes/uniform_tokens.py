r"""Uniform discrete diffusion: a token that is hit becomes a uniformly random one (Austin et al. 2021; Lou et al.
2024).

q(x_t | x_s) = a delta + (1 - a)/K with a = alpha_t/alpha_s. One x0-posterior p(x0 | x_t) serves all formulas:

    q(x_s = y | x_t = x, x0) = [a d_xy + (1 - a)/K] [alpha_s d_{y,x0} + (1 - alpha_s)/K] / D(x0),
    rate x -> y, y != x:  (beta/K) sum_x0 p(x0 | x_t) [alpha d_{y,x0} + (1 - alpha)/K] / D(x0),

    D(x0) = q(x_t = x | x0) = alpha_t d_{x,x0} + (1 - alpha_t)/K,  beta = -alpha'/alpha.

The rates are the concrete score times the forward rate: p_t(y)/p_t(x) = E[q(y | x0)/q(x | x0) | x_t = x].
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.kernels import Categorical, one_hot
from sciflow.core.process import Prediction, Process
from sciflow.core.spaces import Discrete
from sciflow.core.state import Layout
from sciflow.core.survival import LogLinear, Survival


class UniformTokens(Process):
    """Uniform noise on `tokens` tokens; fields are int64 (rows, ...), predictions p(x0 | x_t) (rows, ..., tokens).

    Unlike masked tokens every token may still change, so a prediction is asked for at each position and must know the
    clock.

    Args:
        tokens: Number K of tokens.
        kind: "logits" or "data" (probabilities).
        survival: Schedule alpha(t), with alpha(1) > 0 (rates are infinite at alpha = 0); None: LogLinear(1e-3).
    """

    kinds: ClassVar[tuple[str, ...]] = ("data", "logits")

    def __init__(self, tokens: int, kind: str = "logits", survival: Survival | None = None) -> None:
        super().__init__()
        if kind not in self.kinds:
            raise UserError(f"kind must be one of {', '.join(self.kinds)}, got '{kind}'")
        self.tokens, self.kind, self.space = tokens, kind, Discrete(tokens)
        self.survival = survival if survival is not None else LogLinear(1e-3)
        if float(self.survival.alpha(torch.ones((), dtype=torch.float64))) < 1e-12:
            raise UserError("a uniform process needs alpha(1) > 0, its rates are infinite there; e.g. LogLinear(1e-3)")

    def prior(self, like: Tensor, layout: Layout) -> Categorical:
        """Uniform tokens."""
        probs = torch.full((*like.shape, self.tokens), 1 / self.tokens, device=like.device)
        return Categorical(probs, layout)

    def marginal(self, x0: Tensor, t: Tensor, layout: Layout, x1: Tensor | None = None) -> Categorical:
        """alpha x0 + (1 - alpha)/K; x0 (rows, ...) int64, or probabilities (rows, ..., K)."""
        probs = self._probs(x0)
        return Categorical(self._mix(probs, layout.rows(self.survival.lost(t), probs)), layout)

    def posterior(self, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, layout: Layout) -> Categorical:
        """Law of x_s given x_t, averaged over x0 ~ probabilities (or given clean tokens, int64)."""
        probs = self._probs(x0)
        lost_t, lost_s = (layout.rows(self.survival.lost(clock), probs) for clock in (t, s))
        forward = self._mix(one_hot(x_t, self.tokens).to(probs), (lost_t - lost_s) / (1 - lost_s))
        return Categorical(forward * self._backward(x_t, probs, lost_t, lost_s), layout)

    def reconstruction(self, x_t: Tensor, x0: Tensor, t: Tensor, layout: Layout) -> Categorical:
        """The posterior at alpha = 1: the prediction itself."""
        return Categorical(self._probs(x0), layout)

    def rates(self, x: Tensor, pred: Prediction, t: Tensor, layout: Layout) -> Tensor:
        """Reverse rates to each other token (rows, ..., K), zero at the present one."""
        probs = pred.to("data")
        lost, beta = (layout.rows(v, probs) for v in (self.survival.lost(t), self.survival.beta(t)))
        return (beta / self.tokens * self._backward(x, probs, lost, lost)).scatter(-1, x[..., None], 0.0)

    def _backward(self, x: Tensor, probs: Tensor, lost_t: Tensor, lost_s: Tensor) -> Tensor:
        """sum_x0 p(x0) [alpha_s d_{y,x0} + (1 - alpha_s)/K] / D(x0) for every y: (rows, ..., K)."""
        weights = probs / self._mix(one_hot(x, self.tokens).to(probs), lost_t)  # p(x0)/D(x0); D is symmetric
        return (1 - lost_s) * weights + lost_s / self.tokens * weights.sum(-1, keepdim=True)

    def _mix(self, probs: Tensor, lost: Tensor) -> Tensor:
        return (1 - lost) * probs + lost / self.tokens

    def _probs(self, x0: Tensor) -> Tensor:
        return x0 if x0.is_floating_point() else one_hot(x0, self.tokens)
