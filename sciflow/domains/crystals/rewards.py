"""Rewards of crystals, higher is better: ``reward(structures)`` takes Structures or None and returns (N,) float64.

| name | reward |
|---|---|
| ``chgnet-energy`` | minus the CHGNet energy, eV per atom |
| ``formation-energy`` | minus the CHGNet formation energy, eV per atom, for structures of different composition |
| ``density`` | g/cm3, the more the better |
| ``volume`` | cubic angstrom per atom, the more the better |
| ``density=TARGET`` | minus the distance of the density from a target, e.g. density=5.2 |
| ``volume=TARGET`` | minus the distance of the volume per atom from a target |
| ``module:function`` | your ``function(pymatgen structure) -> float``, e.g. a model of the band gap |

None and structures that cannot be computed give NaN, which guidance takes for the worst.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sciflow.core.errors import UserError
from sciflow.domains.crystals.hull import formation_energy
from sciflow.domains.crystals.relax import energies
from sciflow.domains.crystals.validity import structurally_valid

Reward = Callable[[Sequence[Any]], np.ndarray]


def negative_energy(structures: Sequence[Any]) -> np.ndarray:
    """Minus the CHGNet energy, eV per atom, of the structures as they are."""
    return -energies(structures)


def negative_formation_energy(structures: Sequence[Any]) -> np.ndarray:
    """Minus the CHGNet formation energy, eV per atom; NaN too without the reference of an element."""
    return np.array(
        [
            np.nan if np.isnan(energy) else -formation_energy(one, energy)
            for one, energy in zip(structures, energies(structures), strict=True)
        ]
    )


ENERGIES: dict[str, Reward] = {"chgnet-energy": negative_energy, "formation-energy": negative_formation_energy}


class Property:
    """A property of one structure, or minus its distance from a target.

    Args:
        function: pymatgen Structure -> number.
        target: The wanted value; None: the more the better.
        name: For messages.
    """

    def __init__(self, function: Callable[[Any], float], target: float | None = None, name: str = "property") -> None:
        self.function, self.target, self.name = function, target, name

    def __call__(self, structures: Sequence[Any]) -> np.ndarray:
        """(N,); NaN for None and for overlapping atoms.

        Raises:
            UserError: The function failed, or gave no number.
        """
        values = [self._of(one) if structurally_valid(one) else np.nan for one in structures]
        found = np.array(values, dtype=np.float64)
        return found if self.target is None else -np.abs(found - self.target)

    def _of(self, one: Any) -> float:
        try:
            return float(self.function(one))
        except Exception as error:
            got = f"{type(error).__name__}: {error}"
            raise UserError(f"reward {self.name}: failed for {one.formula} ({got}), expected a number") from error


PROPERTIES: dict[str, Callable[[Any], float]] = {
    "density": lambda one: one.density,  # g/cm3
    "volume": lambda one: one.volume / len(one),  # cubic angstrom per atom
}


def load_reward(name: str) -> Reward:
    """A reward by name.

    Args:
        name: ``chgnet-energy`` (minus the energy), ``formation-energy`` (likewise, for structures of different
            composition), ``density``, ``volume``, ``density=5.2`` (minus the distance from 5.2), or
            ``module:function`` with a function of one structure.

    Raises:
        UserError: No such reward.
    """
    if name in ENERGIES:
        return ENERGIES[name]
    base, _, target = name.partition("=")
    if base in PROPERTIES:
        try:
            return Property(PROPERTIES[base], float(target) if target else None, name)
        except ValueError:
            raise UserError(f"reward: got '{name}', expected a number behind the equals sign") from None
    if ":" in name:
        module, _, function = name.partition(":")
        try:
            return Property(getattr(importlib.import_module(module), function), name=name)
        except (ImportError, AttributeError) as error:
            raise UserError(f"reward: got '{name}', expected module:function on the Python path ({error})") from None
    known = ", ".join([*ENERGIES, *PROPERTIES])
    raise UserError(f"reward: got '{name}', expected one of {known}, a target such as density=5.2, or module:function")
