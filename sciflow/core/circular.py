r"""The circle: von Mises laws vM(m, k) with density exp(k cos(x - m))/(2 pi I0(k)), in radians.

    A(k) = I1(k)/I0(k)                       mean resultant length
    A2(k) = I2(k)/I0(k) = 1 - 2 A(k)/k       second resultant
    H(k) = log(2 pi I0(k)) - k A(k)          entropy; H(0) = log 2 pi, negative for large k

Scaled Bessel functions keep every k finite; H cancels badly in float32, so everything here computes in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

POINTS = 2048  # of the tabulated distribution function; the error of a quantile is below 1e-5 of the law's width


def mean_resultant(concentration: Tensor) -> Tensor:
    """A(k), k >= 0."""
    k = concentration.double()
    return torch.special.i1e(k) / torch.special.i0e(k)


def second_resultant(concentration: Tensor) -> Tensor:
    """A2(k), k >= 0; k^2/8 for small k, where the difference cancels."""
    k = concentration.double()
    safe = k.clamp_min(1e-3)
    return torch.where(k < 1e-3, k**2 / 8, 1 - 2 * mean_resultant(safe) / safe)


def entropy(concentration: Tensor) -> Tensor:
    """H(k) in nats."""
    k = concentration.double()
    return math.log(2 * math.pi) + torch.special.i0e(k).log() + k - k * mean_resultant(k)


def entropy_slope(concentration: Tensor) -> Tensor:
    """dH/dk = -k A'(k) = -(k (1 - A^2) - A)."""
    k = concentration.double()
    a = mean_resultant(k)
    return torch.where(k < 1e-3, -k / 2, a - k * (1 - a**2))


def solve(function: Callable[[Tensor], Tensor], target: Tensor, high: float) -> Tensor:
    """k in [0, high] with function(k) = target for a monotone function, by bisection to the last bits of float64."""
    target = target.double()
    ends = function(torch.tensor([0.0, high], dtype=torch.float64))
    rising = bool(ends[1] > ends[0])
    below, above = torch.zeros_like(target), torch.full_like(target, high)
    for _ in range(80):
        middle = (below + above) / 2
        low = (function(middle) < target) == rising
        below, above = torch.where(low, middle, below), torch.where(low, above, middle)
    return (below + above) / 2


def von_mises(concentration: Tensor, u: Tensor, index: Tensor | None = None) -> Tensor:
    """Quantiles of vM(0, k): the inverse distribution function, so that one uniform makes one draw.

    The distribution function is tabulated in v, x = 2 atan(w tan(v/2)) with w = (1 + k)^(-1/2), in which the density
    has a width of about 1 for every k.

    Args:
        concentration: (J,) k >= 0.
        u: (J, M) uniforms in (0, 1), or (rows, M) with an index.
        index: (rows,) which concentration each row has; None: row j has the j-th.

    Returns:
        Angles in [-pi, pi] shaped like u, float64.
    """
    k = concentration.double()[:, None]
    width = (1 + k).rsqrt()
    v = torch.linspace(-math.pi, math.pi, POINTS + 1, dtype=torch.float64, device=k.device)
    x = 2 * torch.atan2(width * (v / 2).sin(), (v / 2).cos())
    density = (k * (x.cos() - 1)).exp() * width / ((v / 2).cos() ** 2 + (width * (v / 2).sin()) ** 2)
    cumulative = torch.cat([torch.zeros_like(k), (density[:, 1:] + density[:, :-1]).cumsum(1)], 1)
    cumulative = cumulative / cumulative[:, -1:]
    row = (torch.arange(len(k), device=k.device) if index is None else index)[:, None]
    start = row * (POINTS + 1)
    # the J functions one after the other as ONE increasing sequence from 0 to J: no copy of a table per row
    flat = (cumulative + torch.arange(len(k), device=k.device)[:, None]).flatten()
    right = torch.searchsorted(flat, (u.double() + row).contiguous()) - start
    right = right.clamp(1, POINTS)
    flat = cumulative.flatten()
    low, high = flat[start + right - 1], flat[start + right]
    share = (u.double() - low) / (high - low).clamp_min(1e-300)
    v = (right - 1 + share.clamp(0, 1)) * (2 * math.pi / POINTS) - math.pi
    width = width[row[:, 0]]
    return 2 * torch.atan2(width * (v / 2).sin(), (v / 2).cos())
