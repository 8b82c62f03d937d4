"""Molecules as states and back: hydrogens implicit, bonds kekulised, stereo dropped.

Two representations of the same graph:

* `MoleculeCodec`: `x` (B, N, F) one-hot atom types, `adj` (B, N, N, 4) one-hot bond classes none, single, double,
  triple. Atom types may carry a formal charge (``"N+"``, ``"O-"``), so charged molecules survive the round trip.
* `GDSSMoleculeCodec`: the published GDSS tensors (Jo, Lee & Hwang, ICML 2022): `x` (B, N, F) one-hot without charges,
  `adj` (B, N, N) bond order 0..3 as one real number; entries are read back by thresholds.

Decoding of both is the published protocol of `sciflow.domains.molecules.decode`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from rdkit import Chem
from torch import Tensor

from sciflow.core.codec import Codec
from sciflow.core.errors import UserError
from sciflow.core.state import Layout, State
from sciflow.domains.molecules.decode import BOND_TYPES, Atom, DecodedMolecule, decode_graphs

ORDER_OF_BOND = {bond_type: order for order, bond_type in BOND_TYPES.items()}


@dataclass(frozen=True)
class MoleculeArrays:
    """Many kekulised molecular graphs in flat arrays (compressed rows), so that a big set parses once.

    Attributes:
        node_ptr: (M + 1,) atoms of molecule m are ``node_ptr[m]:node_ptr[m + 1]``.
        atomic_number: (atoms,) uint8.
        charge: (atoms,) int8 formal charges.
        edge_ptr: (M + 1,) bonds of molecule m.
        bonds: (bonds, 3) uint16: atom, atom (counted from 0 inside the molecule), order 1..3.
    """

    node_ptr: np.ndarray
    atomic_number: np.ndarray
    charge: np.ndarray
    edge_ptr: np.ndarray
    bonds: np.ndarray

    @classmethod
    def from_molecules(cls, molecules: Iterable[Chem.Mol]) -> MoleculeArrays:
        """Takes the molecules apart; each must pass `bond_problem` (None)."""
        node_ptr, edge_ptr = [0], [0]
        numbers: list[int] = []
        charges: list[int] = []
        bonds: list[tuple[int, int, int]] = []
        for molecule in molecules:
            kekulised = Chem.Mol(molecule)
            Chem.Kekulize(kekulised)
            for atom in map(kekulised.GetAtomWithIdx, range(kekulised.GetNumAtoms())):  # GetAtoms() is 3x slower
                numbers.append(atom.GetAtomicNum())
                charges.append(atom.GetFormalCharge())
            for bond in map(kekulised.GetBondWithIdx, range(kekulised.GetNumBonds())):
                bonds.append((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), ORDER_OF_BOND[bond.GetBondType()]))
            node_ptr.append(len(numbers))
            edge_ptr.append(len(bonds))
        return cls(
            np.array(node_ptr),
            np.array(numbers, np.uint8),
            np.array(charges, np.int8),
            np.array(edge_ptr),
            np.array(bonds, np.uint16).reshape(-1, 3),
        )

    def __len__(self) -> int:
        return len(self.node_ptr) - 1

    @property
    def sizes(self) -> np.ndarray:
        """(M,) number of atoms of each molecule."""
        return np.diff(self.node_ptr)

    def select(self, index: np.ndarray) -> MoleculeArrays:
        """The chosen molecules, in the given order."""
        nodes, edges = _ragged(self.node_ptr, index)[2], _ragged(self.edge_ptr, index)[2]
        node_ptr, edge_ptr = (np.append(0, np.cumsum(np.diff(p)[index])) for p in (self.node_ptr, self.edge_ptr))
        return MoleculeArrays(node_ptr, self.atomic_number[nodes], self.charge[nodes], edge_ptr, self.bonds[edges])

    def dense(self, index: np.ndarray | Sequence[int], nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Padded arrays of the chosen molecules.

        Returns:
            Atomic numbers (B, nodes), 0 where there is no atom; charges (B, nodes); bond orders (B, nodes, nodes).
        """
        index = np.asarray(index, dtype=np.int64)
        numbers = np.zeros((len(index), nodes), np.int64)
        charges = np.zeros((len(index), nodes), np.int64)
        orders = np.zeros((len(index), nodes, nodes), np.int64)
        sample, column, flat = _ragged(self.node_ptr, index)
        numbers[sample, column], charges[sample, column] = self.atomic_number[flat], self.charge[flat]
        sample, _, flat = _ragged(self.edge_ptr, index)
        first, second, order = self.bonds[flat].T.astype(np.int64)
        orders[sample, first, second] = orders[sample, second, first] = order
        return numbers, charges, orders


def _ragged(pointer: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sample, position inside the sample, position in the flat array) of every entry of the chosen rows."""
    lengths = pointer[index + 1] - pointer[index]
    sample = np.repeat(np.arange(len(index)), lengths)
    inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return sample, inside, pointer[index][sample] + inside


def bond_problem(molecule: Chem.Mol) -> str | None:
    """Why a molecule cannot be stored as single, double and triple bonds, or None if it can."""
    kinds = {molecule.GetBondWithIdx(i).GetBondType() for i in range(molecule.GetNumBonds())}
    kinds -= ORDER_OF_BOND.keys() | {Chem.BondType.AROMATIC}
    return f"bond type {sorted(str(kind) for kind in kinds)[0]}" if kinds else None


def parse_label(label: str) -> Atom:
    """``"C"`` -> (6, 0), ``"N+"`` -> (7, 1), ``"O-"`` -> (8, -1), ``"Fe++"`` -> (26, 2)."""
    match = re.fullmatch(r"([A-Z][a-z]?)(\+*|-*)", label)
    if match is None:
        raise UserError(f"atom label: got {label!r}, expected an element with its charge as signs, such as C, N+ or O-")
    symbol, signs = match.groups()
    return Chem.GetPeriodicTable().GetAtomicNumber(symbol), len(signs) * (1 if signs.startswith("+") else -1)


def make_label(atom: Atom) -> str:
    """The inverse of `parse_label`."""
    number, charge = atom
    return Chem.GetPeriodicTable().GetElementSymbol(number) + ("+" if charge > 0 else "-") * abs(charge)


class MoleculeCodec(Codec):
    """One-hot atoms and one-hot bond classes.

    Args:
        atoms: vocabulary, e.g. ``["C", "N", "N+", "O", "O-", "F"]``; F = len(atoms).
        max_nodes: largest number of atoms of a molecule.
    """

    charged = True  # whether `infer` puts charged atoms into the vocabulary
    bond_classes = 4

    def __init__(self, atoms: list[str], max_nodes: int) -> None:
        if max_nodes < 1:
            raise UserError(f"max_nodes: got {max_nodes}, expected at least 1")
        self.atoms = list(atoms)
        self.max_nodes = max_nodes
        self.vocabulary = [parse_label(label) for label in atoms]

    @classmethod
    def infer(cls, *sets: Sequence[Chem.Mol] | MoleculeArrays) -> Self:
        """The codec that holds every molecule of the given sets; vocabulary in order of atomic number and charge.

        Raises:
            UserError: all sets are empty.
        """
        parsed = [one if isinstance(one, MoleculeArrays) else MoleculeArrays.from_molecules(one) for one in sets]
        parsed = [arrays for arrays in parsed if len(arrays)]
        if not parsed or min(int(arrays.sizes.min()) for arrays in parsed) == 0:
            raise UserError("a codec cannot be inferred: got no molecule or one without atoms, expected molecules")
        numbers = np.concatenate([arrays.atomic_number for arrays in parsed]).astype(int)
        charges = np.concatenate([arrays.charge for arrays in parsed]).astype(int) * cls.charged
        atoms = np.unique(np.stack([numbers, charges], 1), axis=0)
        labels = [make_label((int(number), int(charge))) for number, charge in atoms]
        return cls(labels, max(int(arrays.sizes.max()) for arrays in parsed))

    def template(self, sizes: Sequence[int]) -> State:
        """A state without atoms and bonds, with the layouts of molecules of the given sizes, padded to the largest."""
        if not len(sizes) or min(sizes) < 1 or max(sizes) > self.max_nodes:
            raise UserError(f"sizes: got {list(sizes)[:5]}, expected numbers from 1 to max_nodes={self.max_nodes}")
        batch, nodes = len(sizes), max(sizes)
        return self._state(torch.full((batch, nodes), -1), torch.zeros(batch, nodes, nodes, dtype=torch.long), sizes)

    def to_state(self, objects: Sequence[Chem.Mol]) -> State:
        """Molecules as a clean state; see `encode` for big sets."""
        arrays = MoleculeArrays.from_molecules(objects)
        return self.encode(arrays, np.arange(len(arrays)))

    def encode(self, arrays: MoleculeArrays, index: np.ndarray | Sequence[int]) -> State:
        """The chosen molecules of a parsed set as a clean state, padded to the largest of them.

        Raises:
            UserError: an atom is not in the vocabulary, or a molecule is larger than `max_nodes`.
        """
        sizes = arrays.sizes[np.asarray(index, dtype=np.int64)]
        if len(sizes) == 0 or sizes.max() > self.max_nodes or sizes.min() < 1:
            largest = f"{sizes.max()} atoms" if len(sizes) else "no molecule"
            raise UserError(f"molecule size: got {largest}, this model expects 1 to {self.max_nodes} atoms")
        numbers, charges, orders = arrays.dense(index, int(sizes.max()))
        types = np.full(numbers.shape, -1)
        for kind, (number, charge) in enumerate(self.vocabulary):
            types[(numbers == number) & ((charges == charge) | (not self.charged))] = kind
        unknown = (types < 0) & (numbers > 0)
        if unknown.any():
            label = make_label((int(numbers[unknown][0]), int(charges[unknown][0])))
            raise UserError(f"atom {label} is not in the vocabulary of this model: {', '.join(self.atoms)}")
        return self._state(torch.from_numpy(types), torch.from_numpy(orders), sizes.tolist())

    def decode(self, state: State) -> list[DecodedMolecule]:
        """One record per sample: molecule, SMILES, validity before correction, connectivity, error.

        A sample with a value that is not finite is no molecule: error ``"NonFinite"``.
        """
        finite = torch.stack([x.isfinite().flatten(1).all(1) for x in state.fields.values()]).all(0).tolist()
        types, orders = self._integers(state["x"].detach().cpu(), state["adj"].detach().cpu())
        sizes = state.layouts["x"].sizes
        if sizes is not None:
            types[torch.arange(types.shape[1]) >= torch.tensor(sizes)[:, None]] = -1
        records = decode_graphs(types.numpy(), orders.numpy(), self.vocabulary)
        nothing = DecodedMolecule(None, None, False, False, False, "NonFinite")
        return [record if fine else nothing for record, fine in zip(records, finite, strict=True)]

    def to_objects(self, state: State) -> list[Chem.Mol | None]:
        """RDKit molecules by the published protocol (with correction, largest fragment), None where none came out.

        Each molecule carries the integer properties ``corrected`` and ``connected`` (0 or 1), which SDF and CSV files
        keep, so that validity before correction can still be counted from a file.
        """
        return [record.marked() for record in self.decode(state)]

    def _state(self, types: Tensor, orders: Tensor, sizes: Sequence[int]) -> State:
        sizes = tuple(int(size) for size in sizes)
        node = (torch.arange(types.shape[1]) < torch.tensor(sizes)[:, None]).float()
        pair = node[:, :, None] * node[:, None, :] * (1 - torch.eye(types.shape[1]))
        x, adj, pair = self._tensors(types, orders, pair)
        layouts = {
            "x": Layout(batch=len(sizes), mask=node[:, :, None], sizes=sizes),
            "adj": Layout(batch=len(sizes), mask=pair, sizes=sizes),
        }
        return State(fields={"x": x, "adj": adj}, layouts=layouts, cond={})

    def _one_hot_atoms(self, types: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(types + 1, len(self.atoms) + 1)[..., 1:].float()

    def _tensors(self, types: Tensor, orders: Tensor, pair: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(x, adj, mask of adj) from integer types (-1 absent) and bond orders."""
        pair = pair[..., None]
        adj = torch.nn.functional.one_hot(orders, self.bond_classes).float() * pair
        return self._one_hot_atoms(types), adj, pair

    def _integers(self, x: Tensor, adj: Tensor) -> tuple[Tensor, Tensor]:
        """(types, orders) from generated tensors: the most probable class each."""
        return x.argmax(-1), adj.argmax(-1)


class GDSSMoleculeCodec(MoleculeCodec):
    """The published GDSS tensors: bond order as one number, formal charges dropped, thresholds at decoding.

    Bond order: >= 2.5 is 3, [1.5, 2.5) is 2, [0.5, 1.5) is 1, below is none. Atom type: the first entry above 0.5; a
    row without one is a virtual atom and is dropped. Single atoms keep their node (the official code loses them).
    """

    charged = False

    def __init__(self, atoms: list[str], max_nodes: int) -> None:
        super().__init__(atoms, max_nodes)
        if any(charge for _, charge in self.vocabulary):
            raise UserError(f"GDSS atoms carry no charge: got {self.atoms}, expected plain elements; use MoleculeCodec")

    def _tensors(self, types: Tensor, orders: Tensor, pair: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._one_hot_atoms(types), orders.float() * pair, pair

    def _integers(self, x: Tensor, adj: Tensor) -> tuple[Tensor, Tensor]:
        present = x > 0.5
        types = torch.where(present.any(-1), present.float().argmax(-1), -1)
        return types, torch.stack([adj >= edge for edge in (0.5, 1.5, 2.5)]).sum(0)
