"""Reverse-diffusion predictor against the tables of Song et al. 2021, appendix E, written out by hand."""

from __future__ import annotations

import math

import pytest
from oracles import f64

from sciflow.core import schedules
from sciflow.core.process import Prediction
from sciflow.core.state import Layout
from sciflow.processes.gaussian import GaussianProcess
from sciflow.solvers.reverse_diffusion import ReverseDiffusion


def move(schedule, t: float, scales: int):
    """(mean, std) of the move from x = 2 with score -3."""
    process, x, layout = GaussianProcess(schedule, kind="score"), f64([[2.0]]), Layout(1)
    pred = Prediction(f64([[-3.0]]), "score", process, x, f64(t), layout)
    kernel, _ = ReverseDiffusion(scales).kernel(process, x, pred, f64(t), f64(t - 1 / scales), layout, None)
    return float(kernel.mean), float(kernel.std)


def test_vp_table():
    """beta_k = (0.1 + 19.9 k/99)/100 at k = 50: mean (2 - sqrt(1 - beta)) x + beta score, std sqrt(beta)."""
    beta = (0.1 + 19.9 * 50 / 99) / 100
    mean, std = move(schedules.VP(), 50 / 99, 100)
    assert mean == pytest.approx((2 - math.sqrt(1 - beta)) * 2 - 3 * beta, rel=1e-12)
    assert std == pytest.approx(math.sqrt(beta), rel=1e-12)


def test_ve_table():
    """sigma_k = 0.1 * 50^(k/9), k = 4: G^2 = sigma_4^2 - sigma_3^2; at k = 0, G^2 = sigma_0^2."""
    schedule = schedules.VE(0.1, 5.0)
    g2 = 0.01 * (50 ** (8 / 9) - 50 ** (6 / 9))
    mean, std = move(schedule, 4 / 9, 10)
    assert mean == pytest.approx(2 - 3 * g2, rel=1e-12) and std == pytest.approx(math.sqrt(g2), rel=1e-12)
    assert move(schedule, 0.0, 10)[1] == pytest.approx(0.1, rel=1e-12)


def test_a_table_needs_two_levels():
    with pytest.raises(ValueError, match="at least 2 levels, got 1"):
        ReverseDiffusion(1)
