r"""Crystals as states and back.

| field | shape | layout | content |
|---|---|---|---|
| coords | (atoms, 3) | ragged, with sizes | fractional coordinates in [0, 1) |
| lattice | (B, 3, 3) | dense | rows a, b, c in angstrom, divided by the lattice scale s |
| types | (atoms,) int64 or (atoms, K) | ragged | place in the element list; one-hot where species evolve too |

s is the standard deviation of all lattice entries of the training set in canonical orientation (no mean is taken off
the lattices themselves: a shift would break the rotation equivariance of the nine numbers). It is a unit, no more. The
published scales (1.9612 Perov-5, 2.5647 Carbon-24, 3.8665 MP-20, 4.8248 MPTS-52) fit the same deviation of the Niggli
cells BEFORE they are turned: there the signs of the entries mix, their mean is almost zero, and the deviation is nearly
the RMS entry, which no rotation changes. In canonical orientation the mean is positive, and s is 12-16 % smaller except
for Perov-5, whose cells stand upright (Carbon-24 val: 2.18 here, 2.563 +- 0.010 before, RMS 2.563).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciflow.core.codec import Codec
from sciflow.core.errors import UserError
from sciflow.core.state import Layout, State
from sciflow.domains.crystals.arrays import (
    SYMBOLS,
    CrystalArrays,
    canonical,
    from_parameters,
    from_structures,
    parameters,
)

COORDS, LATTICE, TYPES = "coords", "lattice", "types"
FLAT = 1e-3  # cubic angstrom; a cell of less volume is no structure at all


def ragged(sizes: Sequence[int]) -> Layout:
    """Layout of the atoms of crystals with these numbers of atoms."""
    counts = torch.tensor(list(sizes), dtype=torch.long)
    return Layout(len(counts), torch.repeat_interleave(torch.arange(len(counts)), counts), sizes=tuple(counts.tolist()))


class CrystalCodec(Codec):
    """pymatgen Structures <-> states.

    Args:
        elements: Symbols of the elements that the model knows, in the order of their numbers 0 .. K - 1.
        lattice_scale: s, angstrom.
        max_atoms: Most atoms per cell in the training data.
        species: Whether species are generated too (one-hot, de novo) or given (CSP).
    """

    def __init__(self, elements: list[str], lattice_scale: float, max_atoms: int, species: bool = False) -> None:
        unknown = [symbol for symbol in elements if symbol not in SYMBOLS[1:]]
        if unknown or not elements or len(set(elements)) < len(elements):
            raise UserError(f"elements: got {elements}, expected different chemical symbols such as ['O', 'Ti']")
        if not lattice_scale > 0 or max_atoms < 1:
            raise UserError(f"got lattice_scale={lattice_scale}, max_atoms={max_atoms}; expected positive numbers")
        self.elements, self.lattice_scale = list(elements), float(lattice_scale)
        self.max_atoms, self.species = max_atoms, species
        self._numbers = np.array([SYMBOLS.index(symbol) for symbol in elements])
        self._place = np.full(len(SYMBOLS), -1)
        self._place[self._numbers] = np.arange(len(elements))

    @classmethod
    def infer(cls, train: CrystalArrays, *others: CrystalArrays, species: bool = False) -> CrystalCodec:
        """Elements and sizes of all sets, the lattice scale of the training set."""
        sets = (train, *others)
        numbers = np.unique(np.concatenate([one.numbers for one in sets]))
        largest = max(int(one.sizes.max()) for one in sets if len(one))
        return cls([SYMBOLS[z] for z in numbers], float(train.lattices.std()), largest, species)

    # -- structures -> states ----------------------------------------------------------------------------------------
    def to_state(self, objects: Sequence[Any]) -> State:
        """pymatgen Structures as a clean state, each in the canonical orientation of the cell it has.

        Raises:
            UserError: Partial occupancy, an element outside the list, or more atoms than `max_atoms`.
        """
        arrays = from_structures(objects)
        cells = [canonical(arrays.lattices[k], arrays.coords[arrays.rows(k)], niggli=False) for k in range(len(arrays))]
        lattices, coords = np.stack([cell for cell, _ in cells]), np.concatenate([f for _, f in cells])
        return self.encode(CrystalArrays(arrays.identifiers, arrays.ptr, arrays.numbers, coords, lattices))

    def encode(self, arrays: CrystalArrays) -> State:
        """Arrays as a clean state, cells as they are.

        Raises:
            UserError: As `to_state`.
        """
        self._check_sizes(arrays.sizes.tolist())
        coords = torch.from_numpy(arrays.coords).to(torch.get_default_dtype())
        coords = torch.where(coords >= 1, 0.0, coords)  # rounding to float32 can give 1
        lattices = torch.from_numpy(arrays.lattices / self.lattice_scale).to(coords.dtype)
        layout = ragged(arrays.sizes.tolist())
        fields = {COORDS: coords, LATTICE: lattices, TYPES: self._types(arrays.numbers)}
        return State(fields, {COORDS: layout, LATTICE: Layout(layout.batch), TYPES: layout})

    def template(self, sizes: Sequence[int]) -> State:
        """Zeros for crystals with the given numbers of atoms.

        Raises:
            UserError: Species are not generated but given: use `template_for`.
        """
        if not self.species:
            raise UserError(
                "this model predicts structures of given compositions; give it some, e.g. "
                "`sciflow design crystal --formula SrTiO3` or Model.generate(template=codec.template_for(['SrTiO3']))"
            )
        self._check_sizes(sizes)
        layout, dtype = ragged(sizes), torch.get_default_dtype()
        atoms = sum(layout.sizes or ())
        shapes = {COORDS: (atoms, 3), LATTICE: (layout.batch, 3, 3), TYPES: (atoms, len(self.elements))}
        fields = {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items()}
        return State(fields, {COORDS: layout, LATTICE: Layout(layout.batch), TYPES: layout})

    def template_for(self, formulas: Sequence[str], z: int | Sequence[int] = 1) -> State:
        """A state with the species of these compositions, everything else zero.

        Args:
            formulas: One per crystal, e.g. "SrTiO3"; fractions of an atom are refused.
            z: Formula units per cell, one number or one per crystal.

        Raises:
            UserError: Not a formula, an element outside the list, or more atoms than `max_atoms`.
        """
        units = [z] * len(formulas) if isinstance(z, int) else list(z)
        if len(units) != len(formulas) or min(units, default=0) < 1:
            raise UserError(f"z: got {z} for {len(formulas)} formulas, expected a positive number, or one per formula")
        contents = [composition(formula, count) for formula, count in zip(formulas, units, strict=True)]
        numbers = [np.array([SYMBOLS.index(symbol) for symbol in content]) for content in contents]
        return self.template_of(numbers)

    def template_of(self, numbers: Sequence[np.ndarray]) -> State:
        """As `template_for`, from atomic numbers: one array per crystal."""
        sizes = [len(one) for one in numbers]
        self._check_sizes(sizes)
        layout, flat = ragged(sizes), np.concatenate(list(numbers))
        fields = {COORDS: torch.zeros(len(flat), 3), LATTICE: torch.zeros(len(sizes), 3, 3), TYPES: self._types(flat)}
        return State(fields, {COORDS: layout, LATTICE: Layout(layout.batch), TYPES: layout})

    # -- states -> structures ----------------------------------------------------------------------------------------
    def decode(self, state: State) -> list[tuple[np.ndarray, np.ndarray, np.ndarray] | None]:
        """(atomic numbers (n,), coordinates (n, 3), lattice (3, 3)) of each crystal; None where the cell is unusable.

        Cells are rebuilt from lengths and angles: the generated nine numbers may be turned and mirrored at will.
        """
        layout = state.layouts[COORDS]
        types = state[TYPES].detach().cpu()
        places = types if types.ndim == 1 else types.argmax(-1)
        numbers = self._numbers[places.numpy()]
        coords = fractional(state[COORDS]).numpy()
        lattices = state[LATTICE].detach().cpu().double().numpy() * self.lattice_scale
        owner = np.zeros(len(coords), int) if layout.index is None else layout.index.cpu().numpy()
        ends = np.searchsorted(owner, np.arange(layout.batch + 1))
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray] | None] = []
        for k in range(layout.batch):
            rows = slice(ends[k], ends[k + 1])
            usable = np.isfinite(coords[rows]).all() and np.isfinite(lattices[k]).all()
            usable = usable and abs(np.linalg.det(lattices[k])) >= FLAT
            cell = from_parameters(parameters(lattices[k])) if usable else None
            found.append(None if cell is None else (numbers[rows], coords[rows], cell))
        return found

    def to_objects(self, state: State) -> list[Any]:
        """pymatgen Structures; None where a number is not finite or the cell has no volume."""
        return [structure_of(part) for part in self.decode(state)]

    def _types(self, numbers: np.ndarray) -> Tensor:
        places = self._place[numbers.astype(int)]
        if (places < 0).any():
            names = sorted({SYMBOLS[z] for z in numbers[places < 0]})
            raise UserError(
                f"got {', '.join(names)}, expected only elements of the training set: {' '.join(self.elements)}"
            )
        types = torch.from_numpy(places)
        return torch.nn.functional.one_hot(types, len(self.elements)).float() if self.species else types

    def _check_sizes(self, sizes: Sequence[int]) -> None:
        if not len(sizes) or min(sizes) < 1:
            raise UserError(f"sizes: got {list(sizes)[:5]}, expected at least one crystal of at least one atom")
        if max(sizes) > self.max_atoms:
            raise UserError(
                f"got a cell of {max(sizes)} atoms, expected at most {self.max_atoms}, as in the training data"
            )


def fractional(coords: Tensor) -> Tensor:
    """Coordinates in [0, 1) float64 on the host, from such numbers (atoms, 3) or unit vectors (atoms, 3, 2)."""
    x = coords.detach().cpu().double()
    if x.ndim == 3:
        x = torch.atan2(x[..., 1], x[..., 0]) / (2 * torch.pi)
    x = torch.remainder(x, 1.0)
    return torch.where(x >= 1, 0.0, x)


def structure_of(parts: Any) -> Any:
    """pymatgen Structure of (atomic numbers (n,), coordinates (n, 3), lattice (3, 3)); None stays None."""
    from pymatgen.core import Lattice, Structure

    if parts is None:
        return None
    numbers, coords, lattice = parts
    return Structure(Lattice(lattice), [SYMBOLS[z] for z in numbers], coords)


def composition(formula: str, z: int = 1) -> list[str]:
    """Symbols of all atoms of `z` formula units, e.g. "SrTiO3" -> ["Sr", "Ti", "O", "O", "O"].

    Raises:
        UserError: Not a formula, an unknown element, or a fraction of an atom.
    """
    from pymatgen.core import Composition

    try:
        amounts = Composition(formula).get_el_amt_dict()
    except (ValueError, KeyError) as error:
        raise UserError(f"formula: got '{formula}' ({error}), expected one such as SrTiO3") from None
    counts = {symbol: amount * z for symbol, amount in amounts.items()}
    if not counts or any(
        abs(count - round(count)) > 1e-6 or symbol not in SYMBOLS[1:] for symbol, count in counts.items()
    ):
        raise UserError(f"formula: got '{formula}' (z = {z}), expected whole numbers of atoms of known elements")
    return [symbol for symbol, count in counts.items() for _ in range(round(count))]
