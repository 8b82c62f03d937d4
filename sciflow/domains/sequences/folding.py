"""RNA folding rewards by ViennaRNA (Lorenz et al., Algorithms Mol. Biol. 6, 26, 2011), Turner 2004 energies, 37 C.

| spec | reward | unit |
|---|---|---|
| ``fold:mfe`` | minus the minimum free energy: stable folds score high | kcal/mol |
| ``fold:ensemble`` | minus the free energy of the ensemble | kcal/mol |
| ``fold:target=((...))`` | 1 - ensemble defect / length (Zadeh et al., 2011): nucleotides as in the target | 0..1 |

No gradient. CPU per sequence at length 50/100/200: minimum free energy 1.5/8/51 ms, ensemble 2/18/101 ms.
"""

from __future__ import annotations

from collections.abc import Callable

from sciflow.core.errors import UserError, require
from sciflow.domains.sequences.reward_base import FunctionReward

ALPHABETS = ("rna", "dna")  # DNA is folded as its transcript


def fold_reward(rest: str) -> FunctionReward:
    """The reward of ``mfe``, ``ensemble`` or ``target=STRUCTURE`` in dot-bracket notation.

    Raises:
        UserError: Another word, a broken structure, or ViennaRNA is not installed.
    """
    kind, _, structure = rest.partition("=")
    functions = {"mfe": minimum_free_energy, "ensemble": ensemble_energy}
    if rest not in functions and (kind != "target" or not structure):
        raise UserError(f"fold: got '{rest}', expected mfe, ensemble or target=STRUCTURE such as target=((((...))))")
    rna = require("RNA", "rna")
    if kind != "target":
        energy = functions[kind]
        return FunctionReward(f"fold:{kind}", _each(lambda sequence: -energy(rna, sequence)), ALPHABETS)
    check_structure(structure)
    function = _each(lambda sequence: 1 - ensemble_defect(rna, sequence, structure) / len(structure))
    return FunctionReward(f"fold:{rest}", function, ALPHABETS, (len(structure),))


def _each(function: Callable[[str], float]) -> Callable[[list[str]], list[float]]:
    return lambda sequences: [function(sequence) for sequence in sequences]


def minimum_free_energy(rna, sequence: str) -> float:
    """Energy of the best structure, kcal/mol."""
    return rna.fold_compound(sequence).mfe()[1]


def ensemble_energy(rna, sequence: str) -> float:
    """-kT log of the partition function, kcal/mol."""
    return _partition(rna, sequence)[1]


def ensemble_defect(rna, sequence: str, structure: str) -> float:
    """Expected number of nucleotides that are paired otherwise than in the structure."""
    compound, _ = _partition(rna, sequence)
    return compound.ensemble_defect(structure) * len(structure)


def _partition(rna, sequence: str):
    compound = rna.fold_compound(sequence)
    compound.exp_params_rescale(compound.mfe()[1])  # no overflow in long sequences
    return compound, compound.pf()[1]


def check_structure(structure: str) -> None:
    """Balanced dot-bracket notation.

    Raises:
        UserError: It is not.
    """
    depth = 0
    for letter in structure:
        depth += {"(": 1, ")": -1, ".": 0}.get(letter, -len(structure) - 1)
        if depth < 0:
            break
    if depth:
        raise UserError(f"fold: got target '{structure}', expected balanced brackets and dots such as ((((...))))")
