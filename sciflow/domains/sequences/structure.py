"""Protein backbones from PDB and mmCIF files (plain or .gz), and states that carry them as a condition.

Reading follows what files contain in practice and counts every repair: the first model, one chain, the conformer of
highest occupancy, modified residues as their parent amino acid (MSE as MET), residues without all four backbone atoms
left out. Numbers and insertion codes stay with the residues, so that users name positions as their file does.
"""

from __future__ import annotations

import gzip
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from sciflow.core.codec import Codec
from sciflow.core.errors import UserError
from sciflow.core.state import State
from sciflow.domains.sequences.alphabets import PROTEIN
from sciflow.domains.sequences.codec import FIELD, sequence_state

ATOMS = ("N", "CA", "C", "O")
UNKNOWN = "X"  # letter of a residue whose amino acid is not known


@dataclass(frozen=True, eq=False)
class Backbone:
    """One chain of a protein.

    Attributes:
        coordinates: (L, 4, 3) float32 of N, CA, C, O [Angstrom].
        sequence: L letters; X where the amino acid is unknown.
        residue_ids: L numbers with insertion codes, as in the file: "52", "52A".
        chain: Name of the chain.
        name: Name of the file without endings.
        notes: What was repaired or left out while reading, one sentence each.
    """

    coordinates: Tensor
    sequence: str
    residue_ids: list[str]
    chain: str = "A"
    name: str = ""
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Number of residues L."""
        return len(self.sequence)

    @property
    def residue_index(self) -> Tensor:
        """(L,) int64 place in the chain: a gap in the numbers counts, an insertion is one step."""
        numbers = torch.tensor([int(re.sub(r"\D+$", "", name)) for name in self.residue_ids])
        return torch.cat([numbers.new_zeros(1), numbers.diff().clamp_min(1)]).cumsum(0)

    def positions(self, text: str) -> list[int]:
        """Indices of residues named as in the file: "39,40,52A" or ranges "1-38,42-53".

        Raises:
            UserError: A residue that the chain does not have, or something that names none.
        """
        chosen: list[int] = []
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            match = re.fullmatch(r"(-?\d+[A-Za-z]?)(?:-(-?\d+[A-Za-z]?))?", part)
            ends = [end for end in match.groups() if end] if match else [part]
            missing = [end for end in ends if end not in self.residue_ids]
            if missing or match is None:
                absent = missing[0] if missing else part
                raise UserError(
                    f"position '{part}': chain {self.chain} has no residue '{absent}'; expected "
                    f"numbers between {self.residue_ids[0]} and {self.residue_ids[-1]}, such as 39,40 or 1-38"
                )
            first, last = self.residue_ids.index(ends[0]), self.residue_ids.index(ends[-1])
            if last < first:
                raise UserError(f"position '{part}': the range ends before it starts")
            chosen += range(first, last + 1)
        return sorted(set(chosen))


def read_backbone(path: str | Path, chain: str | None = None) -> Backbone:
    """Read one chain of a PDB (.pdb, .ent) or mmCIF (.cif, .mmcif) file, .gz or not.

    Args:
        path: The file.
        chain: Name of the chain; None: the first one with protein residues.

    Raises:
        UserError: No such file, not a structure, no such chain, or no residue with a whole backbone.
    """
    path = Path(path)
    model, notes = _first_model(path)
    proteins = {c.id: residues for c in model if (residues := _protein_residues(c))}
    if not proteins:
        raise UserError(f"{path}: no protein residues, expected a protein structure with atoms N, CA, C, O")
    if chain and chain not in proteins:
        raise UserError(f"{path}: got chain '{chain}', expected one of the protein chains {', '.join(proteins)}")
    taken = chain or next(iter(proteins))
    others = [name for name in proteins if name != taken]
    if others:
        notes.append(f"chain {taken} taken, other protein chains ignored: {', '.join(others)}")
    read = [_residue(residue, letter) for residue, letter in proteins[taken]]
    whole = [residue for residue in read if residue.atoms is not None]
    if not whole:
        raise UserError(
            f"{path}: none of the {len(read)} residues of chain {taken} has all backbone atoms N, CA, C, O; "
            "expected a structure with whole backbones"
        )
    coordinates = torch.from_numpy(np.stack([np.asarray(residue.atoms, np.float32) for residue in whole]))
    letters, names = "".join(r.letter for r in whole), [r.name for r in whole]
    name = re.sub(r"\.(pdb|ent|cif|mmcif)?(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    backbone = Backbone(coordinates, letters, names, taken, name, notes)
    breaks = int((backbone.residue_index.diff() > 1).sum())
    for count, what in (
        (len(read) - len(whole), "residue(s) without all of N, CA, C, O left out"),
        (sum(r.modified for r in whole), "modified residue(s) read as their parent amino acid (MSE as MET)"),
        (sum(r.alternatives for r in whole), "residue(s) with alternate locations, highest occupancy taken"),
        (letters.count(UNKNOWN), "residue(s) of unknown kind (X)"),
        (sum(name[-1].isalpha() for name in names), "residue(s) with insertion codes"),
        (breaks, "gap(s) in the numbering"),
    ):
        if count:
            notes.append(f"{count} {what}")
    return backbone


@dataclass(frozen=True)
class _Residue:
    atoms: list[Any] | None  # coordinates of N, CA, C, O; None if one is missing
    letter: str
    name: str
    modified: bool
    alternatives: bool


def _first_model(path: Path) -> tuple[Any, list[str]]:
    """The first Biopython model of a file, and a note if there are more."""
    from Bio.PDB.MMCIFParser import MMCIFParser
    from Bio.PDB.PDBParser import PDBParser

    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a PDB or mmCIF file")
    zipped = path.suffix.lower() == ".gz"
    ending = Path(path.stem).suffix.lower() if zipped else path.suffix.lower()
    parser = MMCIFParser(QUIET=True) if ending in (".cif", ".mmcif") else PDBParser(QUIET=True)
    try:
        data = gzip.decompress(path.read_bytes()) if zipped else path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            models = list(parser.get_structure(path.name, io.StringIO(data.decode(errors="replace"))) or [])
    except Exception as error:  # Biopython raises all kinds on damaged files
        raise UserError(
            f"{path}: cannot be read as a {ending or 'PDB'} file ({type(error).__name__}: {error})"
        ) from None
    if not models:
        raise UserError(f"{path}: holds no atoms, expected a PDB or mmCIF file")
    return models[0], [f"first of {len(models)} models taken"] if len(models) > 1 else []


def _protein_residues(chain: Any) -> list[tuple[Any, str]]:
    """Residues that are amino acids, with their letters; of point mutations the more occupied one."""
    from Bio.Data.PDBData import protein_letters_3to1, protein_letters_3to1_extended

    found = []
    for entry in chain:
        options = entry.disordered_get_list() if entry.is_disordered() == 2 else [entry]
        residue = max(options, key=lambda option: sum(_occupancy(atom) for atom in option))
        kind = residue.get_resname().strip().upper()
        letter = protein_letters_3to1_extended.get(kind, UNKNOWN)
        hetero = residue.id[0] != " "
        if hetero and (kind in protein_letters_3to1 or letter == UNKNOWN):
            continue  # water, ligands, free amino acids
        if "CA" not in residue and letter == UNKNOWN:
            continue  # nucleotides
        found.append((residue, letter if letter in PROTEIN.letters else UNKNOWN))
    return found


def _residue(residue: Any, letter: str) -> _Residue:
    from Bio.Data.PDBData import protein_letters_3to1

    present = [residue[name] for name in ATOMS if name in residue]
    places = sorted({place for atom in present if atom.is_disordered() for place in atom.disordered_get_id_list()})
    best = max(places, key=lambda place: sum(_occupancy(_at(atom, place)) for atom in present), default="")
    atoms = [_at(atom, best).coord for atom in present] if len(present) == len(ATOMS) else None
    _, number, insertion = residue.id
    kind = residue.get_resname().strip().upper()
    modified = letter != UNKNOWN and kind not in protein_letters_3to1
    return _Residue(atoms, letter, f"{number}{insertion.strip()}", modified, bool(places))


def _at(atom: Any, place: str) -> Any:
    """The atom at an alternate location, if it has that one."""
    has = atom.is_disordered() and atom.disordered_has_id(place)
    return atom.disordered_get(place) if has else atom


def _occupancy(atom: Any) -> float:
    return atom.get_occupancy() or 0.0


def backbone_batch(backbones: Sequence[Backbone]) -> State:
    """Native sequences and backbones as one padded state: training data of inverse folding.

    Unknown residues (X) count as alanine in the field; leave such chains out when reading.
    """
    tokens, lengths = PROTEIN.encode([b.sequence.replace(UNKNOWN, "A") for b in backbones])
    coordinates = torch.zeros(*tokens.shape, 4, 3)
    place = torch.zeros_like(tokens)
    for row, backbone in enumerate(backbones):
        coordinates[row, : len(backbone)], place[row, : len(backbone)] = backbone.coordinates, backbone.residue_index
    return sequence_state(tokens, lengths).condition(backbone=coordinates, residue_index=place)


class BackboneCodec(Codec):
    """Sequences for ONE backbone <-> tokens; its states carry the backbone and the fixed residues.

    Conditions: "backbone" (B, L, 4, 3) [Angstrom], "residue_index" (B, L), and if residues are fixed "fixed" (B, L)
    int64, their native tokens and -1 where free.

    Args:
        coordinates: L x 4 x 3 numbers, N, CA, C, O [Angstrom].
        sequence: Native sequence, L letters.
        residue_ids: L numbers with insertion codes.
        fix: Residues that keep their amino acid, named as in the file: "39,40" or "1-38,42-53".
    """

    def __init__(
        self, coordinates: list[list[list[float]]], sequence: str, residue_ids: list[str], fix: str = ""
    ) -> None:
        self.backbone = Backbone(torch.tensor(coordinates), sequence, residue_ids)
        self.fixed = torch.full((len(sequence),), -1)
        for i in self.backbone.positions(fix):
            if sequence[i] == UNKNOWN:
                raise UserError(
                    f"residue {residue_ids[i]} is of unknown kind and cannot be fixed; leave it out of `fix`"
                )
            self.fixed[i] = PROTEIN.letters.index(sequence[i])

    @classmethod
    def of(cls, backbone: Backbone, fix: str = "") -> Self:
        """The codec of a backbone that was read."""
        return cls(backbone.coordinates.tolist(), backbone.sequence, backbone.residue_ids, fix)

    def to_state(self, objects: Sequence[str]) -> State:
        """Sequences of L letters as clean tokens.

        Raises:
            UserError: Another length, or a letter outside the alphabet.
        """
        tokens, lengths = PROTEIN.encode(objects)
        return self._condition(sequence_state(tokens, lengths))

    def template(self, sizes: Sequence[int]) -> State:
        """Zeros for len(sizes) sequences; all sizes must be L."""
        return self._condition(sequence_state(torch.zeros(len(sizes), max(sizes), dtype=torch.long), sizes))

    def to_objects(self, state: State) -> list[str | None]:
        """Sequences; None where a mask is left."""
        x = state[FIELD].detach().cpu()
        return PROTEIN.decode(x.argmax(-1) if x.is_floating_point() else x)

    def _condition(self, state: State) -> State:
        length, batch = len(self.backbone), state.batch
        wrong = [size for size in state.layouts[FIELD].sizes or () if size != length]
        if wrong:
            raise UserError(f"got a sequence of {wrong[0]} residues, the backbone has {length}")
        parts = {"backbone": self.backbone.coordinates, "residue_index": self.backbone.residue_index}
        if bool((self.fixed >= 0).any()):
            parts["fixed"] = self.fixed
        return state.condition(**{name: part.expand(batch, *part.shape) for name, part in parts.items()})
