"""Samples of requests against closed forms, long roll-outs, interruption, places far from the origin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from stats import Z_LIMIT
from trajectory_model import gain, gaussian_model
from trajectory_toy import random_points

from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.schedules import Cosine
from sciflow.core.spaces import ZeroCoM
from sciflow.domains.designing import Shelf
from sciflow.domains.trajectories.anchors import LastFrame
from sciflow.domains.trajectories.codec import TrajectoryCodec
from sciflow.domains.trajectories.design import request_of, write_samples
from sciflow.domains.trajectories.network import EGTN
from sciflow.domains.trajectories.rollout import RollOut, block_seed, packed, unpacked
from sciflow.model import Model
from sciflow.processes.anchored import Anchored
from sciflow.processes.gaussian import GaussianProcess
from sciflow.sampling import SamplingPlan
from sciflow.solvers.dpmpp import DDIM

ONE = random_points(frames=8, atoms=3)


def samples(run: RollOut) -> np.ndarray:
    return np.concatenate(list(run.batches()))


def check_normal(residual: np.ndarray) -> None:
    """Standard normal entries: the mean, and the variance, of all are within Z_LIMIT (false alarms 1e-5)."""
    z = residual.ravel()
    assert abs(z.mean()) * np.sqrt(z.size) < Z_LIMIT
    assert abs((z**2).mean() - 1) * np.sqrt(z.size / 2) < Z_LIMIT


def lines(seen: np.ndarray) -> np.ndarray:
    """Constant velocity by hand: each frame on the line through the observed frames around it, or the two nearest."""
    found = []
    for frame in range(ONE.frames):
        place = int(np.clip(np.searchsorted(seen, frame), 1, len(seen) - 1))
        a, b = seen[place - 1], seen[place]
        found.append(ONE.positions[a] + (frame - a) / (b - a) * (ONE.positions[b] - ONE.positions[a]))
    return np.stack(found)


@pytest.mark.parametrize("mask", ["0:3", "0:2,6:8", "1,4"])
def test_samples_have_the_closed_form_law_for_any_mask(mask):
    """N(constant velocity or interpolation, 0.5^2): the prior must lie around the anchor, in the right unit."""
    model = gaussian_model(ONE, scale=0.5)
    request = request_of(model.codec, ONE, mask)
    found = samples(RollOut(model, request, 200, batch_size=128))
    assert np.array_equal(found[:, request.observed], np.repeat(ONE.positions[None, request.observed], 200, 0))
    line, free = lines(np.flatnonzero(request.observed)), ~request.observed
    check_normal((found[:, free] - line[free]) / (0.5 * gain(model)))


def test_a_sample_depends_on_the_seed_and_its_number_only():
    model = gaussian_model(ONE)
    request = request_of(model.codec, ONE, "0:3")
    one, other = (samples(RollOut(model, request, 7, batch_size=size, seed=4)) for size in (7, 2))
    np.testing.assert_allclose(one, other, atol=1e-6)
    first = samples(RollOut(model, request, 2, seed=4))
    np.testing.assert_allclose(first, one[:2], atol=1e-6)
    assert np.abs(samples(RollOut(model, request, 2, seed=5)) - first)[:, 3:].max() > 0.1


@pytest.mark.parametrize("start", [0.2, 0.6])
def test_refinement_has_the_closed_form_law(start):
    """x_K = a + alpha (x - a) + sigma s z, and the moves multiply x - a by a number: the law of the result."""
    model = gaussian_model(ONE, scale=0.3, anchor=LastFrame())
    request = request_of(model.codec, ONE, "0:3", refine=True)
    found = samples(RollOut(model, request, 300, start=start, batch_size=300))
    t = torch.tensor(start, dtype=torch.float64)
    alpha, sigma = float(Cosine().alpha(t)), float(Cosine().sigma(t))
    anchor, rough = ONE.positions[2], ONE.positions[3:]
    factor = gain(model, start)
    check_normal((found[:, 3:] - anchor - factor * alpha * (rough - anchor)) / (factor * 0.3 * sigma))


# -- blocks ----------------------------------------------------------------------------------------------------------
def test_each_block_goes_on_from_the_last_frames_of_the_one_before():
    """With the last observed frame as anchor, every new frame is N(last frame of the block before, 0.5^2)."""
    model = gaussian_model(ONE, anchor=LastFrame())
    request = request_of(model.codec, ONE, "0:3", blocks=4)
    run = RollOut(model, request, 64, blocks=4)
    found = samples(run)
    assert found.shape == (64, 3 + 4 * 5, 3, 3) == (64, run.frames, 3, 3)
    assert run.observed.tolist() == [True] * 3 + [False] * 20 and np.allclose(run.times, np.arange(23))
    for k in range(4):
        last, new = found[:, 3 + 5 * k - 1], found[:, 3 + 5 * k : 8 + 5 * k]
        check_normal((new - last[:, None]) / (0.5 * gain(model)))
    alone = samples(RollOut(model, request_of(model.codec, ONE, "0:3"), 64))
    assert np.array_equal(alone, found[:, :8])  # the first block is the plain forecast
    blocks = found[:, 3:].reshape(64, 4, -1) - found[:, 2::5][:, :4].repeat(5, 1).reshape(64, 4, -1)
    assert np.abs(blocks[:, 0] - blocks[:, 1]).max() > 0.1  # other noise in every block
    assert len({block_seed(seed, k) for seed in range(50) for k in range(50)}) == 2500


def test_a_killed_run_goes_on_and_gives_the_same_bytes(tmp_path):
    model = gaussian_model(ONE)
    request = request_of(model.codec, ONE, "0:3", blocks=3)

    def run(shelf, progress=lambda stage, done: None):
        return RollOut(model, request, 5, blocks=3, batch_size=2, shelf=shelf, progress=progress)

    write_samples(tmp_path / "whole.npz", run(None))

    def dies(stage, done):
        if done > 0.6:
            raise KeyboardInterrupt

    shelf = Shelf(tmp_path / "parts", {"run": 1})
    with pytest.raises(KeyboardInterrupt):
        write_samples(tmp_path / "again.npz", run(shelf, dies))
    assert not (tmp_path / "again.npz").exists() and 0 < shelf.finished() < 9
    left, asked = shelf.finished(), []
    write_samples(tmp_path / "again.npz", run(Shelf(tmp_path / "parts", {"run": 1}), lambda s, d: asked.append(d)))
    assert shelf.finished() == 9 and min(asked) > left / 9 - 1e-9
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    with pytest.raises(UserError, match="other settings"):
        Shelf(tmp_path / "parts", {"run": 2})


def test_parts_keep_every_bit():
    values = np.random.default_rng(0).normal(size=(2, 3, 4)) * 1e5
    assert np.array_equal(unpacked(packed(values)), values)


# -- numbers ---------------------------------------------------------------------------------------------------------
def test_far_from_the_origin_nothing_is_lost():
    """Inputs on a grid of 1/2048; moved by 1000, float32 positions would be wrong by 3e-5."""
    grid = replace(ONE, positions=np.round(ONE.positions * 2048) / 2048)
    model = gaussian_model(grid)
    at_zero, far = (
        samples(RollOut(model, request_of(model.codec, replace(grid, positions=grid.positions + shift), "0:3"), 3))
        for shift in (0.0, 1000.0)
    )
    np.testing.assert_allclose(far - 1000, at_zero, atol=1e-6)


def test_broken_numbers_are_named():
    model = gaussian_model(ONE)
    with torch.no_grad():
        model.denoiser.network.embed.bias.fill_(torch.nan)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="sample 0 of block 0 is not finite"):
        samples(RollOut(model, request_of(model.codec, ONE, "0:3"), 2))


def test_free_models_refine_without_a_mask():
    """Unconditional, mean over frames and atoms 0: the centre of the rough trajectory stays, its shape shrinks."""
    codec = TrajectoryCodec.infer([ONE], 8, conditional=False)
    network = EGTN(2, 2, hidden=8, layers=1, waves=4)
    plan = SamplingPlan({"pos": DDIM()}, Uniform(0.999, 0.001), 4)
    model: Any = Model({"pos": Anchored(GaussianProcess(Cosine(), ZeroCoM(), kind="v"))}, network, plan, codec).eval()
    far = replace(ONE, positions=ONE.positions + 50.0)
    request = request_of(codec, far, refine=True, unconditional=True)
    found = samples(RollOut(model, request, 300, start=0.5, batch_size=300))
    centre = far.positions.mean((0, 1))
    np.testing.assert_allclose(found.mean((1, 2)), np.repeat(centre[None], 300, 0), atol=1e-5)
    alpha, sigma = (float(f(torch.tensor(0.5, dtype=torch.float64))) for f in (Cosine().alpha, Cosine().sigma))
    factor = gain(model, 0.5)
    off = (found - centre).mean(0) - factor * alpha * (far.positions - centre)
    assert (np.abs(off) < 5.5 * factor * sigma / np.sqrt(300)).all()  # 72 entries, false alarms 3e-6
