"""Spaces: the geometry of a field, so that processes are written once.

`add` is the exponential map, `diff` the logarithm map, `project` puts a tensor into the space (mask, symmetry, centre
of mass), `noise` is a standard normal in it, `dim` its number of free coordinates per sample.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.core.noise import Draws
from sciflow.core.state import Layout


class Euclidean(Configurable):
    """R^n with padding: masked entries are zero."""

    def project(self, x: Tensor, layout: Layout) -> Tensor:
        """Nearest point of the space: (rows, ...) -> (rows, ...)."""
        return x if layout.mask is None else x * layout.mask

    def add(self, x: Tensor, v: Tensor) -> Tensor:
        """Exponential map: the point reached from `x` along `v`."""
        return x + v

    def diff(self, x: Tensor, y: Tensor) -> Tensor:
        """Logarithm map: the shortest step from `x` to `y`."""
        return y - x

    def noise(self, like: Tensor, layout: Layout, draws: Draws) -> Tensor:
        """Standard normal of the space, shaped like `like`."""
        return self.project(draws.normal(like, layout), layout)

    def gradient(self, derivative: Tensor, layout: Layout) -> Tensor:
        """Tangent vector of steepest ascent from the derivative by the entries (automatic differentiation)."""
        return Euclidean.project(self, derivative, layout)

    def reduce(self, entries: Tensor, layout: Layout) -> Tensor:
        """Sum over the free coordinates of each sample, every one counted once: (B,)."""
        return layout.per_sample(entries)

    def dim(self, like: Tensor, layout: Layout) -> Tensor:
        """Number of free coordinates of each sample: (B,)."""
        return self.reduce(torch.ones_like(like), layout)

    def gaussian_score(self, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Gradient of log N(x; mean, std^2) in the space."""
        return self.diff(x, mean) / std**2


class ZeroCoM(Euclidean):
    """Points whose mean over the rows of a sample (ragged), or over dimension 1 (dense), is zero.

    Dimensions between the rows and the last one (frames of a trajectory) are averaged too: one centre per sample.
    """

    def project(self, x: Tensor, layout: Layout) -> Tensor:
        """Subtract the centre of mass of every sample; masked entries do not count and stay zero."""
        middle = tuple(range(1, x.ndim - 1))
        if layout.index is None:
            weight = torch.ones_like(x[..., :1]) if layout.mask is None else layout.mask.expand_as(x[..., :1])
            mean = (x * weight).sum(middle, keepdim=True) / weight.sum(middle, keepdim=True)
            return (x - mean) * weight
        frame_mean = x.mean(middle, keepdim=True) if middle else x
        total = x.new_zeros(layout.batch, *frame_mean.shape[1:]).index_add(0, layout.index, frame_mean)
        count = x.new_zeros(layout.batch).index_add(0, layout.index, x.new_ones(x.shape[0]))
        return x - layout.rows(1 / count, total[layout.index]) * total[layout.index]

    def gradient(self, derivative: Tensor, layout: Layout) -> Tensor:
        """Without its component along the centre of mass."""
        return self.project(derivative, layout)

    def dim(self, like: Tensor, layout: Layout) -> Tensor:
        """n d - d: the centre of mass is not free."""
        return super().dim(like, layout) - like.shape[-1]


class Torus(Euclidean):
    """Coordinates modulo `period`, in [0, period)."""

    def __init__(self, period: float = 1.0) -> None:
        if period <= 0:
            raise UserError(f"period must be positive, got {period}")
        self.period = period

    def project(self, x: Tensor, layout: Layout) -> Tensor:
        """Wrap into [0, period)."""
        return super().project(torch.remainder(x, self.period), layout)

    def noise(self, like: Tensor, layout: Layout, draws: Draws) -> Tensor:
        """Tangent noise: a plain normal, not wrapped."""
        return Euclidean.project(self, draws.normal(like, layout), layout)

    def add(self, x: Tensor, v: Tensor) -> Tensor:
        """Step and wrap."""
        return torch.remainder(x + v, self.period)

    def diff(self, x: Tensor, y: Tensor) -> Tensor:
        """Shortest signed step, in [-period/2, period/2)."""
        return torch.remainder(y - x + self.period / 2, self.period) - self.period / 2

    def gaussian_score(self, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Score of the wrapped normal, summed over as many images as 12 digits need up to std = period."""
        images = torch.arange(-8, 9, dtype=x.dtype, device=x.device) * self.period
        steps = self.diff(x, mean)[..., None] + images  # (rows, ..., images)
        variance = torch.as_tensor(std, dtype=x.dtype, device=x.device)[..., None] ** 2
        return ((-(steps**2) / (2 * variance)).softmax(-1) * steps / variance).sum(-1)


class SymmetricMatrix(Euclidean):
    """Symmetric matrices with zero diagonal over dimensions 1 and 2, optional channels behind: (B, N, N[, K]).

    Each pair is ONE coordinate that is stored twice (GDSS, section 3): noise is drawn for the upper triangle.
    """

    def project(self, x: Tensor, layout: Layout) -> Tensor:
        """Mirror the strict upper triangle, zero the diagonal, apply the mask."""
        upper = torch.ones(x.shape[1], x.shape[2], dtype=x.dtype, device=x.device).triu(1)
        x = x * upper.reshape(1, *upper.shape, *[1] * (x.ndim - 3))
        return super().project(x + x.transpose(1, 2), layout)

    def noise(self, like: Tensor, layout: Layout, draws: Draws) -> Tensor:
        """One standard normal per pair."""
        return self.project(draws.upper_normal(like, layout), layout)

    def gradient(self, derivative: Tensor, layout: Layout) -> Tensor:
        """A pair is one coordinate stored twice: both entries contribute."""
        return self.project(derivative + derivative.transpose(1, 2), layout)

    def reduce(self, entries: Tensor, layout: Layout) -> Tensor:
        """Sum over pairs i < j."""
        upper = torch.ones(entries.shape[1], entries.shape[2], dtype=entries.dtype, device=entries.device).triu(1)
        return layout.per_sample(entries * upper.reshape(1, *upper.shape, *[1] * (entries.ndim - 3)))


class Discrete(Configurable):
    """The states 0 .. size-1. Only a label: processes on it bring their own kernels."""

    def __init__(self, size: int) -> None:
        if size < 2:
            raise UserError(f"a discrete space needs at least 2 states, got {size}")
        self.size = size


def log_normalizer(std: Tensor) -> Tensor:
    """log(std sqrt(2 pi)), the per-coordinate normaliser of a Gaussian."""
    return torch.log(std) + 0.5 * math.log(2 * math.pi)
