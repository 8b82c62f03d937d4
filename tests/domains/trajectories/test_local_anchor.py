"""Prediction in local axes: symmetries, order of atoms, dynamics it must find exactly, its own error, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from egtn_toy import moved, rotation

from sciflow.core.config import from_config, to_config
from sciflow.core.errors import UserError
from sciflow.core.state import State
from sciflow.domains.trajectories.data import Trajectory, atom_features, hop_features
from sciflow.domains.trajectories.datamodule import TrajectoryData
from sciflow.domains.trajectories.local_anchor import LocalAnchor
from sciflow.domains.trajectories.local_network import LocalEGTN

F64 = torch.float64
NUMBERS = np.array([6, 8, 1, 1, 1, 1])  # methanol
BONDS = np.array([[0, 1], [1, 2], [0, 3], [0, 4], [0, 5]])
SHAPE = np.array(
    [[0, 0, 0], [1.4, 0, 0], [1.7, 0.9, 0], [-0.4, 1.0, 0.1], [-0.4, -0.5, 0.9], [-0.4, -0.5, -0.9]], np.float64
)
PHASES = np.random.default_rng(3).uniform(0, 6.28, (6, 3))


def vibration(frames: int, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """A molecule in which every coordinate swings with one of two frequencies: 4 frames determine all others."""
    frequency = np.where(np.arange(18).reshape(6, 3) % 2, 0.7, 1.9)
    swing = 0.03 * np.sin(frequency * np.arange(frames)[:, None, None] + PHASES)
    return SHAPE + swing + noise * np.random.default_rng(seed).standard_normal(swing.shape)


def data(positions: np.ndarray, path, frames: int = 8, observed: int = 5) -> TrajectoryData:
    """A data module of one run."""
    np.savez(path / "run.npz", R=positions, z=NUMBERS, bonds=BONDS, dt_fs=5.0)
    module = TrajectoryData(str(path / "run.npz"), frames=frames, observed=observed, batch_size=4)
    module.setup("fit")
    return module


def state_of(module: TrajectoryData, positions: np.ndarray, mask: str = "0:5", order: list[int] | None = None) -> State:
    """One observed trajectory in float64, its atoms in another order if so wished."""
    order = order if order is not None else list(range(6))
    place = np.argsort(order)
    bonds, numbers = place[BONDS], NUMBERS[order]
    times = 5.0 * np.arange(len(positions))
    one = Trajectory(
        positions[:, order], times, "fs", atom_features(numbers), hop_features(bonds, 6), numbers=numbers, bonds=bonds
    )
    state = module.codec.template_of(one, mask, len(positions))
    fields = {name: x.to(F64) for name, x in state.fields.items()}
    pos = torch.from_numpy(positions[:, order]).transpose(0, 1) - state.cond["centre"].to(F64)
    seen = state.cond["seen"][0].to(F64)[:, None]
    return State({**fields, "pos": pos, "observed": pos * seen}, state.layouts, state.cond)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Anchor and data of a noisy vibration."""
    module = data(vibration(600, noise=0.01), tmp_path_factory.mktemp("run"))
    anchor = LocalAnchor()
    anchor.fit_to(module.samples["train"])  # type: ignore[arg-type]
    return anchor, module


@pytest.mark.parametrize("mask", ["0:5", "0:3,6:8", "3", "0,4,7"])
def test_turns_and_moves_with_the_observed_frames_and_not_with_mirrors(fitted, mask):
    anchor, module = fitted
    state = state_of(module, vibration(8, 0.01, seed=5), mask)
    turn, shift = rotation(3), torch.tensor([3.0, -1.0, 2.0], dtype=F64)
    before, scale, axes = anchor.place(state)
    after, again, turned = anchor.place(moved(state, lambda x: x @ turn.T + shift))
    torch.testing.assert_close(after, before @ turn.T + shift, rtol=0, atol=1e-10)
    torch.testing.assert_close(turned, axes @ turn.T, rtol=0, atol=1e-10)
    assert torch.equal(scale, again)
    torch.testing.assert_close(axes @ axes.mT, torch.eye(3, dtype=F64).expand_as(axes))
    mirror = rotation(3, determinant=-1)
    flipped = anchor.place(moved(state, lambda x: x @ mirror.T))[0]
    assert (flipped - before @ mirror.T).abs().max() > 1e-3


def test_atoms_may_come_in_any_order(fitted):
    """Equivalent hydrogens (3, 4, 5) change places, too."""
    anchor, module = fitted
    positions, order = vibration(8, 0.01, seed=6), [4, 1, 3, 0, 5, 2]
    before, after = anchor.place(state_of(module, positions)), anchor.place(state_of(module, positions, order=order))
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one[order], other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mask", ["0:5", "0:3,6:8"])
def test_finds_dynamics_that_the_observed_frames_determine(tmp_path, mask):
    """Two frequencies and a mean need 5 frames; a molecule that stands still would be wrong by 0.03."""
    module = data(vibration(900), tmp_path)
    anchor = LocalAnchor(ridge=1e-8)
    anchor.fit_to(module.samples["train"])  # type: ignore[arg-type]
    state = state_of(module, np.roll(vibration(900), -850, 0)[:8], mask)
    place, scale = anchor.predict(state)
    free = state.cond["seen"][0] == 0
    error = (place - state["pos"])[:, free].square().mean().sqrt()
    assert float(error) < 2e-3
    assert float(scale[:, free].max()) < 2e-3


def test_scale_is_its_error_on_other_frames(fitted):
    """Mean z^2 over the test windows: their 120 frames hold 2160 independent normals, so its standard error is about
    sqrt(2 x 3 / 2160) = 0.05 (each enters three targets); the limit is 5 of these (false alarms < 1e-6)."""
    anchor, module = fitted
    windows = module.samples["test"]
    state = windows.batch(range(len(windows)))
    place, scale = anchor.predict(state)
    z = ((place - state["pos"]) / scale)[:, 5:]
    assert abs(float(z.square().mean()) - 1) < 0.25


def test_comes_back_from_its_configuration(fitted):
    anchor, module = fitted
    copy = from_config(to_config(anchor))
    copy.load_state_dict(anchor.state_dict())
    state = state_of(module, vibration(8, 0.01, seed=7))
    assert torch.equal(anchor.predict(state)[0], copy.predict(state)[0])


def test_refuses_what_it_was_not_fitted_to(fitted):
    anchor, module = fitted
    state = state_of(module, vibration(8))
    other = state.put(atoms=state["atoms"].roll(1, 0))
    with pytest.raises(UserError, match="not among the 1 it was fitted to"):
        anchor.predict(other)
    late = state.condition(times=state.cond["times"] * 100)
    with pytest.raises(UserError, match="ask for fewer frames"):
        anchor.predict(late)


def test_frame_times_between_those_of_the_training_data(fitted):
    """Half of a spacing: lines between training frames; the anchor of frame times 0, 1, 2 ... is another one."""
    anchor, module = fitted
    state = state_of(module, vibration(8, 0.01, seed=8))
    half = state.condition(times=state.cond["times"] / 2)
    difference = (anchor.predict(half)[0] - anchor.predict(state)[0])[:, 5:]
    assert torch.isfinite(difference).all() and difference.abs().max() > 1e-3


def test_network_of_local_axes_is_equivariant(fitted):
    """Prediction of v turns with all frames, noised ones too; observed frames stay."""
    anchor, module = fitted
    torch.manual_seed(0)
    network = LocalEGTN(anchor=anchor, hidden=16, layers=2, waves=8, bonded=True)
    network.build(module.features)
    torch.nn.init.normal_(network.write.weight, std=0.3)
    network = network.to(F64)
    state = state_of(module, vibration(8, 0.01, seed=9))
    turn, clock = rotation(3), {"pos": torch.tensor(0.4, dtype=F64)}
    with torch.no_grad():
        before = network(network.prepare(state), clock)["pos"]
        after = network(network.prepare(moved(state, lambda x: x @ turn.T + 2.0)), clock)["pos"]
    torch.testing.assert_close(after, before @ turn.T, rtol=0, atol=1e-9)
    assert before[:, 5:].abs().max() > 1e-2 and not before[:, :5].any()
