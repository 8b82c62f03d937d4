"""States of trajectories against their definition, templates, and the way back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from trajectory_toy import chain_molecule, random_points, random_state

from sciflow.core.config import from_config, to_config
from sciflow.core.errors import UserError
from sciflow.domains.crystals.network_layers import Pairs
from sciflow.domains.trajectories.codec import TrajectoryCodec

FLAGS = np.arange(6) < 2


def molecules() -> list:
    return [replace(chain_molecule(6, n, seed=n), observed=FLAGS) for n in (3, 5, 2)]


def codec(**changes) -> TrajectoryCodec:
    inferred = TrajectoryCodec.infer([chain_molecule(6, n, seed=n) for n in (3, 5, 2, 5)], 6, conditional=False)
    return TrajectoryCodec(**{**inferred.init_args, **changes})


def test_state_by_definition():
    runs = molecules()
    state = codec().to_state(runs)
    assert {name: tuple(x.shape) for name, x in state.fields.items()} == {
        "pos": (10, 6, 3),
        "observed": (10, 6, 3),
        "atoms": (10, 30),
        "pairs": (3 + 10 + 1, 4),
    }
    assert state.layouts["pos"].sizes == (3, 5, 2) and state.layouts["pairs"].sizes == (3, 10, 1)
    mask = state.layouts["pos"].mask
    assert mask is not None and mask.shape == (10, 6, 1) and (mask[:, :, 0] == torch.tensor(~FLAGS).float()).all()
    centre = state.cond["centre"]
    assert centre.dtype == torch.float64
    for k, one in enumerate(runs):
        np.testing.assert_allclose(centre[k], one.positions[:2].mean((0, 1)), rtol=1e-12)
    rows = state["pos"][3:8].transpose(0, 1).double() + centre[1]
    np.testing.assert_allclose(rows, runs[1].positions, atol=1e-6)
    assert (state["observed"] == state["pos"] * (1 - mask)).all()
    assert state.cond["times"][0].tolist() == [0, 1, 2, 3, 4, 5] and state.cond["seen"][2].tolist() == [
        1,
        1,
        0,
        0,
        0,
        0,
    ]


def test_pairs_are_in_the_order_of_the_network():
    runs = molecules()
    state = codec().to_state(runs)
    pairs = Pairs.of(state.layouts["pos"])
    begin = [0, 3, 8]
    for row in range(len(pairs.first)):
        k = int(pairs.crystal[pairs.first[row]])
        i, j = int(pairs.first[row]) - begin[k], int(pairs.second[row]) - begin[k]
        np.testing.assert_array_equal(state["pairs"][row].numpy(), runs[k].pairs[i, j])
    chosen = state.select([2, 0])  # and stay so
    again = codec().to_state([runs[2], runs[0]])
    for name in state.fields:
        assert torch.equal(chosen[name], again[name])


def test_nothing_observed_means_no_mask_and_the_centre_of_all():
    runs = [replace(one, observed=None) for one in molecules()]
    state = codec().to_state(runs)
    assert state.layouts["pos"].mask is None and not state["observed"].any() and not state.cond["seen"].any()
    np.testing.assert_allclose(state.cond["centre"][0], runs[0].positions.mean((0, 1)), rtol=1e-12)
    mixed = codec().to_state([runs[0], replace(runs[1], observed=FLAGS)])
    mask = mixed.layouts["pos"].mask
    assert mask is not None and (mask[:3] == 1).all() and (mask[3:, :2] == 0).all()


@pytest.mark.parametrize("far", [0.0, 1000.0])
def test_trajectories_come_back(far: float):
    runs = [
        replace(one, positions=one.positions + far, names=np.array([f"A{k}" for k in range(one.atoms)]))
        for one in molecules()
    ]
    there = TrajectoryCodec.infer(runs, 6, conditional=True)
    back = there.to_objects(there.to_state(runs))
    for one, other in zip(back, runs, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-6)  # float32 far away would lose 6e-5
        np.testing.assert_array_equal(one.numbers, other.numbers)
        np.testing.assert_array_equal(one.bonds, other.bonds)
        np.testing.assert_array_equal(one.names, other.names)
        np.testing.assert_array_equal(one.observed, FLAGS)
        np.testing.assert_allclose(one.times, other.times)
        assert one.unit == "fs"
    points = [random_points(seed=3), random_points(atoms=2, seed=4)]
    there = TrajectoryCodec.infer(points, 12, conditional=False)
    for one, other in zip(there.to_objects(there.to_state(points)), points, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-6)
        np.testing.assert_array_equal(
            one.pairs[~np.eye(one.atoms, dtype=bool)], other.pairs[~np.eye(one.atoms, dtype=bool)]
        )
        np.testing.assert_array_equal(one.features, other.features)


def test_broken_samples_are_none():
    state = codec().to_state(molecules())
    x = state["pos"].clone()
    x[4, 3, 1] = torch.nan
    assert [one is None for one in codec().to_objects(state.put(pos=x))] == [False, True, False]


def test_codec_is_plain_json():
    original = codec()
    copy = from_config(to_config(original))
    one, other = original.template([5, 3]), copy.template([5, 3])
    assert all(torch.equal(one[name], other[name]) for name in one.fields)


def test_template_is_the_training_molecule():
    there = codec()
    state = there.template([5, 2])
    runs = [chain_molecule(6, 5, seed=5), chain_molecule(6, 2, seed=2)]
    expected = there.to_state(runs)
    for name in ("atoms", "pairs"):
        assert torch.equal(state[name], expected[name])
    assert state["pos"].shape == (7, 6, 3) and not state["pos"].any() and state.layouts["pos"].mask is None
    assert state.cond["times"][1].tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(UserError, match=r"got \[7\], expected numbers of atoms of training molecules: \[2, 3, 5\]"):
        there.template([7])
    with pytest.raises(UserError, match="design trajectory"):
        codec(conditional=True).template([5])
    points = TrajectoryCodec.infer([random_points(seed=k) for k in range(3)], 12, conditional=False)
    assert torch.equal(points.template([4])["pairs"], points.to_state([random_points(seed=0)])["pairs"])


def test_template_of_observed_frames():
    there, whole = codec(conditional=True), chain_molecule(6, 5)
    given = whole.select(slice(0, 2))
    one = there.template_of(given, "0:2", copies=3)
    other = there.template_of(whole, range(2), frames=6, copies=3)  # the same frames out of a longer file
    for name in one.fields:
        assert torch.equal(one[name], other[name])
    assert one.batch == 3 and one.layouts["pos"].sizes == (5, 5, 5)
    np.testing.assert_allclose(one.cond["centre"][2], whole.positions[:2].mean((0, 1)), rtol=1e-12)
    mask = one.layouts["pos"].mask
    assert mask is not None and not (one["pos"] * mask).any()  # nothing of the future is in it
    expected = there.to_state([replace(whole, observed=FLAGS)])
    assert torch.equal(one["observed"][:5], expected["observed"])
    keys = there.template_of(whole, "0,3,5")
    assert keys.cond["seen"][0].tolist() == [1, 0, 0, 1, 0, 1]
    np.testing.assert_allclose(keys["observed"][:, 3].double() + keys.cond["centre"][0], whole.positions[3], atol=1e-6)
    times = np.array([0.0, 5.0, 20.0, 21.0, 40.0, 100.0])
    uneven = there.template_of(replace(whole, times=times), "0:2", times=times)
    assert uneven.cond["times"][0].tolist() == pytest.approx([0, 1, 4, 4.2, 8, 20])


def test_masks_and_frames_that_do_not_fit_are_refused():
    there, whole = codec(conditional=True), chain_molecule(6, 5)
    for bad in ("0:6", "", []):
        with pytest.raises(UserError, match="of 6 frames as observed"):
            there.template_of(whole, bad)
    with pytest.raises(UserError, match="got 2 frames, expected the 3 observed ones"):
        there.template_of(whole.select(slice(0, 2)), "3:6")
    with pytest.raises(UserError, match="frames 0.5 fs apart, expected 5"):
        there.template_of(chain_molecule(6, 5, dt=0.5), "0:3")
    with pytest.raises(UserError, match="all 6 frames are observed"):
        there.to_state([replace(whole, observed=np.ones(6, bool))])
    with pytest.raises(UserError, match="no frame is observed"):
        there.to_state([whole])
    with pytest.raises(UserError, match="expected one number of frames"):
        there.to_state([whole, whole.select(slice(0, 3))])


def test_other_kinds_of_trajectories_are_refused():
    there, whole = codec(), chain_molecule(6, 5)
    with pytest.raises(UserError, match="2-D positions, expected 3-D"):
        there.to_state([replace(whole, positions=whole.positions[..., :2])])
    with pytest.raises(UserError, match="got points .* expected molecule"):
        there.to_state([random_points()])
    with pytest.raises(UserError, match="times in s, expected fs"):
        there.to_state([replace(whole, unit="s")])
    with pytest.raises(UserError, match="frame 1 holds NaN"):
        there.to_state([replace(whole, positions=np.where(np.arange(6)[:, None, None] == 1, np.nan, whole.positions))])
    same = there.to_state([replace(whole, unit="step", times=np.arange(6.0))])  # a file that knows no time
    assert same.cond["times"][0].tolist() == [0, 1, 2, 3, 4, 5]
    for bad in ({"frames": 1}, {"dims": 4}, {"unit": "days"}, {"spacing": 0.0}):
        with pytest.raises(UserError, match="expected"):
            codec(**bad)


def test_toy_states_for_networks_are_states():
    state = random_state()
    assert state["pos"].dtype == torch.float64 and state.layouts["pos"].sizes == (3, 5, 2)
    far = random_state(shift=1000.0)
    assert torch.allclose(far["pos"], state["pos"], atol=1e-10)
