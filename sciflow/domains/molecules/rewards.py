"""Rewards for design: plain functions of a molecule, higher is better, by name or from the user's own module.

| name | reward | range | floor |
|---|---|---|---|
| ``qed`` | quantitative estimate of drug-likeness (Bickerton et al., Nat. Chem. 4, 90, 2012) | 0..1 | 0 |
| ``logp`` | Crippen octanol-water partition coefficient (Wildman & Crippen, 1999) | about -10..10 | -10 |
| ``sa`` | synthetic accessibility (Ertl & Schuffenhauer, 2009), turned: (10 - score) / 9 | 0..1 | 0 |
| ``similarity:SMILES`` | Tanimoto similarity to a molecule, Morgan fingerprint of radius 2, 2048 bits | 0..1 | 0 |
| ``module:function`` | your ``function(molecule) -> float`` | any | ``function.floor`` or -1000 |

The floor is the reward of a sample that is no molecule (None), and of a reward that comes out as NaN.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from rdkit import Chem, DataStructs, RDConfig, rdBase
from rdkit.Chem import QED, Crippen, rdFingerprintGenerator

from sciflow.core.errors import UserError

DEFAULT_FLOOR = -1000.0
MoleculeFunction = Callable[[Chem.Mol], float]


class Reward:
    """A reward of many molecules at once, remembered by canonical SMILES.

    Args:
        name: for tables and messages.
        function: reward of one valid molecule.
        floor: reward of None.
    """

    def __init__(self, name: str, function: MoleculeFunction, floor: float) -> None:
        self.name = name
        self.floor = float(floor)
        self._function = function
        self._known: dict[str, float] = {}

    def __call__(self, molecules: Sequence[Chem.Mol | None]) -> np.ndarray:
        """(B,) rewards, float64.

        Raises:
            UserError: the function failed; the message names the molecule.
        """
        return np.array([self.floor if mol is None or mol.GetNumAtoms() == 0 else self._one(mol) for mol in molecules])

    def _one(self, molecule: Chem.Mol) -> float:
        smiles = Chem.MolToSmiles(molecule)
        if smiles not in self._known:
            try:
                value = float(self._function(molecule))
            except Exception as error:
                raise UserError(f"reward '{self.name}' failed on {smiles}: {type(error).__name__}: {error}") from error
            self._known[smiles] = self.floor if math.isnan(value) else value
        return self._known[smiles]


def load_reward(spec: str) -> Reward:
    """The reward of a specification (table above).

    Raises:
        UserError: unknown name, broken SMILES, or a function that cannot be imported; the message lists what exists.
    """
    if spec in NAMED:
        function, floor = NAMED[spec]
        return Reward(spec, function, floor)
    kind, colon, rest = spec.partition(":")
    if kind == "similarity" and colon:
        return Reward(spec, similarity_to(rest), 0.0)
    if not colon or not kind or not rest:
        raise UserError(
            f"reward: got '{spec}', expected one of {', '.join(NAMED)}, similarity:SMILES or module:function"
        )
    function = _import_function(kind, rest)
    return Reward(spec, function, getattr(function, "floor", DEFAULT_FLOOR))


def _import_function(module: str, name: str) -> MoleculeFunction:
    added = str(Path.cwd()) not in sys.path  # a script of the user's beside the command line
    sys.path[:0] = [str(Path.cwd())] * added
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the user's own file raises while it is imported
        raise UserError(
            f"reward '{module}:{name}': {type(error).__name__}: {error}; expected an importable module (or a file "
            f"{module}.py in this folder) with a function {name}(molecule) -> float"
        ) from error
    finally:
        del sys.path[: int(added)]
    if not callable(function):
        raise UserError(f"reward '{module}:{name}': got a {type(function).__name__}, expected a function of a molecule")
    return cast(MoleculeFunction, function)


def similarity_to(smiles: str) -> MoleculeFunction:
    """Tanimoto similarity of Morgan fingerprints (radius 2, 2048 bits) to one molecule.

    Raises:
        UserError: the SMILES is not valid.
    """
    with rdBase.BlockLogs():
        target = Chem.MolFromSmiles(smiles)
    if target is None or target.GetNumAtoms() == 0:
        raise UserError(f"similarity reward: got '{smiles}', expected a valid SMILES")
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    fingerprint = generator.GetFingerprint(target)
    return lambda molecule: DataStructs.TanimotoSimilarity(fingerprint, generator.GetFingerprint(molecule))


def sa_score(molecule: Chem.Mol) -> float:
    """Synthetic accessibility score, 1 (easy) to 10 (hard), by the script that ships in the RDKit wheel."""
    return _sa_scorer().calculateScore(molecule)


@functools.cache
def _sa_scorer():
    spec = importlib.util.spec_from_file_location("sascorer", Path(RDConfig.RDContribDir) / "SA_Score/sascorer.py")
    if spec is None or spec.loader is None:
        raise UserError("the SA score is missing from this RDKit; expected RDConfig.RDContribDir/SA_Score/sascorer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _accessibility(molecule: Chem.Mol) -> float:
    return (10 - sa_score(molecule)) / 9


NAMED: dict[str, tuple[MoleculeFunction, float]] = {
    "qed": (QED.qed, 0.0),
    "logp": (Crippen.MolLogP, -10.0),  # type: ignore[attr-defined]
    "sa": (_accessibility, 0.0),
}
