"""Integer molecular graphs to RDKit molecules, by the published GDSS protocol (Jo, Lee & Hwang, ICML 2022, decoding).

A generated graph is a list of atoms and a symmetric matrix of bond orders 0..3. The protocol, in its own order:

1. *Charge rule.* Add the bonds one by one, row-major over the lower triangle. After each bond look at the first atom
   (lowest index) whose valence is too high; if it is N, O or S and exceeds its standard valence by exactly one, give
   it the formal charge +1.
2. *Valid without correction*: no atom of the finished graph exceeds its valence.
3. *Correction*: while an atom exceeds its valence, lower by one its bond of highest order (the oldest of equals); a
   lowered bond counts as the newest. Charges stay.
4. Write SMILES, keep the fragment with the longest SMILES string, read it back.

A valence check of the whole molecule needs no chemistry library: it compares sums of bond orders with a maximum per
(element, charge), and RDKit is asked once for each maximum. The result equals running RDKit's property sanitisation
after every bond (proved on random matrices in ``tests/domains/molecules/test_decode.py``) at a hundredth of the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from rdkit import Chem, rdBase

BOND_TYPES = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
STANDARD_VALENCE = {7: 3, 8: 2, 16: 2}  # the elements that the charge rule may turn into cations

Atom = tuple[int, int]  # (atomic number, formal charge)
Bond = tuple[int, int, int]  # (row, column, order) with row > column


@dataclass(frozen=True)
class DecodedMolecule:
    """One generated graph after decoding.

    Attributes:
        molecule: the sanitised RDKit molecule (largest fragment), or None if none could be made.
        smiles: its canonical SMILES, or None.
        valid_without_correction: the graph passed the valence check before any bond was lowered. An empty graph is
            False here, while the published code counts it as valid.
        corrected: at least one bond was lowered or removed.
        connected: one fragment only, before the largest one was taken.
        error: None, ``"Empty"``, ``"NonFinite"`` (NaN or infinite tensors) or the RDKit problem class
            (``"KekulizeException"``, ...) that stopped the decoding.
    """

    molecule: Chem.Mol | None
    smiles: str | None
    valid_without_correction: bool
    corrected: bool
    connected: bool
    error: str | None = None

    def marked(self) -> Chem.Mol | None:
        """The molecule with the integer properties ``corrected`` and ``connected``."""
        if self.molecule is not None:
            self.molecule.SetIntProp("corrected", int(self.corrected))
            self.molecule.SetIntProp("connected", int(self.connected))
        return self.molecule

    @classmethod
    def from_molecule(cls, molecule: Chem.Mol | None) -> DecodedMolecule:
        """The record of a molecule, as far as its properties tell; without them it counts as not corrected."""
        if molecule is None or molecule.GetNumAtoms() == 0:
            return cls(None, None, False, False, False, "Unreadable")
        smiles = Chem.MolToSmiles(molecule)
        corrected = bool(molecule.HasProp("corrected")) and molecule.GetProp("corrected") == "1"
        connected = molecule.GetProp("connected") == "1" if molecule.HasProp("connected") else "." not in smiles
        return cls(molecule, smiles, not corrected, corrected, connected)


@cache
def maximum_valence(atomic_number: int, charge: int) -> int:
    """Largest sum of bond orders that RDKit accepts for an element and charge (searched up to 12, at least 0)."""
    valence = 0
    for candidate in range(1, 13):
        probe = Chem.RWMol()
        probe.AddAtom(_atom(atomic_number, charge))
        for neighbour in range(candidate):
            probe.AddAtom(Chem.Atom(6))
            probe.AddBond(0, neighbour + 1, Chem.BondType.SINGLE)
        problems = Chem.DetectChemistryProblems(probe, Chem.SanitizeFlags.SANITIZE_PROPERTIES)
        if any(problem.GetAtomIdx() == 0 for problem in problems):
            break
        valence = candidate
    return valence


def _atom(atomic_number: int, charge: int) -> Chem.Atom:
    atom = Chem.Atom(atomic_number)
    atom.SetFormalCharge(charge)
    return atom


class _Graph:
    """Bonds, charges and valence sums while a molecule is put together; bonds are kept in order of their making."""

    def __init__(self, atoms: Sequence[Atom]) -> None:
        self.numbers = [number for number, _ in atoms]
        self.charges = [charge for _, charge in atoms]
        self.valences = [0] * len(atoms)
        self.neighbours: list[dict[int, int]] = [{} for _ in atoms]  # partner -> order; oldest bond first
        self.bonds: dict[tuple[int, int], int] = {}
        self.excess: set[int] = set()  # atoms above their maximum valence

    def check(self, atom: int) -> None:
        if self.valences[atom] > maximum_valence(self.numbers[atom], self.charges[atom]):
            self.excess.add(atom)
        else:
            self.excess.discard(atom)

    def add(self, row: int, column: int, order: int) -> None:
        self.bonds[row, column] = order
        for atom, partner in ((row, column), (column, row)):
            self.neighbours[atom][partner] = order
            self.valences[atom] += order
            self.check(atom)

    def remove(self, row: int, column: int) -> int:
        order = self.bonds.pop((row, column))
        for atom, partner in ((row, column), (column, row)):
            del self.neighbours[atom][partner]
            self.valences[atom] -= order
            self.check(atom)
        return order

    def charge_first_excess(self) -> None:
        """Step 1: the charge rule, applied to the first atom in error only."""
        if not self.excess:
            return
        atom = min(self.excess)
        standard = STANDARD_VALENCE.get(self.numbers[atom])
        if standard is not None and self.charges[atom] == 0 and self.valences[atom] == standard + 1:
            self.charges[atom] = 1
            self.check(atom)

    def lower_bonds(self) -> None:
        """Step 3: the correction loop."""
        while self.excess:
            atom = min(self.excess)
            partners = self.neighbours[atom]
            partner = max(partners, key=partners.__getitem__)  # the first of the highest
            row, column = max(atom, partner), min(atom, partner)
            order = self.remove(row, column)
            if order > 1:
                self.add(row, column, order - 1)

    def to_rdkit(self) -> Chem.Mol:
        molecule = Chem.RWMol()
        for number, charge in zip(self.numbers, self.charges, strict=True):
            molecule.AddAtom(_atom(number, charge))
        for (row, column), order in self.bonds.items():
            molecule.AddBond(row, column, BOND_TYPES[order])
        molecule.UpdatePropertyCache(strict=False)
        return molecule


def decode_graph(atoms: Sequence[Atom], bonds: Sequence[Bond]) -> DecodedMolecule:
    """Runs the protocol on one graph.

    Args:
        atoms: (atomic number, formal charge) of each atom; charges are 0 in the published representation.
        bonds: (row, column, order) with row > column and order 1..3, in row-major order.
    """
    if not atoms:
        return DecodedMolecule(None, None, False, False, False, "Empty")
    graph = _Graph(atoms)
    for row, column, order in bonds:
        graph.add(row, column, order)
        graph.charge_first_excess()
    valid = not graph.excess
    graph.lower_bonds()
    smiles = Chem.MolToSmiles(graph.to_rdkit())
    fragments = smiles.split(".")
    connected = len(fragments) == 1
    longest = max(fragments, key=len)
    molecule = Chem.MolFromSmiles(longest)
    if molecule is None:
        return DecodedMolecule(None, None, valid, not valid, connected, _problem(longest))
    return DecodedMolecule(molecule, Chem.MolToSmiles(molecule), valid, not valid, connected)


def _problem(smiles: str) -> str:
    """Name of the first sanitisation problem of a SMILES string that RDKit refused."""
    raw = Chem.MolFromSmiles(smiles, sanitize=False)
    problems = Chem.DetectChemistryProblems(raw) if raw is not None else ()
    return problems[0].GetType() if problems else "SmilesParseError"


def decode_graphs(types: np.ndarray, orders: np.ndarray, atoms: Sequence[Atom]) -> list[DecodedMolecule]:
    """Runs the protocol on a padded batch.

    Args:
        types: (B, N) integers, index into ``atoms``; negative where there is no atom (padding or virtual atom).
        orders: (B, N, N) integer bond orders 0..3; only the lower triangle is read, bonds to absent atoms are ignored.
        atoms: the vocabulary, (atomic number, formal charge) of each type.

    Returns:
        B records, in order.
    """
    with rdBase.BlockLogs():
        return [decode_graph(*graph) for graph in _graphs(types, orders, atoms)]


def _graphs(types: np.ndarray, orders: np.ndarray, atoms: Sequence[Atom]) -> Iterator[tuple[list[Atom], list[Bond]]]:
    present = types >= 0
    position = np.cumsum(present, axis=1) - 1  # row of each atom once the absent ones are dropped
    lower = np.tril(orders, -1) * (present[:, :, None] & present[:, None, :])
    sample, row, column = np.nonzero(lower)  # row-major within each sample
    order = lower[sample, row, column].tolist()
    rows, columns = position[sample, row].tolist(), position[sample, column].tolist()
    starts = np.searchsorted(sample, np.arange(len(types) + 1)).tolist()
    for index, (start, stop) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        kinds = types[index][present[index]].tolist()
        yield (
            [atoms[kind] for kind in kinds],
            list(zip(rows[start:stop], columns[start:stop], order[start:stop], strict=True)),
        )
