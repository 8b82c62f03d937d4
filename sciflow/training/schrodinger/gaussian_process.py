"""Gaussian-process regression of drifts, exact and with inducing points (SBIRR, arXiv 2408.06277, and its code).

The outputs are independent and share one kernel k(z, z') = (1/dt) c(|z - z'|) on z = (x, t); targets carry noise of
variance sigma^2/dt. The posterior mean is k(z, Z) alpha with alpha = (K + sigma^2/dt I)^{-1} v: K is factorised once
per fit, and a prediction costs one kernel block. No hyper-parameter is fitted. Away from the data the exponential
kernel decays and the drift returns to the prior mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciflow.core.config import Configurable
from sciflow.training.schrodinger.regressors import Drift, DriftData, Regressor, joined

JITTER = 1e-6  # of the published code; added to the noise variance


class Exponential(Configurable):
    """c(r) = exp(-r / length), Matern-1/2: the published kernel, with one length for space and time alike."""

    def __init__(self, length: float = 1.0) -> None:
        self.length = length

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Correlations (n, m) of points (n, p) and (m, p)."""
        return torch.cdist(a, b).div_(-self.length).exp_()


class SquaredExponential(Configurable):
    """c(r) = exp(-r^2 / (2 length^2))."""

    def __init__(self, length: float = 1.0) -> None:
        self.length = length

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Correlations (n, m) of points (n, p) and (m, p)."""
        return torch.cdist(a, b).square_().div_(-2 * self.length**2).exp_()


class ExactGP(Regressor):
    """Posterior mean of the drift under a GP with prior mean zero: the regression of all published runs.

    Args:
        kernel: Correlation function.
    """

    def __init__(self, kernel: Exponential | SquaredExponential | None = None) -> None:
        self.kernel = kernel or Exponential()

    def fit(self, data: DriftData, generator: torch.Generator) -> Drift:
        """One Cholesky factorisation of the (m, m) matrix of all points of all paths."""
        inputs, targets = data.rows()
        covariance = self.kernel(inputs, inputs).div_(data.dt)
        covariance.diagonal().add_(data.sigma**2 / data.dt + JITTER)
        alpha = torch.cholesky_solve(targets, torch.linalg.cholesky(covariance)) / data.dt
        return lambda x, t: self.kernel(joined(x, t), inputs) @ alpha


class NystromGP(Regressor):
    """GP on inducing inputs: the posterior mean is k(z, U) (sigma_n^2 K_UU + K_UZ K_ZU)^{-1} K_UZ v.

    The inducing inputs are those of randomly chosen paths at randomly chosen times, the same times on each path.

    Args:
        paths: Number of paths.
        times: Number of times.
        kernel: Correlation function; squared exponential as in the published code.
    """

    def __init__(
        self, paths: int = 10, times: int = 50, kernel: Exponential | SquaredExponential | None = None
    ) -> None:
        self.paths, self.times, self.kernel = paths, times, kernel or SquaredExponential()

    def fit(self, data: DriftData, generator: torch.Generator) -> Drift:
        """Two factorisations of the (q, q) matrices of the q inducing inputs: O(m q^2)."""
        count, steps, _ = data.inputs.shape
        chosen = torch.randperm(count, generator=generator)[: self.paths]
        clocks = torch.randperm(steps, generator=generator)[: self.times]
        inducing = data.inputs[chosen][:, clocks].flatten(0, 1)
        inputs, targets = data.rows()
        own = self.kernel(inducing, inducing).div_(data.dt)
        own.diagonal().add_(JITTER / data.dt)  # relative to the kernel: neighbouring inputs of one path nearly coincide
        root = torch.linalg.cholesky(own)
        features = torch.linalg.solve_triangular(root, self.kernel(inducing, inputs) / data.dt, upper=False)
        normal = features @ features.T
        normal.diagonal().add_(data.sigma**2 / data.dt)
        weights = torch.cholesky_solve(features @ targets, torch.linalg.cholesky(normal))
        alpha = torch.linalg.solve_triangular(root.T, weights, upper=True) / data.dt
        return lambda x, t: self.kernel(joined(x, t), inducing) @ alpha


class AboutReference(Regressor):
    """Another regression about the drift of the reference: it is fitted to what the reference leaves unexplained.

    Far from the paths the fitted drift returns to the reference instead of zero (an option of IPML). For reversed paths
    the mean is minus the reference drift: the reversed flow without the unknown score.

    Args:
        base: The regression of the residuals; an exact GP by default.
    """

    def __init__(self, base: Regressor | None = None) -> None:
        self.base = base or ExactGP()

    def fit(self, data: DriftData, generator: torch.Generator) -> Drift:
        """Residuals of the targets, clock by clock."""
        known = torch.stack([data.mean(z[:, :-1], z[0, -1]) for z in data.inputs.unbind(1)], 1)
        rest = DriftData(data.inputs, data.targets - known, data.sigma, data.dt, data.mean)
        residual = self.base.fit(rest, generator)
        return lambda x, t: data.mean(x, t) + residual(x, t)
