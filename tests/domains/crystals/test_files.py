"""Crystal files: what goes out comes back; broken entries are counted, reported skips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from sciflow.core.errors import UserError
from sciflow.domains.crystals.files import read_crystals, read_structures, write_crystals

PEROVSKITE = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]


def structures() -> list[Structure]:
    cubic = Structure(Lattice.cubic(3.9), ["Sr", "Ti", "O", "O", "O"], PEROVSKITE, properties={"energy": -8.4})
    skew = Structure(Lattice.from_parameters(3, 4, 5.5, 80, 95, 105), ["Na", "Cl"], [[0.1, 0.2, 0.3], [0.6, 0.75, 0.9]])
    return [cubic, skew]


@pytest.mark.parametrize("name", ["out.cif", "out.extxyz", "out.npz", "out.json", "folder"])
def test_round_trip(tmp_path: Path, name: str):
    before = structures()
    assert write_crystals(tmp_path / name, [before[0], None, before[1]], ["a", "gone", "b"]) == 2
    after, names, report = read_structures(tmp_path / name)
    assert names == ["a", "b"]
    assert (report.n_read, report.n_skipped) == (2, 0)
    for old, new in zip(before, after):
        assert new.composition == old.composition
        assert np.allclose(new.lattice.parameters, old.lattice.parameters, atol=1e-5)
        assert np.allclose(sorted(new.distance_matrix.ravel()), sorted(old.distance_matrix.ravel()), atol=1e-4)
    if name in ("out.extxyz", "out.npz"):
        assert read_crystals(tmp_path / name)[0].properties["energy"][0] == pytest.approx(-8.4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]  # nothing temporary is left


def test_poscar(tmp_path: Path):
    write_crystals(tmp_path / "POSCAR.vasp", structures()[:1])
    after, _, _ = read_structures(tmp_path / "POSCAR.vasp")
    assert after[0].composition.reduced_formula == "SrTiO3"
    with pytest.raises(UserError, match="one structure"):
        write_crystals(tmp_path / "POSCAR.vasp", structures())


def test_broken_entries_are_counted(tmp_path: Path):
    write_crystals(tmp_path / "set", [structures()[0]], ["good"])
    good = (tmp_path / "set" / "good.cif").read_text()
    (tmp_path / "set" / "garbage.cif").write_text("this is no CIF")
    (tmp_path / "set" / "noatoms.cif").write_text(good.split("  Sr ")[0])
    (tmp_path / "set" / "nan.cif").write_text(good.replace("_cell_length_a   3.9", "_cell_length_a   nan"))
    partial = Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    (tmp_path / "set" / "partial.cif").write_text(partial.to(fmt="cif"))
    crystals, report = read_crystals(tmp_path / "set")
    assert "good" in crystals.identifiers
    assert report.n_read + report.n_skipped == 5
    assert report.n_skipped >= 3
    assert any("partial" in example for example in report.examples)
    with pytest.raises(UserError, match="no crystal"):
        read_crystals(tmp_path / "set" / "garbage.cif")


def test_csv_with_cif_column(tmp_path: Path):
    import csv

    with open(tmp_path / "set.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["", "material_id", "heat", "cif"])
        writer.writerow([0, "m-1", "1.5", structures()[0].to(fmt="cif")])
        writer.writerow([1, "m-2", "2.5", "broken"])
    crystals, report = read_crystals(tmp_path / "set.csv")
    assert crystals.identifiers == ["m-1"]
    assert crystals.properties["heat"].tolist() == [1.5]
    assert report.n_skipped == 1
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="cif"):
        read_crystals(tmp_path / "other.csv")


def test_bad_paths(tmp_path: Path):
    for path, text in [("missing.cif", "no such"), ("x.pdb", "file type"), ("", "folder without")]:
        if path == "x.pdb":
            (tmp_path / path).write_text("")
        elif path == "":
            (tmp_path / "empty").mkdir()
            path = "empty"
        with pytest.raises(UserError, match=text):
            read_crystals(tmp_path / path)
    (tmp_path / "bad.npz").write_bytes(b"not a zip")
    with pytest.raises(UserError, match="npz"):
        read_crystals(tmp_path / "bad.npz")
