"""Chains with known answers for the tests of jump processes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciflow.core.grids import Physical
from sciflow.core.jump_paths import JumpPaths
from sciflow.core.markov import generator
from sciflow.core.noise import Fresh, Noise
from sciflow.core.sampler import Sampler, Solution
from sciflow.core.solver import Solver
from sciflow.core.state import Layout, State
from sciflow.processes.jump import Jump, KnownRates

F64 = torch.float64


def ratchet(v: float = 1.0, r: float = 1.0, b: float = 1.0) -> Tensor:
    """Discrete flashing ratchet (fim_mjp.md, section 8a): on-states 0-2, off-states 3-5."""
    rates = torch.zeros(6, 6, dtype=F64)
    for i in range(3):
        for j in range(3):
            rates[i, j], rates[3 + i, 3 + j] = math.exp(-v * (j - i) / 2), b
        rates[i, 3 + i] = rates[3 + i, i] = r
    return generator(rates)


def random_chain(states: int, seed: int, scale: float = 1.0) -> Tensor:
    """A generator with uniform rates."""
    rates = torch.rand(states, states, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return scale * generator(rates)


def simulate(
    solver: Solver,
    start: Tensor,
    rates,
    end: float = 1.0,
    steps: int = 1,
    noise: Noise | None = None,
) -> Solution:
    """A run of the one sampler with known rates on [0, end]."""
    process = Jump(len(rates) if isinstance(rates, Tensor) else 2)
    sampler = Sampler({"s": process}, {"s": solver}, Physical(0.0, end))
    state = State({"s": start}, {"s": Layout(len(start))})
    return sampler.run(state, KnownRates(process, rates), noise or Fresh(1), steps=steps)


def jumps_of(paths: JumpPaths, states: int) -> Tensor:
    """Number of jumps i -> j of each path (B, S, S), by one-hot counting."""
    before, after = paths.states[:, :-1], paths.states[:, 1:]
    pairs = torch.nn.functional.one_hot(before * states + after, states**2).to(F64) * (before != after)[..., None]
    return pairs.sum(1).reshape(-1, states, states)


def dwell_of(paths: JumpPaths, states: int) -> Tensor:
    """Time of each path in each state (B, S)."""
    return (torch.nn.functional.one_hot(paths.states[:, :-1], states) * paths.times.diff(dim=1)[..., None]).sum(1)
