"""Bridges against the textbook formulas of the Brownian and the Ornstein-Uhlenbeck bridge."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sciflow.core.process import Prediction
from sciflow.core.schedules import OU, Brownian
from sciflow.core.state import Layout
from sciflow.processes.bridge import Bridge
from sciflow.processes.gaussian import GaussianProcess


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X0, X1, X = (normal(5, 2, seed=s) for s in range(3))
LAYOUT = Layout(5)


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.99, 1.0])
def test_brownian_bridge(t):
    """Mean (1 - t) x0 + t x1, variance diffusion^2 t (1 - t) (Karatzas & Shreve, 5.6.B)."""
    kernel = Bridge(GaussianProcess(Brownian(0.7), kind="data")).marginal(
        X0, torch.tensor(t, dtype=torch.float64), LAYOUT, X1
    )
    torch.testing.assert_close(kernel.mean, (1 - t) * X0 + t * X1, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(
        kernel.std**2, torch.tensor(0.49 * t * (1 - t), dtype=torch.float64), rtol=1e-13, atol=1e-15
    )


@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_ornstein_uhlenbeck_bridge(t):
    """Mean [sinh(k (1-t)) x0 + sinh(k t) x1]/sinh(k), variance d^2/k sinh(k t) sinh(k (1-t))/sinh(k)."""
    rate, diffusion = 1.3, 0.6
    time, k = torch.tensor(t, dtype=torch.float64), torch.tensor(rate, dtype=torch.float64)
    kernel = Bridge(GaussianProcess(OU(rate, diffusion), kind="data")).marginal(X0, time, LAYOUT, X1)
    mean = (torch.sinh(k * (1 - time)) * X0 + torch.sinh(k * time) * X1) / torch.sinh(k)
    variance = diffusion**2 / rate * torch.sinh(k * time) * torch.sinh(k * (1 - time)) / torch.sinh(k)
    torch.testing.assert_close(kernel.mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(kernel.std**2, variance, rtol=1e-12, atol=0)


def test_posterior_forgets_the_far_end():
    """x_s given x_t and x0 does not depend on x1: a Brownian bridge from (t, x_t) to (0, x0)."""
    t, s = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)
    kernel = Bridge(GaussianProcess(Brownian(2.0), kind="data")).posterior(X, X0, t, s, LAYOUT)
    torch.testing.assert_close(kernel.mean, X0 + 0.25 * (X - X0), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(
        kernel.std**2, torch.tensor(4 * 0.2 * 0.6 / 0.8, dtype=torch.float64), rtol=1e-13, atol=0
    )


def test_reverse_drift_points_to_the_data():
    """dx = (x - x0)/t dt + diffusion dW, dt < 0 (Liu et al. 2023, I2SB): g^2 cancels in the pull."""
    process = Bridge(GaussianProcess(Brownian(0.7), kind="data"))
    t = torch.tensor(0.4, dtype=torch.float64)
    drift, g = process.sde(X, Prediction(X0, "data", process, X, t, LAYOUT), t, LAYOUT)
    torch.testing.assert_close(drift, (X - X0) / 0.4, rtol=1e-13, atol=1e-13)
    assert float(g) == pytest.approx(0.7)


def test_bridges_need_both_ends_and_predict_data():
    process = Bridge(GaussianProcess(Brownian(), kind="data"))
    with pytest.raises(ValueError, match="needs x1"):
        process.marginal(X0, torch.tensor(0.5), LAYOUT)
    with pytest.raises(ValueError, match="kind 'data', got 'noise'"):
        Bridge(GaussianProcess(Brownian()))
    assert process.joins_ends and "prior" not in process.provides()
