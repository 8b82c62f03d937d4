"""Formats written and read back, formats written by other programs, and files that are broken."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import numpy as np
import pytest
from trajectory_toy import chain_molecule, random_points

from sciflow.core.errors import UserError
from sciflow.domains.trajectories.data import Trajectory
from sciflow.domains.trajectories.files import WRITERS, read_trajectories, read_trajectory, write_trajectories

ROUNDING = {".npz": 1e-6, ".xyz": 1e-8, ".extxyz": 1e-8, ".pdb": 5.1e-4}  # half a unit of the last digit written


def same(one: Trajectory, other: Trajectory, rounding: float) -> None:
    np.testing.assert_allclose(one.positions, other.positions, atol=rounding, rtol=0)
    np.testing.assert_allclose(one.times, other.times, rtol=1e-6)
    assert one.unit == other.unit
    np.testing.assert_array_equal(one.features, other.features)
    np.testing.assert_array_equal(one.pairs, other.pairs)


@pytest.mark.parametrize("ending", WRITERS)
def test_written_files_come_back(ending: str, tmp_path):
    flags = np.arange(6) < 2
    runs = [replace(chain_molecule(6, 4, seed), observed=flags) for seed in range(3)]
    path = tmp_path / f"out{ending}"
    assert write_trajectories(path, [runs[0], None, *runs[1:]]) == 3
    back, report = read_trajectories(path)
    assert (report.n_read, report.n_skipped, len(back)) == (3, 0, 3)
    for one, other in zip(back, runs, strict=True):
        same(one, other, ROUNDING[ending])
        np.testing.assert_array_equal(one.observed, flags)
        np.testing.assert_array_equal(one.numbers, other.numbers)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # nothing left beside it


def test_npz_has_the_keys_of_the_contract(tmp_path):
    write_trajectories(tmp_path / "a.npz", [chain_molecule(6, 4), chain_molecule(6, 4, 1)])
    with np.load(tmp_path / "a.npz") as stored:
        assert stored["R"].shape == (2, 6, 4, 3) and stored["z"].shape == (4,) and float(stored["dt_fs"]) == 5.0
    points = [random_points(seed=seed) for seed in (0, 1)]
    write_trajectories(tmp_path / "p.npz", points)
    for one, other in zip(read_trajectories(tmp_path / "p.npz")[0], points, strict=True):
        same(one, other, 1e-6)


def test_npz_keeps_uneven_times_and_names(tmp_path):
    one = chain_molecule(4, 3)
    one = replace(one, times=np.array([0.0, 1.0, 5.0, 6.0]), names=np.array(["ACE:C1", "ACE:N2", "ALA:O"]))
    write_trajectories(tmp_path / "a.npz", [one])
    back = read_trajectory(tmp_path / "a.npz")
    assert back.times.tolist() == [0, 1, 5, 6] and back.unit == "fs" and back.names.tolist() == one.names.tolist()
    write_trajectories(tmp_path / "a.pdb", [one])
    assert read_trajectory(tmp_path / "a.pdb").names.tolist() == one.names.tolist()


def test_large_molecules_fit_into_a_pdb_file(tmp_path):
    rng = np.random.default_rng(0)
    from sciflow.domains.trajectories.data import molecule

    big = molecule(20 * rng.normal(size=(2, 250, 3)), 1.0, np.full(250, 6), unit="step", bonds=np.array([[0, 249]]))
    write_trajectories(tmp_path / "a.pdb", [big])
    back = read_trajectory(tmp_path / "a.pdb")
    assert back.atoms == 250 and back.bonds.tolist() == [[0, 249]]
    with pytest.raises(UserError, match="more than a PDB file holds"):
        write_trajectories(tmp_path / "b.pdb", [replace(big, positions=big.positions + 5000)])


def test_files_of_ase(tmp_path):
    from ase import Atoms
    from ase.io import read, write

    one = chain_molecule(5, 4)
    frames = [Atoms(numbers=one.numbers, positions=x) for x in one.positions]
    for name in ("a.xyz", "a.extxyz", "a.traj", "a.pdb"):
        write(tmp_path / name, frames)
        back = read_trajectory(tmp_path / name)
        np.testing.assert_allclose(back.positions, one.positions, atol=5.1e-4)
        assert back.numbers.tolist() == one.numbers.tolist() and back.unit == "step" and back.spacing == 1.0
        assert read_trajectory(tmp_path / name, dt_fs=2.0).times.tolist() == [0, 2, 4, 6, 8]
    for name in ("b.xyz", "b.extxyz", "b.pdb"):  # and ASE reads ours
        write_trajectories(tmp_path / name, [one])
        ours = read(tmp_path / name, index=":")
        np.testing.assert_allclose([a.positions for a in ours], one.positions, atol=5.1e-4)
        assert ours[0].numbers.tolist() == one.numbers.tolist()


def test_real_files(data_dir):
    ala, _ = read_trajectories(data_dir / "trajectories/ala2_fine10fs.npz")
    assert len(ala) == 40 and ala[0].frames == 500 and ala[0].spacing == 10.0 and str(ala[0].names[8]) == "ALA:CA"
    adk = read_trajectory(data_dir / "trajectories/adk_dims_ca.npz")
    assert adk.atoms == 214 and len(adk.bonds) == 213 and adk.unit == "step" and set(adk.numbers) == {6}


# -- broken files ----------------------------------------------------------------------------------------------------
def test_changing_atoms_and_numbers_are_named(tmp_path):
    text = "2\n\nH 0 0 0\nH 0 0 1\n"
    cases = {
        "more.xyz": (text * 2 + "3\n\nH 0 0 0\nH 0 0 1\nH 0 1 0\n", "3 atoms in frame 2, expected 2 atoms"),
        "other.xyz": (text * 2 + text.replace("H 0 0 1", "C 0 0 1"), "other elements in frame 2"),
        "nan.xyz": (text * 3 + text.replace("0 0 1", "0 nan 1"), "frame 3 holds NaN"),
        "cut.xyz": (text * 2 + "2\n\nH 0 0 0\n", "frame 2 cannot be read"),
        "single.xyz": (text, "single frame"),
        "same.xyz": (text + "2\n\nH 0 0 0\nH 0 0 0\n", "atoms 0 and 1 lie on the same place in frame 1"),
        "words.xyz": ("hello\n", "frame 0 cannot be read"),
        "empty.pdb": ("HEADER\n", "PDB"),
        "run.dcd": ("x", "TOPOLOGY:TRAJECTORY"),
        "bad.npz": ("x", "cannot be read as npz"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=message) as caught:
            read_trajectories(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        read_trajectories(tmp_path / "none.xyz")


def test_broken_pdb_models_are_named(tmp_path):
    write_trajectories(tmp_path / "a.pdb", [chain_molecule(3, 4)])
    lines = (tmp_path / "a.pdb").read_text().splitlines()
    lines = [line for k, line in enumerate(lines) if not (k > 10 and line.startswith("HETATM    4"))]
    (tmp_path / "a.pdb").write_text("\n".join(lines))
    with pytest.raises(UserError, match="3 atoms in frame 1, expected 4 atoms"):
        read_trajectories(tmp_path / "a.pdb")


def test_npz_of_other_content_is_refused(tmp_path):
    def refused(message: str, **arrays) -> None:
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(UserError, match=message):
            read_trajectories(tmp_path / "a.npz")

    x = chain_molecule(5, 3).positions
    refused("the keys coords, expected 'R'", coords=x)
    refused("without time order", coords=x, old_indices=np.arange(5))
    refused("single frame", R=x[:1], z=np.ones(3, int))
    refused("2 atomic numbers, expected 3", R=x, z=np.ones(2, int))
    refused("'R' of shape .*5, 9", R=x.reshape(5, 9), z=np.ones(9, int))
    refused("times in 'weeks'", R=x, unit="weeks")
    refused("sample 1: frame 2 holds NaN", R=np.stack([x, np.where(np.arange(5)[:, None, None] == 2, np.nan, x)]))
    refused("'observed' of shape", R=x, observed=np.ones(4, bool))


def test_among_several_files_the_broken_ones_are_counted(tmp_path):
    write_trajectories(tmp_path / "a.npz", [chain_molecule(6, 4)])
    write_trajectories(tmp_path / "b.extxyz", [chain_molecule(6, 4, 1)])
    (tmp_path / "c.xyz").write_text("3\n\nH 0 0\n")
    (tmp_path / "notes.txt").write_text("not read")
    found, report = read_trajectories(tmp_path)
    assert len(found) == 2 and report.n_skipped == 1 and "c.xyz" in str(report)
    again, _ = read_trajectories([tmp_path / "a.npz", tmp_path / "c.xyz"])
    assert len(again) == 1
    with pytest.raises(UserError, match="no trajectory .*2 files skipped"):
        read_trajectories([tmp_path / "c.xyz", tmp_path / "c.xyz"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="folder without trajectories"):
        read_trajectories(tmp_path / "empty")
    with pytest.raises(UserError, match="got 2 trajectories, expected one"):
        read_trajectory(tmp_path)


def test_writers_refuse_what_a_format_cannot_hold(tmp_path):
    two = [chain_molecule(4, 3), chain_molecule(4, 5)]
    for name in ("a.npz", "a.pdb"):
        with pytest.raises(UserError, match="different molecules"):
            write_trajectories(tmp_path / name, two)
    assert write_trajectories(tmp_path / "a.extxyz", two) == 2
    assert [one.atoms for one in read_trajectories(tmp_path / "a.extxyz")[0]] == [3, 5]
    with pytest.raises(UserError, match="expected one of"):
        write_trajectories(tmp_path / "a.dcd", two)
    with pytest.raises(UserError, match="no trajectory to write"):
        write_trajectories(tmp_path / "a.npz", [None])


# -- MDAnalysis ------------------------------------------------------------------------------------------------------
def test_missing_mdanalysis_is_one_sentence(tmp_path, monkeypatch):
    for name in ("top.pdb", "run.dcd"):
        (tmp_path / name).write_text("x")
    monkeypatch.setitem(sys.modules, "MDAnalysis", None)
    with pytest.raises(UserError, match=r"pip install 'sciflow\[md\]'"):
        read_trajectories(f"{tmp_path}/top.pdb:{tmp_path}/run.dcd")


def test_mdanalysis_reads_a_dcd_file(tmp_path):
    analysis = pytest.importorskip("MDAnalysis")
    one = chain_molecule(6, 4, dt=1000.0)
    write_trajectories(tmp_path / "top.pdb", [one.select(slice(0, 2))])
    universe = analysis.Universe(str(tmp_path / "top.pdb"))
    with analysis.Writer(str(tmp_path / "run.dcd"), 4, dt=1.0) as writer:
        for x in one.positions:
            universe.atoms.positions = x
            writer.write(universe.atoms)
    back = read_trajectory(f"{tmp_path}/top.pdb:{tmp_path}/run.dcd")
    np.testing.assert_allclose(back.positions, one.positions, atol=1e-5)
    np.testing.assert_array_equal(back.pairs, one.pairs)
    np.testing.assert_array_equal(back.numbers, one.numbers)
    assert back.unit == "fs" and abs(back.spacing - 1000) < 1e-2
    with pytest.raises(UserError, match="without elements"):
        read_trajectory(f"{tmp_path}/run.dcd:{tmp_path}/run.dcd")
    (tmp_path / "cut.dcd").write_bytes((tmp_path / "run.dcd").read_bytes()[:100])
    with pytest.raises(UserError, match="MDAnalysis cannot read it"):
        read_trajectory(f"{tmp_path}/top.pdb:{tmp_path}/cut.dcd")


def test_mdanalysis_units_with_a_stand_in(tmp_path, monkeypatch):
    """Picoseconds become femtoseconds; elements come from the topology."""
    one = chain_molecule(3, 3)
    frames = [types.SimpleNamespace(time=0.5 * k, positions=x) for k, x in enumerate(one.positions)]
    atoms = types.SimpleNamespace(elements=["C", "N", "O"], names=["C1", "N1", "O1"], resnames=["MOL"] * 3)
    universe = types.SimpleNamespace(trajectory=frames, atoms=atoms)
    monkeypatch.setitem(sys.modules, "MDAnalysis", types.SimpleNamespace(Universe=lambda *files: universe))
    for name in ("top.pdb", "run.dcd"):
        (tmp_path / name).write_text("x")
    back = read_trajectory(f"{tmp_path}/top.pdb:{tmp_path}/run.dcd")
    assert back.times.tolist() == [0, 500, 1000] and back.unit == "fs" and back.numbers.tolist() == [6, 7, 8]
