"""Jump processes: estimate rates from paths, simulate, judge.

    import sciflow.jumps as jumps
    paths = jumps.Paths.of(times, states)          # ragged lists, arrays, or one shared grid
    found = jumps.estimate(paths)                  # or method="em", "hmm_em", "gibbs", "fim", "mle"
    found.rates, found.stderr, found.timescales(), found.mfpt(), found.intervals(0.9)
    again = found.simulate(1000, times)

Names are loaded on first use; `import sciflow` does not load this module.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from sciflow.core.jump_paths import JumpPaths
    from sciflow.core.noise import Noise
    from sciflow.domains.jumps.data import Paths
    from sciflow.domains.jumps.estimation import estimate
    from sciflow.domains.jumps.files import read_paths
    from sciflow.domains.jumps.implied import implied_timescales
    from sciflow.domains.jumps.labelling import label, lump
    from sciflow.domains.jumps.rate_prior import GammaPrior
    from sciflow.domains.jumps.result import Estimate
    from sciflow.domains.jumps.sets import jump_set, true_rates

_PUBLIC = {
    "Estimate": "result",
    "GammaPrior": "rate_prior",
    "Paths": "data",
    "estimate": "estimation",
    "implied_timescales": "implied",
    "jump_set": "sets",
    "label": "labelling",
    "lump": "labelling",
    "read_paths": "files",
    "true_rates": "sets",
}
FEW_PATHS = 100  # up to which uniformisation, if most of its events are jumps, is faster (benchmarks/gillespie.py)
MOST_EVENTS = 2_000_000  # of uniformisation in one move: 100 MB
__all__ = [
    "Estimate",
    "GammaPrior",
    "Paths",
    "estimate",
    "implied_timescales",
    "jump_set",
    "label",
    "lump",
    "read_paths",
    "simulate",
    "true_rates",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"sciflow.domains.jumps.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'sciflow.jumps' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])


def simulate(
    rates: Any,
    count: int,
    *,
    end: float | None = None,
    times: Any = None,
    initial: Any = None,
    unit: str = "",
    names: Sequence[str] = (),
    seed: int = 0,
) -> Paths:
    """Exact paths of a jump process: with every jump, or on a grid.

    Args:
        rates: (S, S) rates of i -> j; the diagonal is ignored.
        count: Number of paths.
        end: Simulate every jump from time 0 to this one: `complete` paths.
        times: (L,) not decreasing: states at these times instead.
        initial: (S,) law of the first state; None: the stationary law.
        unit: Of time.
        names: Of the S states.
        seed: Of the paths.

    Raises:
        UserError: Neither or both of `end` and `times`; no paths; times that decrease or are not finite, an end that
            is not above 0; rates that are negative, not finite, or not square.
    """
    import numpy as np
    import torch

    from sciflow.core.errors import UserError
    from sciflow.core.noise import Fresh
    from sciflow.domains.jumps.data import Paths
    from sciflow.domains.jumps.result import Estimate, generator, stationary

    if (end is None) == (times is None):
        raise UserError("simulate: got both or none of `end` and `times`; expected one (all jumps, or a grid)")
    if count < 1:
        raise UserError(f"simulate: got {count} paths, expected at least 1")
    if end is not None and not 0 < end < math.inf:
        raise UserError(f"simulate: got the end {end}, expected a finite time above 0")
    F = generator(rates)
    law = stationary(F) if initial is None else np.asarray(initial, float)
    S = len(F)
    if law.shape != (S,) or (law < 0).any() or not np.isclose(law.sum(), 1):
        raise UserError(f"simulate: got an initial law {law}, expected {S} probabilities that sum to 1")
    names = tuple(names)
    if times is not None:
        return Estimate.of(F, law, "known", unit=unit, names=names).simulate(count, times, seed)
    noise = Fresh(seed)
    first = torch.multinomial(torch.from_numpy(law), count, replacement=True, generator=noise.generator)
    paths = _every_jump(torch.from_numpy(F), first, float(end or 0.0), noise)
    return Paths(paths.times.numpy(), paths.lengths.numpy(), paths.states.numpy(), None, S, unit, names, complete=True)


def _every_jump(F: Tensor, first: Tensor, end: float, noise: Noise) -> JumpPaths:
    """Paths from the states `first` (n,) at 0 to `end`.

    Gillespie's method costs a round for each jump of a path, whatever the number of paths; uniformisation takes all
    events of all paths at once, but most of them are no jumps where rates are stiff.
    """
    from sciflow.core.grids import Physical
    from sciflow.core.markov import stationary
    from sciflow.core.sampler import Sampler
    from sciflow.core.state import Layout, State
    from sciflow.processes.jump import Chain, KnownRates
    from sciflow.solvers.gillespie import Gillespie
    from sciflow.solvers.uniformisation import Uniformisation

    process, exits = Chain(F), -F.diagonal()
    at_once = len(first) * float(exits.max()) < FEW_PATHS * float(stationary(F) @ exits)  # events against jumps
    moves = math.ceil(len(first) * end * float(exits.max()) / MOST_EVENTS) if at_once else 1
    solver = Uniformisation(record=True) if at_once else Gillespie(record=True)
    sampler = Sampler({"s": process}, {"s": solver}, Physical(0.0, end))
    start = State({"s": first}, {"s": Layout(len(first))})
    return sampler.run(start, KnownRates(process, F), noise, steps=moves).memory["s"].paths()
