"""Rewards for the design of sequences by specification, higher is better. A held-out reward is given the same way.

| specification | reward | letters | length | gradient |
|---|---|---|---|---|
| ``gb1`` | log(max(F, 0.01)), F the measured fitness of four GB1 sites (wild type 1) | protein | 4 or 56 | yes |
| ``gb1-fitness`` | F itself, unmeasured 0 | protein | 4 or 56 | yes |
| ``gb1-stability`` | sum of measured single-mutant stability changes, kcal/mol | protein | 56 | yes |
| ``pbm:SIX6_REF_R1`` | E-score, log-mean-exp over windows of 8; held out: ``..._R2``; ``pbm:FILE`` | DNA | >= 8 | yes |
| ``motif:MA0108.3`` | occupancy by a JASPAR motif, or ``motif:FILE#NAME`` (MEME, TRANSFAC, JASPAR) | DNA | any | yes |
| ``utr:a``, ``utr:b``, ``utr:FILE.npz#a`` | predicted ribosome load of a 5'UTR, scaled | RNA, DNA | 50 | yes |
| ``fold:mfe``, ``fold:ensemble`` | ViennaRNA: stability, minus the energy, kcal/mol | RNA, DNA | any | no |
| ``fold:target=((...))`` | ViennaRNA: share of nucleotides folded as the target | RNA, DNA | its own | no |
| ``module:function`` | your ``function(list of str) -> numbers`` | yours | any | no |
| ``module:Class`` or a torch module | your module (B, L, K) -> (B,) | yours | any | yes |

These are predictors and in-vitro assays, not activity in a cell: optimise one, then look at another (held out). Your
own function or module may carry ``floor`` (reward of NaN, default -1000) and ``length``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from torch import nn

from sciflow.core.errors import UserError
from sciflow.domains.sequences.folding import fold_reward
from sciflow.domains.sequences.motifs import MotifReward, load_motif
from sciflow.domains.sequences.reward_base import (
    DEFAULT_FLOOR,
    DifferentiableReward,
    FunctionReward,
    ModuleReward,
    SequenceReward,
)
from sciflow.domains.sequences.reward_tables import GB1Reward, GB1Stability, PBMReward, replicate
from sciflow.domains.sequences.utr import utr_reward

__all__ = ["DifferentiableReward", "FunctionReward", "ModuleReward", "SequenceReward", "load_reward", "replicate"]

NAMED: dict[str, Callable[[], SequenceReward]] = {
    "gb1": GB1Reward,
    "gb1-fitness": lambda: GB1Reward("gb1-fitness", logarithm=False),
    "gb1-stability": GB1Stability,
}
KINDS: dict[str, Callable[[str], SequenceReward]] = {
    "pbm": PBMReward,
    "motif": lambda rest: MotifReward(load_motif(rest)),
    "utr": utr_reward,
    "fold": fold_reward,
}
EXPECTED = (
    f"{', '.join(NAMED)}, pbm:EXPERIMENT, pbm:FILE, motif:IDENTIFIER, motif:FILE#NAME, utr:a, utr:b, "
    "utr:FILE.npz#MODEL, fold:mfe, fold:ensemble, fold:target=STRUCTURE, module:function or module:Class"
)


def load_reward(spec: str | Callable[..., Any], alphabet: str = "dna") -> SequenceReward:
    """The reward of a specification (table above), or around a function or torch module of yours.

    Args:
        spec: A specification, a function of a list of strings, a torch module (B, L, K) -> (B,), or a reward.
        alphabet: Of the sequences to score: dna, rna or protein.

    Raises:
        UserError: Unknown specification (the message lists what there is), data or library missing, a function that
            cannot be imported, or a reward for another alphabet.
    """
    if not isinstance(spec, str):
        reward = _wrapped(getattr(spec, "__name__", type(spec).__name__), spec, alphabet)
    elif spec in NAMED:
        reward = NAMED[spec]()
    else:
        kind, colon, rest = spec.partition(":")
        if not colon or not kind or not rest:
            raise UserError(f"reward: got '{spec}', expected one of {EXPECTED}")
        reward = KINDS[kind](rest) if kind in KINDS else _wrapped(spec, _imported(kind, rest), alphabet)
    reward.check(alphabet)
    return reward


def _wrapped(name: str, thing: Any, alphabet: str) -> SequenceReward:
    if isinstance(thing, type) and issubclass(thing, (nn.Module, SequenceReward)):
        try:
            thing = cast(Any, thing)()
        except Exception as error:
            raise UserError(f"reward '{name}': {name}() failed: {type(error).__name__}: {error}") from error
    if isinstance(thing, SequenceReward):
        return thing
    if isinstance(thing, nn.Module):
        return ModuleReward(name, thing, (alphabet,))
    if isinstance(thing, type) or not callable(thing):
        raise UserError(
            f"reward '{name}': got {thing!r:.80}, expected a function of a list of strings or a torch module"
        )
    length, floor = getattr(thing, "length", None), getattr(thing, "floor", DEFAULT_FLOOR)
    return FunctionReward(name, thing, (alphabet,), None if length is None else (int(length),), floor)


def _imported(module: str, name: str) -> Any:
    added = str(Path.cwd()) not in sys.path  # a script of the user's beside the command line
    sys.path[:0] = [str(Path.cwd())] * added
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the user's own file raises while it is imported
        raise UserError(
            f"reward '{module}:{name}': {type(error).__name__}: {error}; expected {EXPECTED}, "
            f"where module can be imported (or is a file {module}.py in this folder) and has {name}"
        ) from error
    finally:
        del sys.path[: int(added)]
