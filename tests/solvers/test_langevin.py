"""Langevin correctors against formulas worked out by hand on fixed noise (the laws: tests/core/test_matrix.py)."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import F64, FIELD, GaussianOracle, f64
from stats import Z_LIMIT, batch_state, normal_z, run

from sciflow.core import schedules
from sciflow.core.grids import Uniform
from sciflow.core.noise import Fresh, Move, Replay
from sciflow.core.process import Prediction
from sciflow.core.solver import drive_one
from sciflow.core.state import Layout
from sciflow.processes.gaussian import GaussianProcess
from sciflow.solvers.langevin import Langevin, NormLangevin

VE = schedules.VE(0.1, 1.0)


def drive(solver, schedule, x, score, t: float, layout, *normals):
    """Kernel of one step at fixed clock with given score and normals."""
    process, clock = GaussianProcess(schedule, kind="score"), f64(t)
    draws = Replay({("x", 0, 0, 0): normals}).at("x", Move(0, t, t))
    step = solver.step(process, x, clock, clock, layout, None, draws)
    return drive_one(step, lambda query: Prediction(score, "score", process, query.x, query.t, layout))[0]


def test_norm_langevin_by_hand():
    """|z| = 5, 13 (mean 9); |score| = 2, 4 (mean 3); r = 0.5: e = 2 (0.5 * 3)^2 = 4.5, sqrt(2 e) = 3; scale 0.5."""
    x, score = f64([[1.0, 0.0], [0.0, 1.0]]), f64([[2.0, 0.0], [0.0, -4.0]])
    z = f64([[3.0, 4.0], [5.0, 12.0]])
    kernel = drive(NormLangevin(snr=0.5, scale=0.5), VE, x, score, 0.5, Layout(2), z)
    expected = f64([[1 + 9 + 4.5, 6.0], [7.5, 1 - 18 + 18.0]])
    torch.testing.assert_close(kernel.mean, expected)


def test_norm_langevin_norms_are_per_sample_for_ragged_fields():
    """Rows of one sample count together: |z| = sqrt(9 + 16) and 13 as above, from three rows."""
    layout = Layout(2, torch.tensor([0, 0, 1]))
    z, score = f64([[3.0, 0.0], [0.0, 4.0], [5.0, 12.0]]), f64([[2.0, 0.0], [0.0, 0.0], [0.0, -4.0]])
    kernel = drive(NormLangevin(snr=0.5), VE, torch.zeros(3, 2, dtype=F64), score, 0.5, layout, z)
    torch.testing.assert_close(kernel.mean, 4.5 * score + 3 * z)


def test_norm_langevin_uses_the_table_of_vp():
    """alpha_k = 1 - beta_k with beta_k = (0.1 + 19.9 k/999)/1000 at k = floor(0.5 * 999) = 499."""
    x, one = torch.zeros(1, 1, dtype=F64), torch.ones(1, 1, dtype=F64)
    kernel = drive(NormLangevin(snr=0.1), schedules.VP(), x, one, 0.5, Layout(1), one)
    step = 2 * (1 - (0.1 + 19.9 * 499 / 999) / 1000) * 0.01
    assert float(kernel.mean) == pytest.approx(step + math.sqrt(2 * step), rel=1e-12)


def test_langevin_by_hand():
    """sigma(0.5)^2 = 0.1 for VE from 0.1 to 1: e = 2 r^2 0.1."""
    x, score = f64([[1.0], [2.0]]), f64([[3.0], [-1.0]])
    kernel = drive(Langevin(0.2), VE, x, score, 0.5, Layout(2))
    torch.testing.assert_close(kernel.mean, x + 0.008 * score)
    assert float(kernel.std.flatten()[0]) == pytest.approx(math.sqrt(0.016), rel=1e-12)


@pytest.mark.parametrize("dimension", [1, 50])
def test_langevin_is_right_in_any_dimension(dimension):
    """Stationary variance V/(1 - e/(2V)) in every coordinate; z-tests, false alarm 1e-5 each."""
    process, clock, rows = GaussianProcess(VE, kind="score"), f64(0.7), 20_000 // dimension
    oracle = GaussianOracle(process)
    mean, variance = oracle.law(clock)
    stationary = variance / (1 - (0.2 * VE.sigma(clock)) ** 2 / variance)
    x = mean + stationary.sqrt() * Fresh(1).normal(torch.zeros(rows, dimension, dtype=F64), Layout(rows))
    x = run(process, None, oracle, x, 10, Uniform(0.7, 0.7), Fresh(2), correct=Langevin(0.2))
    assert normal_z(x, mean, stationary) < Z_LIMIT


def test_norm_langevin_couples_samples_and_langevin_does_not():
    """Why the former is for parity only: a batch-mate far away changes sample 0."""
    process, noise = GaussianProcess(VE, kind="score"), Fresh
    ends = {}
    for solver in (Langevin(), NormLangevin()):
        for far in (0.0, 50.0):
            x = batch_state(f64([[0.3], [far]]))[FIELD]
            end = run(process, None, GaussianOracle(process), x, 1, Uniform(0.5, 0.5), noise(1), correct=solver)
            ends[type(solver).__name__, far] = float(end[0])
    assert ends["Langevin", 0.0] == ends["Langevin", 50.0]
    assert ends["NormLangevin", 0.0] != ends["NormLangevin", 50.0]


def test_snr_must_be_positive():
    with pytest.raises(ValueError, match="snr must be positive, got 0"):
        Langevin(0.0)
