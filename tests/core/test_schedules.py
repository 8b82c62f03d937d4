"""Schedules: coefficients against automatic differentiation, transitions against linear-Gaussian algebra."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sciflow.core.schedules import BFN, OU, VE, VP, Brownian, CategoricalBFN, Cosine, Schedule, SubVP

SCHEDULES = [
    VP(),
    VP(0.2, 5.0),
    SubVP(),
    VE(),
    VE(0.1, 1.0),
    Cosine(),
    OU(),
    OU(0.7, 0.3),
    Brownian(2.0),
    BFN(),
    BFN(0.3),
]
SCHEDULES += [CategoricalBFN(5), CategoricalBFN(2, 0.8)]
GENERAL = [s for s in SCHEDULES if not isinstance(s, (BFN, CategoricalBFN))]


def name(schedule: Schedule) -> str:
    return "-".join([type(schedule).__name__, *(str(v) for v in schedule.init_args.values())])


def clocks(low: float = 0.01, high: float = 0.98, n: int = 41) -> Tensor:
    return torch.linspace(low, high, n, dtype=torch.float64)


def derivative(function, t: Tensor) -> Tensor:
    return torch.autograd.functional.jvp(function, t, torch.ones_like(t))[1]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_f_is_the_derivative_of_log_alpha(schedule):
    t = clocks()
    torch.testing.assert_close(schedule.f(t), derivative(lambda u: schedule.alpha(u).log(), t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_g2_balances_the_variance(schedule):
    """A01: d sigma^2/dt - 2 f sigma^2 - g^2 = 0, sigma differentiated automatically."""
    t = clocks()
    rate = derivative(lambda u: schedule.sigma(u) ** 2, t)
    expected = rate - 2 * schedule.f(t) * schedule.sigma(t) ** 2
    torch.testing.assert_close(schedule.g2(t), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_signal_to_noise_falls_and_ends_are_right(schedule):
    log_snr = schedule.log_snr(clocks())
    assert (log_snr.diff() < 0).all()
    torch.testing.assert_close(log_snr.exp(), schedule.alpha(clocks()) / schedule.sigma(clocks()))
    zero = torch.zeros((), dtype=torch.float64)
    if not isinstance(schedule, (VE, BFN, CategoricalBFN)):
        assert schedule.sigma(zero) == 0 and schedule.alpha(zero) == 1


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_time_at_inverts_log_snr(schedule):
    t = clocks()
    torch.testing.assert_close(schedule.time_at(schedule.log_snr(t)), t, rtol=0, atol=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_transition_equals_conditioning_of_the_joint_gaussian(schedule):
    """q(x_s | x_t, x0) by regression of the joint of (x_s, x_t) given x0: Cov(x_s, x_t) = (alpha_t/alpha_s) sigma_s^2.

    For the Bayesian flows this compares the closed form with the general formula inside (0, 1).
    """
    t, s = clocks(0.15, 0.95), clocks(0.02, 0.9)
    a = schedule.alpha(t) / schedule.alpha(s)
    vs, vt = schedule.variance(s), schedule.variance(t)
    r = a * vs / vt
    got = schedule.transition(t, s)
    expected = (r, schedule.alpha(s) - r * schedule.alpha(t), vs - (a * vs) ** 2 / vt)
    for value, truth in zip(got, expected, strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_transitions_compose(schedule):
    """Chapman-Kolmogorov: t -> u -> s in mean and variance equals t -> s."""
    t, u, s = clocks(0.5, 0.98), clocks(0.3, 0.6), clocks(0.02, 0.25)
    r1, c1, v1 = schedule.transition(t, u)
    r2, c2, v2 = schedule.transition(u, s)
    whole = schedule.transition(t, s)
    for value, truth in zip((r2 * r1, r2 * c1 + c2, v2 + r2**2 * v1), whole, strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_transition_keeps_the_marginal(schedule):
    """x_t from q(x_t | x0), then x_s from the posterior: mean alpha_s x0, variance sigma_s^2."""
    t, s = clocks(0.2, 0.98), clocks(0.02, 0.8)
    r, c, v = schedule.transition(t, s)
    torch.testing.assert_close(r * schedule.alpha(t) + c, schedule.alpha(s), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(r**2 * schedule.variance(t) + v, schedule.variance(s), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_linear_steps(schedule):
    """Upward: marginal of x_t from q(x_s | x0). Both ways: the steps compose. Towards data: |dv/ds| = g^2 at s = t."""
    s, u, t = clocks(0.02, 0.3), clocks(0.3, 0.6), clocks(0.6, 0.95)
    a, v = schedule.linear_step(s, t)
    torch.testing.assert_close(a**2 * schedule.variance(s) + v, schedule.variance(t), rtol=1e-9, atol=1e-12)
    for first, last in ((s, t), (t, s)):
        a1, v1 = schedule.linear_step(first, u)
        a2, v2 = schedule.linear_step(u, last)
        a, v = schedule.linear_step(first, last)
        torch.testing.assert_close(a2 * a1, a, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(a2**2 * v1 + v2, v, rtol=1e-8, atol=1e-12)
    # towards data the linear part is dx = f x dt + g dW with dt < 0: |dv/ds| = g^2 at s = t
    h = 1e-6
    rate = schedule.linear_step(u, u - h)[1] / h
    torch.testing.assert_close(rate, schedule.g2(u), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("sigma_data", [0.02, 0.5])
def test_bfn_transition_is_the_bayesian_update(sigma_data):
    """Graves et al. 2023, section 4 (equations 49 and 50): rho' = rho + a, mu' = (rho mu + a y)/rho', y ~ N(x0, 1/a).

    With gamma = 1 - sigma^(2 tau) at tau = 1 - t, rho = 1/(1 - gamma); mu is the field. Marginal: N(gamma x0, gamma
    (1 - gamma)).
    """
    t, s = clocks(0.1, 1.0), clocks(0.0, 0.8)
    schedule = BFN(sigma_data)
    rho_t, rho_s = sigma_data ** (-2 * (1 - t)), sigma_data ** (-2 * (1 - s))
    a = rho_s - rho_t
    for value, truth in zip(schedule.transition(t, s), (rho_t / rho_s, a / rho_s, a / rho_s**2), strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-12, atol=1e-12)
    gamma = 1 - sigma_data ** (2 * (1 - t))
    torch.testing.assert_close(schedule.alpha(t), gamma, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(schedule.variance(t), gamma * (1 - gamma), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 7])
def test_categorical_bfn_transition_adds_logits(classes):
    """Graves et al. 2023, section 6: logits' = logits + y, y ~ N(a (K e_x - 1), a K), beta = accuracy tau^2."""
    t, s = clocks(0.1, 1.0), clocks(0.0, 0.8)
    schedule = CategoricalBFN(classes, 1.7)
    a = 1.7 * (1 - s) ** 2 - 1.7 * (1 - t) ** 2
    for value, truth in zip(schedule.transition(t, s), (torch.ones_like(t), a, a * classes), strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-12, atol=1e-12)


def test_bayesian_flows_start_from_a_point():
    """At t = 1 alpha = sigma = 0, where the general formula is 0/0."""
    one, s = torch.ones((), dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    for schedule in (BFN(), CategoricalBFN(4)):
        assert schedule.alpha(one) == 0 and schedule.variance(one) == 0
        r, c, v = schedule.transition(one, s)
        assert r.isfinite()
        torch.testing.assert_close(c, schedule.alpha(s), rtol=1e-12, atol=0)
        torch.testing.assert_close(v, schedule.variance(s), rtol=1e-12, atol=0)


def test_transition_to_data_and_to_itself():
    """At s = 0 the data come out, at s = t nothing moves."""
    t, zero = clocks(0.1, 0.9), torch.zeros(41, dtype=torch.float64)
    for schedule in (VP(), SubVP(), Cosine(), OU(), Brownian()):
        r, c, v = schedule.transition(t, zero)
        assert r.abs().max() == 0 and v.abs().max() == 0 and (c == 1).all()
        r, c, v = schedule.transition(t, t)
        assert (r == 1).all() and c.abs().max() < 1e-15 and v.abs().max() < 1e-15


@pytest.mark.parametrize("other", [VE(0.01, 150.0), Brownian(160.0)], ids=name)
def test_schedule_change_by_lambda(other):
    """C08: processes with the same lambda are related by x' = (alpha'/alpha) x, so the ideal denoiser is the same.

    E[x0 | x] for data N(m, S) through each schedule, at clocks of equal lambda.
    """
    first, mean, spread = VP(), 0.4, 0.7
    t = clocks(0.05, 0.95)
    u = other.time_at(first.log_snr(t))
    torch.testing.assert_close(other.log_snr(u), first.log_snr(t), rtol=1e-9, atol=1e-9)
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)
    y = other.alpha(u) / first.alpha(t) * x

    def denoise(schedule: Schedule, x: Tensor, t: Tensor) -> Tensor:
        alpha, variance = schedule.alpha(t), schedule.sigma(t) ** 2
        return mean + alpha * spread / (alpha**2 * spread + variance) * (x - alpha * mean)

    torch.testing.assert_close(denoise(first, x, t), denoise(other, y, u), rtol=1e-8, atol=1e-9)


def test_discrete_tables():
    """DDPM: alpha-bar of linspace(1e-4, 0.02, 1000); NCSN: squared differences of a geometric table."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    t = torch.arange(1000, dtype=torch.float64) / 999
    drift, diffusion = VP().discrete_pair(t, 1000)
    torch.testing.assert_close(drift, (1 - betas).sqrt() - 1, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(diffusion**2, betas, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(VP().langevin_alpha(t, 1000), 1 - betas, rtol=1e-10, atol=1e-14)
    levels = torch.exp(torch.linspace(math.log(0.01), math.log(50), 1000, dtype=torch.float64))
    drift, diffusion = VE().discrete_pair(t, 1000)
    assert drift.abs().max() == 0
    torch.testing.assert_close(diffusion[1:] ** 2, levels[1:] ** 2 - levels[:-1] ** 2, rtol=1e-9, atol=0)
    torch.testing.assert_close(diffusion[0] ** 2, levels[0] ** 2, rtol=1e-9, atol=0)
    # without a table of its own: the Euler pair
    drift, diffusion = OU(0.7, 0.3).discrete_pair(t, 50)
    assert (drift == -0.7 / 50).all()
    torch.testing.assert_close(diffusion, torch.full_like(t, 0.3 / 50**0.5))


@pytest.mark.parametrize(
    "build",
    [
        lambda: VP(0.0, 1.0), lambda: VP(2.0, 1.0), lambda: VE(1.0, 0.5), lambda: VE(0.0, 1.0), lambda: Cosine(0.0),
        lambda: OU(-1.0), lambda: Brownian(0.0), lambda: BFN(1.0), lambda: CategoricalBFN(1), lambda:
        CategoricalBFN(3, -1),
    ],
)  # fmt: skip
def test_impossible_parameters_are_refused(build):
    with pytest.raises(ValueError, match="got"):
        build()
