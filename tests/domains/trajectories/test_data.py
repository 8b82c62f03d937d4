"""Features of molecules, checks of positions, contiguous splits, windows and masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stats import Z_LIMIT
from trajectory_toy import chain_molecule

from sciflow.core.errors import UserError
from sciflow.domains.trajectories.data import (
    atom_features,
    atom_numbers,
    coincident,
    first_frame_bonds,
    hop_features,
    molecule,
    points,
)
from sciflow.domains.trajectories.windows import (
    Ends,
    Forecast,
    KeyFrames,
    MixedMasks,
    Spans,
    Unobserved,
    frame_indices,
    split_in_time,
    window_starts,
)


# -- features --------------------------------------------------------------------------------------------------------
def test_atom_features_are_one_hot_times_powers():
    features = atom_features(np.array([1, 6, 8]))
    assert features.shape == (3, 30)
    np.testing.assert_allclose(features[1, 18:21], [1, 0.6, 0.36], rtol=1e-6)
    assert (np.count_nonzero(features, 1) == 3).all()
    np.testing.assert_allclose(atom_features(np.array([17]))[0, :4], [1, 1.7, 2.89, 0], rtol=1e-6)  # beyond F: class 0
    np.testing.assert_array_equal(atom_numbers(atom_features(np.arange(1, 119))), np.arange(1, 119))
    assert len(np.unique(atom_features(np.arange(1, 119)), axis=0)) == 118


def test_ethanol_has_66_directed_edges_up_to_three_bonds(data_dir):
    with np.load(data_dir / "trajectories/ethanol_xtb_500K.npz") as stored:
        frame, bonds = stored["R"][0].astype(float), stored["bonds"]
    found = first_frame_bonds(frame)
    assert set(map(frozenset, found.tolist())) == set(map(frozenset, bonds.tolist()))
    pairs = hop_features(found, 9)
    assert pairs[..., :3].sum() == 66  # specification of GeoTDM, section 9
    assert (pairs.sum(-1) == 1 - np.eye(9)).all()


def test_hops_by_hand():
    pairs = hop_features(np.array([[0, 1], [1, 2], [2, 3], [3, 4]]), 6)
    assert pairs[0].argmax(-1)[1:].tolist() == [0, 1, 2, 3, 3] and pairs[0, 0].sum() == 0
    ring = hop_features(np.array([[0, 1], [1, 2], [2, 0]]), 3)
    assert (ring.argmax(-1)[~np.eye(3, dtype=bool)] == 0).all()


# -- bad input -------------------------------------------------------------------------------------------------------
def run(frames: int = 4) -> np.ndarray:
    return chain_molecule(frames, 3).positions.copy()


def test_positions_that_cannot_be_used_are_named():
    z = np.array([1, 6, 8])
    for value in (np.nan, np.inf):
        x = run()
        x[2, 1, 0] = value
        with pytest.raises(UserError, match=r"run.xyz: frame 2 .*NaN or infinite.*1 of 4"):
            molecule(x, 1.0, z, source="run.xyz")
    x = run()
    x[3, 2] = x[3, 0] + 1e-6
    with pytest.raises(UserError, match="atoms 0 and 2 lie on the same place in frame 3"):
        molecule(x, 1.0, z)
    for shape in ((4, 9), (4, 3, 4), (4, 0, 3)):
        with pytest.raises(UserError, match="expected \\(frames, atoms, 3\\)"):
            points(np.zeros(shape), 1.0)
    with pytest.raises(UserError, match="2 atomic numbers, expected 3"):
        molecule(run(), 1.0, z[:2])
    with pytest.raises(UserError, match="indices 0 to 3, expected 0 to 2"):
        molecule(run(), 1.0, z, bonds=np.array([[0, 3]]))
    with pytest.raises(UserError, match="4 increasing"):
        molecule(run(), np.array([0.0, 1.0, 1.0, 2.0]), z)
    with pytest.raises(UserError, match="symmetric"):
        points(run(), 1.0, None, np.triu(np.ones((3, 3)))[..., None])
    with pytest.raises(UserError, match="expected numbers"):
        points(run().astype(str), 1.0)


def test_coincident_agrees_with_all_distances():
    rng = np.random.default_rng(0)
    for trial in range(20):
        x = rng.normal(size=(6, 7, 3))
        if trial % 2:
            x[4, 5] = x[4, 2] + 3e-5
        distance = np.linalg.norm(x[:, :, None] - x[:, None], axis=-1) + np.eye(7)
        near = np.argwhere(np.triu(distance < 1e-4, 1))
        assert coincident(x) == (tuple(near[0]) if len(near) else None)
        assert bool(len(near)) == bool(trial % 2)


# -- windows ---------------------------------------------------------------------------------------------------------
def test_parts_share_no_frame():
    parts, rule = split_in_time([100, 350], 15)
    assert "60/20/20" in rule
    seen = {name: set() for name in parts}
    for name, spans in parts.items():
        runs, starts = window_starts(spans, 15)
        for run_number, start in zip(runs, starts, strict=True):
            seen[name] |= {(int(run_number), int(start) + k) for k in range(15)}
    assert not seen["train"] & seen["val"] and not seen["val"] & seen["test"] and not seen["train"] & seen["test"]
    assert seen["train"] == {(r, k) for r, n in ((0, 60), (1, 210)) for k in range(n)}
    assert seen["test"] == {(r, k) for r, a, b in ((0, 80, 100), (1, 280, 350)) for k in range(a, b)}


def test_windows_cover_their_part_evenly():
    spans = Spans(np.array([0]), np.array([7]), np.array([12000]))
    runs, starts = window_starts(spans, 30, 5000)
    assert len(starts) == 5000 and set(np.diff(starts)) == {2, 3} and starts[0] == 7 and starts[-1] >= 7 + 11970 - 3
    assert len(window_starts(spans, 30, 20000)[1]) == 11971
    _, every = window_starts(spans, 30, None, 10)
    assert len(every) == 12000 - 291 + 1 and every[-1] + 290 == 7 + 11999
    runs, starts = window_starts(Spans(np.array([3, 5]), np.array([0, 2]), np.array([10, 4])), 4, None)
    assert list(zip(runs.tolist(), starts.tolist())) == [(3, k) for k in range(7)] + [(5, 2)]


def test_short_runs_are_divided_whole_or_refused():
    parts, rule = split_in_time([30] * 10, 30)
    assert rule == "whole runs in order"
    assert [len(parts[name].runs) for name in ("train", "val", "test")] == [6, 2, 2]
    with pytest.raises(UserError, match="1 run\\(s\\) of at most 60 frames, expected at least 150 in one run"):
        split_in_time([60], 30)
    with pytest.raises(UserError, match="sum to 1"):
        split_in_time([300], 30, (0.5, 0.2, 0.2))
    all_train, _ = split_in_time([40], 30, (1.0, 0.0, 0.0))
    assert list(all_train) == ["train"] and all_train["train"].lengths.tolist() == [40]


# -- masks -----------------------------------------------------------------------------------------------------------
def uniforms(batch: int, frames: int) -> torch.Tensor:
    return torch.rand(batch, frames + 1, generator=torch.Generator().manual_seed(0))


def test_masks_by_hand():
    u = uniforms(3, 6)
    assert Forecast(2).masks(u).tolist() == [[True, True, False, False, False, False]] * 3
    assert Ends(1, 2).masks(u).tolist() == [[True, False, False, False, True, True]] * 3
    assert not Unobserved().masks(u).any()
    assert not Unobserved().observes and Forecast().observes and Forecast().always


def test_key_frames_are_uniform():
    """Number uniform on 2..4, places exchangeable; Z_LIMIT standard errors, false alarms <= 1e-5 each."""
    count = 20000
    masks = KeyFrames(2, 4).masks(uniforms(count, 6))
    numbers = masks.sum(1)
    for number in (2, 3, 4):
        assert abs((numbers == number).double().mean() - 1 / 3) < Z_LIMIT * np.sqrt(2 / 9 / count)
    assert (masks.double().mean(0) - 0.5).abs().max() < Z_LIMIT * 0.5 / np.sqrt(count)


def test_mixed_masks_have_their_weights_and_stay_uniform_inside():
    """Z_LIMIT standard errors, false alarms <= 1e-5 each."""
    count = 20000
    law = MixedMasks([Forecast(3), KeyFrames(1, 2), Unobserved()], [1, 1, 2])
    assert law.observes and not law.always
    masks = law.masks(uniforms(count, 6))
    forecast, none = masks[:, :3].all(1), ~masks.any(1)
    for chosen, share in ((forecast, 0.25), (none, 0.5)):
        assert abs(chosen.double().mean() - share) < Z_LIMIT * np.sqrt(share * (1 - share) / count)
    keys = masks[~forecast & ~none].sum(1)
    assert set(keys.tolist()) == {1, 2}
    assert abs((keys == 1).double().mean() - 0.5) < Z_LIMIT * 0.5 / np.sqrt(len(keys))
    assert MixedMasks([Forecast(), Unobserved()], [1, 0]).always


def test_mask_laws_refuse_what_leaves_nothing_to_generate():
    with pytest.raises(UserError, match="all are observed"):
        Forecast(10).check(10)
    Forecast(9).check(10)
    for bad in (lambda: Forecast(0), lambda: Ends(0, 0), lambda: KeyFrames(3, 2), lambda: MixedMasks([])):
        with pytest.raises(UserError, match="expected"):
            bad()


def test_frame_indices_of_text():
    assert frame_indices("0:10", 30).tolist() == list(range(10))
    assert frame_indices("0:2, 28:30,5", 30).tolist() == [0, 1, 5, 28, 29]
    assert frame_indices(":3,-1", 30).tolist() == [0, 1, 2, 29]
    assert frame_indices("0:30:10", 30).tolist() == [0, 10, 20]
    for bad in ("ten", "0:40", "30", "0:1:2:3", "1.5"):
        with pytest.raises(UserError, match="expected frames of 0 to 29"):
            frame_indices(bad, 30)
