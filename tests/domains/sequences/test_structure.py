"""Backbones: real entries against coordinates read by others, files with every defect written by hand, the codec."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from sciflow.core.config import from_config, to_config
from sciflow.core.errors import UserError
from sciflow.domains.sequences.alphabets import PROTEIN
from sciflow.domains.sequences.structure import Backbone, BackboneCodec, backbone_batch, read_backbone

Atom = tuple[
    str, str, str, str, str, tuple[float, float, float], float
]  # name, altloc, residue, chain, number, xyz, occ


def pdb_line(serial: int, atom: Atom, hetero: bool) -> str:
    name, altloc, residue, chain, number, (x, y, z), occupancy = atom
    insertion = number[-1] if number[-1].isalpha() else " "
    return (
        f"{'HETATM' if hetero else 'ATOM  '}{serial:5d}  {name:<3s}{altloc or ' '}{residue:>3s} {chain}"
        f"{int(number.rstrip(insertion)):4d}{insertion}   {x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{0.0:6.2f}"
        f"          {name[0]:>2s}"
    )


def residue(
    number: str, kind: str = "ALA", chain: str = "A", atoms: str = "N CA C O", shift: float = 0.0
) -> list[Atom]:
    """Atoms of one residue, 3.8 Angstrom per number along x."""
    base = 3.8 * int(number.rstrip("AB")) + shift
    places = {"N": (0.0, 0.0, 0.0), "CA": (1.4, 0.5, 0.0), "C": (2.4, -0.6, 0.3), "O": (2.3, -1.8, 0.3)}
    return [
        (a, "", kind, chain, number, (base + places[a][0], *places[a][1:]), 1.0) for a in atoms.split() if a in places
    ]


def write(path: Path, residues: list[list[Atom]], hetero: tuple[str, ...] = ("MSE", "HOH", "LIG")) -> Path:
    lines = [pdb_line(i + 1, atom, atom[2] in hetero) for i, atom in enumerate(a for r in residues for a in r)]
    path.write_text("\n".join([*lines, "END"]) + "\n")
    return path


@pytest.mark.parametrize("name", ["1ubi", "1ejg", "1ake"])
def test_real_entries_equal_an_independent_reading(data_dir: Path, name: str):
    truth = np.load(data_dir / "sequences" / "backbones.npz")
    backbone = read_backbone(data_dir / "molecules" / "proteins" / f"pdb{name}.pdb.gz")
    assert backbone.sequence == str(truth[f"{name}.seq"])
    assert backbone.residue_ids == [str(number) for number in truth[f"{name}.resid"]]
    np.testing.assert_allclose(backbone.coordinates.numpy(), truth[f"{name}.xyz"], atol=1e-3)
    assert backbone.coordinates.dtype == torch.float32


def test_pdb_and_mmcif_of_one_entry_agree_and_selenomethionine_is_methionine(data_dir: Path):
    pdb, cif = (read_backbone(data_dir / "molecules" / "proteins" / f"1A8O.{end}.gz") for end in ("pdb", "cif"))
    assert pdb.sequence == cif.sequence and pdb.residue_ids == cif.residue_ids
    assert torch.equal(pdb.coordinates, cif.coordinates)
    assert pdb.sequence[0] == "M" and len(pdb) == 70
    assert any(note.startswith("4 modified") for note in pdb.notes)


def test_crambin_alternate_locations_are_counted(data_dir: Path):
    notes = read_backbone(data_dir / "molecules" / "proteins" / "pdb1ejg.pdb.gz").notes
    assert any("alternate locations" in note for note in notes)


def test_first_model_first_protein_chain_and_named_chain(data_dir: Path):
    dna = read_backbone(data_dir / "molecules" / "proteins" / "1LCD.pdb.gz")
    assert dna.chain == "A" and len(dna) == 51 and "first of 3 models taken" in dna.notes  # chains B, C are DNA
    fibril = read_backbone(data_dir / "molecules" / "proteins" / "2BEG.pdb.gz", "C")
    assert fibril.chain == "C" and len(fibril) == 26
    with pytest.raises(UserError, match="got chain 'Z'.*A, B, C, D, E"):
        read_backbone(data_dir / "molecules" / "proteins" / "2BEG.pdb.gz", "Z")
    with pytest.raises(UserError, match="none of the 76 residues"):
        read_backbone(data_dir / "molecules" / "proteins" / "pdb2k39_ca.pdb.gz")


def test_defects_are_repaired_and_counted(tmp_path: Path):
    alternate = [
        (name, place, kind, chain, number, (x + shift, y, z), occupancy)
        for place, shift, occupancy in (("A", 0.0, 0.3), ("B", 0.25, 0.7))
        for name, _, kind, chain, number, (x, y, z), _ in residue("12", "SER")
    ]
    path = write(
        tmp_path / "bad.pdb",
        [
            residue("10", "GLY"),
            residue("10A", "TRP", shift=1.0),
            residue("11", "MSE"),
            alternate,
            residue("13", "LEU", atoms="N CA C"),  # no O
            residue("20", "LYS"),
            residue("21", "UNK"),
            residue("90", "LIG", atoms="CA C"),
            residue("91", "HOH", atoms="O"),
        ],
    )
    backbone = read_backbone(path)
    assert backbone.sequence == "GWMSKX"
    assert backbone.residue_ids == ["10", "10A", "11", "12", "20", "21"]
    assert backbone.residue_index.tolist() == [0, 1, 2, 3, 11, 12]  # a gap counts, an insertion is one step
    assert float(backbone.coordinates[3, 0, 0]) == pytest.approx(3.8 * 12 + 0.25)  # the conformer of occupancy 0.7
    counts = {note.split(" ", 1)[1].split(",")[0]: int(note.split()[0]) for note in backbone.notes}
    assert counts == {
        "residue(s) without all of N": 1,
        "modified residue(s) read as their parent amino acid (MSE as MET)": 1,
        "residue(s) with alternate locations": 1,
        "residue(s) of unknown kind (X)": 1,
        "residue(s) with insertion codes": 1,
        "gap(s) in the numbering": 1,
    }


def test_point_mutation_takes_the_more_occupied_residue(tmp_path: Path):
    mixed = [
        (name, place, kind, chain, number, xyz, occupancy)
        for place, kind, occupancy in (("A", "PRO", 0.6), ("B", "SER", 0.4))
        for name, _, _, chain, number, xyz, _ in residue("2")
    ]
    assert read_backbone(write(tmp_path / "m.pdb", [residue("1"), mixed, residue("3")])).sequence == "APA"


def test_files_that_are_no_protein(tmp_path: Path):
    with pytest.raises(UserError, match="no such file"):
        read_backbone(tmp_path / "absent.pdb")
    with pytest.raises(UserError, match="no protein residues"):
        read_backbone(write(tmp_path / "water.pdb", [residue("1", "HOH", atoms="O")]))
    (tmp_path / "text.pdb").write_text("this is no structure\n")
    with pytest.raises(UserError, match=r"holds no atoms|cannot be read"):
        read_backbone(tmp_path / "text.pdb")
    (tmp_path / "text.cif").write_text("this is no structure\n")
    with pytest.raises(UserError, match=r"holds no atoms|cannot be read"):
        read_backbone(tmp_path / "text.cif")
    (tmp_path / "broken.pdb.gz").write_bytes(gzip.compress(b"ATOM")[:-3])
    with pytest.raises(UserError, match="cannot be read"):
        read_backbone(tmp_path / "broken.pdb.gz")


def chain(numbers: list[str], sequence: str) -> Backbone:
    return Backbone(torch.randn(len(numbers), 4, 3), sequence, numbers)


def test_positions_by_number_range_and_insertion_code():
    backbone = chain(["-1", "5", "5A", "6", "9"], "ACDEF")
    assert backbone.positions("9, 5A") == [2, 4]
    assert backbone.positions("5-6,9") == [1, 2, 3, 4]
    assert backbone.positions("-1-5") == [0, 1]
    assert backbone.positions("") == []
    for wrong in ("7", "6-5", "x", "5-7"):
        with pytest.raises(UserError, match="position"):
            backbone.positions(wrong)


def test_codec_carries_backbone_and_fixed_residues():
    backbone = chain(["39", "40", "41", "54"], "VDGX")
    codec = BackboneCodec.of(backbone, "39,41")
    state = codec.template([4, 4, 4])
    assert (
        state["seq"].shape == (3, 4) and state.layouts["seq"].mask is None and state.layouts["seq"].sizes == (4, 4, 4)
    )
    assert torch.equal(state.cond["backbone"], backbone.coordinates.expand(3, -1, -1, -1))
    assert state.cond["residue_index"].tolist() == [[0, 1, 2, 15]] * 3
    v, g = PROTEIN.letters.index("V"), PROTEIN.letters.index("G")
    assert state.cond["fixed"].tolist() == [[v, -1, g, -1]] * 3
    assert "fixed" not in BackboneCodec.of(backbone).template([4]).cond
    assert codec.to_objects(codec.to_state(["VDGA", "WWWW"])) == ["VDGA", "WWWW"]
    again = from_config(to_config(codec))
    assert torch.equal(again.template([4]).cond["backbone"], codec.template([4]).cond["backbone"])
    assert torch.equal(again.fixed, codec.fixed)
    with pytest.raises(UserError, match="5 residues, the backbone has 4"):
        codec.template([5])
    with pytest.raises(UserError, match="unknown kind"):
        BackboneCodec.of(backbone, "54")


def test_batch_of_backbones_is_padded():
    state = backbone_batch([chain(["1", "2"], "AC"), chain(["1", "3", "4"], "DEF")])
    assert state["seq"].tolist() == [[0, 1, 0], [2, 3, 4]]
    mask = state.layouts["seq"].mask
    assert mask is not None and mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert state.cond["residue_index"].tolist() == [[0, 1, 0], [0, 2, 3]]
    assert state.cond["backbone"].shape == (2, 3, 4, 3) and not state.cond["backbone"][0, 2].any()
