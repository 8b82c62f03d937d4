"""The molecule data modules on files and on molecules in memory."""

from __future__ import annotations

import json

import pytest
from rdkit import Chem

from sciflow.core.errors import UserError
from sciflow.domains.molecules.datamodule import GDSSMoleculeData, MoleculeData

SMILES = ["CCO", "CCN", "CC(=O)O", "C1CC1", "CO", "CN", "CCC", "CC=O"]


def test_molecules_in_memory():
    for objects in ([*SMILES, "C1CC"], [*map(Chem.MolFromSmiles, SMILES), None]):
        data = MoleculeData(objects, validation=0.0, test=0.25)
        data.setup("fit")
        assert [len(data.samples[split]) for split in ("train", "test")] == [6, 2]
        assert data.spec["data"]["source"] == "9 Python objects" and data.spec["data"]["skipped"] == 1
        json.dumps(data.spec)
    with pytest.raises(UserError, match="got no molecule"):
        MoleculeData(["C1CC"]).setup("fit")


def test_broken_and_lossy_entries_are_said(tmp_path, caplog):
    (tmp_path / "mine.csv").write_text("smiles\n" + "\n".join([*SMILES, "C1CC", "C[NH3+]", "C[C@H](F)Cl"]) + "\n")
    with caplog.at_level("INFO"):
        MoleculeData(str(tmp_path / "mine.csv"), test=0.0).setup("fit")
    assert "10 entries read, 1 skipped, 1 charged, 1 with stereo, first skipped: mine.csv: C1CC" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        MoleculeData(SMILES, test=0.0).setup("fit")
    assert caplog.text == ""


def test_real_valued_bonds_are_no_channels():
    features = []
    for kind in (MoleculeData, GDSSMoleculeData):
        data = kind(SMILES)
        data.setup("fit")
        features.append(data.features)
    assert features == [{"x": 3, "adj": 4}, {"x": 3}]
