from __future__ import annotations

import csv
import gzip

import pytest

pytest.importorskip("rdkit")


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    """No test reads or fills the user's cache."""
    monkeypatch.setenv("SCIFLOW_CACHE", str(tmp_path / "cache"))


def _column(path, step):
    with gzip.open(path, "rt") as stream:
        return [row["smiles"] for row in csv.DictReader(stream)][::step]


@pytest.fixture(scope="session")
def qm9_smiles(data_dir):
    """1,339 QM9 SMILES, every hundredth of the file."""
    return _column(data_dir / "molecules/smiles/qm9.csv.gz", 100)


@pytest.fixture(scope="session")
def zinc_smiles(data_dir):
    """250 ZINC250k SMILES."""
    return _column(data_dir / "molecules/smiles/zinc250k.csv.gz", 997)[:250]
