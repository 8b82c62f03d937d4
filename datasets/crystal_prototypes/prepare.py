"""Makes crystal_prototypes.npz: ionic crystals of textbook structure types, from the prototypes bundled with pymatgen.

Run: python datasets/crystal_prototypes/prepare.py

Which ions are combined, which structure type they get and how large the cell is follows from Shannon's ionic radii
(pymatgen's table) by rules of the textbooks: Pauling's radius ratios, Goldschmidt's tolerance factor, and touching
ions. No measured crystal enters. The output is the same every time.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from sciflow.domains.crystals.arrays import canonical, from_parts, from_structures  # noqa: E402
from sciflow.domains.crystals.data import save_npz  # noqa: E402

TARGET = HERE / "crystal_prototypes.npz"
TYPES = {  # name: (aflow label, space group)
    "rock_salt": ("AB_cF8_225_a_b", 225),
    "cesium_chloride": ("AB_cP2_221_b_a", 221),
    "zincblende": ("AB_cF8_216_c_a", 216),
    "fluorite": ("AB2_cF12_225_a_c", 225),
    "rutile": ("A2B_tP6_136_f_a", 136),
    "perovskite": ("AB3C_cP5_221_a_c_b", 221),
}
IONS = {  # charge: elements
    1: "Li Na K Rb Cs Ag Tl Cu",
    2: "Be Mg Ca Sr Ba Zn Cd Hg Mn Fe Co Ni Cu Sn Pb Eu",
    3: "Al Sc Y La Ce Nd Gd Ga In Ti V Cr Mn Fe",
    4: "Si Ge Sn Pb Ti Zr Hf V Mn Mo W Nb Ce Te",
    5: "V Nb Ta Sb",
    -1: "F Cl Br I",
    -2: "O S Se Te",
}


def radius(symbol: str, charge: int) -> float | None:
    """Ionic radius in angstrom, None where the table has none."""
    from pymatgen.core import Element

    return Element(symbol).ionic_radii.get(charge)


def ions(*charges: int) -> Iterator[list[tuple[str, int, float]]]:
    """All combinations of different ions with these charges whose radii are known: (symbol, charge, radius)."""
    for symbols in product(*(IONS[charge].split() for charge in charges)):
        radii = [radius(symbol, charge) for symbol, charge in zip(symbols, charges, strict=True)]
        if len(set(symbols)) == len(symbols) and all(value is not None for value in radii):
            yield [(s, c, float(r)) for s, c, r in zip(symbols, charges, radii, strict=True)]  # type: ignore[arg-type]


def decorations() -> Iterator[tuple[str, dict[str, tuple[str, int, float]]]]:
    """(structure type, {species of the prototype: ion}) of each crystal."""
    for charge in (1, 2):
        for cation, anion in ions(charge, -charge):
            ratio = cation[2] / anion[2]
            kind = "cesium_chloride" if ratio > 0.732 else "rock_salt" if ratio > 0.414 else "zincblende"
            first, second = {"cesium_chloride": ("Cs", "Cl"), "rock_salt": ("Na", "Cl"), "zincblende": ("Zn", "S")}[
                kind
            ]
            yield kind, {first: cation, second: anion}
    for charges in ((2, -1), (4, -2)):
        for cation, anion in ions(*charges):
            if cation[2] / anion[2] > 0.732:
                yield "fluorite", {"Ca": cation, "F": anion}
            elif cation[2] / anion[2] > 0.414:
                yield "rutile", {"Ti": cation, "O": anion}
    for charges in ((1, 2, -1), (2, 4, -2), (3, 3, -2), (1, 5, -2)):
        for large, small, anion in ions(*charges):
            tolerance = (large[2] + anion[2]) / (math.sqrt(2) * (small[2] + anion[2]))
            if 0.88 < tolerance < 1.06 and 0.414 < small[2] / anion[2] < 0.8:
                yield "perovskite", {"Ca": large, "Ti": small, "O": anion}


def prototypes() -> dict[str, object]:
    """The primitive cells of the structure types, from pymatgen's AFLOW library."""
    from pymatgen.analysis.prototypes._data import AFLOW_PROTOTYPE_LIBRARY

    found = {entry["tags"]["aflow"]: entry["snl"].structure for entry in AFLOW_PROTOTYPE_LIBRARY}
    return {name: found[label].get_primitive_structure() for name, (label, _) in TYPES.items()}


def decorate(prototype, ions: dict[str, tuple[str, int, float]]):
    """The prototype with these ions, scaled so that the closest cation and anion touch."""
    from pymatgen.core import Lattice, Structure

    species = [ions[site.specie.symbol] for site in prototype]
    scale = max(
        (one[2] + other[2]) / prototype.get_distance(i, j)
        for i, one in enumerate(species)
        for j, other in enumerate(species)
        if one[1] > 0 > other[1]
    )
    lattice = Lattice(prototype.lattice.matrix * scale)
    return Structure(lattice, [symbol for symbol, _, _ in species], prototype.frac_coords)


def main() -> None:
    """Write the file and say what is in it."""
    cells, kinds, structures, names = prototypes(), [], [], []
    for kind, chosen in decorations():
        structure = decorate(cells[kind], chosen)
        name = f"{kind}-{structure.composition.reduced_formula}"
        if name not in names:
            kinds.append(kind)
            structures.append(structure)
            names.append(name)
    arrays = from_structures(structures, names)
    reduced = [canonical(arrays.lattices[k], arrays.coords[arrays.rows(k)]) for k in range(len(arrays))]
    # 1e-6 of an edge: rounding differs between machines
    coords, lattices = [np.round(f, 6) for _, f in reduced], [np.round(cell, 6) for cell, _ in reduced]
    numbers = [arrays.numbers[arrays.rows(k)] for k in range(len(arrays))]
    groups = {"spacegroup": np.array([TYPES[kind][1] for kind in kinds], np.int32)}
    save_npz(TARGET, from_parts(names, numbers, coords, lattices, groups))
    counts = {kind: kinds.count(kind) for kind in TYPES}
    print(f"{TARGET}: {len(names)} crystals, {TARGET.stat().st_size:,} bytes; {counts}")


if __name__ == "__main__":
    main()
