r"""Uniformisation: a jump process as a discrete chain at the times of a Poisson process (Jensen, 1953).

With mu >= max_i -F_ii and U = I + F/mu, P(t) = sum_m Poisson(m; mu t) U^m. Given both ends the number m of events, the
chain and the times (m sorted uniforms) can be drawn exactly (Fearnhead and Sherlock, 2006; Hobolth and Stone, 2009);
events of U that stay where they are, are no jumps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.jump_paths import JumpPaths
from sciflow.core.kernels import pick
from sciflow.core.markov import walk
from sciflow.core.noise import Draws
from sciflow.core.state import Layout

LOG_TAIL = math.log(1e-30)  # of the Poisson law; small entries of P get their digits too


def uniformised(F: Tensor, lags: Tensor) -> Tensor:
    """P(D) for generators (..., S, S) and lags (n,): (..., n, S, S), all terms positive.

    Costs about mu max(D) products of matrices.
    """
    rate, U = _chain(F)
    weights = _poisson(rate[..., None] * lags)  # (..., n, M)
    power = torch.eye(F.shape[-1], dtype=F.dtype, device=F.device).expand_as(F)
    total = torch.zeros_like(weights[..., 0, None, None] * power[..., None, :, :])
    for weight in weights.unbind(-1):
        total = total + weight[..., None, None] * power[..., None, :, :]
        power = power @ U
    return total


def free_events(F: Tensor, start: Tensor, duration: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """Exact paths on [0, duration] as a list of jumps (`JumpPaths.of`): path (N,), time (N,) and state after it (N,).

    Needs no loop over the jumps of a path: for few long paths. Many short ones are cheaper by `solvers.gillespie`.

    Args:
        F: Generator (S, S).
        start: (n,) int64 states at 0.
        duration: ().
        draws: Random numbers, e.g. `Fresh(seed)`.
    """
    paths, layout = len(start), Layout(len(start))
    rate, U = _chain(F)
    table = _poisson(rate * duration.to(F)).cumsum(0)
    events = pick(table.repeat(paths, 1), draws.uniform(F.new_empty(paths, 1), layout)[:, 0])
    longest = int(events.max()) if paths else 0
    u = draws.uniform(F.new_empty(paths, longest, 2), layout)
    states = walk(U.cumsum(1)[None], events.new_zeros(1, longest), start, u[..., 0])
    return _jumps(torch.cat([start[:, None], states], 1), events, u[..., 1], duration.to(F).expand(paths))


def _jumps(states: Tensor, events: Tensor, u: Tensor, duration: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Path, time and state of the events (n,) that change the state; the order statistics of `u` (n, M) are the times.

    `states` (n, M + 1) has the start, and the state after each event.
    """
    counts = torch.arange(u.shape[1], device=u.device) < events[:, None]
    moments = torch.where(counts, u, 1).sort(1).values
    rows, place = (counts & (states[:, 1:] != states[:, :-1])).nonzero(as_tuple=True)
    return rows, moments[rows, place] * duration[rows], states[rows, place + 1]


def bridges(F: Tensor, start: Tensor, end: Tensor, duration: Tensor, draws: Draws) -> JumpPaths:
    """Exact paths on [0, duration] with both ends given, all at once.

    Args:
        F: Generator (S, S).
        start: (n,) int64 states at 0.
        end: (n,) int64 states at `duration`.
        duration: () or (n,), not negative.
        draws: Random numbers, e.g. `Fresh(seed)`.

    Raises:
        UserError: A pair of ends that the chain cannot join in that time.
    """
    paths, layout = len(start), Layout(len(start))
    durations = duration.to(F).expand(paths)
    rate, U = _chain(F)
    weights = _poisson(rate * durations)  # (n, M)
    powers = [torch.eye(len(F), dtype=F.dtype, device=F.device)]
    for _ in range(weights.shape[1] - 1):
        powers.append(powers[-1] @ U)
    table = torch.stack(powers)
    cumulative = (weights * table[:, start, end].T).cumsum(1)
    impossible = (cumulative[:, -1] <= 0).nonzero()[:, 0]
    if len(impossible):
        first = int(impossible[0])
        raise UserError(
            f"bridges: no path leads from state {int(start[first])} to state {int(end[first])} in "
            f"{float(durations[first]):g} (and {len(impossible) - 1} more pairs); give these jumps a positive rate"
        )
    events = pick(cumulative, draws.uniform(durations[:, None], layout)[:, 0])
    longest = int(events.max()) if paths else 0
    u = draws.uniform(F.new_empty(paths, longest, 2), layout)  # by event: the numbers of a path do not depend on others
    states = _chains(U, table, start, end, events, u[..., 0])
    return JumpPaths.of(torch.zeros(()), start, *_jumps(states, events, u[..., 1], durations), durations)


def _chains(U: Tensor, powers: Tensor, start: Tensor, end: Tensor, events: Tensor, u: Tensor) -> Tensor:
    """States (n, longest + 1) of the discrete chains with `events` (n,) steps from `start` to `end`; then the end.

    The next state has the law U[x, k] (U^(r - 1))[k, end] with r steps to go.
    """
    order = events.argsort(descending=True, stable=True)
    going = (events[:, None] > torch.arange(u.shape[1], device=u.device)).sum(0).tolist()  # paths with a step l
    x, goal, steps = start[order], end[order], events[order]
    states = goal[:, None].repeat(1, u.shape[1] + 1)
    states[:, 0], u = x, u[order]
    for l, count in enumerate(going):  # the longest come first: those still going are a prefix
        x = x[:count]
        law = U[x] * powers[steps[:count] - l - 1, :, goal[:count]]
        x = pick(law.cumsum(1), u[:count, l])
        states[:count, l + 1] = x
    return torch.empty_like(states).index_copy_(0, order, states)


def _chain(F: Tensor) -> tuple[Tensor, Tensor]:
    """mu (...) and U (..., S, S)."""
    rate = (-F.diagonal(dim1=-2, dim2=-1)).amax(-1).clamp_min(1e-300)
    eye = torch.eye(F.shape[-1], dtype=F.dtype, device=F.device)
    return rate, (eye + F / rate[..., None, None]).clamp_min(0)


def _poisson(mean: Tensor) -> Tensor:
    """Weights of 0, 1, ... for means (...): (..., M), with a tail below 1e-30 for the largest of them."""
    largest = float(mean.detach().max()) if mean.numel() else 0.0
    terms = max(1, math.ceil(largest))
    while largest and terms * (1 + math.log(largest / terms)) - largest > LOG_TAIL:  # Chernoff: log P(m >= terms)
        terms += 1
    m = torch.arange(terms, dtype=mean.dtype, device=mean.device)
    mean = mean[..., None]
    some = torch.where(mean > 0, mean, 1.0)  # derivatives at mean 0 (two observations at one time) stay finite
    return torch.where(mean > 0, (m * some.log() - some - torch.lgamma(m + 1)).exp(), (m == 0).to(mean))
