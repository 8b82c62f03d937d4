"""S4 against its formula written out by hand, and against its exact law with the correction in place.

The formula is that of GDSS (Jo et al. 2022, section 3.3) as written down in sciflow/solvers/s4.py.
"""

from __future__ import annotations

import math

import pytest
import torch
from oracles import F64, GaussianOracle, f64
from stats import Z_LIMIT, normal_z, run

from sciflow.core import schedules
from sciflow.core.grids import Uniform
from sciflow.core.noise import Fresh, Move, Replay
from sciflow.core.process import Prediction
from sciflow.core.solver import drive_one
from sciflow.core.state import Layout
from sciflow.processes.gaussian import GaussianProcess
from sciflow.solvers.s4 import S4

VP = schedules.VP(0.1, 10.0)


def coefficients(t: float, s: float) -> tuple[float, float]:
    """(a, variance) of the linear reverse SDE of VP(0.1, 10) in plain floats: a = exp(+B/2), variance = exp(B) - 1.

    B is the integral of beta from s to t. Check: a^2 sigma_t^2 - sigma_s^2 with sigma^2 = 1 - alpha^2 is a^2 - 1.
    """
    integral = 0.1 * (t - s) + 0.5 * 9.9 * (t**2 - s**2)
    return math.exp(integral / 2), math.exp(integral) - 1


@pytest.mark.parametrize("exact_ou", [True, False])
def test_one_step_by_hand(exact_ou):
    """Correction with the OLD score, half OU, score over the whole step with g(t), half OU."""
    t, s, snr, scale = 0.6, 0.5, 0.2, 0.7
    x, score = f64([[1.0], [-2.0]]), f64([[0.5], [1.5]])
    z1, z2 = f64([[0.3], [-1.1]]), f64([[2.0], [0.4]])
    process, layout = GaussianProcess(VP, kind="score"), Layout(2)
    solver = S4(snr=snr, scale=scale, exact_ou=exact_ou, scales=100)
    draws = Replay({("x", 0, 0, 0): [z1, z2]}).at("x", Move(0, t, s))
    step = solver.step(process, x, f64(t), f64(s), layout, None, draws)
    kernel, _ = drive_one(step, lambda q: Prediction(score, "score", process, q.x, q.t, layout))

    alpha_k = 1 - (0.1 + 9.9 * math.floor(0.6 * 99) / 99) / 100
    e = 2 * alpha_k * (snr * (0.3 + 1.1) / (0.5 + 1.5)) ** 2
    y = x + e * score + math.sqrt(2 * e) * z1 * scale
    (a1, v1), (a2, v2) = coefficients(0.6, 0.55), coefficients(0.55, 0.5)
    if not exact_ou:
        v1, v2 = v1 / a1**2, v2 / a2**2
    y = a1 * y + math.sqrt(v1) * z2
    y = y + 0.1 * (0.1 + 9.9 * 0.6) * score
    torch.testing.assert_close(kernel.mean, a2 * y, rtol=1e-12, atol=0)
    assert float(kernel.std.flatten()[0]) == pytest.approx(math.sqrt(v2), rel=1e-10)


def large_batch_law(law, t: float, s: float, oracle, snr: float):
    """(mean, variance) after one move in one dimension for an infinite batch: norms become expectations."""
    (mean, variance), (m, v) = law, (float(q) for q in oracle.law(f64(t)))
    shift, spread = (mean - m) / v, math.sqrt(variance) / v  # the score is N(-shift, spread^2)
    folded = spread * math.sqrt(2 / math.pi) * math.exp(-(shift**2) / (2 * spread**2))
    folded += shift * math.erf(shift / (spread * math.sqrt(2)))
    alpha_k = 1 - (0.1 + 9.9 * math.floor(t * 999 + 1e-9) / 999) / 1000
    e = 2 * alpha_k * (snr * math.sqrt(2 / math.pi) / folded) ** 2
    (a1, v1), (a2, v2) = coefficients(t, (t + s) / 2), coefficients((t + s) / 2, s)
    gain = a1 * e / v + (t - s) * (0.1 + 9.9 * t) / v  # of (m - x)
    slope = a2 * (a1 - gain)
    return slope * mean + a2 * gain * m, slope**2 * variance + a2**2 * (2 * e * a1**2 + v1) + v2


def test_law_with_the_correction():
    """z-tests of mean and variance against the infinite-batch recursion, false alarm 1e-5 each."""
    process, rows, grid, snr = GaussianProcess(VP, kind="score"), 20_000, Uniform(0.9, 0.1), 0.3
    oracle = GaussianOracle(process)
    law = tuple(float(q) for q in oracle.law(f64(0.9)))
    x = law[0] + math.sqrt(law[1]) * Fresh(1).normal(torch.zeros(rows, 1, dtype=F64), Layout(rows))
    for t, s in grid.moves(10):
        law = large_batch_law(law, t, s, oracle, snr)
    assert normal_z(run(process, S4(snr=snr), oracle, x, 10, grid, Fresh(2)), *law) < Z_LIMIT
    assert normal_z(run(process, S4(snr=0.0), oracle, x, 10, grid, Fresh(2)), *law) > Z_LIMIT  # the test has power


def test_released_variance_is_exact_where_alpha_is_one():
    process, x = GaussianProcess(schedules.VE(0.1, 1.0), kind="score"), f64([[0.4]])
    ends = [
        run(process, S4(snr=0.1, exact_ou=exact), GaussianOracle(process), x, 3, Uniform(), Fresh(1))
        for exact in (True, False)
    ]
    assert torch.equal(*ends)
