"""Survival schedules: released formulas, derivatives against automatic differentiation, inverses, ends."""

from __future__ import annotations

import math

import pytest
import torch

from sciflow.core.config import from_config, to_config
from sciflow.core.errors import UserError
from sciflow.core.survival import Cosine, CosineSquared, Geometric, Linear, LogLinear

F64 = torch.float64
SCHEDULES = [LogLinear(), LogLinear(0.0), Linear(), Geometric(), Cosine(), CosineSquared(), Geometric(0.01, 5.0)]
TIMES = torch.tensor([0.01, 0.2, 0.5, 0.77, 0.99], dtype=F64)

# sigma(t) as printed in drakes.md section 2.1
FORMULAS = {
    "LogLinear": lambda t: -math.log(1 - (1 - 1e-3) * t),
    "Linear": lambda t: 1e-4 + t * (20 - 1e-4),
    "Geometric": lambda t: 1e-4 ** (1 - t) * 20**t,
    "Cosine": lambda t: -math.log(1e-3 + (1 - 1e-3) * math.cos(math.pi * t / 2)),
    "CosineSquared": lambda t: -math.log(1e-3 + (1 - 1e-3) * math.cos(math.pi * t / 2) ** 2),
}


@pytest.mark.parametrize("schedule", SCHEDULES[:1] + SCHEDULES[2:6], ids=lambda s: type(s).__name__)
def test_released_formulas(schedule):
    sigma = torch.tensor([FORMULAS[type(schedule).__name__](float(t)) for t in TIMES], dtype=F64)
    torch.testing.assert_close(schedule.alpha(TIMES), torch.exp(-sigma), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(schedule.lost(TIMES), -torch.expm1(-sigma), rtol=1e-10, atol=0)
    # weight of the NELBO: beta/(e^sigma - 1)
    torch.testing.assert_close(
        schedule.unmask_rate(TIMES), schedule.beta(TIMES) / torch.expm1(sigma), rtol=1e-10, atol=0
    )


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_derivatives_and_inverse(schedule):
    t = TIMES.clone().requires_grad_()
    (slope,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    torch.testing.assert_close(schedule.slope(TIMES), -slope, rtol=1e-9, atol=1e-12)
    (beta,) = torch.autograd.grad(-schedule.alpha(t).log().sum(), t)
    torch.testing.assert_close(schedule.beta(TIMES), beta, rtol=1e-9, atol=1e-12)
    middle = TIMES[1:4]  # Linear: alpha(0.99) = 2e-9, so 1 - alpha has no digits left to invert
    torch.testing.assert_close(schedule.time_at(schedule.lost(middle)), middle, rtol=1e-6, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_falls_from_one_towards_zero(schedule):
    alpha = schedule.alpha(torch.linspace(0, 1, 201, dtype=F64))
    assert bool((alpha.diff() < 0).all())
    assert 1 - 0.011 < float(alpha[0]) <= 1 and -1e-15 <= float(alpha[-1]) < 0.01
    single = schedule.alpha(torch.tensor(0.3))
    assert single.dtype == torch.float32


def test_loglinear_weight_is_one_over_t_for_every_eps():
    for eps in (0.0, 1e-3, 0.2):
        torch.testing.assert_close(LogLinear(eps).unmask_rate(TIMES), 1 / TIMES)


@pytest.mark.parametrize("schedule", [LogLinear(1e-3), Linear(), Geometric(), Cosine(), CosineSquared()])
def test_small_clocks_keep_their_digits_in_single_precision(schedule):
    """1 - alpha formed by subtraction would be wrong by 6 percent at 1e-6."""
    t = torch.tensor(1e-3)
    exact = schedule.lost(t.double())
    assert float((schedule.lost(t) / exact - 1).abs()) < 1e-5


def test_wrong_parameters_are_refused():
    for make in (lambda: LogLinear(1.0), lambda: Cosine(-0.1), lambda: Linear(2.0, 1.0), lambda: Geometric(0.0, 1.0)):
        with pytest.raises(UserError, match="need 0 <"):
            make()


def test_schedules_survive_a_checkpoint():
    rebuilt = from_config(to_config(Geometric(0.02, 7.0)))
    torch.testing.assert_close(rebuilt.alpha(TIMES), Geometric(0.02, 7.0).alpha(TIMES))
