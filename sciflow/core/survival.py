r"""Survival schedules of discrete processes: alpha(t) = P(a token is still the clean one by survival), 1 at data.

With the total noise sigma(t), alpha = exp(-sigma) and the forward rate is beta = sigma'. A masked token of an absorbing
process is revealed at the rate -alpha'/(1 - alpha), whatever the data (Sahoo et al. 2024, "Simple and effective masked
diffusion language models"; Lou et al. 2024, "Discrete diffusion modeling by estimating the ratios of the data
distribution"). The primary function is 1 - alpha (`lost`), which keeps its relative accuracy near t = 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError


class Survival(Configurable, ABC):
    """A falling function alpha of the clock in [0, 1]; tensors in, tensors of that shape out."""

    @abstractmethod
    def lost(self, t: Tensor) -> Tensor:
        """1 - alpha(t)."""

    @abstractmethod
    def slope(self, t: Tensor) -> Tensor:
        """-alpha'(t) >= 0."""

    @abstractmethod
    def time_at(self, lost: Tensor) -> Tensor:
        """The clock at which 1 - alpha has the given value; below 0 where alpha(0) is smaller than asked for."""

    def alpha(self, t: Tensor) -> Tensor:
        """Survival probability."""
        return 1 - self.lost(t)

    def beta(self, t: Tensor) -> Tensor:
        """Forward rate -alpha'/alpha."""
        return self.slope(t) / self.alpha(t)

    def unmask_rate(self, t: Tensor) -> Tensor:
        """-alpha'/(1 - alpha): reverse rate of a masked token, and weight of the NELBO."""
        return self.slope(t) / self.lost(t)


class LogLinear(Survival):
    """alpha = 1 - (1 - eps) t; `unmask_rate` is 1/t for every eps.

    Args:
        eps: alpha(1); 0 is the plain alpha = 1 - t. Uniform processes need eps > 0, their rate is beta = -alpha'/alpha.
    """

    def __init__(self, eps: float = 1e-3) -> None:
        self.eps = _fraction(eps)

    def lost(self, t: Tensor) -> Tensor:
        """(1 - eps) t."""
        return (1 - self.eps) * t

    def slope(self, t: Tensor) -> Tensor:
        """1 - eps."""
        return torch.full_like(t, 1 - self.eps)

    def time_at(self, lost: Tensor) -> Tensor:
        """lost/(1 - eps)."""
        return lost / (1 - self.eps)


class _Noise(Survival):
    """alpha = exp(-sigma) with the total noise sigma given."""

    def __init__(self, sigma_min: float = 1e-4, sigma_max: float = 20.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise UserError(f"need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Total noise."""

    def lost(self, t: Tensor) -> Tensor:
        """1 - exp(-sigma)."""
        return -torch.expm1(-self.sigma(t))

    def alpha(self, t: Tensor) -> Tensor:
        """exp(-sigma)."""
        return torch.exp(-self.sigma(t))

    def slope(self, t: Tensor) -> Tensor:
        """beta exp(-sigma)."""
        return self.beta(t) * self.alpha(t)


class Linear(_Noise):
    """sigma = sigma_min + t (sigma_max - sigma_min)."""

    def sigma(self, t: Tensor) -> Tensor:
        """Linear in the clock."""
        return self.sigma_min + t * (self.sigma_max - self.sigma_min)

    def beta(self, t: Tensor) -> Tensor:
        """sigma_max - sigma_min."""
        return torch.full_like(t, self.sigma_max - self.sigma_min)

    def time_at(self, lost: Tensor) -> Tensor:
        """(-log alpha - sigma_min)/(sigma_max - sigma_min)."""
        return (-torch.log1p(-lost) - self.sigma_min) / (self.sigma_max - self.sigma_min)


class Geometric(_Noise):
    """sigma = sigma_min^(1-t) sigma_max^t."""

    def sigma(self, t: Tensor) -> Tensor:
        """Geometric in the clock."""
        return self.sigma_min * torch.exp(t * self._log_ratio)

    def beta(self, t: Tensor) -> Tensor:
        """sigma log(sigma_max/sigma_min)."""
        return self.sigma(t) * self._log_ratio

    def time_at(self, lost: Tensor) -> Tensor:
        """log(-log alpha/sigma_min)/log(sigma_max/sigma_min)."""
        return torch.log(-torch.log1p(-lost) / self.sigma_min) / self._log_ratio

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)


class Cosine(Survival):
    """alpha = eps + (1 - eps) cos(pi t/2)."""

    def __init__(self, eps: float = 1e-3) -> None:
        self.eps = _fraction(eps)

    def lost(self, t: Tensor) -> Tensor:
        """2 (1 - eps) sin(pi t/4)^2."""
        return 2 * (1 - self.eps) * torch.sin(math.pi / 4 * t) ** 2

    def slope(self, t: Tensor) -> Tensor:
        """(pi/2) (1 - eps) sin(pi t/2)."""
        return math.pi / 2 * (1 - self.eps) * torch.sin(math.pi / 2 * t)

    def time_at(self, lost: Tensor) -> Tensor:
        """(4/pi) arcsin sqrt(lost/(2 (1 - eps)))."""
        return 4 / math.pi * torch.arcsin((lost / (2 * (1 - self.eps))).clamp(0, 1).sqrt())


class CosineSquared(Survival):
    """alpha = eps + (1 - eps) cos(pi t/2)^2."""

    def __init__(self, eps: float = 1e-3) -> None:
        self.eps = _fraction(eps)

    def lost(self, t: Tensor) -> Tensor:
        """(1 - eps) sin(pi t/2)^2."""
        return (1 - self.eps) * torch.sin(math.pi / 2 * t) ** 2

    def slope(self, t: Tensor) -> Tensor:
        """(pi/2) (1 - eps) sin(pi t)."""
        return math.pi / 2 * (1 - self.eps) * torch.sin(math.pi * t)

    def time_at(self, lost: Tensor) -> Tensor:
        """(2/pi) arcsin sqrt(lost/(1 - eps))."""
        return 2 / math.pi * torch.arcsin((lost / (1 - self.eps)).clamp(0, 1).sqrt())


def _fraction(eps: float) -> float:
    if not 0 <= eps < 1:
        raise UserError(f"eps is the survival probability at t = 1: need 0 <= eps < 1, got {eps}")
    return eps
