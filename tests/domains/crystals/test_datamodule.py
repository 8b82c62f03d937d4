"""Data module of crystals: batches by atoms, elements and scale, real archives, published scale of Perov-5."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import SequentialSampler

from sciflow.core.errors import UserError
from sciflow.core.state import State
from sciflow.domains.base import EpochOrder
from sciflow.domains.crystals.datamodule import AtomBatches, CrystalData


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCIFLOW_CACHE", str(tmp_path / "cache"))


def test_batches_by_atoms():
    sizes = np.random.default_rng(0).integers(1, 53, 1000).tolist()
    order = EpochOrder(1000, seed=3)
    batches = AtomBatches(order, sizes, 256)
    for epoch in (0, 1):
        order.set_epoch(epoch)
        drawn = list(batches)
        assert len(drawn) == len(batches)
        assert sorted(i for batch in drawn for i in batch) == list(range(1000))
        atoms = [sum(sizes[i] for i in batch) for batch in drawn]
        assert min(atoms) > 0
        assert max(atoms) < 256 + 52
        assert [i for batch in drawn for i in batch] == list(order)
    with pytest.raises(UserError, match="twice"):
        AtomBatches(SequentialSampler(sizes), sizes, 60)


def test_carbon_reaches_the_trainer_as_ragged_states(data_dir: Path):
    data = CrystalData(data_dir / "crystals" / "carbon_24_nsplit_lth_test.npz", test=0, batch_atoms=128)
    data.setup("fit")
    assert data.features == {"coords": 3, "lattice": 3, "types": 1}
    assert data.spec["domain"] == "crystals"
    assert data.spec["data"]["train"] + data.spec["data"]["validation"] == 811
    assert set(data.spec["sizes"]) <= {str(n) for n in range(16, 25)}
    batch = next(iter(data.train_dataloader()))
    assert batch["coords"].shape[0] == sum(batch.layouts["coords"].sizes)
    assert batch.layouts["coords"].index.max() == batch.batch - 1
    assert ((batch["coords"] >= 0) & (batch["coords"] < 1)).all()
    assert batch["lattice"].abs().mean() < 3  # in units of the scale
    first = data.samples["train"].batch([0])
    assert data.codec.to_objects(first)[0].composition.reduced_formula == "C"


@pytest.mark.slow
def test_perov_scale_and_elements(data_dir: Path):
    """The full set has 56 elements and the scale 1.9612; its validation split agrees to 0.5 %."""
    data = CrystalData("perov_5_val", species=True)
    data.setup("fit")
    full = json.loads((data_dir / "crystals" / "dataset_stats.json").read_text())["perov_5"]
    assert len(data.codec.elements) == len(full["atomic_numbers"]) == data.features["types"] == 56
    assert data.codec.lattice_scale == pytest.approx(full["lattice_std"], rel=0.005)
    assert data.spec["data"]["test"] == 3785
    assert "reduced protocol" in data.spec["data"]["split"]
    batch = next(iter(data.test_dataloader()))
    assert batch["types"].shape == (128 * 5, 56)
    assert batch["types"].sum() == 128 * 5


def test_lightning_shuffles_batches_by_atoms(tmp_path: Path):
    """Two epochs of a trainer: each sees every crystal once, in different orders."""
    import lightning.pytorch as pl
    import torch

    class Recorder(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.seen: list[list[float]] = []

        def on_train_epoch_start(self) -> None:
            self.seen.append([])

        def training_step(self, batch: State, batch_idx: int) -> torch.Tensor:
            self.seen[-1] += batch["lattice"].sum((1, 2)).tolist()
            return self.weight.sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    data, model = CrystalData("crystal_prototypes", batch_atoms=64), Recorder()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    pl.Trainer(max_epochs=2, default_root_dir=tmp_path, enable_model_summary=False, **options).fit(model, data)
    first, second = model.seen
    assert len(first) == data.spec["data"]["train"]
    assert sorted(first) == sorted(second)
    assert first != second
