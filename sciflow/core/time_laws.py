"""Time laws: how training draws clocks. All return (B,) values from uniforms, so that any `Noise` drives them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.core.schedules import Schedule


class TimeLaw(Configurable, ABC):
    """A law of training clocks on [low, 1]; `low` may be a (B,) tensor (a lower bound per sample)."""

    @abstractmethod
    def transform(self, u: Tensor, low: Tensor | float) -> Tensor:
        """Uniforms (B,) -> clocks (B,)."""

    def __init__(self, low: float = 1e-3) -> None:
        self.low = low

    def sample(self, u: Tensor, low: Tensor | None = None) -> Tensor:
        """Clocks for uniforms `u` (B,); `low` (B,) raises the lower bound per sample."""
        return self.transform(u, self.low if low is None else low.clamp_min(self.low))

    def weight(self, t: Tensor) -> Tensor:
        """density of the uniform law divided by density of this law, to keep an expectation unbiased: (B,)."""
        return torch.ones_like(t)


class UniformTime(TimeLaw):
    """t ~ U(low, 1)."""

    def transform(self, u: Tensor, low: Tensor | float) -> Tensor:
        """low + (1 - low) u."""
        return low + (1 - low) * u


class Stratified(TimeLaw):
    """One clock in each of B equal slices of another law: same law per sample, lower variance of the batch mean.

    Args:
        law: The law; uniform by default.
        low: Smallest clock, if no law is given.
    """

    def __init__(self, law: TimeLaw | None = None, low: float = 1e-3) -> None:
        self.law = law if law is not None else UniformTime(low)
        super().__init__(self.law.low)

    def transform(self, u: Tensor, low: Tensor | float) -> Tensor:
        """Slice i of the batch holds (i + u_i)/B; a batch is exchangeable, so the order need not be shuffled."""
        slices = (torch.arange(len(u), device=u.device, dtype=u.dtype) + u) / len(u)
        return self.law.transform(slices, low)

    def weight(self, t: Tensor) -> Tensor:
        """As the law's."""
        return self.law.weight(t)


class Shared(UniformTime):
    """One clock for the whole batch (PaD-TS)."""

    def transform(self, u: Tensor, low: Tensor | float) -> Tensor:
        """The first uniform, for all."""
        return low + (1 - low) * u[:1].expand_as(u)


class LogSNRTime(TimeLaw):
    """lambda = log(alpha/sigma) uniform between its values at `low` and 1.

    Args:
        schedule: The schedule whose lambda is uniform.
        low: Smallest clock.
    """

    def __init__(self, schedule: Schedule, low: float = 1e-3) -> None:
        super().__init__(low)
        self.schedule = schedule

    def transform(self, u: Tensor, low: Tensor | float) -> Tensor:
        """Inverse of lambda by bisection."""
        first = self.schedule.log_snr(torch.as_tensor(low, dtype=torch.float64))
        last = self.schedule.log_snr(torch.ones((), dtype=torch.float64))
        return self.schedule.time_at(first + (last - first) * u.double()).to(u.dtype)

    def weight(self, t: Tensor) -> Tensor:
        """1/((1 - low) density) with density |d lambda/dt|/|lambda range| and d lambda/dt = -g^2/(2 sigma^2)."""
        ends = self.schedule.log_snr(torch.tensor([self.low, 1.0], dtype=torch.float64))
        rate = self.schedule.g2(t) / (2 * self.schedule.variance(t))
        return (ends[0] - ends[1]).to(t) / ((1 - self.low) * rate)


class PowerTime(TimeLaw):
    """t = low + (1 - low) u^exponent: density prop. to (t - low)^(1/exponent - 1)."""

    def __init__(self, exponent: float = 2.0, low: float = 1e-3) -> None:
        super().__init__(low)
        if exponent <= 0:
            raise UserError(f"exponent must be positive, got {exponent}")
        self.exponent = exponent

    def transform(self, u: Tensor, low: Tensor | float) -> Tensor:
        """Power of the uniform."""
        return low + (1 - low) * u**self.exponent

    def weight(self, t: Tensor) -> Tensor:
        """exponent v^(1 - 1/exponent) with v = (t - low)/(1 - low)."""
        v = ((t - self.low) / (1 - self.low)).clamp_min(1e-12)
        return self.exponent * v ** (1 - 1 / self.exponent)


class SineTime(TimeLaw):
    """t = low + (1 - low) (arccos(1 - 2u)/pi)^exponent: few clocks near the ends, where there is little to learn.

    For exponent 1 the density is (pi/2) sin(pi t); larger exponents move it towards data.
    """

    def __init__(self, exponent: float = 1.0, low: float = 1e-3) -> None:
        super().__init__(low)
        if exponent <= 0:
            raise UserError(f"exponent must be positive, got {exponent}")
        self.exponent = exponent

    def transform(self, u: Tensor, low: Tensor | float) -> Tensor:
        """Inverse distribution function."""
        return low + (1 - low) * (torch.arccos(1 - 2 * u) / math.pi) ** self.exponent

    def weight(self, t: Tensor) -> Tensor:
        """exponent v^(1 - 1/exponent) / ((pi/2) sin(pi v^(1/exponent))), v = (t - low)/(1 - low)."""
        v = ((t - self.low) / (1 - self.low)).clamp(1e-6, 1 - 1e-6)
        sine = 0.5 * math.pi * torch.sin(math.pi * v ** (1 / self.exponent))
        return self.exponent * v ** (1 - 1 / self.exponent) / sine
