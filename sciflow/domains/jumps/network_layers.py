"""Inputs and layers of the pair network. All inputs are free of units; large counts saturate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sciflow.core.markov import generator
from sciflow.domains.jumps.pooling import STRIDES, Expectation, Pooled, labelling
from sciflow.domains.jumps.prior import stationary

MOST = 1000.0  # counts of paths above this look alike: more data shows in deviations only


class PairLayer(nn.Module):
    """Residual message passing over ordered pairs (i, j); node i is the pair (i, i).

    A pair hears itself, (j, i), (i, i), (j, j), the means of row i, column j and of all, and the paths
    i -> k -> j, the mean over k of (A h_ik) * (B h_kj).

    Args:
        hidden: Width.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.own, self.reverse, self.source, self.target, self.row, self.column, self.whole, self.through = (
            nn.Linear(hidden, 2 * hidden, bias=place == 0) for place in range(8)
        )
        self.left, self.right = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.out = nn.Linear(2 * hidden, hidden)

    def forward(self, pairs: Tensor, mask: Tensor, n_states: Tensor) -> Tensor:
        """`pairs` (B, S, S, d), `mask` (B, S, S) 1 for real pairs, `n_states` (B,)."""
        x = self.norm(pairs) * mask[..., None]
        count = n_states[:, None, None].to(x)
        row, column = x.sum(2) / count, x.sum(1) / count
        nodes = x.diagonal(dim1=1, dim2=2).mT
        left, right = self.left(x) * mask[..., None], self.right(x) * mask[..., None]
        through = torch.einsum("bikd,bkjd->bijd", left, right) / count[..., None]
        by_row = self.source(nodes) + self.row(row) + self.whole(row.sum(1, keepdim=True) / count)
        by_column = self.target(nodes) + self.column(column)
        heard = self.own(x) + self.reverse(x.transpose(1, 2)) + self.through(through)
        return pairs + self.out(nn.functional.silu(heard + by_row[:, :, None] + by_column[:, None, :]))


def noise_features(pooled: Pooled) -> Tensor:
    """Invariants (B, f) that tell wrong labels from jumps: disagreement at each stride, and immediate returns."""
    disagree, lags, table = _disagreement(pooled)
    gap = (lags[:, 1:] - lags[:, :-1]).clamp_min(1e-6)
    intercepts = (disagree[:, :-1] * lags[:, 1:] - disagree[:, 1:] * lags[:, :-1]) / gap  # extrapolated to lag 0
    neighbours = table[:, 0]
    moved = neighbours.sum((1, 2)) - neighbours.diagonal(dim1=1, dim2=2).sum(-1)
    back = pooled.returns.sum((1, 2))
    onward = neighbours / neighbours.sum(-1, keepdim=True).clamp_min(1)
    off = neighbours - torch.diag_embed(neighbours.diagonal(dim1=1, dim2=2))
    expected = (off * onward.mT).sum((1, 2))
    returned = (back / moved.clamp_min(1), expected / moved.clamp_min(1), (back - expected) / (moved + 1))
    shapes = [
        disagree * 3,
        (disagree + 0.002).log() / 2,
        intercepts * 10,
        torch.asinh(intercepts * 200) / 3,
        lags.clamp_min(1e-6).log() / 2,
        torch.stack([*returned, (back + 0.3).log() / 4 - (moved + 0.3).log() / 4], 1),
        torch.stack([(moved + 0.5).log() / 4, 1 / (moved + 0.5).sqrt(), pooled.n_states / 4.0, _paths(pooled)], 1),
        (pooled.observations.double() / 10).log()[:, None] / 5,
    ]
    return torch.cat(shapes, 1).clamp(-6, 6).float()


def edge_features(pooled: Pooled, near: Expectation, far: Expectation, base: Tensor, noise: Tensor) -> Tensor:
    """Of ordered pairs, (B, S, S, f); meaningless on the diagonal."""
    log_base = base.clamp_min(1e-12).log()
    jumps, table, expected = near.jumps, _table(pooled), _expected(pooled, base, noise)
    change = far.rates.clamp_min(1e-12).log() - near.rates.clamp_min(1e-12).log()
    residual = torch.asinh((table - expected) / (expected + 1).sqrt()) / 2
    smooth = 0.1 * pooled.n_states[:, None, None, None]
    onward = (table + 0.1) / (table.sum(-1, keepdim=True) + smooth)
    returned = (pooled.returns + 0.3).log() - (table[:, 0] * onward[:, 0].mT + 0.3).log()
    mean = near.mean[:, None, None].log()
    pieces = [
        log_base / 3,
        (log_base - mean) / 2,
        (jumps + 0.1).clamp_max(MOST).log() / 3,
        1 / (jumps + 0.5).sqrt(),
        near.dwell[..., None].expand_as(jumps).clamp(1e-3, MOST).log() / 3,
        change,
        torch.asinh(change * (jumps + 0.5).sqrt()) / 2,
        returned / 2,
        *residual.unbind(1),
        *(onward.log() / 4).unbind(1),
        (near.jumps.mT + 0.1).clamp_max(MOST).log() / 3,
    ]
    return torch.stack(pieces, -1).clamp(-6, 6).float()


def node_features(pooled: Pooled, near: Expectation, base: Tensor) -> Tensor:
    """Of states, (B, S, f)."""
    count = pooled.n_states[:, None].double()
    share = near.dwell / near.dwell.sum(1, keepdim=True).clamp_min(1e-9) * count
    first = (pooled.first + 0.1) / (pooled.first.sum(1, keepdim=True) + 0.1 * count) * count
    law = stationary(base, pooled.n_states).clamp_min(0) * count
    pieces = [
        (share + 0.03).log(),
        (first + 0.03).log(),
        (law + 0.03).log(),
        law - share,
        first - law,
        near.dwell.clamp(1e-3, MOST).log() / 3,
        base.sum(-1).clamp_min(1e-6).log() / 2,
        (near.jumps.sum(-1) + 0.1).clamp_max(MOST).log() / 3,
        (near.jumps.sum(-2) + 0.1).clamp_max(MOST).log() / 3,
        (pooled.first.sum(1, keepdim=True).expand_as(first) + 1).clamp_max(MOST).log() / 3,
    ]
    return torch.stack(pieces, -1).clamp(-6, 6).float()


def global_features(pooled: Pooled, near: Expectation, noise: Tensor, invariants: Tensor) -> Tensor:
    """Of the system, (B, f)."""
    jumps = near.jumps.sum((1, 2)) / pooled.n_states
    pieces = [
        _paths(pooled),
        (jumps + 0.1).clamp_max(MOST).log() / 3,
        near.mean.log() / 3,
        (noise.double() + 1e-3).log() / 3,
        noise * 5,
        pooled.n_states / 4.0,
    ]
    return torch.cat([torch.stack([one.double() for one in pieces], 1).clamp(-6, 6).float(), invariants], 1)


def _paths(pooled: Pooled) -> Tensor:
    return (1 + pooled.paths.double()).clamp_max(MOST).log() / 3


def _table(pooled: Pooled) -> Tensor:
    """Pairs of labels by stride, (B, strides, S, S)."""
    number, _, size, _ = pooled.counts.shape
    table = pooled.counts.new_zeros(number, len(STRIDES), size, size)
    return table.scatter_add(1, pooled.strides[..., None, None].expand_as(pooled.counts), pooled.counts)


def _disagreement(pooled: Pooled) -> tuple[Tensor, Tensor, Tensor]:
    """Share of pairs of different labels and mean lag by stride, each (B, strides), and the table of pairs."""
    table = _table(pooled)
    total = table.sum((2, 3))
    spent = (pooled.counts.sum((2, 3)) * pooled.lags * pooled.used).double()
    lags = torch.zeros_like(total).scatter_add(1, pooled.strides, spent) / total.clamp_min(1)
    same = table.diagonal(dim1=2, dim2=3).sum(-1)
    return (total - same) / total.clamp_min(1), lags, table


def _expected(pooled: Pooled, rates: Tensor, noise: Tensor) -> Tensor:
    """Pairs by stride (B, strides, S, S) that the rates imply, given the first labels."""
    size = rates.shape[-1]
    move = torch.matrix_exp(generator(rates)[:, None] * pooled.lags[..., None, None])
    emission = labelling(noise, pooled.n_states, size)[:, None]
    clean = labelling(-noise / (1 - noise), pooled.n_states, size)[:, None]  # the inverse of the emission
    hidden = (pooled.counts.sum(-1, keepdim=True).mT @ clean).clamp_min(0)
    joint = emission.mT @ (hidden.mT * move) @ emission
    table = joint.new_zeros(len(rates), len(STRIDES), size, size)
    return table.scatter_add(1, pooled.strides[..., None, None].expand_as(joint), joint)
