"""Grids: where the moves lie."""

from __future__ import annotations

import pytest
import torch

from sciflow.core.grids import Below, Explicit, FixedStep, Karras, LogSNR, Physical, Power, Uniform
from sciflow.core.schedules import BFN, VE, VP

GRIDS = [Uniform(), Power(exponent=3.0), LogSNR(VP()), Karras(VE(0.002, 80.0)), LogSNR(VE()), Karras(VP(), rho=5.0)]


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: type(grid).__name__)
@pytest.mark.parametrize("steps", [1, 2, 17])
def test_moves_join_and_fall_from_start_to_end(grid, steps):
    moves = grid.moves(steps)
    assert len(moves) == steps
    assert moves[0][0] == 1.0 and moves[-1][1] == 1e-3
    assert all(t > s for t, s in moves)
    assert all(a[1] == b[0] for a, b in zip(moves[:-1], moves[1:], strict=True))


def test_uniform_and_power():
    clocks = torch.tensor([t for t, _ in Uniform(end=0.0).moves(4)])
    torch.testing.assert_close(clocks, torch.tensor([1.0, 0.75, 0.5, 0.25]))
    clocks = Power(end=0.0, exponent=2.0).points(4)
    torch.testing.assert_close(clocks, torch.tensor([1, 9 / 16, 4 / 16, 1 / 16, 0], dtype=torch.float64))


@pytest.mark.parametrize("schedule", [VP(), VE(), VE(0.1, 1.0)], ids=["VP", "VE", "VE-narrow"])
def test_log_snr_steps_are_equal(schedule):
    steps = schedule.log_snr(LogSNR(schedule).points(20)).diff()
    torch.testing.assert_close(steps, steps.mean().expand(20), rtol=1e-8, atol=0)


def test_karras_levels():
    """Karras et al. 2022, equation 5, with sigma from 80 to 0.002 and rho = 7."""
    schedule = VE(0.002, 80.0)
    levels = schedule.sigma(Karras(schedule, start=1.0, end=0.0, rho=7.0).points(9))
    i = torch.arange(10, dtype=torch.float64)
    expected = (80 ** (1 / 7) + i / 9 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(levels, expected, rtol=1e-9, atol=0)


def test_fixed_step_is_the_grid_of_the_released_gdss_samplers():
    """gdss.md, section 7: t_i = linspace(1, eps, N), step 1/N, so the end of one move is not the start of the next."""
    moves = FixedStep(end=1e-4).moves(1000)
    starts = torch.tensor([t for t, _ in moves], dtype=torch.float64)
    torch.testing.assert_close(starts, torch.linspace(1, 1e-4, 1000, dtype=torch.float64), rtol=0, atol=1e-15)
    steps = torch.tensor([t - s for t, s in moves], dtype=torch.float64)
    torch.testing.assert_close(steps, torch.full((1000,), 1e-3, dtype=torch.float64), rtol=0, atol=1e-15)
    assert moves[-1][1] == pytest.approx(1e-4 - 1e-3)  # below zero, as released
    assert moves[0][1] != moves[1][0]


def test_explicit_and_physical():
    assert Explicit([0.9, 0.5, 0.1]).moves(2) == [(0.9, 0.5), (0.5, 0.1)]
    assert Physical(0.0, 2.0).moves(2) == [(0.0, 1.0), (1.0, 2.0)]


def test_the_moves_below_a_clock():
    """A run from an inner clock makes the later moves of the whole run, the first one shortened."""
    whole = Uniform(1.0, 0.0).moves(5)
    assert Below(Uniform(1.0, 0.0), 0.5).moves(5) == [(0.5, pytest.approx(0.4)), *whole[3:]]
    assert Below(Uniform(0.9, 0.0), 0.95).moves(1) == [(0.95, 0.9), (0.9, 0.0)]
    assert Below(Uniform(0.9, 0.0), 0.9).moves(1) == [(0.9, 0.0)]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Below(Uniform(1.0, 0.1), 0.1).moves(3), "between 0.1 and 1"),
        (lambda: Below(Uniform(1.0, 0.1), 1.0).moves(3), "between 0.1 and 1"),
        (lambda: Uniform().moves(0), "at least 1"),
        (lambda: Explicit([0.9, 0.5]).moves(5), "1 moves, 5"),
        (lambda: Explicit([0.9]), "at least 2"),
        (lambda: Physical(1.0, 1.0), "end > start"),
        (lambda: Power(exponent=0.0), "positive"),
        (lambda: LogSNR(BFN()).moves(3), "inside"),
        (lambda: LogSNR(VP(), end=0.0).moves(3), "inside"),
    ],
)
def test_impossible_grids_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
