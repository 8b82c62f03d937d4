"""Requests from files and masks: frames, times, atoms, refusals; files of samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from trajectory_model import gaussian_model
from trajectory_toy import chain_molecule, random_points

from sciflow.core.errors import UserError
from sciflow.domains.trajectories.codec import TrajectoryCodec
from sciflow.domains.trajectories.data import Trajectory, molecule
from sciflow.domains.trajectories.design import displacement, request_of, shown, write_samples
from sciflow.domains.trajectories.files import read_trajectories
from sciflow.domains.trajectories.rollout import RollOut

CHAIN = chain_molecule(frames=12, atoms=4)  # 5 fs per frame
CODEC = TrajectoryCodec.infer([CHAIN], 8, conditional=True)


def test_observed_frames_are_taken_from_a_whole_trajectory_or_given_alone():
    whole = request_of(CODEC, CHAIN, "0:2,6:8")
    alone = request_of(CODEC, CHAIN.select([0, 1, 6, 7]), "0:2,6:8")
    assert np.array_equal(whole.positions, alone.positions) and np.array_equal(whole.observed, alone.observed)
    assert whole.observed.tolist() == [True, True, False, False, False, False, True, True]
    assert not whole.positions[2:6].any()  # what is to be generated is not shown to anyone
    np.testing.assert_allclose(whole.times, 5.0 * np.arange(8))
    np.testing.assert_allclose(alone.times, whole.times)
    assert whole.truth is not None and np.array_equal(whole.truth, CHAIN.positions[:8]) and alone.truth is None
    longer = request_of(CODEC, CHAIN, "0:4", blocks=3)
    assert longer.truth is None and request_of(CODEC, CHAIN, "0:4", blocks=2).truth is not None
    prefix = request_of(CODEC, CHAIN.select(slice(0, 3)))
    assert prefix.observed.tolist() == [True] * 3 + [False] * 5


def test_frames_cut_out_and_numbered_anew_stand_at_their_places():
    cut = replace(CHAIN.select([0, 1, 6, 7]), times=5.0 * np.arange(4))
    np.testing.assert_allclose(request_of(CODEC, cut, "0:2,6:8").times, 5.0 * np.arange(8))


def test_true_times_are_kept():
    uneven = replace(CHAIN, times=CHAIN.times + 2.0 * np.sin(np.arange(12)))
    np.testing.assert_allclose(request_of(CODEC, uneven, "0:3").times, uneven.times[:8])
    alone = request_of(CODEC, uneven.select([0, 1, 2, 4]), "0,1,2,4")
    np.testing.assert_allclose(alone.times[[0, 1, 2, 4]], uneven.times[[0, 1, 2, 4]])
    assert (np.diff(alone.times) > 0).all()
    with pytest.raises(UserError, match="even"):
        request_of(CODEC, uneven, "0:3", blocks=2)


def test_another_spacing_is_told_to_the_user_and_to_the_model():
    request = request_of(CODEC, replace(CHAIN, times=2 * CHAIN.times), "0:3")
    assert len(request.notes) == 1 and "10 fs apart, 5 in the training data" in request.notes[0]
    np.testing.assert_allclose(CODEC.model_times(request.times, "fs"), 2.0 * np.arange(8))
    silent = replace(CHAIN, times=np.arange(12.0), unit="step")
    request = request_of(CODEC, silent, "0:3")
    assert "says no times" in request.notes[0]
    np.testing.assert_allclose(CODEC.model_times(request.times, "step"), np.arange(8))


def test_a_file_without_times_has_the_spacing_of_the_training_data():
    walk = random_points(frames=12)
    codec = TrajectoryCodec.infer([replace(walk, times=0.1 * np.arange(12))], 8, conditional=True)
    request = request_of(codec, walk, "0:3")
    np.testing.assert_allclose(codec.model_times(request.times, "step"), np.arange(8))
    assert "0.1 step apart" in request.notes[0]


def changed(**parts) -> Trajectory:
    return replace(CHAIN, **parts)


@pytest.mark.parametrize(
    ("one", "mask", "options", "message"),
    [
        (CHAIN, "0:8", {}, "all 8 frames are observed"),
        (CHAIN, "", {}, "no frame is observed"),
        (CHAIN, "3:3", {}, "no frame is observed"),
        (CHAIN, None, {}, "say which of them are observed"),
        (CHAIN, "0:3,20", {}, "frames of 0 to 7"),
        (CHAIN, "first", {}, "frames of 0 to 7"),
        (CHAIN.select(slice(0, 5)), "0:2,6:8", {}, "got 5 frames, expected the 4 observed ones"),
        (CHAIN, "0:2,6:8", {"blocks": 2}, "continues its first frames"),
        (CHAIN, "0:3", {"blocks": 0}, "blocks=0"),
        (CHAIN, "0:3", {"unconditional": True}, "takes no observed frames"),
        (CHAIN, None, {"refine": True}, "no frame is observed"),
        (CHAIN.select(slice(0, 5)), "0:3", {"refine": True, "frames": 8}, "all 8 frames to be refined"),
        (changed(unit="s"), "0:3", {}, "times in s, expected fs"),
        (random_points(frames=12, atoms=4, dims=2), "0:3", {}, "2-D positions, expected 3-D"),
        (random_points(frames=12, atoms=4), "0:3", {}, "got points"),
        (molecule(CHAIN.positions, 5.0, np.array([6, 7, 16, 1])), "0:3", {}, "got S, expected atoms"),
        (molecule(CHAIN.positions, 5.0, np.array([7, 6, 8, 1]), bonds=CHAIN.bonds), "0:3", {}, "ok"),
        (CHAIN.select([0]), "0:1", {}, "single frame"),
    ],
)
def test_refusals(one, mask, options, message):
    if message == "ok":
        assert "not among those" in request_of(CODEC, one, mask, **options).notes[0]
        return
    with pytest.raises(UserError, match=message):
        request_of(CODEC, one, mask, **options)


def test_pairs_of_a_kind_that_was_never_trained_are_refused():
    whole = molecule(CHAIN.positions[:, :3], 5.0, CHAIN.numbers[:3], bonds=np.array([[0, 1], [1, 2]]))
    codec = TrajectoryCodec.infer([whole], 8, conditional=True)
    apart = molecule(CHAIN.positions[:, :3], 5.0, CHAIN.numbers[[1, 0, 2]], bonds=np.array([[0, 1]]))
    with pytest.raises(UserError, match="pairs of kind"):
        request_of(codec, apart, "0:3")


def test_points_like_those_of_the_training_data():
    walk = random_points(frames=12)
    codec = TrajectoryCodec.infer([replace(walk, features=0 * walk.features)], 8, conditional=True)
    with pytest.raises(UserError, match="channel that is 0 in the training data"):
        request_of(codec, walk, "0:3")
    with pytest.raises(UserError, match="got 5 points"):
        request_of(codec, random_points(frames=12, atoms=5), "0:3")
    strong = replace(walk, features=0 * walk.features, pairs=9 * walk.pairs)
    assert "features of pairs reach" in request_of(codec, strong, "0:3").notes[0]


def test_bonds_of_a_known_molecule_are_those_of_training():
    """A file without bonds reads them off its first frame, which may be a stretched one."""
    one = replace(CHAIN, bonds=CHAIN.bonds[:2], pairs=0 * CHAIN.pairs)
    request = request_of(CODEC, one, "0:3")
    assert np.array_equal(request.given.bonds, CHAIN.bonds) and np.array_equal(request.given.pairs, CHAIN.pairs)
    assert "whose bonds are taken" in request.notes[0]


@pytest.mark.parametrize("ending", ["npz", "extxyz", "xyz", "pdb"])
def test_files_hold_all_samples(tmp_path, ending):
    model = gaussian_model(CHAIN)
    run = RollOut(model, request_of(model.codec, CHAIN, "0:3"), 3, batch_size=2)
    write_samples(tmp_path / f"out.{ending}", run)
    found, _ = read_trajectories(tmp_path / f"out.{ending}")
    expected = np.concatenate(list(run.batches()))
    assert len(found) == 3
    for one, x in zip(found, expected):
        np.testing.assert_allclose(one.positions, x, atol={"npz": 0, "pdb": 6e-4}.get(ending, 1e-8))
        assert one.observed is not None and one.observed.tolist() == run.observed.tolist() and one.unit == "fs"
        assert one.numbers is not None and one.bonds is not None
        assert one.numbers.tolist() == CHAIN.numbers.tolist() and one.bonds.tolist() == CHAIN.bonds.tolist()
        np.testing.assert_allclose(one.times, 5.0 * np.arange(8))
    with pytest.raises(UserError, match="file type"):
        write_samples(tmp_path / "out.txt", run)


def test_scores_read_a_bounded_number_of_samples(monkeypatch):
    model = gaussian_model(CHAIN)
    run = RollOut(model, request_of(model.codec, CHAIN, "0:3"), 5, batch_size=2)
    assert shown(run).shape == (5, 8, 4, 3)
    monkeypatch.setattr("sciflow.domains.trajectories.design.SHOWN", 3 * 8 * 4 * 3)
    np.testing.assert_array_equal(shown(run), np.concatenate(list(run.batches()))[:3])


def test_displacement_by_hand():
    model = gaussian_model(CHAIN)
    request = request_of(model.codec, CHAIN.select(slice(0, 8)), "0:3", refine=True)
    run = RollOut(model, request, 2, start=0.1)
    moved = request.positions[None] + np.array([3.0, 0.0, 4.0])
    assert displacement(run, moved) == pytest.approx(5.0)
