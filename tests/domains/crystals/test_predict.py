"""Structures for lists of compositions: entries, order, independence of batches, restart, names and pairing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.schedules import BFN
from sciflow.core.state import State
from sciflow.domains.crystals.codec import CrystalCodec
from sciflow.domains.crystals.files import read_structures, write_crystals
from sciflow.domains.crystals.predict import (
    Entry,
    batches_by_atoms,
    named,
    pair_by_name,
    predict_structures,
    read_compositions,
)
from sciflow.domains.designing import Shelf
from sciflow.model import Model
from sciflow.processes.gaussian import GaussianProcess
from sciflow.processes.planar_bfn import PlanarBFN
from sciflow.sampling import SamplingPlan
from sciflow.solvers.ancestral import Ancestral


class Shrinker(torch.nn.Module):
    """Half of what it sees; a cell of edge 2 per element number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.calls = 0

    def forward(self, state: State, signals: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.calls += 1
        index = state.layouts["coords"].index
        total = torch.zeros(state.batch).index_add(0, index, state["types"].float())
        lattice = torch.eye(3) * (2 + total)[:, None, None]
        return {"coords": 0.5 * state["coords"] + self.weight, "lattice": lattice + 0.1 * state["lattice"]}


@pytest.fixture
def model() -> Model:
    processes = {"coords": PlanarBFN(), "lattice": GaussianProcess(BFN(0.01), kind="data")}
    plan = SamplingPlan({name: Ancestral() for name in processes}, Uniform(end=0.0), 4)
    return Model(
        processes, Shrinker(), plan, CrystalCodec(["O", "Ti", "Sr", "Na", "Cl"], 1.0, 10), {"domain": "crystals"}
    )


def entries() -> list[Entry]:
    return [Entry("a", np.array([38, 22, 8, 8, 8])), Entry("b/1", np.array([11, 17])), Entry("c", np.array([22, 8, 8]))]


def test_every_entry_gets_its_composition_in_any_batch(model: Model):
    large = predict_structures(model, entries(), 2, seed=3)
    small = predict_structures(model, entries(), 2, seed=3, batch_atoms=6)
    assert [[one.composition.reduced_formula for one in several] for several in large] == [
        ["SrTiO3"] * 2,
        ["NaCl"] * 2,
        ["TiO2"] * 2,
    ]
    for several, again in zip(large, small):
        for one, other in zip(several, again):
            assert np.allclose(one.frac_coords, other.frac_coords, atol=1e-5)
            assert np.allclose(one.lattice.matrix, other.lattice.matrix, atol=1e-5)
    assert not np.allclose(large[0][0].frac_coords, large[0][1].frac_coords, atol=1e-3)
    with pytest.raises(UserError, match="Ba"):
        predict_structures(model, [Entry("x", np.array([56]))])


def test_batches_hold_so_many_atoms():
    """Every sample once, similar sizes together, no batch above the bound unless one crystal is."""
    sizes = [5, 20, 1, 7, 5, 30, 2]
    batches = batches_by_atoms(sizes, 12)
    assert sorted(i for batch in batches for i in batch.samples) == list(range(7))
    assert [batch.sizes for batch in batches] == [[1, 2, 5], [5, 7], [20], [30]]
    assert all(batch.sizes == [sizes[i] for i in batch.samples] for batch in batches)


def test_restart_goes_on(model: Model, tmp_path: Path):
    shelf = Shelf(tmp_path / "parts", {"seed": 0})
    first = predict_structures(model, entries(), shelf=shelf, batch_atoms=5)
    calls = model.denoiser.network.calls  # type: ignore[union-attr]
    second = predict_structures(model, entries(), shelf=shelf, batch_atoms=5)
    assert model.denoiser.network.calls == calls  # type: ignore[union-attr]
    assert np.allclose(second[2][0].frac_coords, first[2][0].frac_coords)


def test_names_go_out_and_come_back(model: Model, tmp_path: Path):
    predictions = predict_structures(model, entries(), 2)
    predictions[1][1] = None
    names, structures = named(entries(), predictions)
    assert names[:3] == ["a__0", "a__1", "b/1__0"]
    write_crystals(tmp_path / "out", structures, names)
    read, found, _ = read_structures(tmp_path / "out")
    paired = pair_by_name(found, read, ["c", "b/1", "missing", "a"])
    assert [len(several) for several in paired] == [2, 1, 1, 2]
    assert paired[2] == [None]
    assert paired[1][0].composition.reduced_formula == "NaCl"
    with pytest.raises(UserError, match="names of the references"):
        pair_by_name(found, read, ["x", "y"])


def test_compositions_from_tables_and_from_crystals(tmp_path: Path, data_dir: Path):
    (tmp_path / "table.csv").write_text("id,formula,z\nfirst,SrTiO3,1\nsecond,NaCl,4\n")
    found = read_compositions(tmp_path / "table.csv")
    assert [(one.name, len(one.numbers)) for one in found] == [("first", 5), ("second", 8)]
    (tmp_path / "plain.csv").write_text("formula\nTiO2\n")
    assert read_compositions(tmp_path / "plain.csv")[0].name == "0-TiO2"
    (tmp_path / "bad.csv").write_text("formula\nTiO2\n???\n")
    with pytest.raises(UserError, match="row 2"):
        read_compositions(tmp_path / "bad.csv")
    from_set = read_compositions("crystal_prototypes")
    assert len(from_set) == 341
    from_file = read_compositions(data_dir / "crystals" / "carbon_24_nsplit_htl_test.npz")
    assert {len(one.numbers) for one in from_file} == {6}
