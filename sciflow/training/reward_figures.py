"""Rewards of relaxed and finished tokens, and what is watched while a reward is optimised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sciflow.core.errors import UserError
from sciflow.core.noise import Fresh
from sciflow.core.state import Layout, State
from sciflow.training.reward_hooks import log_softmax


def differentiable_reward(reward: Any, needed: bool = True) -> Callable[[Tensor, State], Tensor]:
    """The reward of relaxed tokens as a function of them and the state.

    Raises:
        UserError: It is not differentiable.
    """
    if not getattr(reward, "differentiable", False):
        if needed:
            name = getattr(reward, "name", getattr(reward, "__name__", type(reward).__name__))
            raise UserError(
                f"reward '{name}' is not differentiable, but DRAKES follows its gradient: use SVDD or SMC "
                "(--method svdd or smc), or set `differentiable = True` on a torch reward that is"
            )
        return lambda x, state: _black_box(reward, x.argmax(-1), _only_layout(state)).to(x)
    score = getattr(reward, "score", None)
    if score is None:
        return lambda x, state: reward(x)
    return lambda x, state: score(x, _only_layout(state).mask)


def finished_rewards(reward: Any, x: Tensor, layout: Layout, process: Any) -> Tensor:
    """Rewards (B,) float64 of finished tokens (B, L), of a differentiable reward or a black box."""
    if getattr(reward, "differentiable", False):
        one_hot = functional.one_hot(x, process.tokens).to(torch.get_default_dtype())
        score = getattr(reward, "score", None)
        return (reward(one_hot) if score is None else score(one_hot, layout.mask)).double()
    return _black_box(reward, x, layout)


def _black_box(reward: Any, x: Tensor, layout: Layout) -> Tensor:
    return torch.as_tensor(reward(x, layout.sizes)).to(x.device, torch.float64)


def _only_layout(state: State) -> Layout:
    return next(iter(state.layouts.values()))


def order_nll(denoiser: Any, field: str, state: State, noise: Fresh, strata: int = 8) -> Tensor:
    """Estimate of -log p (B,) in nats per sequence: the order-averaged bound with stratified numbers of masked tokens.

    -log p(x) <= sum_{n=1..L} (1/n) E_{|S|=n} sum_{i in S} -log p(x_i | x without S); the n are stratified, S is random.
    """
    x, layout = state[field], state.layouts[field]
    process: Any = denoiser.processes[field]
    length = layout.counts(x).to(x.device)[:, None]  # (B, 1)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    prepared = denoiser.prepare(state)
    for stratum in range(strata):
        u = noise.uniform(torch.empty(len(x), 1, device=x.device), layout)
        count = ((stratum + u) / strata * length).floor() + 1
        scores = noise.uniform(torch.empty(x.shape, device=x.device), layout)
        if layout.mask is not None:
            scores = scores + (1 - layout.mask)  # padding last
        masked = scores.argsort(-1).argsort(-1) < count
        t = (count[:, 0] / length[:, 0]).double()
        shown = prepared.put(**{field: torch.where(masked, process.tokens, x)})
        log_probs = log_softmax(denoiser(shown, {field: t})[field]).gather(-1, x[..., None])[..., 0]
        total -= (layout.per_sample(log_probs * masked) * length[:, 0] / count[:, 0]).double()
    return total / strata


def diversity(x: Tensor, layout: Layout) -> dict[str, float]:
    """Share of distinct sequences, and the mean share of positions in which two of them differ."""
    valid = torch.ones_like(x) if layout.mask is None else layout.mask.long()
    distinct = len(torch.unique(x * valid - (1 - valid), dim=0)) / len(x)
    counts = functional.one_hot(x).mul(valid[..., None]).sum(0).double()  # (L, K)
    pairs = counts.sum(-1) * (counts.sum(-1) - 1)  # ordered pairs of sequences that reach so far, per position
    alike = (counts * (counts - 1)).sum(-1)
    return {"distinct": distinct, "hamming": float(1 - alike.sum() / pairs.sum().clamp_min(1))}
