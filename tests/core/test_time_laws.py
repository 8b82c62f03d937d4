"""Time laws: densities by Kolmogorov-Smirnov (false-alarm rate 1e-5 on fixed seeds), bounds per sample, weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sciflow.core.schedules import VE, VP
from sciflow.core.time_laws import LogSNRTime, PowerTime, Shared, SineTime, Stratified, UniformTime

N = 50_000


def uniforms(n: int = N, seed: int = 0) -> Tensor:
    return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ks_distance(u: Tensor) -> float:
    """sqrt(n) times the distance to U(0, 1); exceeds 2.47 with probability 1e-5 = 2 exp(-2 2.47^2)."""
    u = u.sort().values
    grid = torch.arange(len(u), dtype=torch.float64) / len(u)
    return math.sqrt(len(u)) * float(torch.maximum((u - grid).abs(), (u - grid - 1 / len(u)).abs()).max())


def log_snr_cdf(schedule):
    def cdf(t: Tensor) -> Tensor:
        first, last = schedule.log_snr(torch.tensor([0.01, 1.0], dtype=torch.float64))
        return (schedule.log_snr(t) - first) / (last - first)

    return cdf


LAWS = {
    "uniform": (UniformTime(0.01), lambda t: (t - 0.01) / 0.99),
    "stratified": (Stratified(low=0.01), lambda t: (t - 0.01) / 0.99),
    "power": (PowerTime(3.0, 0.01), lambda t: ((t - 0.01) / 0.99) ** (1 / 3)),
    "stratified_power": (Stratified(PowerTime(3.0, 0.01)), lambda t: ((t - 0.01) / 0.99) ** (1 / 3)),
    "sine": (SineTime(1.0, 0.01), lambda t: (1 - torch.cos(math.pi * (t - 0.01) / 0.99)) / 2),
    "sine_squared": (SineTime(2.0, 0.01), lambda t: (1 - torch.cos(math.pi * ((t - 0.01) / 0.99) ** 0.5)) / 2),
    "log_snr_vp": (LogSNRTime(VP(), 0.01), log_snr_cdf(VP())),
    "log_snr_ve": (LogSNRTime(VE(), 0.01), log_snr_cdf(VE())),
}


@pytest.mark.parametrize("law, cdf", LAWS.values(), ids=LAWS.keys())
def test_clocks_follow_the_stated_law(law, cdf):
    t = law.sample(uniforms())
    assert t.shape == (N,) and t.dtype == torch.float64
    assert t.min() >= 0.01 and t.max() <= 1
    assert ks_distance(cdf(t)) < 2.47


def test_the_laws_differ():
    """The test above can fail: power-law clocks are not uniform."""
    assert ks_distance((LAWS["power"][0].sample(uniforms()) - 0.01) / 0.99) > 2.47


def test_stratified_puts_one_clock_in_each_slice():
    t = Stratified(low=0.2).sample(uniforms(40))
    assert torch.equal(((t - 0.2) / 0.8 * 40).floor().sort().values, torch.arange(40, dtype=torch.float64))


def test_stratified_means_vary_less():
    """Variance of the batch mean of t: 1/(12 B^3) against 1/(12 B); 200 batches of 16."""
    means = {}
    for law in (UniformTime(0.0), Stratified(low=0.0)):
        draws = torch.stack([law.sample(uniforms(16, seed)).mean() for seed in range(200)])
        means[type(law)] = float(draws.var())
    assert means[Stratified] < means[UniformTime] / 100
    assert means[UniformTime] == pytest.approx(1 / (12 * 16), rel=0.4)  # 4 sigma of a variance from 200 draws


def test_shared_gives_one_clock():
    t = Shared(0.1).sample(uniforms(32))
    assert t.shape == (32,) and (t == t[0]).all() and 0.1 <= t[0] <= 1
    firsts = torch.stack([Shared(0.0).sample(uniforms(4, seed))[0] for seed in range(2000)])
    assert ks_distance(firsts) < 2.47


@pytest.mark.parametrize("law", [UniformTime(0.01), Stratified(low=0.01), PowerTime(2.0, 0.01), LogSNRTime(VP(), 0.01)])
def test_lower_bounds_per_sample(law):
    """Ambient data: each sample has its own least clock; a bound below the law's own has no effect."""
    low = torch.linspace(0, 0.9, 1000, dtype=torch.float64)
    t = law.sample(uniforms(1000), low)
    assert (t >= low.clamp_min(0.01)).all() and (t <= 1).all()
    assert (t[:500] < 0.5).any()


WEIGHTED = [PowerTime(2.0, 0.01), PowerTime(0.5, 0.01), LogSNRTime(VP(), 0.01), UniformTime(0.01)]
WEIGHTED += [SineTime(1.0, 0.01), SineTime(2.0, 0.01), Stratified(PowerTime(2.0, 0.01))]


@pytest.mark.parametrize("law", WEIGHTED)
def test_weights_restore_the_uniform_expectation(law):
    """By quadrature, to 1 % (some weights diverge at an end): E_law[w h] = E_uniform[h] for h = 1 and t^2."""
    u = (torch.arange(50_000, dtype=torch.float64) + 0.5) / 50_000
    t = law.sample(u)
    weight = law.weight(t)
    uniform = UniformTime(0.01).sample(u)
    assert float(weight.mean()) == pytest.approx(1, rel=1e-2)
    assert float((weight * t**2).mean()) == pytest.approx(float((uniform**2).mean()), rel=1e-2)


def test_power_must_be_positive():
    with pytest.raises(ValueError, match="positive"):
        PowerTime(0.0)
