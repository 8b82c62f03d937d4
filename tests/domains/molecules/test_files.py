"""Files in and out; what we write is read back by RDKit itself."""

from __future__ import annotations

import csv
import gzip
import os

import pytest
from rdkit import Chem

from sciflow.core.errors import UserError
from sciflow.domains.molecules.files import read_molecules, write_molecules


def smiles(molecules):
    return [Chem.MolToSmiles(molecule) for molecule in molecules]


def test_smiles_list_with_header_comments_names_and_broken_lines(tmp_path):
    path = tmp_path / "a.smi"
    path.write_text(
        "SMILES name\nCCO ethanol\n# remark\n\nC1CC broken ring\nc1ccccc1\tbenzene ring\nC(C)(C)(C)(C)C\nN\n"
    )
    molecules, report = read_molecules(path)
    assert smiles(molecules) == ["CCO", "c1ccccc1", "N"]
    assert (report.n_read, report.n_skipped) == (3, 2)
    assert report.examples == ["a.smi: C1CC", "a.smi: C(C)(C)(C)(C)C"]
    assert report.identifiers == ["ethanol", "benzene ring", "4"]
    assert "3 molecules read, 2 skipped" in str(report)


@pytest.mark.parametrize("column", ["smiles", "SMILES", "Canonical_Smiles"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_column_in_any_case_and_delimiter(tmp_path, column, delimiter):
    path = tmp_path / "a.csv.gz"
    with gzip.open(path, "wt") as stream:
        stream.write(
            f'"a name"{delimiter}{column}{delimiter}index\nx{delimiter}CCO{delimiter}17\ny{delimiter}{delimiter}18\n'
        )
    molecules, report = read_molecules(path)
    assert smiles(molecules) == ["CCO"] and report.n_skipped == 1 and report.identifiers == ["17"]


def test_folder_of_several_types(tmp_path):
    write_molecules(tmp_path / "1.sdf", [Chem.MolFromSmiles("CCN")])
    (tmp_path / "2.txt").write_text("CCO\n")
    (tmp_path / "3.csv").write_text("smiles\nCCF\n")
    (tmp_path / "notes.md").write_text("not molecules")
    assert smiles(read_molecules(tmp_path)[0]) == ["CCN", "CCO", "CCF"]


def test_real_files_of_every_kind(data_dir):
    """Counts of the data README, found there with RDKit's own readers: 352-353 of 371 DrugBank entries sanitise."""
    molecules, report = read_molecules(data_dir / "molecules/conformers/MiniDrugBank.sdf.gz")
    assert report.n_read == 353 and report.n_skipped == 18 and molecules[0].GetNumConformers() == 1
    assert read_molecules(data_dir / "molecules/properties/bbbp.csv.gz")[1].n_read == 2039


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "name,mass\nx,1\n", r"got the columns \['name', 'mass'\], expected one named smiles"),
        ("a.csv", "", r"got the columns \[\], expected one named smiles"),
        ("a.smi", "", "got no molecule"),
        ("a.smi", "hello world\nfoo\n", "got no molecule .*2 skipped"),
        ("a.sdf", "", "got no molecule"),
        ("a.xyz", "3\n", "got file type '.xyz', expected one of .smi"),
        ("a.csv.gz", "smiles\nCCO\n", "cannot be read as a .csv file"),
    ],
)
def test_bad_files_give_one_clear_error(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_molecules(tmp_path / name)


def test_binary_rubbish_and_missing_paths(tmp_path):
    (tmp_path / "a.smi").write_bytes(bytes(range(256)))
    for path in (tmp_path / "a.smi", tmp_path / "none.smi"):
        with pytest.raises(UserError):
            read_molecules(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="folder without molecule files"):
        read_molecules(tmp_path / "empty")


def test_written_files_are_read_by_rdkit(tmp_path):
    molecules = [Chem.MolFromSmiles("C[N+](C)(C)C"), None, Chem.MolFromSmiles("OC(=O)c1ccccc1")]
    molecules[0].SetIntProp("corrected", 1)
    molecules[2].SetDoubleProp("qed", 0.5)
    for ending in ("smi", "csv", "sdf"):
        assert write_molecules(tmp_path / f"out.{ending}", molecules) == 2
    expected = smiles(m for m in molecules if m is not None)

    supplier = Chem.SmilesMolSupplier(str(tmp_path / "out.smi"), titleLine=False)
    assert [(Chem.MolToSmiles(m), m.GetProp("_Name")) for m in supplier] == list(zip(expected, ["0", "2"], strict=True))

    read = list(Chem.SDMolSupplier(str(tmp_path / "out.sdf")))
    assert smiles(read) == expected and [m.GetProp("_Name") for m in read] == ["0", "2"]
    assert read[1].GetProp("qed") == "0.5"
    assert read[1].GetConformer().GetPositions().std() > 0.5  # drawn, not a heap at the origin

    with open(tmp_path / "out.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["smiles"] for row in table] == [expected[0], "", expected[1]]
    assert [row["qed"] for row in table] == ["", "", "0.5"] and table[1]["index"] == "1"
    assert [row["corrected"] for row in table] == ["1", "", ""]
    for ending in ("csv", "sdf"):
        back, _ = read_molecules(tmp_path / f"out.{ending}")
        assert back[0].GetProp("corrected") == "1" and float(back[1].GetProp("qed")) == 0.5
    assert (tmp_path / "out.smi").read_text() == f"{expected[0]} 0 corrected=1\n{expected[1]} 2\n"
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "out.sdf", "out.smi"]  # no temporary file stays


def test_flags_of_a_smiles_line(tmp_path):
    """Only whole words 0 or 1 are flags, wherever the name ends; the rest is the name."""
    (tmp_path / "a.smi").write_text(
        "CC 0 connected=0 corrected=1\nCO corrected=0\nCN corrected=2 x\nbroken corrected=1\n"
    )
    molecules, report = read_molecules(tmp_path / "a.smi")
    names = ("corrected", "connected")
    assert [[m.GetProp(n) for n in names if m.HasProp(n)] for m in molecules] == [["1", "0"], ["0"], []]
    assert report.identifiers == ["0", "1", "corrected=2 x"] and report.n_skipped == 1


def test_unknown_ending(tmp_path):
    with pytest.raises(UserError, match="expected one of .smi .csv .sdf"):
        write_molecules(tmp_path / "a.png", [])
