r"""Energy above a PARTIAL convex hull.

Formation energy: E - sum_i x_i mu_i per atom, with mu_i the energy of the element in its Delta-test structure
(`ase.collections.dcdft`, 71 elements), computed by the same model. The hull is made of the entries of the Materials
Project archives (MP-20 of two or three elements, MPTS-52; validation and test) that lie on the Materials Project hull,
with their DFT formation energies, and of the elements at 0. Many competing phases are missing, so an energy above this
hull is a lower bound of the true one (up to the model's error of about 0.03 eV per atom): label it "partial hull".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from sciflow.core.errors import UserError
from sciflow.data import resolve
from sciflow.domains.crystals.arrays import SYMBOLS, from_atoms
from sciflow.domains.crystals.data import load_npz
from sciflow.domains.crystals.relax import energies

ARCHIVES = ("mp_20_biternary_val", "mp_20_biternary_test", "mpts_52_val", "mpts_52_test")


class PartialHull:
    """The lower hull of formation energies of some known phases.

    Args:
        phases: ({symbol: amount}, formation energy in eV per atom) of each.
    """

    def __init__(self, phases: Sequence[tuple[Mapping[str, float], float]]) -> None:
        self.phases: dict[frozenset[str], list[tuple[Mapping[str, float], float]]] = {}
        for amounts, energy in phases:
            self.phases.setdefault(frozenset(amounts), []).append((amounts, energy))

    @classmethod
    def from_archives(cls, names: Sequence[str] = ARCHIVES) -> PartialHull:
        """The hull entries of those archives that are on this machine.

        Raises:
            UserError: None is.
        """
        phases = []
        for name in names:
            try:
                crystals, _ = load_npz(resolve(name))
            except UserError:
                continue
            stable = np.flatnonzero(crystals.properties["e_above_hull"] == 0)
            for k in stable.tolist():
                found, counts = np.unique(crystals.numbers[crystals.rows(k)], return_counts=True)
                amounts = {SYMBOLS[z]: float(count) for z, count in zip(found, counts, strict=True)}
                phases.append((amounts, float(crystals.properties["formation_energy_per_atom"][k])))
        if not phases:
            raise UserError(f"partial hull: none of {', '.join(names)} is on this machine; set SCIFLOW_DATA")
        return cls(phases)

    def competitors(self, elements: Sequence[str]) -> int:
        """Number of known phases of these elements, the elements themselves not counted."""
        within = frozenset(elements)
        return sum(len(phases) for system, phases in self.phases.items() if system <= within and len(system) > 1)

    def energy(self, amounts: Mapping[str, float]) -> float:
        """Formation energy of the hull at a composition, eV per atom (at most 0, the elements).

        A linear programme: the cheapest mixture of known phases, sum_p w_p x_p = x, w >= 0.
        """
        from scipy.optimize import linprog

        symbols = sorted(amounts)
        within = frozenset(symbols)
        known = [one for system, phases in self.phases.items() if system <= within for one in phases]
        known = [one for one in known if one[1] < 0]
        shares = [np.array([one.get(symbol, 0.0) for symbol in symbols]) for one, _ in known]
        columns = np.stack([*[share / share.sum() for share in shares], *np.eye(len(symbols))], 1)
        costs = np.array([energy for _, energy in known] + [0.0] * len(symbols))
        target = np.array([amounts[symbol] for symbol in symbols], dtype=float)
        found = linprog(costs, A_eq=columns, b_eq=target / target.sum(), bounds=(0, None), method="highs")
        return float(found.fun)

    def above(self, amounts: Mapping[str, float], formation_energy: float) -> float:
        """Energy above this hull, eV per atom; negative: more stable than any known mixture."""
        return formation_energy - self.energy(amounts)


@cache
def element_energy(symbol: str) -> float:
    """CHGNet energy of an element in its Delta-test structure, eV per atom; NaN where that set has none.

    Raises:
        UserError: chgnet is not installed.
    """
    from ase.collections import dcdft

    if symbol not in dcdft.names:
        return float("nan")
    return float(energies([from_atoms(dcdft[symbol])])[0])


def formation_energy(structure: Any, energy: float) -> float:
    """eV per atom, from an energy per atom of CHGNet; NaN without the reference of an element (most lanthanides)."""
    fractions = structure.composition.fractional_composition.get_el_amt_dict()
    return energy - sum(share * element_energy(symbol) for symbol, share in fractions.items())


def energy_above_hull(structure: Any, energy: float, hull: PartialHull) -> float:
    """eV per atom above the partial hull; NaN where an elemental reference is missing."""
    formation = formation_energy(structure, energy)
    return hull.above(structure.composition.get_el_amt_dict(), formation) if np.isfinite(formation) else float("nan")
