"""Gaussian processes: kernels by Monte-Carlo-free algebra, on every space, for shared and per-sample clocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sciflow.core.noise import Fresh
from sciflow.core.process import Prediction
from sciflow.core.schedules import BFN, VE, VP, Brownian, CategoricalBFN, Cosine, SubVP
from sciflow.core.spaces import SymmetricMatrix, Torus, ZeroCoM
from sciflow.core.state import Layout
from sciflow.processes.gaussian import GaussianProcess

T, S = torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.25, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("schedule", [VP(), SubVP(), Cosine(), VE()], ids=lambda s: type(s).__name__)
def test_posterior_by_bayes(schedule):
    """q(x_s | x_t, x0) prop. to q(x_t | x_s) q(x_s | x0): product of two Gaussians in x_s, for scalars."""
    process, layout = GaussianProcess(schedule), Layout(3)
    x_t, x0 = normal(3, 1), normal(3, 1, seed=1)
    a = schedule.alpha(T) / schedule.alpha(S)
    forward_variance = schedule.variance(T) - a**2 * schedule.variance(S)
    precision = a**2 / forward_variance + 1 / schedule.variance(S)
    mean = (a * x_t / forward_variance + schedule.alpha(S) * x0 / schedule.variance(S)) / precision
    kernel = process.posterior(x_t, x0, T, S, layout)
    torch.testing.assert_close(kernel.mean, mean, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(kernel.std**2, 1 / precision, rtol=1e-10, atol=0)


def test_vp_posterior_is_the_ddpm_formula():
    """Ho et al. 2020, equation 7, with alpha-bar = alpha^2 and beta = 1 - alpha-bar_t/alpha-bar_s."""
    schedule, layout = VP(), Layout(3)
    x_t, x0 = normal(3, 2), normal(3, 2, seed=1)
    bar_t, bar_s = schedule.alpha(T) ** 2, schedule.alpha(S) ** 2
    beta = 1 - bar_t / bar_s
    mean = bar_s.sqrt() * beta / (1 - bar_t) * x0 + (1 - beta).sqrt() * (1 - bar_s) / (1 - bar_t) * x_t
    kernel = GaussianProcess(schedule).posterior(x_t, x0, T, S, layout)
    torch.testing.assert_close(kernel.mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(kernel.std**2, (1 - bar_s) / (1 - bar_t) * beta, rtol=1e-11, atol=0)


def test_bfn_update_of_graves():
    """Graves et al. 2023, equations 49 and 50: the input mean after receiving y ~ N(x0, 1/a), averaged over y."""
    sigma, layout = 0.1, Layout(4)
    mu, x0 = normal(4, 2), normal(4, 2, seed=1)
    rho_t, rho_s = sigma ** (-2 * (1 - T)), sigma ** (-2 * (1 - S))
    a = rho_s - rho_t
    kernel = GaussianProcess(BFN(sigma), kind="data").posterior(mu, x0, T, S, layout)
    torch.testing.assert_close(kernel.mean, (mu * rho_t + x0 * a) / rho_s, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(kernel.std, (a / rho_s**2).sqrt(), rtol=1e-12, atol=0)


def test_categorical_bfn_update_of_graves():
    """Graves et al. 2023, section 6: theta' prop. to exp(y) theta with y ~ N(a (K e_x - 1), a K), in logits."""
    classes, layout = 5, Layout(4)
    logits = normal(4, classes)
    lifted = classes * torch.nn.functional.one_hot(torch.tensor([0, 3, 1, 1]), classes).double() - 1
    schedule = CategoricalBFN(classes, 2.0)
    a = 2.0 * (1 - S) ** 2 - 2.0 * (1 - T) ** 2
    kernel = GaussianProcess(schedule, kind="data").posterior(logits, lifted, T, S, layout)
    torch.testing.assert_close(kernel.mean, logits + a * lifted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(kernel.std**2, a * classes, rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", [VP(), VE(), BFN(0.1)], ids=lambda s: type(s).__name__)
def test_per_sample_clocks_are_sample_by_sample(schedule):
    """(B,) clocks on a ragged field against each sample on its own with a shared clock."""
    process, index = GaussianProcess(schedule), torch.tensor([0, 0, 1, 2])
    layout = Layout(3, index)
    x, x0, noise = (normal(4, 2, seed=s) for s in range(3))
    t, s = torch.tensor([0.9, 0.6, 0.3], dtype=torch.float64), torch.tensor([0.5, 0.5, 0.1], dtype=torch.float64)
    marginal, posterior = process.marginal(x0, t, layout), process.posterior(x, x0, t, s, layout)
    drift, g = process.sde(x, Prediction(noise, "noise", process, x, t, layout), t, layout)
    flow = process.flow_step(x, x0, t, s, layout)
    for i in range(3):
        rows, one = index == i, Layout(1, torch.zeros(int((index == i).sum()), dtype=torch.long))
        a, b = process.marginal(x0[rows], t[i], one), process.posterior(x[rows], x0[rows], t[i], s[i], one)
        torch.testing.assert_close(marginal.mean[rows], a.mean)
        torch.testing.assert_close(posterior.mean[rows], b.mean)
        torch.testing.assert_close(posterior.std[rows], b.std.expand_as(posterior.std[rows]))
        c, d = process.sde(x[rows], Prediction(noise[rows], "noise", process, x[rows], t[i], one), t[i], one)
        torch.testing.assert_close(drift[rows], c)
        torch.testing.assert_close(g[rows], d.expand_as(g[rows]))
        torch.testing.assert_close(flow[rows], process.flow_step(x[rows], x0[rows], t[i], s[i], one))


def test_flow_step_is_ddim():
    """Song et al. 2021 (DDIM), equation 12 with eta = 0: alpha_s x0 + sigma_s z with z of the present point."""
    schedule, layout = VP(), Layout(3)
    process = GaussianProcess(schedule)
    x, x0 = normal(3, 2), normal(3, 2, seed=1)
    z = Prediction(x0, "data", process, x, T, layout).to("noise")
    truth = schedule.alpha(S) * x0 + schedule.sigma(S) * z
    torch.testing.assert_close(process.flow_step(x, x0, T, S, layout), truth, rtol=1e-12, atol=1e-12)


def test_prior():
    like = torch.zeros(2, 3, dtype=torch.float64)
    assert GaussianProcess(VE(0.1, 5.0)).prior(like, Layout(2)).std == pytest.approx(5.0)
    assert GaussianProcess(VE(0.1, 5.0), prior_std=2.0).prior(like, Layout(2)).std == 2.0
    assert GaussianProcess(BFN()).prior(like, Layout(2)).std == 0


def test_reconstruction_is_the_posterior_of_flat_data():
    """x0 given x_t = alpha x0 + sigma z under a flat law: N(x_t/alpha, (sigma/alpha)^2)."""
    schedule, layout = VP(), Layout(3)
    x_t, data = normal(3, 2), normal(3, 2, seed=1)
    kernel = GaussianProcess(schedule).reconstruction(x_t, data, S, layout)
    assert torch.equal(kernel.mean, data)
    torch.testing.assert_close(kernel.std, (-schedule.log_snr(S)).exp())


def test_torus_posterior_follows_the_short_way():
    """Near the seam the mean moves across it, not around; equal to the flat formula in unwrapped coordinates."""
    space, layout, schedule = Torus(1.0), Layout(1), Brownian(0.2)
    process = GaussianProcess(schedule, space, "data")
    x_t, x0 = torch.tensor([[0.05]], dtype=torch.float64), torch.tensor([[0.95]], dtype=torch.float64)
    kernel = process.posterior(x_t, x0, T, S, layout)
    flat = GaussianProcess(schedule).posterior(x_t, x0 - 1.0, T, S, layout)
    assert space.diff(kernel.mean, flat.mean % 1.0).abs().max() < 1e-14
    torch.testing.assert_close(kernel.std, flat.std)
    assert abs(float(space.diff(kernel.mean, x0))) < 0.1


@pytest.mark.parametrize("space", [ZeroCoM(), SymmetricMatrix()], ids=lambda s: type(s).__name__)
def test_moves_stay_in_the_space(space):
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.float64)
    symmetric = isinstance(space, SymmetricMatrix)
    layout = Layout(2, mask=mask[:, :, None] * mask[:, None, :] if symmetric else mask[..., None])
    x0 = space.project(normal(2, 4, 4 if symmetric else 3), layout)
    process = GaussianProcess(VP(), space)
    x = process.prior(x0, layout).sample(Fresh(0))
    for kernel in (process.posterior(x, x0, T, S, layout), process.marginal(x0, T, layout)):
        draw = kernel.sample(Fresh(1))
        torch.testing.assert_close(space.project(draw, layout), draw, rtol=0, atol=1e-14)


def test_capabilities():
    provided = GaussianProcess().provides()
    assert {"prior", "marginal", "posterior", "sde", "velocity", "flow_step", "score_step"} <= provided
    assert "rates" not in provided
