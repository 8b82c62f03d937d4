"""Anchored processes: a Gaussian process centred on a point per row instead of the origin.

A centred process is the plain process applied to x - anchor: x_t = anchor + alpha (x0 - anchor) + sigma z. The anchor
(centre of the observed frames, a noisy observation y, a learned point) stands in `layout.anchor`, set by the codec or
by `Denoiser.prepare`. Conditional GeoTDM and mean-reverting SDEs (SGMSE+, IR-SDE) are of this form.
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
    """`base` around `layout.anchor`.

    Args:
        base: The process of the centred field.
    """

    kinds: ClassVar[tuple[str, ...]] = GaussianProcess.kinds

    def __init__(self, base: GaussianProcess) -> None:
        super().__init__()
        self.base, self.kind, self.space = base, base.kind, base.space

    def prior(self, like: Tensor, layout: Layout) -> Gaussian:
        """N(anchor, prior variance of the base)."""
        return self._shift(self.base.prior(like, layout), layout)

    def marginal(self, x0: Tensor, t: Tensor, layout: Layout, x1: Tensor | None = None) -> Gaussian:
        """anchor + base marginal of x0 - anchor."""
        end = None if x1 is None else self._centre(x1, layout)
        return self._shift(self.base.marginal(self._centre(x0, layout), t, layout, end), layout)

    def posterior(self, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, layout: Layout) -> Gaussian:
        """anchor + base posterior of the centred points."""
        kernel = self.base.posterior(self._centre(x_t, layout), self._centre(x0, layout), t, s, layout)
        return self._shift(kernel, layout)

    def reconstruction(self, x_t: Tensor, x0: Tensor, t: Tensor, layout: Layout) -> Gaussian:
        """That of the base; it does not depend on the anchor."""
        return self.base.reconstruction(x_t, x0, t, layout)

    def sde(self, x: Tensor, pred: Prediction, t: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Reverse SDE of the centred field."""
        return self.base.sde(self._centre(x, layout), pred, t, layout)

    def noise_sde(self, x: Tensor, t: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Mean-reverting forward SDE: drift f (x - anchor)."""
        return self.base.noise_sde(self._centre(x, layout), t, layout)

    def velocity(self, x: Tensor, pred: Prediction, t: Tensor, layout: Layout) -> Tensor:
        """Probability-flow velocity."""
        return pred.to("velocity")

    def flow_step(self, x: Tensor, data: Tensor, t: Tensor, s: Tensor, layout: Layout) -> Tensor:
        """Exact flow of the centred field."""
        centred = self.base.flow_step(self._centre(x, layout), self._centre(data, layout), t, s, layout)
        return self.space.add(centred, self._anchor(centred, layout))

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha/sigma)."""
        return self.base.log_snr(t)

    def score_step(self, t: Tensor, layout: Layout, x: Tensor) -> tuple[Tensor, Tensor]:
        """(sigma, g^2) at t."""
        return self.base.score_step(t, layout, x)

    def linear_step(self, x: Tensor, t: Tensor, s: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """Linear part of the centred field."""
        mean, variance, a = self.base.linear_step(self._centre(x, layout), t, s, layout)
        return self.space.add(mean, self._anchor(mean, layout)), variance, a

    def langevin_alpha(self, t: Tensor, scales: int) -> Tensor:
        """See `Schedule.langevin_alpha`."""
        return self.base.langevin_alpha(t, scales)

    def to_data(self, value: Tensor, kind: str, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """Any kind -> x0."""
        if kind == "data":
            return value
        centred = self.base.to_data(value, kind, self._centre(x, layout), t, layout)
        return self.space.add(centred, self._anchor(centred, layout))

    def from_data(self, data: Tensor, kind: str, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """x0 -> any kind; noise, score and velocity do not depend on the anchor otherwise."""
        if kind == "data":
            return data
        return self.base.from_data(self._centre(data, layout), kind, self._centre(x, layout), t, layout)

    def _anchor(self, x: Tensor, layout: Layout) -> Tensor:
        return torch.zeros_like(x) if layout.anchor is None else layout.anchor

    def _centre(self, x: Tensor, layout: Layout) -> Tensor:
        return self.space.diff(self._anchor(x, layout), x)

    def _shift(self, kernel: Gaussian, layout: Layout) -> Gaussian:
        return replace(kernel, location=self.space.add(kernel.location, self._anchor(kernel.location, layout)))
