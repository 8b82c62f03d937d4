"""Anchored processes: a Gaussian process centred on a point per row, in a unit of length per row or entry.

The process is the plain one applied to y = (x - anchor)/scale: x_t = anchor + alpha (x0 - anchor) + sigma scale z. The
anchor (centre of the observed frames, a noisy observation y, a learned point) and the scale stand in `layout.anchor`
and `layout.scale`, set by the codec or by `Denoiser.prepare`. Conditional GeoTDM (Han et al. 2024, section 4) and
mean-reverting SDEs (SGMSE+, IR-SDE) are of this form.

Kinds: `data`, `score` and `velocity` are those of x, `noise` and `v` those of y (unit variance if the scale fits the
data). Masked entries have y = 0: they sit on the anchor, so that known entries whose anchor is their value stay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from sciflow.core.kernels import Gaussian
from sciflow.core.process import Prediction, Process
from sciflow.core.state import Layout
from sciflow.processes.gaussian import GaussianProcess


class Anchored(Process):
    """`base` around `layout.anchor` in units of `layout.scale`.

    A scale that differs between the entries of a sample needs a space whose coordinates are independent (`Euclidean`).

    Args:
        base: The process of y.
    """

    kinds: ClassVar[tuple[str, ...]] = GaussianProcess.kinds
    prepared: ClassVar[bool] = True

    def __init__(self, base: GaussianProcess) -> None:
        super().__init__()
        self.base, self.kind, self.space = base, base.kind, base.space

    def prior(self, like: Tensor, layout: Layout) -> Gaussian:
        """N(anchor, scale^2 prior variance of the base)."""
        return self._kernel(self.base.prior(like, layout), layout)

    def marginal(self, x0: Tensor, t: Tensor, layout: Layout, x1: Tensor | None = None) -> Gaussian:
        """Base marginal of y0 as a law of x."""
        end = None if x1 is None else self._inside(x1, layout)
        return self._kernel(self.base.marginal(self._inside(x0, layout), t, layout, end), layout)

    def posterior(self, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, layout: Layout) -> Gaussian:
        """Base posterior of y_s as a law of x_s."""
        kernel = self.base.posterior(self._inside(x_t, layout), self._inside(x0, layout), t, s, layout)
        return self._kernel(kernel, layout)

    def reconstruction(self, x_t: Tensor, x0: Tensor, t: Tensor, layout: Layout) -> Gaussian:
        """Base reconstruction of y0 as a law of x0."""
        kernel = self.base.reconstruction(self._inside(x_t, layout), self._inside(x0, layout), t, layout)
        return self._kernel(kernel, layout)

    def sde(self, x: Tensor, pred: Prediction, t: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Reverse SDE: drift of the forward one - g^2 score."""
        drift, g = self.noise_sde(x, t, layout)
        return drift - g**2 * pred.to("score"), g

    def noise_sde(self, x: Tensor, t: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Mean-reverting forward SDE: drift f (x - anchor), diffusion scale g."""
        drift, g = self.base.noise_sde(self._inside(x, layout), t, layout)
        return drift * self._scale(layout), g * self._scale(layout)

    def velocity(self, x: Tensor, pred: Prediction, t: Tensor, layout: Layout) -> Tensor:
        """Probability-flow velocity."""
        return pred.to("velocity")

    def flow_step(self, x: Tensor, data: Tensor, t: Tensor, s: Tensor, layout: Layout) -> Tensor:
        """Exact flow of y."""
        return self._outside(
            self.base.flow_step(self._inside(x, layout), self._inside(data, layout), t, s, layout), layout
        )

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha/sigma) of y."""
        return self.base.log_snr(t)

    def score_step(self, t: Tensor, layout: Layout, x: Tensor) -> tuple[Tensor, Tensor]:
        """(scale sigma, scale^2 g^2) at t."""
        sigma, g2 = self.base.score_step(t, layout, x)
        return sigma * self._scale(layout), g2 * self._scale(layout) ** 2

    def linear_step(self, x: Tensor, t: Tensor, s: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """Linear part of the motion of y as (mean, variance) of x, and its factor a."""
        mean, variance, a = self.base.linear_step(self._inside(x, layout), t, s, layout)
        return self._outside(mean, layout), variance * self._scale(layout) ** 2, a

    def langevin_alpha(self, t: Tensor, scales: int) -> Tensor:
        """See `Schedule.langevin_alpha`."""
        return self.base.langevin_alpha(t, scales)

    def to_data(self, value: Tensor, kind: str, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """Any kind -> x0."""
        if kind == "data":
            return value
        value = value / self._unit(kind, layout)
        return self._outside(self.base.to_data(value, kind, self._inside(x, layout), t, layout), layout)

    def from_data(self, data: Tensor, kind: str, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """x0 -> any kind."""
        if kind == "data":
            return data
        value = self.base.from_data(self._inside(data, layout), kind, self._inside(x, layout), t, layout)
        return value * self._unit(kind, layout)

    def _scale(self, layout: Layout) -> Tensor | float:
        return 1.0 if layout.scale is None else layout.scale

    def _unit(self, kind: str, layout: Layout) -> Tensor | float:
        """What a prediction for y is multiplied with to be one for x: densities have 1/scale, motions have scale."""
        scale = self._scale(layout)
        return {"score": 1 / scale, "velocity": scale}.get(kind, 1.0)

    def _anchor(self, x: Tensor, layout: Layout) -> Tensor:
        return torch.zeros_like(x) if layout.anchor is None else layout.anchor

    def _inside(self, x: Tensor, layout: Layout) -> Tensor:
        """x -> y, zero on masked entries."""
        y = self.space.diff(self._anchor(x, layout), x) / self._scale(layout)
        return y if layout.mask is None else y * layout.mask

    def _outside(self, y: Tensor, layout: Layout) -> Tensor:
        """y -> x."""
        return self.space.add(self._anchor(y, layout), y * self._scale(layout))

    def _kernel(self, kernel: Gaussian, layout: Layout) -> Gaussian:
        return replace(kernel, location=self._outside(kernel.location, layout), std=kernel.std * self._scale(layout))
