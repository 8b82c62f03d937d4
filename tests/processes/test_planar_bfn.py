"""Planar Bayesian flow: coordinates to vectors and back, the analytic flow, path independence."""

from __future__ import annotations

import math

import pytest
import torch
from stats import Z_LIMIT, normal_z

from sciflow.core.grids import Uniform
from sciflow.core.noise import Fresh, PerSample
from sciflow.core.process import Prediction
from sciflow.core.sampler import Sampler
from sciflow.core.state import Layout, State
from sciflow.processes.planar_bfn import PlanarBFN, fractions
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.reperturb import Reperturb

F64 = torch.float64
PROCESS = PlanarBFN()


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-6), (F64, 1e-14)])
def test_decode_inverts_encode_within_the_unit_interval(dtype, bound):
    x = torch.tensor([[0.0, 0.25, 1 - 1e-9], [0.5, 0.999999, 1e-8]], dtype=dtype)
    back = PROCESS.decode(PROCESS.encode(x), None)
    assert bool(((back >= 0) & (back < 1)).all())
    gap = (back - x + 0.5) % 1 - 0.5
    assert float(gap.abs().max()) < bound


def test_a_tiny_negative_angle_is_not_one():
    """-1e-9 of a turn rounds to 1.0 in float32."""
    assert float(fractions(torch.tensor([1.0, -1e-9]))) == 0.0 and float(fractions(torch.zeros(2))) == 0.0


def test_flow_has_the_analytic_law():
    """Mean gamma u, variance gamma (1 - gamma), gamma = 1 - sigma_1^(2 (1 - t)); z-tests, false alarm 1e-5."""
    t, rows = 0.7, 40_000
    clean = PROCESS.encode(torch.full((rows, 1), 0.1, dtype=F64))
    x = PROCESS.marginal(clean, torch.tensor(t, dtype=F64), Layout(rows)).sample(Fresh(1))
    gamma = 1 - 1e-3 ** (1 - t)
    for part, mean in ((x[:, 0, 0], math.cos(0.2 * math.pi)), (x[:, 0, 1], math.sin(0.2 * math.pi))):
        assert normal_z(part, gamma * mean, gamma * (1 - gamma)) < Z_LIMIT


def test_prior_is_the_origin_of_the_plane():
    draw = PROCESS.prior(torch.rand(5, 3), Layout(5)).sample(Fresh())
    assert draw.shape == (5, 3, 2) and float(draw.abs().max()) == 0.0


def mixture_denoiser(angles: torch.Tensor, weights: torch.Tensor):
    """E[u | mu] for u one of a few points: weights times exp(<u, mu>/(1 - gamma)); `draw` gives a draw instead."""
    points = torch.stack([angles.cos(), angles.sin()], -1)

    def predict(state, clocks, draw=None):
        x, t, layout = state["coords"], clocks["coords"], state.layouts["coords"]
        evidence = x[:, 0] @ points.T / (1 - PROCESS.schedule.alpha(t))
        posterior = (weights.log() + evidence).softmax(-1)
        if draw is not None:
            posterior = torch.nn.functional.one_hot(posterior.multinomial(1, generator=draw)[:, 0], len(angles)).to(F64)
        return {"coords": Prediction((posterior @ points)[:, None], "data", PROCESS, x, t, layout)}

    return predict


@pytest.mark.parametrize("solver, moves, draws", [(Ancestral(), 100, False), (Reperturb(), 8, True)])
def test_sampler_with_the_exact_predictor_reproduces_a_mixture(solver, moves, draws):
    """Three angles with weights .2, .3, .5: chi-square, false alarm 1e-5; the plug-in mean of 100 moves costs < .01."""
    from stats import FALSE_ALARM, chi_square

    angles, weights = torch.tensor([0.4, 2.5, 5.0], dtype=F64), torch.tensor([0.2, 0.3, 0.5], dtype=F64)
    rows, generator = 4_000, torch.Generator().manual_seed(3)
    predict = mixture_denoiser(angles, weights)
    denoise = (lambda s, c: predict(s, c, generator)) if draws else predict
    state = State({"coords": torch.zeros(rows, 1, 2, dtype=F64)}, {"coords": Layout(rows)})
    sampler = Sampler({"coords": PROCESS}, {"coords": solver}, Uniform(1.0, 0.0))
    end = sampler.run(state, denoise, Fresh(4), steps=moves).state["coords"]
    angle = 2 * math.pi * PROCESS.decode(end, None)[:, 0]
    off = (angle[:, None] - angles + math.pi) % (2 * math.pi) - math.pi
    assert float(off.abs().min(1).values.max()) < 6 * 0.0316
    assert chi_square(off.abs().argmin(1).bincount(minlength=3), weights) > FALSE_ALARM


def test_samples_do_not_depend_on_batch_mates():
    """Counter-based noise through a ragged layout."""
    predict = mixture_denoiser(torch.tensor([0.4, 2.5], dtype=F64), torch.tensor([0.5, 0.5], dtype=F64))
    sampler = Sampler({"coords": PROCESS}, {"coords": Ancestral()}, Uniform(1.0, 0.0))
    index = torch.tensor([0, 0, 1, 1, 1])
    both = State({"coords": torch.zeros(5, 1, 2, dtype=F64)}, {"coords": Layout(2, index, sizes=(2, 3))})
    alone = State({"coords": torch.zeros(3, 1, 2, dtype=F64)}, {"coords": Layout(1, torch.zeros(3).long(), sizes=(3,))})
    x = sampler.run(both, predict, PerSample(7, torch.tensor([4, 9])), steps=5).state["coords"]
    y = sampler.run(alone, predict, PerSample(7, torch.tensor([9])), steps=5).state["coords"]
    torch.testing.assert_close(x[2:], y)
