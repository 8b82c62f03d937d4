"""Pooled statistics of paths: counts of observed pairs of labels by lag, and expectations that they imply.

The pairs (y(t), y(t + lag)) of neighbouring observations, and of observations 2 and 4 apart, are counted by lag.
Lags are pooled in bins of half an octave, each stands for its mean lag (exact on regular grids). For chains observed
without noise, the counts of neighbours are sufficient; with label noise the longer strides tell a wrong label (gone in
the next observation) from a jump. After this one pass nothing depends on the number of paths and observations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.core.markov import generator
from sciflow.domains.jumps.batch import PathBatch, pairs

STRIDES = (1, 2, 4)
OCTAVES, PER_OCTAVE = 16, 2
BINS = OCTAVES * PER_OCTAVE + 1


@dataclass(frozen=True, eq=False)
class Pooled:
    """Statistics of B systems. Times are in units of `window`, so that nothing else depends on the unit of time.

    Attributes:
        counts: (B, N, S, S) float64 numbers of pairs by lag bin, first label x second label; empty bins are 0.
        lags: (B, N) their mean lags.
        strides: (B, N) int64 places in STRIDES.
        used: (B, N) bool, bins that are not empty.
        returns: (B, S, S) triples i, j, i of neighbouring observations, i != j.
        first: (B, S) counts of first labels of paths that start from the initial law.
        window: (B,) longest duration of a path, in the unit of the data.
        paths: (B,) numbers of paths.
        observations: (B,) numbers of observations.
        n_states: (B,) numbers of states.
    """

    counts: Tensor
    lags: Tensor
    strides: Tensor
    used: Tensor
    returns: Tensor
    first: Tensor
    window: Tensor
    paths: Tensor
    observations: Tensor
    n_states: Tensor


def pool(batch: PathBatch) -> Pooled:
    """Count. Cost: a few passes over the observations."""
    number, size = len(batch), batch.size
    states, lengths = batch.states.to(torch.int32), batch.lengths
    device = states.device
    valid = torch.arange(states.shape[-1], device=device) < lengths[..., None]
    ends = batch.times.expand(states.shape).gather(-1, (lengths[..., None] - 1).clamp_min(0))[..., 0]
    window = ((ends - batch.times[..., 0]) * (lengths > 0)).amax(-1)
    window = torch.where(window > 0, window, 1.0)
    system = torch.arange(number, dtype=torch.int32, device=device)[:, None, None]
    counts, lags = [], []
    for stride in STRIDES:
        lag = (batch.times[..., stride:] - batch.times[..., :-stride]) / window[:, None, None]
        used = valid[..., stride:] & (lag > 0)
        bins = (0.37 - PER_OCTAVE * lag.float().clamp_min(1e-9).log2()).floor().to(torch.int32).clamp(0, BINS - 1)
        place = system * BINS + bins
        cells = place * size**2 + (states[..., :-stride] * size + states[..., stride:])
        counts.append(_histogram(cells, used, number * BINS * size**2))
        share = used.sum(1, keepdim=True) if len(lag[0]) == 1 else used  # a shared grid is counted once
        lags.append(torch.bincount(place.flatten(), (lag * share).flatten(), minlength=number * BINS))
    back = states[..., 2:] == states[..., :-2]
    triple = valid[..., 2:] & back & (states[..., 1:-1] != states[..., :-2])
    cells = (system * size + states[..., :-2]) * size + states[..., 1:-1]
    returns = _histogram(cells, triple, number * size**2).view(number, size, size)
    begun = (lengths > 0) & batch.starts
    first = _histogram(system[..., 0] * size + states[..., 0], begun, number * size)
    table, mean_lags, strides, filled = _compact(counts, lags, number, size)
    return Pooled(
        table,
        mean_lags,
        strides,
        filled,
        returns.double(),
        first.view(number, size).double(),
        window,
        (lengths > 0).sum(-1),
        lengths.sum(-1),
        batch.n_states,
    )


def _histogram(cells: Tensor, used: Tensor, number: int) -> Tensor:
    """How often each of `number` cells occurs among the used entries."""
    return torch.bincount(torch.where(used, cells, number).flatten(), minlength=number + 1)[:number]


def _compact(counts: list[Tensor], lags: list[Tensor], number: int, size: int) -> tuple[Tensor, ...]:
    """Used bins of each system first, cut to the largest number of used bins."""
    table = torch.stack([one.view(number, BINS, size, size) for one in counts], 1).flatten(1, 2)
    total = table.sum((2, 3))
    mean = torch.stack([one.view(number, BINS) for one in lags], 1).flatten(1) / total.clamp_min(1)
    order = (total > 0).byte().argsort(dim=1, descending=True, stable=True)[:, : max(1, int((total > 0).sum(1).max()))]
    table = table.gather(1, order[..., None, None].expand(-1, -1, size, size)).double()
    mean = torch.where(total > 0, mean, 1.0).gather(1, order)
    return table, mean, order // BINS, total.gather(1, order) > 0


@dataclass(frozen=True, eq=False)
class Expectation:
    """Result of `expectation`, times in units of the window.

    Attributes:
        rates: (B, S, S) off the diagonal; 0 on it and for padding.
        jumps: (B, S, S) expected numbers of jumps.
        dwell: (B, S) expected total time in each state.
        mean: (B,) overall rate of an edge, the mean of the Gamma prior.
    """

    rates: Tensor
    jumps: Tensor
    dwell: Tensor
    mean: Tensor


def expectation(
    pooled: Pooled, noise: Tensor, shares: Sequence[float], rounds: int, start: Tensor | None = None
) -> Expectation:
    """A fixed number of EM rounds on pair counts with known noise (specification, section 10.4, with emissions).

    The hidden pair (c, d) of a bin has law q_c P_cd(lag); a label is replaced with probability `noise` by a uniform
    state. Rates have the prior Gamma(1/2, 1/(2 m)) with m the overall rate of an edge.

    Args:
        pooled: The counts.
        noise: (B,) replacement probabilities.
        shares: Share of the observed time that pairs of each stride account for, summing to 1.
        rounds: Number of EM rounds.
        start: (B, S, S) first rates in place of those of counts without their noise.
    """
    by_stride = [share / stride for share, stride in zip(shares, STRIDES, strict=True)]
    weights = pooled.counts.new_tensor(by_stride)[pooled.strides] * pooled.used
    bins = max(1, int((weights > 0).sum(1).max()))
    order = (weights > 0).byte().argsort(dim=1, descending=True, stable=True)[:, :bins]
    counts = (pooled.counts * weights[..., None, None])[torch.arange(len(order), device=order.device)[:, None], order]
    lags = pooled.lags.gather(1, order)[..., None, None]
    edges = pairs(pooled.n_states, counts.shape[-1]).double()
    emission = labelling(noise, pooled.n_states, counts.shape[-1])[:, None]
    clean = labelling(-noise / (1 - noise), pooled.n_states, counts.shape[-1])[:, None]  # the inverse of the emission
    hidden = (clean.mT @ counts @ clean).clamp_min(0)
    jumps, dwell = hidden.sum(1) * edges, (hidden * lags).sum((1, 3))
    rates, mean = _update(jumps, dwell, edges, pooled.n_states)
    rates, law = rates if start is None else start, _normalised(hidden.sum(-1))
    for _ in range(rounds):
        drift = generator(rates).mT[:, None] * lags
        move = torch.matrix_exp(drift).mT
        joint = law[..., None] * move
        seen = emission.mT @ joint @ emission
        posterior = joint * (emission @ (counts / seen.clamp_min(1e-30)) @ emission.mT)
        law = _normalised(posterior.sum(-1))
        spent = _spent(drift, posterior / move.clamp_min(1e-30) * (posterior > 0) * lags).sum(1)
        jumps, dwell = rates * spent, spent.diagonal(dim1=-2, dim2=-1)
        rates, mean = _update(jumps, dwell, edges, pooled.n_states)
    return Expectation(rates, jumps, dwell, mean)


def _spent(drift: Tensor, ratio: Tensor) -> Tensor:
    """M: upper right block of exp [[F^T D, W D], [0, F^T D]], W = posterior / P."""
    size, scale = drift.shape[-1], ratio.amax((-1, -2), keepdim=True).clamp_min(1e-30)
    block = torch.cat([torch.cat([drift, ratio / scale], -1), torch.cat([torch.zeros_like(drift), drift], -1)], -2)
    return torch.matrix_exp(block)[..., :size, size:] * scale


def labelling(noise: Tensor, n_states: Tensor, size: int) -> Tensor:
    """Probabilities (B, S, S) of a label (column) given the state (row); `noise` (B,) replacement probabilities."""
    real = (torch.arange(size, device=n_states.device) < n_states[:, None]).double()
    p = noise.double()[:, None, None]
    return (1 - p) * torch.diag_embed(real) + p / n_states[:, None, None] * real[:, :, None] * real[:, None, :]


def _update(jumps: Tensor, dwell: Tensor, edges: Tensor, n_states: Tensor) -> tuple[Tensor, Tensor]:
    mean = (jumps.sum((1, 2)) + 0.5) / ((n_states - 1) * (dwell.sum(1) + 0.5))
    return (jumps + 0.5) / (dwell[..., None] + 0.5 / mean[:, None, None]) * edges, mean


def _normalised(law: Tensor) -> Tensor:
    return law / law.sum(-1, keepdim=True).clamp_min(1e-30)
