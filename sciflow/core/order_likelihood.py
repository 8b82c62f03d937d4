r"""Likelihood bound of masked models by orders instead of clocks (Uria et al. 2014; Hoogeboom et al. 2022).

The continuous-time NELBO equals the mean over random orders o of -sum_k log p(x_{o_k} | x_{o_<k}), that is

    L = sum_{n=1..L} h_n,   h_n = (1/n) E_{|S| = n} sum_{i in S} -log p(x_i | x without S),

so only the number n of masked tokens need be spread evenly (stratified), and the noise of a random clock and of the
1/t weight is gone. Stratum j of M draws u_j uniform in [j/M, (j+1)/M) and n = 1 + floor(L u_j); L mean_j h_{n_j} is
unbiased for any M. The standard error compares neighbouring strata, which overstates it a little.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.hooks import Denoise
from sciflow.core.noise import Move, Noise
from sciflow.core.state import State


def order_bound(
    state: State, field: str, denoise: Denoise, noise: Noise, *, strata: int | None = None, rows: int = 512
) -> tuple[Tensor, Tensor]:
    """Unbiased estimate of the order-averaged bound on -log p(x0), in nats per sequence.

    Args:
        state: Clean dense tokens (B, L) int64 of `field` (padding by the layout's mask), with their conditions.
        field: The field of a masked process; other fields are shown as they are.
        denoise: The denoiser, with `processes` (a `Denoiser`) or one `process`.
        noise: Source of the subsets.
        strata: Network rows per sequence, made even; None: one per token of the longest sequence.
        rows: At most about so many rows per network call.

    Returns:
        (bound, standard error), each (B,). The bound is exact in expectation for exact conditionals.

    Raises:
        UserError: The field is not that of a masked process, or is not dense int64 (B, L).
    """
    process = _process(field, denoise)
    x0, layout = state[field], state.layouts[field]
    if x0.is_floating_point() or x0.ndim != 2 or layout.index is not None:
        raise UserError(f"order_bound needs dense int64 tokens (B, L) in '{field}', got {x0.dtype} {tuple(x0.shape)}")
    valid = torch.ones_like(x0, dtype=torch.bool) if layout.mask is None else layout.mask.reshape(x0.shape) > 0
    length = valid.sum(1)
    count = 2 * math.ceil((x0.shape[1] if strata is None else max(strata, 2)) / 2)
    prepare = getattr(denoise, "prepare", None)
    state = state if prepare is None else prepare(state)
    per_call = max(1, rows // state.batch)
    parts = []
    with torch.no_grad():
        for first in range(0, count, per_call):
            chosen = range(first, min(first + per_call, count))
            drawn = [_subset(valid, length, j, count, noise, field, state) for j in chosen]
            masked, number = (torch.cat(parts) for parts in zip(*drawn, strict=True))
            parts.append(_losses(state.repeat(len(chosen)), field, process, denoise, masked, number, length))
    values = torch.cat(parts) * length  # (M, B)
    pairs = (values[0::2] - values[1::2]) ** 2
    return values.mean(0), pairs.sum(0).sqrt() / count


def _subset(
    valid: Tensor, length: Tensor, stratum: int, count: int, noise: Noise, field: str, state: State
) -> tuple[Tensor, Tensor]:
    """Positions to mask (B, L) and their number (B,) in one stratum."""
    draws, layout = noise.at(field, Move(stratum, 1.0, 0.0)), state.layouts[field]
    u = (stratum + draws.uniform(torch.empty(len(valid), device=valid.device), layout)) / count
    number = torch.minimum(1 + (length * u).long(), length)
    scores = draws.uniform(torch.empty(valid.shape, device=valid.device), layout)
    ranks = torch.where(valid, scores, torch.full_like(scores, 2.0)).argsort(1).argsort(1)
    return (ranks < number[:, None]) & valid, number


def _losses(
    state: State, field: str, process: Any, denoise: Denoise, masked: Tensor, number: Tensor, length: Tensor
) -> Tensor:
    """h_n of each row of the repeated batch: (copies, B)."""
    x0 = state[field]
    share = number / (length.repeat(len(number) // len(length)) + 1)  # mean of 1 - alpha given n masked of L
    clock = process.survival.time_at(share.clamp(0, 1)).clamp(0, 1)
    noised = state.put(**{field: torch.where(masked, process.tokens, x0)})
    pred = denoise(noised, {field: clock})[field]
    log_probs = pred.to("logits").double().log_softmax(-1).gather(-1, x0[..., None])[..., 0]
    losses = torch.where(masked, -log_probs, log_probs.new_zeros(())).sum(1) / number.clamp_min(1)
    return losses.reshape(-1, len(length))


def _process(field: str, denoise: Any) -> Any:
    processes = getattr(denoise, "processes", None)
    process = getattr(denoise, "process", None) if processes is None else processes[field]
    if process is None or "masked" not in process.provides():
        name = "none" if process is None else type(process).__name__
        raise UserError(f"order_bound needs a masked process for field '{field}', the denoiser's is {name}")
    return process
