r"""Analytic schedules: x_t = alpha(t) x0 + sigma(t) z, clock t = 0 data, t = 1 prior.

The forward SDE dx = f x dt + g dW has f = d log(alpha)/dt and g^2 = d sigma^2/dt - 2 f sigma^2 (Kingma et al. 2021;
Song et al. 2021). All are closed forms: automatic differentiation inside the loop would cost 70 times more.

The Gaussian transition of the posterior q(x_s | x_t, x0), s < t, has mean r x_t + c x0 and variance v with
a = alpha_t/alpha_s, r = a sigma_s^2/sigma_t^2, c = alpha_s - r alpha_t, v = sigma_s^2 (1 - a^2 sigma_s^2/sigma_t^2).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError


class Schedule(Configurable, ABC):
    """alpha, sigma and the coefficients of the SDE as functions of the clock; tensors in, tensors of that shape out."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal factor."""

    @abstractmethod
    def variance(self, t: Tensor) -> Tensor:
        """sigma^2, continued analytically below t = 0 (where it may be negative)."""

    def sigma(self, t: Tensor) -> Tensor:
        """Noise standard deviation."""
        return self.variance(t).clamp_min(0).sqrt()

    @abstractmethod
    def f(self, t: Tensor) -> Tensor:
        """d log(alpha)/dt."""

    @abstractmethod
    def g2(self, t: Tensor) -> Tensor:
        """Squared diffusion coefficient, d sigma^2/dt - 2 f sigma^2."""

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(r, c, variance) of q(x_s | x_t, x0) = N(r x_t + c x0, variance), see the module docstring."""
        alpha_t, alpha_s = self.alpha(t), self.alpha(s)
        variance_t, variance_s = self.variance(t).clamp_min(0), self.variance(s).clamp_min(0)
        a = alpha_t / alpha_s
        r = a * variance_s / variance_t
        return r, alpha_s - r * alpha_t, (variance_s * (1 - a * r)).clamp_min(0)

    def linear_step(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """(a, variance) of dx = f x dt + g dW from t to s, in either direction: x_s = a x_t + sqrt(variance) z.

        Towards data this is the linear part of the reverse SDE, whose variance is also |sigma_s^2 - a^2 sigma_t^2|.
        """
        a = self.alpha(s) / self.alpha(t)
        return a, (self.variance(s) - a**2 * self.variance(t)).abs()

    def langevin_alpha(self, t: Tensor, scales: int) -> Tensor:
        """Factor alpha_k in the step of Song's norm-ratio Langevin corrector; 1 unless the schedule has a table."""
        return torch.ones_like(t)

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda = log(alpha/sigma), half the log signal-to-noise ratio; falls with t."""
        return torch.log(self.alpha(t)) - torch.log(self.sigma(t))

    def time_at(self, log_snr: Tensor) -> Tensor:
        """The clock in [0, 1] at which `log_snr` has the given values, by bisection (to be called once per grid)."""
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(60):
            middle = (low + high) / 2
            above = self.log_snr(middle) > log_snr
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return (low + high) / 2

    def discrete_pair(self, t: Tensor, scales: int) -> tuple[Tensor, Tensor]:
        """(F, G) of the reverse-diffusion predictor with a table of `scales` levels (Song et al. 2021, appendix E).

        x_prev = x - F x + G^2 score + G z. Without a table of its own: the Euler pair f/scales, g/sqrt(scales).
        """
        return self.f(t) / scales, (self.g2(t) / scales).sqrt()


class _LinearBeta(Schedule):
    """beta(t) = beta_min + t (beta_max - beta_min), B(t) its integral, alpha = exp(-B/2)."""

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not 0 < beta_min <= beta_max:
            raise UserError(f"need 0 < beta_min <= beta_max, got {beta_min} and {beta_max}")
        self.beta_min, self.beta_max = beta_min, beta_max

    def beta(self, t: Tensor) -> Tensor:
        """Rate beta(t)."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integral(self, t: Tensor) -> Tensor:
        """B(t)."""
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def alpha(self, t: Tensor) -> Tensor:
        """exp(-B/2)."""
        return torch.exp(-0.5 * self.integral(t))

    def f(self, t: Tensor) -> Tensor:
        """-beta/2."""
        return -0.5 * self.beta(t)

    def langevin_alpha(self, t: Tensor, scales: int) -> Tensor:
        """alpha_k = 1 - beta_k of the table."""
        return 1 - self.table_beta(t, scales)

    def table_beta(self, t: Tensor, scales: int) -> Tensor:
        """DDPM's beta_k = linspace(beta_min/n, beta_max/n, n)[k] at k = floor(t (n-1))."""
        k = torch.floor(t * (scales - 1) + 1e-9)
        return (self.beta_min + (self.beta_max - self.beta_min) * k / max(scales - 1, 1)) / scales


class VP(_LinearBeta):
    """Variance preserving, linear beta (Song et al. 2021): sigma^2 = 1 - exp(-B)."""

    def variance(self, t: Tensor) -> Tensor:
        """1 - exp(-B)."""
        return -torch.expm1(-self.integral(t))

    def g2(self, t: Tensor) -> Tensor:
        """beta(t)."""
        return self.beta(t)

    def discrete_pair(self, t: Tensor, scales: int) -> tuple[Tensor, Tensor]:
        """DDPM pair: F = sqrt(1 - beta_k) - 1, G = sqrt(beta_k)."""
        beta = self.table_beta(t, scales)
        return (1 - beta).sqrt() - 1, beta.sqrt()


class DDPM(VP):
    """The table of DDPM (Ho et al. 2020), exact at the clocks k/steps: sigma^2 = 1 - prod_{i <= k} (1 - beta_i).

    beta_i = linspace(beta_min/steps, beta_max/steps, steps), i = 1 .. steps; log alpha is linear between the clocks.
    For models trained with the table; `VP` is its limit for many steps.
    """

    def __init__(self, steps: int = 1000, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        super().__init__(beta_min, beta_max)
        if beta_max >= steps:
            raise UserError(f"beta_max/steps must be below 1, got {beta_max}/{steps}; take more steps")
        self.steps = steps
        table = torch.linspace(beta_min / steps, beta_max / steps, steps, dtype=torch.float64)
        self._integral = torch.cat([torch.zeros(1, dtype=torch.float64), -torch.log1p(-table).cumsum(0)])

    def integral(self, t: Tensor) -> Tensor:
        """-log of the product, linear between its values."""
        table, k = self._integral.to(t.device, t.dtype), self._place(t)
        return table[k] + (t * self.steps - k) * (table[k + 1] - table[k])

    def beta(self, t: Tensor) -> Tensor:
        """Slope of the integral, at a clock k/steps that below it."""
        table, k = self._integral.to(t.device, t.dtype), self._place(t)
        return self.steps * (table[k + 1] - table[k])

    def _place(self, t: Tensor) -> Tensor:
        return (torch.ceil(t * self.steps - 1e-3).long() - 1).clamp(0, self.steps - 1)


class SubVP(_LinearBeta):
    """sub-VP (Song et al. 2021): sigma = 1 - exp(-B), g^2 = beta (1 - exp(-2B))."""

    def variance(self, t: Tensor) -> Tensor:
        """(1 - exp(-B))^2."""
        return torch.expm1(-self.integral(t)) ** 2

    def g2(self, t: Tensor) -> Tensor:
        """beta (1 - exp(-2B))."""
        return -self.beta(t) * torch.expm1(-2 * self.integral(t))


class VE(Schedule):
    """Variance exploding (Song et al. 2021): alpha = 1, sigma = sigma_min (sigma_max/sigma_min)^t."""

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise UserError(f"need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self._log_ratio = math.log(sigma_max / sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def variance(self, t: Tensor) -> Tensor:
        """sigma_min^2 (sigma_max/sigma_min)^(2t); sigma_min^2, not 0, at t = 0."""
        return self.sigma_min**2 * torch.exp(2 * t * self._log_ratio)

    def f(self, t: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(t)

    def g2(self, t: Tensor) -> Tensor:
        """2 sigma^2 log(sigma_max/sigma_min)."""
        return 2 * self._log_ratio * self.variance(t)

    def discrete_pair(self, t: Tensor, scales: int) -> tuple[Tensor, Tensor]:
        """NCSN pair: F = 0, G^2 = sigma_k^2 - sigma_{k-1}^2, and sigma_0^2 at k = 0."""
        k = torch.floor(t * (scales - 1) + 1e-9)
        here, below = self.variance(k / (scales - 1)), self.variance((k - 1) / (scales - 1))
        return torch.zeros_like(t), (here - torch.where(k > 0, below, torch.zeros_like(below))).sqrt()


class Cosine(Schedule):
    """alpha = cos(theta t), sigma = sin(theta t), theta = arccos(alpha_end) (Nichol & Dhariwal 2021, no offset)."""

    def __init__(self, alpha_end: float = 1e-3) -> None:
        if not 0 < alpha_end < 1:
            raise UserError(f"alpha_end must lie in (0, 1), got {alpha_end}")
        self.alpha_end, self._theta = alpha_end, math.acos(alpha_end)

    def alpha(self, t: Tensor) -> Tensor:
        """cos(theta t)."""
        return torch.cos(self._theta * t)

    def variance(self, t: Tensor) -> Tensor:
        """sin(theta t)^2."""
        return torch.sin(self._theta * t) ** 2

    def f(self, t: Tensor) -> Tensor:
        """-theta tan(theta t)."""
        return -self._theta * torch.tan(self._theta * t)

    def g2(self, t: Tensor) -> Tensor:
        """2 theta tan(theta t)."""
        return 2 * self._theta * torch.tan(self._theta * t)


class OU(Schedule):
    """Ornstein-Uhlenbeck dx = -rate x dt + diffusion dW: alpha = exp(-rate t)."""

    def __init__(self, rate: float = 1.0, diffusion: float = math.sqrt(2.0)) -> None:
        if rate <= 0 or diffusion <= 0:
            raise UserError(f"rate and diffusion must be positive, got {rate} and {diffusion}")
        self.rate, self.diffusion = rate, diffusion

    def alpha(self, t: Tensor) -> Tensor:
        """exp(-rate t)."""
        return torch.exp(-self.rate * t)

    def variance(self, t: Tensor) -> Tensor:
        """diffusion^2/(2 rate) (1 - exp(-2 rate t))."""
        return -(self.diffusion**2) * torch.expm1(-2 * self.rate * t) / (2 * self.rate)

    def f(self, t: Tensor) -> Tensor:
        """-rate."""
        return torch.full_like(t, -self.rate)

    def g2(self, t: Tensor) -> Tensor:
        """diffusion^2."""
        return torch.full_like(t, self.diffusion**2)


class Brownian(Schedule):
    """dx = diffusion dW: alpha = 1, sigma = diffusion sqrt(t)."""

    def __init__(self, diffusion: float = 1.0) -> None:
        if diffusion <= 0:
            raise UserError(f"diffusion must be positive, got {diffusion}")
        self.diffusion = diffusion

    def alpha(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def variance(self, t: Tensor) -> Tensor:
        """diffusion^2 t."""
        return self.diffusion**2 * t

    def f(self, t: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(t)

    def g2(self, t: Tensor) -> Tensor:
        """diffusion^2."""
        return torch.full_like(t, self.diffusion**2)


class BFN(Schedule):
    """Continuous Bayesian flow (Graves et al. 2023, section 4): alpha = gamma, sigma^2 = gamma (1 - gamma).

    gamma(t) = 1 - sigma_data^(2 (1 - t)). It starts from a point (gamma = 0 at t = 1), where the general transition is
    0/0, hence the closed form: with the accuracy rho(t) = sigma_data^(-2 (1 - t)), r = rho_t/rho_s.
    """

    def __init__(self, sigma_data: float = 0.02) -> None:
        if not 0 < sigma_data < 1:
            raise UserError(f"sigma_data must lie in (0, 1), got {sigma_data}")
        self.sigma_data, self._rate = sigma_data, -2 * math.log(sigma_data)

    def alpha(self, t: Tensor) -> Tensor:
        """gamma = 1 - sigma_data^(2 (1 - t))."""
        return -torch.expm1(-self._rate * (1 - t))

    def variance(self, t: Tensor) -> Tensor:
        """gamma (1 - gamma)."""
        gamma = self.alpha(t)
        return gamma * (1 - gamma)

    def f(self, t: Tensor) -> Tensor:
        """gamma'/gamma."""
        return -self.g2(t) / self.alpha(t)

    def g2(self, t: Tensor) -> Tensor:
        """-gamma'."""
        return self._rate * torch.exp(-self._rate * (1 - t))

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bayesian update: r = rho_t/rho_s, c = 1 - r, variance (rho_s - rho_t)/rho_s^2."""
        r = torch.exp(-self._rate * (t - s))
        return r, 1 - r, (1 - r) * torch.exp(-self._rate * (1 - s))


class CategoricalBFN(Schedule):
    """Categorical Bayesian flow in lifted logits K e_x - 1 (Graves et al. 2023, section 6).

    alpha = beta(t) = accuracy (1 - t)^2 and sigma^2 = beta K, for K classes; starts from a point like `BFN`.
    """

    def __init__(self, classes: int, accuracy: float = 3.0) -> None:
        if classes < 2 or accuracy <= 0:
            raise UserError(f"need at least 2 classes and a positive accuracy, got {classes} and {accuracy}")
        self.classes, self.accuracy = classes, accuracy

    def alpha(self, t: Tensor) -> Tensor:
        """beta."""
        return self.accuracy * (1 - t) ** 2

    def variance(self, t: Tensor) -> Tensor:
        """beta K."""
        return self.alpha(t) * self.classes

    def f(self, t: Tensor) -> Tensor:
        """beta'/beta = -2/(1 - t)."""
        return -2 / (1 - t)

    def g2(self, t: Tensor) -> Tensor:
        """-K beta'."""
        return 2 * self.accuracy * self.classes * (1 - t)

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Accuracies add: r = 1, c = beta_s - beta_t, variance c K."""
        c = self.alpha(s) - self.alpha(t)
        return torch.ones_like(c), c, c * self.classes
