"""Rewards of trajectories against independent formulas, and guidance by them against closed forms."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from stats import Z_LIMIT
from trajectory_model import gaussian_model
from trajectory_toy import chain_molecule, random_points

from sciflow.core.errors import UserError
from sciflow.domains.trajectories.anchors import LastFrame
from sciflow.domains.trajectories.data import points
from sciflow.domains.trajectories.design import request_of
from sciflow.domains.trajectories.energies import total_energy
from sciflow.domains.trajectories.guides import BondLengths, Conserved, Energy, frames_of, guide_of
from sciflow.domains.trajectories.nbody import SIMULATORS, simulate
from sciflow.domains.trajectories.rollout import RollOut, template
from sciflow.guidance.gradient import GradientGuidance
from sciflow.solvers.ancestral import Ancestral

CHAIN = chain_molecule(frames=8, atoms=4)


def requested(one=CHAIN, mask="0:3", **options):
    model = gaussian_model(one, **options)
    return model, request_of(model.codec, one, mask, frames=8)


# -- rewards ---------------------------------------------------------------------------------------------------------
def test_frames_of_a_state_are_those_that_were_put_in():
    model, request = requested()
    x = np.random.default_rng(0).normal(size=(3, 8, 4, 3))
    state = template(model.codec, request, x)
    centre = state.cond["centre"].numpy()[:, None, None]
    np.testing.assert_allclose(frames_of(state).numpy(), x - centre, atol=1e-6)


def test_bond_lengths_by_hand():
    model, request = requested()
    reward = BondLengths(np.array([[0, 1], [1, 3]]), np.array([1.0, 2.0]), width=0.5)
    x = np.random.default_rng(0).normal(size=(2, 8, 4, 3))
    expected = np.zeros(2)
    for i, j, length in ((0, 1, 1.0), (1, 3, 2.0)):
        expected -= 0.5 * (((np.linalg.norm(x[:, :, i] - x[:, :, j], axis=-1) - length) / 0.5) ** 2).sum(1)
    np.testing.assert_allclose(reward(template(model.codec, request, x)).numpy(), expected, rtol=1e-5)


def test_lengths_are_the_means_of_the_observed_frames_or_given():
    _, request = requested()
    guide = guide_of("bonds", request)
    assert isinstance(guide, BondLengths) and guide.pairs.tolist() == CHAIN.bonds.tolist() and guide.width == 0.02
    seen = CHAIN.positions[:3]
    np.testing.assert_allclose(guide.lengths[1], np.linalg.norm(seen[:, 1] - seen[:, 2], axis=-1).mean())
    given = guide_of("bonds", request, 0.1, {(1, 0): 1.7, (0, 3): 2.5})
    assert isinstance(given, BondLengths) and given.width == 0.1
    wanted = dict(zip(map(tuple, given.pairs.tolist()), given.lengths.tolist(), strict=True))
    assert len(wanted) == 4 and wanted[0, 1] == 1.7 and wanted[0, 3] == 2.5


@pytest.mark.parametrize("system", list(SIMULATORS))
def test_energies_are_those_of_the_evaluation(system):
    """An independent implementation: NumPy, by the simulators' potentials."""
    found = simulate(system, 2, frames=9)
    for k in range(2):
        guide = Conserved(system, found.couplings[k], 0.0)
        ours = guide.energies(torch.from_numpy(found.positions[k : k + 1]))[0]
        np.testing.assert_allclose(ours, total_energy(found.positions[k], system, found.couplings[k]), rtol=1e-10)


def test_the_wanted_energy_is_that_of_the_observed_frames():
    found = simulate("springs", 1, frames=8)
    one = points(found.positions[0], 0.1, np.zeros((5, 1)), found.couplings[0][..., None])
    model, request = requested(one, "0:4,7")
    guide = guide_of("springs", request)
    assert isinstance(guide, Conserved)
    seen = total_energy(one.positions[:4], "springs", found.couplings[0])
    assert guide.energy in [pytest.approx(value) for value in seen]
    with pytest.raises(UserError, match="at least 3"):
        guide_of("springs", request_of(model.codec, one, "0,2,4"))


def test_energy_by_name(monkeypatch):
    module = types.ModuleType("own_energies")
    module.height = lambda x: x[:, 0, 2]  # type: ignore[attr-defined]
    module.wrong = lambda x: x.sum()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_energies", module)
    model, request = requested()
    x = np.random.default_rng(0).normal(size=(2, 8, 4, 3))
    state = template(model.codec, request, x)
    inside = frames_of(state).numpy()
    reward = guide_of("own_energies:height", request, 2.0)
    np.testing.assert_allclose(reward(state).numpy(), -inside[:, :, 0, 2].sum(1) / 2, rtol=1e-5)
    with pytest.raises(UserError, match="one energy per frame"):
        guide_of("own_energies:wrong", request)(state)
    for name in ("own_energies:missing", "no_such_module:f", "warmth"):
        with pytest.raises(UserError, match="guide"):
            guide_of(name, request)


def test_refusals():
    _, request = requested()
    with pytest.raises(UserError, match="lengths"):
        guide_of("springs", request, lengths={(0, 1): 1.0})
    with pytest.raises(UserError, match="expected 0 to 3"):
        guide_of("bonds", request, lengths={(0, 9): 1.0})
    with pytest.raises(UserError, match="positive"):
        guide_of("bonds", request, lengths={(0, 1): -1.0})
    with pytest.raises(UserError, match="5"):
        guide_of("charged", request)
    one = random_points(frames=8, atoms=4)
    with pytest.raises(UserError, match="without bonds"):
        guide_of("bonds", requested(one)[1])


# -- guidance --------------------------------------------------------------------------------------------------------
def guided(model, request, reward, num, moves=60, limit=None):
    plan = model.sampling.changed(moves, "Ancestral")
    hooks = [GradientGuidance(reward, scale=1.0, limit=limit)]
    return np.concatenate(list(RollOut(model, request, num, plan=plan, hooks=hooks).batches()))


def test_a_linear_energy_shifts_the_law_as_it_must():
    """exp(c x) N(m, s^2) = N(m + s^2 c, s^2): first-order guidance is exact here, in the unit of every entry.

    Ancestral sampling with 100 moves: 4 % of the shift is allowed beside the statistical error (false alarms 1e-5).
    """
    model, request = requested(anchor=LastFrame(), scale=0.5)
    assert isinstance(model.sampling.changed(4, "Ancestral").solvers["pos"], Ancestral)
    network = model.denoiser.network
    table = torch.linspace(0.2, 0.8, 64)  # another scale for every frame
    network.scale.square.copy_(table.square().expand(2, -1))  # type: ignore[union-attr]
    reward = Energy(lambda x: -3.0 * x[:, 1, 0])
    found, num = guided(model, request, reward, 40, 100), 40
    std = table[1:6].numpy()
    shift = (found[:, 3:, 1, 0] - CHAIN.positions[2, 1, 0]).mean(0)
    assert (np.abs(shift - 3.0 * std**2) < 0.04 * 3.0 * std**2 + Z_LIMIT * std / np.sqrt(num)).all()
    other = (found[:, 3:, 2] - CHAIN.positions[2, 2]).mean(0)
    assert (np.abs(other) < Z_LIMIT * std[:, None] / np.sqrt(num)).all()
    assert np.array_equal(found[:, :3], np.repeat(CHAIN.positions[None, :3], num, 0))


def test_bonds_are_held():
    """Unguided lengths vary by 0.3 around the wrong mean; guided ones are as observed to about the width."""
    model, request = requested(anchor=LastFrame(), scale=0.3)
    guide = guide_of("bonds", request, 0.03)
    free = np.concatenate(list(RollOut(model, request, 8).batches()))
    assert guide.figures(free[:, 3:])["bond rms deviation"] > 0.2
    held = guided(model, request, guide, 8, limit=1.0)
    assert guide.figures(held[:, 3:])["bond rms deviation"] < 0.05


def test_guided_samples_depend_on_seed_and_number_only():
    model, request = requested(anchor=LastFrame(), scale=0.3)
    guide, plan = guide_of("bonds", request, 0.1), model.sampling.changed(20, "Ancestral")
    hooks = [GradientGuidance(guide, scale=1.0, limit=1.0)]
    one, other = (
        np.concatenate(list(RollOut(model, request, 4, plan=plan, hooks=hooks, batch_size=size).batches()))
        for size in (4, 3)
    )
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_guidance_turns_with_the_frames():
    """Rewards and limit are isotropic: with noise turned too the result turns (by a permutation of axes here)."""
    _, request = requested()
    guide = guide_of("bonds", request)
    x = torch.from_numpy(request.positions)[None] + 0.1 * torch.randn(1, 8, 4, 3, dtype=torch.float64)
    assert isinstance(guide, BondLengths)
    torch.testing.assert_close(guide.deviations(x), guide.deviations(x[..., [2, 0, 1]]))
    moved = replace(request, positions=request.positions + 1000.0)
    again = guide_of("bonds", moved)
    assert isinstance(again, BondLengths)
    torch.testing.assert_close(again.lengths, guide.lengths)
