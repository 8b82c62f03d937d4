"""Stochastic interpolants: closed forms for Gaussian ends (catalog, C05), written in our clock (theirs reversed)."""

from __future__ import annotations

import pytest
import torch

from sciflow.core.noise import Fresh
from sciflow.core.process import Prediction
from sciflow.core.state import Layout
from sciflow.processes.interpolant import StochasticInterpolant


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_marginal_and_target_of_one_path():
    """x_t = (1 - t) x0 + t x1 + gamma z; target = (x1 - x0 + gamma' z, z) with gamma' by automatic differentiation."""
    process, layout = StochasticInterpolant(noise=2.0), Layout(4)
    x0, x1, z = (normal(4, 3, seed=s) for s in range(3))
    t = torch.tensor([0.1, 0.3, 0.6, 0.95], dtype=torch.float64)
    gamma, rate = torch.autograd.functional.jvp(lambda u: (2 * u * (1 - u)).sqrt(), t, torch.ones_like(t))
    kernel = process.marginal(x0, t, layout, x1)
    torch.testing.assert_close(kernel.mean, (1 - t)[:, None] * x0 + t[:, None] * x1)
    torch.testing.assert_close(kernel.std[:, 0], gamma)
    x_t = kernel.mean + gamma[:, None] * z
    target = process.target(x0, x1, x_t, t, layout)
    torch.testing.assert_close(target[..., 0], x1 - x0 + rate[:, None] * z)
    torch.testing.assert_close(target[..., 1], z)


def test_fields_of_gaussian_ends():
    """C05 check: N(2, .25) at t = 0, N(-1, .5) at t = 1, gamma^2 = 2 t (1 - t), at t = .7 (their .3).

    E[z | x] has slope gamma/C = .9427, the score -1/C = -1.4545: the process's sde must use exactly that score.
    """
    t, layout = torch.tensor(0.7, dtype=torch.float64), Layout(1)
    process = StochasticInterpolant(noise=2.0, diffusion=3.0)
    variance = 0.3**2 * 0.25 + 0.7**2 * 0.5 + 2 * 0.21
    slope = float(process.gamma(t)) / variance
    assert slope == pytest.approx(0.9427, abs=1e-4)
    x = torch.tensor([[1.0]], dtype=torch.float64)
    mean = 0.3 * 2 - 0.7
    value = torch.stack([torch.zeros_like(x), slope * (x - mean)], -1)
    pred = Prediction(value, "interpolant", process, x, t, layout)
    drift, g = process.sde(x, pred, t, layout)
    assert float(drift / (x - mean)) == pytest.approx(3 * 1.4545, abs=3e-4)  # -epsilon score
    assert float(g) ** 2 == pytest.approx(6.0)
    assert float(process.velocity(x, pred, t, layout)) == 0


def test_the_two_ends_are_exact():
    process, layout = StochasticInterpolant(), Layout(4)
    x0, x1 = normal(4, 3), normal(4, 3, seed=1)
    for t, end in ((0.0, x0), (1.0, x1)):
        draw = process.marginal(x0, torch.tensor(t, dtype=torch.float64), layout, x1).sample(Fresh(0))
        torch.testing.assert_close(draw, end, rtol=0, atol=1e-15)


def test_what_is_refused():
    with pytest.raises(ValueError, match="positive"):
        StochasticInterpolant(noise=0.0)
    with pytest.raises(ValueError, match="needs x1"):
        StochasticInterpolant().marginal(torch.zeros(1, 1), torch.tensor(0.5), Layout(1))
