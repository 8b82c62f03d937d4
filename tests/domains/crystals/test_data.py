"""Crystal sets: skips counted, splits by composition, the cache, downloads by checksum."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

import sciflow.data
from sciflow.core.errors import UserError
from sciflow.domains.crystals import data as crystal_data
from sciflow.domains.crystals.arrays import from_parts
from sciflow.domains.crystals.data import crystal_dataset, load_crystals, load_npz, save_npz


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCIFLOW_CACHE", str(tmp_path / "cache"))


def salts(count: int) -> list[Structure]:
    """Rock-salt cells of different compositions, two of each."""
    metals, halogens = ["Li", "Na", "K", "Rb", "Cs", "Ag", "Tl", "Cu"], ["F", "Cl", "Br", "I"]
    pairs = [(metal, halogen) for metal in metals for halogen in halogens][:count]
    return [
        Structure(Lattice.cubic(a), [metal, halogen], [[0, 0, 0], [0.5, 0.5, 0.5]])
        for metal, halogen in pairs
        for a in (3.5, 3.6)
    ]


def test_split_keeps_a_composition_on_one_side():
    split = crystal_dataset(salts(30), validation=0.1, test=0.2, seed=1)
    sides = [set(part.formulas()) for part in (split.train, split.validation, split.test)]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert [len(part) for part in (split.train, split.validation, split.test)] == [44, 4, 12]
    assert split.info["train"] == 44
    again = crystal_dataset(salts(30), validation=0.1, test=0.2, seed=1)
    assert again.test.identifiers == split.test.identifiers
    other = crystal_dataset(salts(30), validation=0.1, test=0.2, seed=2)
    assert other.test.identifiers != split.test.identifiers


def test_unusable_crystals_are_counted(tmp_path: Path):
    cell, two = np.eye(3) * 4, np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]])
    kinds = np.array([11, 17], np.uint8)
    parts = [(kinds, two, cell), (kinds, two * 1e-3, cell), (kinds, two, cell * 1e3), (kinds[:0], two[:0], cell)]
    parts += [(kinds, two * np.nan, cell), (kinds, two, cell)]
    numbers, coords, lattices = zip(*parts)
    save_npz(tmp_path / "set.npz", from_parts([f"c{i}" for i in range(6)], numbers, coords, lattices))
    crystals, counts = load_crystals(tmp_path / "set.npz")
    assert crystals.identifiers == ["c0", "c5"]
    assert counts["skipped"] == 4
    assert any("c1" in example and "apart" in example for example in counts["examples"])
    save_npz(tmp_path / "bad.npz", from_parts(["c"], numbers[1:2], coords[1:2], lattices[1:2]))
    with pytest.raises(UserError, match="no usable crystal, 1 skipped"):
        load_crystals(tmp_path / "bad.npz")


def test_cache_is_used_and_equal(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = data_dir / "crystals" / "carbon_overfit_nxl_train.npz"
    first, counts = load_crystals(path)
    assert len(list((tmp_path / "cache" / "crystals").iterdir())) == 1
    monkeypatch.setattr(crystal_data, "_reduced", None)  # a second reading would fail
    second, again = load_crystals(path)
    assert counts == again
    assert second.identifiers == first.identifiers
    for name in ("ptr", "numbers", "coords", "lattices"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


def test_reduction_changes_the_description_only(data_dir: Path):
    """Volume and sorted interatomic distances of 20 crystals before and after; most of the cells do change."""
    path = data_dir / "crystals" / "mpts_52_val.npz"
    raw = load_npz(path)[0].select(range(0, 400, 20))
    raw = raw.select(np.flatnonzero(raw.sizes > 1))
    reduced, _ = crystal_data._reduced(raw, {"skipped": 0, "examples": []}, True, "")
    changed = 0
    for k in range(len(raw)):
        old, new = raw.structure(k), reduced.structure(k)
        assert new.volume == pytest.approx(old.volume, rel=1e-6)
        assert np.allclose(np.sort(new.distance_matrix.ravel()), np.sort(old.distance_matrix.ravel()), atol=1e-4)
        changed += not np.allclose(raw.lattices[k], reduced.lattices[k], atol=1e-3)
    assert changed >= 3


def test_full_benchmark_from_its_csv_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`sciflow data get` by address and checksum, then the published split; file:// stands for the web."""
    for part, count in (("train", 6), ("val", 2), ("test", 2)):
        file = tmp_path / "web" / f"{part}.csv"
        file.parent.mkdir(exist_ok=True)
        with open(file, "w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["material_id", "cif", "heat_ref"])
            writer.writerows([f"{part}{i}", one.to(fmt="cif"), i] for i, one in enumerate(salts(5)[:count]))
        name = f"perov_5_full_{part}"
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        card = replace(sciflow.data.card(name), url=file.as_uri(), sha256=digest)
        monkeypatch.setitem(sciflow.data.DATASETS, name, card)
    with pytest.raises(UserError, match="sciflow data get perov_5_full_train"):
        crystal_dataset("perov_5")
    for part in ("train", "val", "test"):
        sciflow.data.get(f"perov_5_full_{part}")
    split = crystal_dataset("perov_5")
    assert [len(split.train), len(split.validation), len(split.test)] == [6, 2, 2]
    assert split.info["split"] == "published"
    assert split.train.properties["heat_ref"].tolist() == [0, 1, 2, 3, 4, 5]
    wrong = replace(sciflow.data.card("perov_5_full_val"), sha256="0" * 64, name="other")
    monkeypatch.setitem(sciflow.data.DATASETS, "other", wrong)
    with pytest.raises(UserError, match="nothing kept"):
        sciflow.data.get("other")


def test_git_blob_ids_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Against `git hash-object` of the empty file and of "hello" with a newline."""
    (tmp_path / "empty").touch()
    (tmp_path / "hello").write_text("hello\n")
    assert sciflow.data.git_blob(tmp_path / "empty") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert sciflow.data.git_blob(tmp_path / "hello") == "ce013625030ba8dba906f756967f9e9ca394464a"
    card = sciflow.data.card("mp_20_full_train")
    assert card.sha256 is None and len(str(card.git_blob)) == 40
    url = (tmp_path / "hello").as_uri()
    monkeypatch.setitem(sciflow.data.DATASETS, card.name, replace(card, url=url))
    with pytest.raises(UserError, match=f"git blob id ce013625.*expected {card.git_blob}; nothing kept"):
        sciflow.data.get(card.name)
    assert not sciflow.data.cached_path(sciflow.data.card(card.name)).exists()
    right = replace(card, url=url, git_blob="ce013625030ba8dba906f756967f9e9ca394464a")
    monkeypatch.setitem(sciflow.data.DATASETS, card.name, right)
    assert sciflow.data.get(card.name).read_text() == "hello\n"


def test_every_published_crystal_file_can_be_verified():
    for card in sciflow.data.DATASETS.values():
        if "_full_" in card.name and card.url:
            assert card.sha256 or card.git_blob, card.name


def test_stored_archives_have_the_checksums_of_their_cards(data_dir: Path):
    from sciflow.data.crystals import STORED

    for card in STORED:
        assert hashlib.sha256((data_dir / str(card.local)).read_bytes()).hexdigest() == card.sha256


def test_shipped_prototypes():
    """The file is that of its card, its crystals are what their names say, and NaCl has the textbook size."""
    from sciflow.domains.crystals.design import symmetry

    path = sciflow.data.resolve("crystal_prototypes")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sciflow.data.card("crystal_prototypes").sha256
    crystals, counts = load_crystals("crystal_prototypes")
    assert (len(crystals), counts["skipped"]) == (341, 0)
    for k in range(0, 341, 20):
        structure = crystals.structure(k)
        assert crystals.identifiers[k].endswith(f"-{structure.composition.reduced_formula}")
        assert symmetry(structure, 1e-3)[1] == crystals.properties["spacegroup"][k]
    salt = crystals.structure(crystals.identifiers.index("rock_salt-NaCl"))
    assert (4 * salt.volume) ** (1 / 3) == pytest.approx(5.66, abs=0.01)
