r"""Gaussian processes: x_t = alpha_t x0 + sigma_t z on any flat space, for any analytic schedule.

Posterior (DDPM ancestral step, Brownian and OU bridge, Bayesian-flow update: all one formula)

    x_s | x_t, x0 ~ N(add((r + c) x_t, c diff(x_t, x0)), v),   (r, c, v) = schedule.transition(t, s).

Kinds of prediction, with n^2 = alpha^2 + sigma^2: noise z = (x - alpha x0)/sigma, score = -z/sigma,
v = alpha z - sigma x0 (Salimans & Ho 2022), velocity u = f x - g^2 score/2 (probability flow, Song et al. 2021).
On the torus alpha = 1 and differences are the shortest ones. Each kind converts to and from `data` only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.kernels import Gaussian
from sciflow.core.process import Prediction, Process
from sciflow.core.schedules import VP, Schedule
from sciflow.core.spaces import Euclidean
from sciflow.core.state import Layout


class GaussianProcess(Process):
    """Noising with an analytic schedule on a flat space.

    Args:
        schedule: alpha, sigma and the SDE coefficients.
        space: Geometry of the field.
        kind: What the network predicts: data, noise, score, v or velocity.
        prior_std: Standard deviation of the prior at t = 1; None: sigma(1), the law that zero-mean point data reach.

    Raises:
        UserError: Unknown kind.
    """

    kinds: ClassVar[tuple[str, ...]] = ("data", "noise", "score", "v", "velocity")

    def __init__(
        self,
        schedule: Schedule | None = None,
        space: Euclidean | None = None,
        kind: str = "noise",
        prior_std: float | None = None,
    ) -> None:
        super().__init__()
        if kind not in self.kinds:
            raise UserError(f"kind must be one of {', '.join(self.kinds)}, got '{kind}'")
        self.schedule = schedule if schedule is not None else VP()
        self.space = space if space is not None else Euclidean()
        self.kind, self.prior_std = kind, prior_std

    def prior(self, like: Tensor, layout: Layout) -> Gaussian:
        """N(0, prior_std^2), shaped like `like`."""
        one = torch.ones((), dtype=like.dtype, device=like.device)
        std = self.schedule.sigma(one) if self.prior_std is None else one * self.prior_std
        return Gaussian(torch.zeros_like(like), std, self.space, layout)

    def marginal(self, x0: Tensor, t: Tensor, layout: Layout, x1: Tensor | None = None) -> Gaussian:
        """q(x_t | x0); with `x1` the bridge pinned at x1 at t = 1, which is the posterior seen from there."""
        if x1 is not None:
            return self.posterior(x1, x0, torch.ones_like(t), t, layout)
        alpha, sigma = self._rows(t, layout, x0, self.schedule.alpha, self.schedule.sigma)
        return Gaussian(alpha * x0, sigma, self.space, layout)

    def posterior(self, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, layout: Layout) -> Gaussian:
        """q(x_s | x_t, x0) for s < t."""
        r, c, variance = (layout.rows(v, x_t) for v in self.schedule.transition(t, s))
        mean = self.space.add((r + c) * x_t, c * self.space.diff(x_t, x0))
        return Gaussian(mean, variance.sqrt(), self.space, layout)

    def reconstruction(self, x_t: Tensor, x0: Tensor, t: Tensor, layout: Layout) -> Gaussian:
        """N(x0, (sigma/alpha)^2): the law of the data given x_t if their density is flat on that scale."""
        alpha, sigma = self._rows(t, layout, x0, self.schedule.alpha, self.schedule.sigma)
        return Gaussian(x0, sigma / alpha, self.space, layout)

    def sde(self, x: Tensor, pred: Prediction, t: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Reverse SDE: drift f x - g^2 score, diffusion g."""
        f, g2 = self._rows(t, layout, x, self.schedule.f, self.schedule.g2)
        return f * x - g2 * pred.to("score"), g2.sqrt()

    def noise_sde(self, x: Tensor, t: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Forward SDE: drift f x, diffusion g. No network."""
        f, g2 = self._rows(t, layout, x, self.schedule.f, self.schedule.g2)
        return f * x, g2.sqrt()

    def velocity(self, x: Tensor, pred: Prediction, t: Tensor, layout: Layout) -> Tensor:
        """Probability-flow velocity dx/dt."""
        return pred.to("velocity")

    def flow_step(self, x: Tensor, data: Tensor, t: Tensor, s: Tensor, layout: Layout) -> Tensor:
        """Exact probability flow from t to s if the data prediction stays constant (DDIM): x stays on the ray to it.

        x_s = (sigma_s/sigma_t) x + (alpha_s - alpha_t sigma_s/sigma_t) data.
        """
        schedule = self.schedule
        shrink = schedule.sigma(s) / schedule.sigma(t)
        c = layout.rows(schedule.alpha(s) - schedule.alpha(t) * shrink, x)
        return self.space.add((layout.rows(shrink, x) + c) * x, c * self.space.diff(x, data))

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha/sigma)."""
        return self.schedule.log_snr(t)

    def score_step(self, t: Tensor, layout: Layout, x: Tensor) -> tuple[Tensor, Tensor]:
        """(sigma, g^2) at t."""
        sigma, g2 = self._rows(t, layout, x, self.schedule.sigma, self.schedule.g2)
        return sigma, g2

    def linear_step(self, x: Tensor, t: Tensor, s: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """(mean, variance, a) of the linear part dx = f x dt + g dW from t to s, in either direction."""
        a, variance = (layout.rows(v, x) for v in self.schedule.linear_step(t, s))
        return a * x, variance, a

    def langevin_alpha(self, t: Tensor, scales: int) -> Tensor:
        """See `Schedule.langevin_alpha`."""
        return self.schedule.langevin_alpha(t, scales)

    def discrete_pair(self, t: Tensor, scales: int, layout: Layout, x: Tensor) -> tuple[Tensor, Tensor]:
        """(F, G) of the reverse-diffusion predictor, see `Schedule.discrete_pair`."""
        drift, diffusion = self.schedule.discrete_pair(t, scales)
        return layout.rows(drift, x), layout.rows(diffusion, x)

    def to_data(self, value: Tensor, kind: str, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """Any kind -> x0."""
        if kind == "data":
            return value
        alpha, sigma = self._rows(t, layout, x, self.schedule.alpha, self.schedule.sigma)
        if kind == "v":
            return (alpha * x - sigma * value) / (alpha**2 + sigma**2)
        if kind == "velocity":
            f, g2 = self._rows(t, layout, x, self.schedule.f, self.schedule.g2)
            value, kind = 2 * (f * x - value) / g2, "score"
        if kind == "score":
            value, kind = -sigma * value, "noise"
        if kind != "noise":
            raise self._no_conversion(kind)
        return self.space.add(x, -sigma * value) / alpha

    def from_data(self, data: Tensor, kind: str, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """x0 -> any kind."""
        if kind == "data":
            return data
        alpha, sigma = self._rows(t, layout, x, self.schedule.alpha, self.schedule.sigma)
        noise = self.space.diff(alpha * data, x) / sigma
        if kind == "noise":
            return noise
        if kind == "v":
            return alpha * noise - sigma * data
        if kind == "score":
            return -noise / sigma
        if kind == "velocity":
            f, g2 = self._rows(t, layout, x, self.schedule.f, self.schedule.g2)
            return f * x + 0.5 * g2 * noise / sigma
        raise self._no_conversion(kind)

    def _rows(self, t: Tensor, layout: Layout, x: Tensor, *functions: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        return tuple(layout.rows(function(t), x) for function in functions)
