"""Batches of the data module against windows cut by hand; masks, order and resumption; named sets; bad requests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from trajectory_toy import chain_molecule

import sciflow.data as registry
from sciflow.core.errors import UserError
from sciflow.domains.trajectories.datamodule import TrajectoryData
from sciflow.domains.trajectories.files import write_trajectories
from sciflow.domains.trajectories.sets import MD17_STRIDE, simulated_trajectories, trajectory_set
from sciflow.domains.trajectories.windows import Forecast, KeyFrames, MixedMasks, Unobserved


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCIFLOW_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def two_files(tmp_path):
    """Two molecules of different size, 100 frames each, 5 fs apart."""
    paths = [tmp_path / "a.npz", tmp_path / "b.extxyz"]
    for path, atoms in zip(paths, (3, 5), strict=True):
        write_trajectories(path, [chain_molecule(100, atoms, seed=atoms)])
    return [str(path) for path in paths]


def module(path, **options) -> TrajectoryData:
    data = TrajectoryData(path, **{"frames": 8, "observed": 3, "batch_size": 16, **options})
    data.setup("fit")
    return data


def test_batches_are_windows_of_the_files(two_files):
    data = module(two_files, stride=2)
    runs = [chain_molecule(100, 3, seed=3), chain_molecule(100, 5, seed=5)]
    assert data.features == {"atoms": 30, "pairs": 4, "dims": 3, "frames": 8}
    assert data.spec["domain"] == "trajectories" and data.spec["task"] == "conditional"
    windows = data.samples["train"]
    state = windows.batch([0, len(windows) - 1, 7])  # type: ignore[attr-defined]
    objects = data.codec.to_objects(state)
    for one, place in zip(objects, (0, len(windows) - 1, 7), strict=True):
        run, start = windows.places[0][place], windows.places[1][place]  # type: ignore[attr-defined]
        expected = runs[run].select(slice(start, start + 16, 2))
        np.testing.assert_allclose(one.positions, expected.positions, atol=2e-6)
        np.testing.assert_array_equal(one.pairs, expected.pairs)
        np.testing.assert_array_equal(one.numbers, expected.numbers)
        assert one.spacing == 10.0 and one.observed.sum() == 3
    assert state.cond["times"][0].tolist() == list(range(8))
    reference = data.codec.to_state(objects)
    for name in state.fields:
        assert torch.allclose(state[name], reference[name], atol=1e-6)


def test_epochs_are_a_function_of_the_seed(two_files):
    law = MixedMasks([Forecast(3), KeyFrames(1, 4), Unobserved()])

    def epoch(data: TrajectoryData, number: int) -> list:
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
        return [(batch["pos"], batch.cond["seen"]) for batch in loader]

    first, again = module(two_files, masks=law), module(two_files, masks=law)
    epoch(again, 0)
    for number in (1, 2):  # a resumed run does not see epoch 0
        for (x, seen), (y, other) in zip(epoch(first, number), epoch(again, number), strict=True):
            assert torch.equal(x, y) and torch.equal(seen, other)
    windows = first.samples["train"]
    a, b = windows.batch([5, 9], 1).cond["seen"], windows.batch([9], 1).cond["seen"]  # type: ignore[call-arg]
    assert torch.equal(a[1:], b)  # independent of batch-mates
    masks = torch.cat([seen for _, seen in epoch(first, 3)])
    assert not torch.equal(masks, torch.cat([seen for _, seen in epoch(first, 4)]))
    assert (masks.sum(1) == 0).any() and (masks[:, :3].sum(1) == 3).any()
    everything = list(range(len(windows)))
    by_epoch = [windows.batch(everything, number).cond["seen"] for number in (3, 4)]  # type: ignore[call-arg]
    assert not torch.equal(*by_epoch)
    loader = first.train_dataloader()
    loader.sampler.set_epoch(4)  # type: ignore[attr-defined]
    assert torch.equal(torch.cat([seen for _, seen in epoch(first, 4)]), by_epoch[1][list(loader.sampler)])
    other = module(two_files, masks=law, seed=1)
    assert not torch.equal(torch.cat([seen for _, seen in epoch(other, 3)]), masks)


def test_validation_is_the_forecast_of_the_same_frames(two_files):
    data = module(two_files, masks=MixedMasks([KeyFrames(1, 4), Unobserved()]))
    for batch in data.val_dataloader():
        assert (batch.cond["seen"] == torch.tensor([1.0] * 3 + [0.0] * 5)).all()
    assert not data.codec.conditional
    unconditional = module(two_files, masks=Unobserved())
    assert next(iter(unconditional.val_dataloader())).layouts["pos"].mask is None
    assert unconditional.spec["task"] == "unconditional" and not unconditional.codec.conditional
    assert unconditional.codec.template([5, 3])["atoms"].shape == (8, 30)
    assert module(two_files).codec.conditional


def test_batches_bounded_by_atoms(two_files):
    data = module(two_files, batch_atoms=40)
    batches = list(data.train_dataloader())
    assert max(len(batch["pos"]) for batch in batches) < 45
    assert sum(batch.batch for batch in batches) == len(data.samples["train"])
    assert len({batch.layouts["pos"].sizes for batch in batches}) > 1
    assert data.spec["sizes"] == {"3": 53, "5": 53}


def test_lightning_trains_on_it_and_sets_the_epoch(two_files):
    from lightning.pytorch import LightningModule, Trainer

    class Spy(LightningModule):
        seen: list = []

        def training_step(self, batch, number):
            self.seen.append((self.current_epoch, batch.cond["seen"].clone()))
            return self.weight.sum() * 0

        def configure_optimizers(self):
            self.weight = torch.nn.Parameter(torch.zeros(1))
            return torch.optim.SGD([self.weight], lr=0.1)

    data = TrajectoryData(two_files, frames=8, observed=3, masks=KeyFrames(1, 4), batch_size=64)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    spy = Spy()
    spy.weight = torch.nn.Parameter(torch.zeros(1))
    Trainer(max_epochs=2, accelerator="cpu", limit_val_batches=0, **quiet).fit(spy, datamodule=data)  # type: ignore[arg-type]
    expected = []
    for number in (0, 1):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
        expected += [(number, batch.cond["seen"]) for batch in loader]
    assert len(spy.seen) == len(expected)
    for (one, seen), (other, mask) in zip(spy.seen, expected, strict=True):
        assert one == other and torch.equal(seen, mask)


# -- named sets ------------------------------------------------------------------------------------------------------
def test_simulated_sets_are_cached_and_share_their_test_set(tmp_path):
    small = trajectory_set("springs", 5, counts=(4, 2, 3))
    files = sorted((tmp_path / "cache/nbody").iterdir())
    assert len(files) == 3
    stamps = [file.stat().st_mtime_ns for file in files]
    again, larger = trajectory_set("springs", 5, counts=(4, 2, 3)), trajectory_set("springs", 5, counts=(6, 2, 3))
    assert [file.stat().st_mtime_ns for file in files] == stamps
    for one, other in zip(small.runs, again.runs, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
    for one, other in zip(small.runs[4:], larger.runs[6:], strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
    assert len({one.positions.tobytes() for one in small.runs}) == 9  # no trajectory is in two parts
    files[0].write_bytes(b"damaged")
    repaired = trajectory_set("springs", 5, counts=(4, 2, 3))
    np.testing.assert_array_equal(repaired.runs[0].positions, small.runs[0].positions)
    assert not np.array_equal(
        trajectory_set("springs", 5, counts=(4, 2, 3), seed=1).runs[0].positions, small.runs[0].positions
    )


def test_simulated_features():
    for name, node in (("charged", {-1.0, 1.0}), ("springs", {0.0}), ("gravity", {1.0})):
        one = simulated_trajectories(name, 2, 3)[1]
        assert set(one.features[:, 0].tolist()) <= node and one.spacing == 0.1 and one.numbers is None
        assert one.pairs.shape == (one.atoms, one.atoms, 1)
        if name == "charged":
            assert (one.pairs[0, 1:, 0] == one.features[0, 0] * one.features[1:, 0]).all()
    data = module("charged", frames=10, windows=[5, 2, 2])
    assert {name: len(part) for name, part in data.samples.items()} == {"train": 5, "val": 2, "test": 2}


def test_real_sets_by_name(data_dir):
    ethanol = TrajectoryData("ethanol", windows=[500, 50, 50])
    ethanol.setup("fit")
    assert [len(ethanol.samples[part]) for part in ("train", "val", "test")] == [500, 50, 50]
    assert ethanol.codec.spacing == 5.0 and ethanol.codec.unit == "fs" and ethanol.spec["sizes"] == {"9": 500}
    whole = trajectory_set(["ethanol", "malonaldehyde"], 30)
    assert len(whole.runs) == 2 and whole.info["counts"] == [5000, 256, 1000]
    last = [whole.runs[run].frames - start for run, start in zip(*whole.windows["test"], strict=True)]
    assert max(last) <= 4000 and min(last) >= 30


# ADE and FDE (angstrom) of copying the last frame, of the mean of the observed frames, and of constant velocity on the
# last 20 % of each trajectory: README of the data, computed by other code.
NAIVE = {
    "ethanol": ((0.227, 0.262), (0.216, 0.215), (1.122, 2.093)),
    "malonaldehyde": ((0.202, 0.214), (0.182, 0.152), (0.890, 1.653)),
}


@pytest.mark.golden
@pytest.mark.parametrize("name", NAIVE)
def test_test_windows_have_the_naive_errors_of_the_readme(name: str, data_dir):
    found = trajectory_set(name, 30)
    x = np.stack([found.runs[run].positions[start : start + 30] for run, start in zip(*found.windows["test"])])
    last, horizon = x[:, 9:10], np.arange(1, 21)[:, None, None]
    guesses = (last, x[:, :10].mean(1, keepdims=True), last + (last - x[:, 8:9]) * horizon)
    for guess, (ade, fde) in zip(guesses, NAIVE[name], strict=True):
        errors = np.linalg.norm(x[:, 10:] - guess, axis=-1)
        assert abs(errors.mean() / ade - 1) < 0.01 and abs(errors[:, -1].mean() / fde - 1) < 0.01


def test_scene_by_name(data_dir):
    data = TrajectoryData("eth", frames=20, observed=8, windows=[100, 20, 364])
    data.setup("fit")
    assert data.features["dims"] == 2 and len(data.samples["test"]) == 364
    with pytest.raises(UserError, match="expected 20"):
        TrajectoryData("eth").setup("fit")


def test_md17_takes_every_tenth_frame(tmp_path, monkeypatch):
    from sciflow.data.cards import DataSet

    write_trajectories(tmp_path / "md.npz", [chain_molecule(4000, 3, dt=0.5)])
    with np.load(tmp_path / "md.npz") as stored:
        np.savez(tmp_path / "md.npz", R=stored["R"][0], z=stored["z"])  # MD17 says nothing about time
    card = DataSet("md17_toy", "", "", "", None, None, "md.npz")
    monkeypatch.setitem(registry.DATASETS, "md17_toy", card)
    monkeypatch.setenv("SCIFLOW_DATA", str(tmp_path))
    found = trajectory_set("md17_toy", 30)
    assert found.info["stride"] == MD17_STRIDE and found.runs[0].spacing == 0.5
    data = TrajectoryData("md17_toy")
    data.setup("fit")
    assert data.codec.spacing == 5.0
    assert registry.DATASETS["md17_aspirin"].url and registry.DATASETS["md17_aspirin"].substitute in registry.DATASETS


# -- bad requests ----------------------------------------------------------------------------------------------------
def test_bad_requests(two_files, tmp_path):
    for options, message in (
        ({"observed": 8}, "all are observed"),
        ({"frames": 1}, "expected at least 2 frames|all are observed"),
        ({"frames": 30}, "too few frames: got 2 run"),
        ({"windows": [0, 1, 1]}, "three numbers of windows"),
        ({"dt_fs": -1.0}, "dt_fs"),
        ({"batch_size": 0}, "batch_size"),
    ):
        with pytest.raises(UserError, match=message):
            module(two_files, **options)
    with pytest.raises(UserError, match="no file at"):
        module(str(tmp_path / "none.npz"))
    with pytest.raises(UserError, match="expected a file or one of"):
        module("chargd")
    write_trajectories(tmp_path / "slow.npz", [chain_molecule(100, 4, dt=50.0)])
    with pytest.raises(UserError, match="frames 50 fs apart, expected 5"):
        module([*two_files, two_files[0], str(tmp_path / "slow.npz")])
    np.savez(tmp_path / "flat.npz", R=np.random.default_rng(0).normal(size=(100, 3, 2)), z=np.ones(3, int), dt_fs=5.0)
    with pytest.raises(UserError, match="2-D positions, expected 3-D"):
        module([*two_files, str(tmp_path / "flat.npz")])


def test_files_that_are_broken_or_short_are_counted(two_files, tmp_path):
    (tmp_path / "broken.xyz").write_text("1\n\nH nowhere\n")
    write_trajectories(tmp_path / "short.npz", [chain_molecule(20, 4)])
    data = module([*two_files, str(tmp_path / "broken.xyz"), str(tmp_path / "short.npz")])
    assert data.spec["data"]["skipped"] == {"unreadable files": 1, "runs too short": 1}
    assert "broken.xyz" in data.spec["data"]["examples"][0]
