"""DPM-Solver++(2M) and DDIM against closed forms; the orders: tests/core/test_orders.py."""

from __future__ import annotations

import pytest
import torch
from oracles import F64, GaussianOracle, f64
from stats import run

from sciflow.core import schedules
from sciflow.core.grids import Explicit, Uniform
from sciflow.core.noise import Fresh
from sciflow.core.process import Prediction
from sciflow.core.state import Layout
from sciflow.processes.gaussian import GaussianProcess
from sciflow.solvers.dpmpp import DDIM, DPMpp2M

VP = schedules.VP()
X = torch.linspace(-1, 1, 5, dtype=F64)[:, None]


def test_first_move_is_ddim():
    process = GaussianProcess(VP)
    ends = [run(process, s, GaussianOracle(process), X, 1, Explicit([0.7, 0.5]), Fresh()) for s in (DDIM(), DPMpp2M())]
    assert torch.equal(*ends)


def test_ddim_with_alpha_one_is_euler_in_sigma():
    """x_s = x + (sigma_s - sigma_t) (x - x0)/sigma_t (Karras et al. 2022, algorithm 1, without correction)."""
    schedule = schedules.VE(0.1, 2.0)
    process, oracle = GaussianProcess(schedule), GaussianOracle(GaussianProcess(schedule))
    sigma_t, sigma_s = schedule.sigma(f64(0.8)), schedule.sigma(f64(0.6))
    expected = X + (sigma_s - sigma_t) * (X - oracle.data(X, f64(0.8), Layout(5))) / sigma_t
    torch.testing.assert_close(run(process, DDIM(), oracle, X, 1, Explicit([0.8, 0.6]), Fresh()), expected)


def test_ddim_is_exact_for_point_data():
    """One point mu: x_s = alpha_s mu + sigma_s z with the z of x_t, in a single move of any length."""
    process = GaussianProcess(VP)
    oracle, (t, s) = GaussianOracle(process, mean=1.7, variance=0.0), (f64(0.9), f64(0.05))
    z = (X - VP.alpha(t) * 1.7) / VP.sigma(t)
    found = run(process, DDIM(), oracle, X, 1, Uniform(0.9, 0.05), Fresh())
    torch.testing.assert_close(found, VP.alpha(s) * 1.7 + VP.sigma(s) * z)


@pytest.mark.parametrize("last", [0.8, 0.53])
def test_second_move_by_hand(last):
    """D = x0 + h/(2 h') (x0 - x0'), x_s = (sigma_s/sigma_t) x - alpha_s (e^-h - 1) D; memory is (x0, h)."""
    process, (t, s) = GaussianProcess(VP, kind="data"), (f64(0.5), f64(0.4))
    x, now, before, layout = f64([[0.7]]), f64([[1.3]]), f64([[0.9]]), Layout(1)
    h, last_h = VP.log_snr(s) - VP.log_snr(t), VP.log_snr(t) - VP.log_snr(f64(last))
    pred = Prediction(now, "data", process, x, t, layout)
    kernel, memory = DPMpp2M().kernel(process, x, pred, t, s, layout, (before, last_h))
    middle = now + h / (2 * last_h) * (now - before)
    expected = VP.sigma(s) / VP.sigma(t) * x - VP.alpha(s) * torch.expm1(-h) * middle
    torch.testing.assert_close(kernel.mean, expected)
    assert torch.equal(memory[0], now) and torch.equal(memory[1], h)
