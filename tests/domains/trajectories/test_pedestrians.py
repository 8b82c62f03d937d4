"""ETH-UCY: the customary counts, and the windows against their definition, row by row."""

from __future__ import annotations

import numpy as np
import pytest

from sciflow.core.errors import UserError
from sciflow.domains.trajectories.pedestrians import (
    FRAMES,
    POINTS,
    RECORDINGS,
    SCENES,
    Recording,
    pedestrian_set,
    recordings,
    samples,
    windows,
)

COUNTS = {"eth": 364, "hotel": 1197, "univ": 24334, "zara1": 2356, "zara2": 5910}


@pytest.mark.golden
def test_test_windows_have_the_customary_counts(data_dir):
    stored = recordings(data_dir / "trajectories/eth_ucy.npz")
    found = {scene: sum(len(windows(stored[name], "all")[0]) for name in SCENES[scene]) for scene in SCENES}
    assert found == COUNTS
    assert [len(windows(stored[name], "all")[0]) for name in SCENES["univ"]] == [14295, 10039]


def crossing() -> Recording:
    """Three people: 0 walks along x; 1 beside, present in all frames; 2 starts two frames later, with a hole."""
    frames = np.concatenate([np.arange(22), np.arange(22), np.r_[2:10, 11:30]])
    person = np.repeat([0, 1, 2], [22, 22, 27])
    xy = np.stack([0.5 * frames, np.choose(person, [0.0, 3.0, 1.0])], 1).astype(np.float32)
    shuffled = np.random.default_rng(0).permutation(len(frames))
    return Recording(frames[shuffled], person[shuffled], xy[shuffled], 100)


def test_windows_by_definition():
    one = crossing()
    places, starts = windows(one, "all")
    track = {(int(f), int(p)): xy for f, p, xy in zip(one.frame, one.person, one.xy, strict=True)}
    expected = [
        (f, [track[f + k, p] for k in range(FRAMES)])
        for p in (0, 1, 2)
        for f in range(30)
        if all((f + k, p) in track for k in range(FRAMES))
    ]
    assert starts.tolist() == [f for f, _ in expected] == [0, 1, 2, 0, 1, 2]
    np.testing.assert_array_equal(places, [xy for _, xy in expected])
    assert len(windows(one._replace(val_start=21), "train")[0]) == 4  # frames 0 to 20
    assert len(windows(one._replace(val_start=2), "val")[0]) == 2


def test_neighbours_are_sorted_by_distance():
    rng = np.random.default_rng(0)
    person, frame = np.repeat(np.arange(6), FRAMES), np.tile(np.arange(FRAMES), 6)
    xy = rng.normal(size=(6 * FRAMES, 2)) * 0.1 + np.array([[0, 0], [1, 0], [0, 2], [4.9, 0], [3, 3], [9, 9]])[person]
    crowd = samples(Recording(frame, person, xy.astype(np.float32), 100), "all", most=3)
    now = xy.reshape(6, FRAMES, 2)[:, 7]
    for k, one in enumerate(crowd):
        order = sorted((j for j in range(6) if j != k), key=lambda j: np.linalg.norm(now[j] - now[k]))
        near = [j for j in order if np.linalg.norm(now[j] - now[k]) <= 5][:2]
        np.testing.assert_allclose(one.positions[7], now[[k, *near]], rtol=1e-6)
        assert one.features[:, 0].tolist() == [1] + [0] * len(near)
        assert one.dims == 2 and one.unit == "s" and one.spacing == 0.4 and one.frames == FRAMES


def test_scenes_leave_their_recordings_out(data_dir):
    path = data_dir / "trajectories/eth_ucy.npz"
    stored = recordings(path)
    parts = pedestrian_set(path, "hotel")
    others = [name for name in RECORDINGS if name != "biwi_hotel"]
    assert len(parts["test"]) == COUNTS["hotel"]
    assert len(parts["train"]) == sum(len(windows(stored[name], "train")[0]) for name in others)
    assert len(parts["val"]) == sum(len(windows(stored[name], "val")[0]) for name in others)
    assert {one.atoms for part in parts.values() for one in part} == {POINTS["hotel"]} == {1}


def test_bad_requests(tmp_path):
    with pytest.raises(UserError, match="expected one of eth, hotel"):
        pedestrian_set(tmp_path / "x.npz", "zara9")
    np.savez(tmp_path / "x.npz", R=np.zeros(3))
    with pytest.raises(UserError, match="cannot be read as the recordings"):
        pedestrian_set(tmp_path / "x.npz", "eth")
