r"""Crystals as flat arrays, their canonical description, and what makes one unusable.

A crystal is (A, F, L): species, fractional coordinates, lattice with ROWS a, b, c; Cartesian X = F L. The same crystal
has many descriptions. Benchmark models are trained on one of them (specification, section 1): the Niggli-reduced cell,
turned so that c lies along z and a in the xz plane,

    a = (la sin be, 0, la cos be),  b = (-lb sin al cos g, lb sin al sin g, lb cos al),  c = (0, 0, lc),
    g = arccos((cos al cos be - cos ga) / (sin al sin be)).

Handedness is kept: a left-handed basis is first replaced by its negative, which describes the same crystal.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sciflow.core.errors import UserError

OVERLAP = 0.1  # angstrom; two atoms closer than this are one atom written twice
LENGTHS = (0.5, 500.0)  # angstrom
ANGLES = (5.0, 175.0)  # degrees
VOLUMES = (1.0, 2000.0)  # cubic angstrom per atom
IMAGES = np.array([(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)], dtype=float)
_TABLE = """
X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo
Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb
Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
SYMBOLS: list[str] = list(_TABLE.split())  # by atomic number


@dataclass(frozen=True)
class CrystalArrays:
    """M crystals with A atoms in all.

    Attributes:
        identifiers: [M] names.
        ptr: (M + 1,) int64; crystal k owns the atoms ptr[k] : ptr[k + 1].
        numbers: (A,) uint8 atomic numbers.
        coords: (A, 3) float64 fractional coordinates in [0, 1).
        lattices: (M, 3, 3) float64, rows a, b, c in angstrom.
        properties: Name -> (M,) numbers; NaN where unknown.
    """

    identifiers: list[str]
    ptr: np.ndarray
    numbers: np.ndarray
    coords: np.ndarray
    lattices: np.ndarray
    properties: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ptr) - 1

    @property
    def sizes(self) -> np.ndarray:
        """(M,) numbers of atoms."""
        return np.diff(self.ptr)

    def rows(self, k: int) -> slice:
        """Atoms of crystal k."""
        return slice(int(self.ptr[k]), int(self.ptr[k + 1]))

    def select(self, index: Sequence[int] | np.ndarray) -> CrystalArrays:
        """The chosen crystals, in the given order."""
        index = np.asarray(index, dtype=np.int64)
        sizes = self.sizes[index]
        ptr = np.concatenate([[0], sizes.cumsum()]).astype(np.int64)
        atoms = np.repeat(self.ptr[index] - ptr[:-1], sizes) + np.arange(ptr[-1])
        names = [self.identifiers[i] for i in index]
        chosen = {name: values[index] for name, values in self.properties.items()}
        return CrystalArrays(names, ptr, self.numbers[atoms], self.coords[atoms], self.lattices[index], chosen)

    def formulas(self) -> list[str]:
        """Reduced formulas as a plain key, e.g. "O3Sr1Ti1" (elements in alphabetical order)."""
        symbols = np.array(SYMBOLS)
        keys = []
        for k in range(len(self)):
            found, counts = np.unique(self.numbers[self.rows(k)], return_counts=True)
            pairs = sorted(zip(symbols[found], counts // np.gcd.reduce(counts)))
            keys.append("".join(f"{symbol}{count}" for symbol, count in pairs))
        return keys

    def structure(self, k: int) -> Any:
        """Crystal k as a pymatgen `Structure`; its name and properties are in `properties`."""
        from pymatgen.core import Lattice, Structure

        rows, known = self.rows(k), {name: values[k].item() for name, values in self.properties.items()}
        species = [SYMBOLS[number] for number in self.numbers[rows]]
        named = {"material_id": self.identifiers[k], **known}
        return Structure(Lattice(self.lattices[k]), species, self.coords[rows], properties=named)

    def structures(self) -> list[Any]:
        """All crystals as pymatgen `Structure`s."""
        return [self.structure(k) for k in range(len(self))]


def from_parts(
    identifiers: Sequence[str],
    numbers: Sequence[np.ndarray],
    coords: Sequence[np.ndarray],
    lattices: Sequence[np.ndarray],
    properties: dict[str, np.ndarray] | None = None,
) -> CrystalArrays:
    """Arrays from one entry per crystal; coordinates are wrapped into [0, 1)."""
    ptr = np.concatenate([[0], np.cumsum([len(one) for one in numbers])]).astype(np.int64)
    flat = np.concatenate([np.empty((0, 3)), *coords])
    cells = np.stack(lattices).astype(float) if len(lattices) else np.empty((0, 3, 3))
    species = np.concatenate([np.empty(0, np.uint8), *numbers]).astype(np.uint8)
    return CrystalArrays(list(identifiers), ptr, species, wrap(flat), cells, properties or {})


def from_structures(structures: Sequence[Any], names: Sequence[str] | None = None) -> CrystalArrays:
    """Arrays of ordered pymatgen structures.

    Raises:
        UserError: A site is shared by several species or partly empty.
    """
    for k, structure in enumerate(structures):
        if not structure.is_ordered:
            raise UserError(
                f"structure {k} ({structure.formula}): got partial occupancies, expected an ordered crystal"
            )
    names = names if names is not None else [str(k) for k in range(len(structures))]
    numbers = [np.array([site.specie.Z for site in one], np.uint8) for one in structures]
    coords = [np.asarray(one.frac_coords, float).reshape(-1, 3) for one in structures]
    return from_parts(names, numbers, coords, [np.array(one.lattice.matrix) for one in structures])


def wrap(coords: np.ndarray) -> np.ndarray:
    """Into [0, 1); rounding can make x mod 1 equal to 1, which is 0."""
    wrapped = np.mod(coords, 1.0)
    return np.where(wrapped >= 1.0, 0.0, wrapped)


def parameters(lattices: np.ndarray) -> np.ndarray:
    """(..., 3, 3) -> (..., 6): lengths in angstrom and angles al, be, ga in degrees."""
    lengths = np.linalg.norm(lattices, axis=-1)
    unit = lattices / np.maximum(lengths, 1e-12)[..., None]
    pairs = [(unit[..., i, :] * unit[..., j, :]).sum(-1) for i, j in ((1, 2), (0, 2), (0, 1))]
    angles = np.degrees(np.arccos(np.clip(np.stack(pairs, -1), -1.0, 1.0)))
    return np.concatenate([lengths, angles], -1)


def from_parameters(values: np.ndarray) -> np.ndarray:
    """(..., 6) -> (..., 3, 3): the canonical orientation of the module docstring, right-handed."""
    la, lb, lc = np.moveaxis(values[..., :3], -1, 0)
    al, be, ga = np.moveaxis(np.radians(values[..., 3:]), -1, 0)
    cosine = (np.cos(al) * np.cos(be) - np.cos(ga)) / (np.sin(al) * np.sin(be))
    g, zero = np.arccos(np.clip(cosine, -1.0, 1.0)), np.zeros_like(la)
    a = np.stack([la * np.sin(be), zero, la * np.cos(be)], -1)
    b = np.stack([-lb * np.sin(al) * np.cos(g), lb * np.sin(al) * np.sin(g), lb * np.cos(al)], -1)
    return np.stack([a, b, np.stack([zero, zero, lc], -1)], -2)


def canonical(lattice: np.ndarray, coords: np.ndarray, niggli: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """One crystal (3, 3), (n, 3) in its Niggli cell (unless told not to) and canonical orientation.

    A cell that is reduced already (parameters equal to 1e-4) keeps its axes.
    """
    if np.linalg.det(lattice) < 0:
        lattice, coords = -lattice, -coords
    if niggli:
        reduced = _niggli(lattice)
        if reduced is not None and not np.allclose(parameters(reduced), parameters(lattice), atol=1e-4):
            reduced = reduced if np.linalg.det(reduced) > 0 else -reduced
            coords = coords @ lattice @ np.linalg.inv(reduced)
            lattice = reduced
    return from_parameters(parameters(lattice)), wrap(coords)


def _niggli(lattice: np.ndarray) -> np.ndarray | None:
    """Niggli cell (Krivy and Gruber, Acta Cryst. A 32, 297, 1976) by spglib; None where it finds none."""
    import spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib announces another way to report failures
        return spglib.niggli_reduce(lattice)


def shortest_distance(lattice: np.ndarray, coords: np.ndarray) -> float:
    """Shortest distance in angstrom between two atoms or an atom and its image; exact in a Niggli-reduced cell."""
    step = coords[:, None] - coords[None]
    step = (step - np.round(step))[:, :, None] + IMAGES
    squares = ((step @ lattice) ** 2).sum(-1)
    squares[np.arange(len(coords)), np.arange(len(coords)), len(IMAGES) // 2] = np.inf
    return float(np.sqrt(squares.min()))


def problem(numbers: np.ndarray, coords: np.ndarray, lattice: np.ndarray) -> str | None:
    """Why a crystal cannot be used (the limits are the constants above), or None."""
    if len(numbers) == 0:
        return "no atoms"
    if not (np.isfinite(coords).all() and np.isfinite(lattice).all()):
        return "a number is NaN or infinite"
    if numbers.min() < 1 or numbers.max() > 118:
        return "an atom without an element"
    values, volume = parameters(lattice), abs(np.linalg.det(lattice)) / len(numbers)
    for what, (low, high), got in (("cell edges", LENGTHS, values[:3]), ("cell angles", ANGLES, values[3:])):
        if got.min() < low or got.max() > high:
            return f"absurd {what} {', '.join(f'{one:.4g}' for one in got)}"
    if not VOLUMES[0] <= volume <= VOLUMES[1]:
        return f"absurd volume of {volume:.4g} cubic angstrom per atom"
    distance = _closest(lattice, coords)
    return f"two atoms {distance:.3f} angstrom apart" if distance < OVERLAP else None


def _closest(lattice: np.ndarray, coords: np.ndarray) -> float:
    """Shortest distance between two atoms when it is far below the cell edges: nearest images by rounding."""
    first, second = np.triu_indices(len(coords), 1)
    step = coords[first] - coords[second]
    return float(np.sqrt((((step - np.round(step)) @ lattice) ** 2).sum(-1).min(initial=np.inf)))


def to_atoms(structure: Any, info: dict[str, Any] | None = None) -> Any:
    """An ordered pymatgen structure as ASE `Atoms`, without what is attached to it."""
    from ase import Atoms

    numbers, cell = [site.specie.Z for site in structure], structure.lattice.matrix
    return Atoms(numbers, scaled_positions=structure.frac_coords, cell=cell, pbc=True, info=info)


def from_atoms(atoms: Any) -> Any:
    """ASE `Atoms` as a pymatgen structure, without what is attached to them."""
    from pymatgen.core import Lattice, Structure

    coords = atoms.get_scaled_positions(wrap=False)
    return Structure(Lattice(atoms.cell.array), list(atoms.symbols), coords, to_unit_cell=True)
