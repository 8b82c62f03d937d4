"""Uniformisation as a solver: the law of the chain, its paths, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from markov_toy import F64, ratchet
from stats import FALSE_ALARM, chi_square

from sciflow.core.config import from_config, to_config
from sciflow.core.errors import UserError
from sciflow.core.grids import Physical, Uniform
from sciflow.core.markov import generator, stationary, transition_matrices
from sciflow.core.noise import Fresh, Noise, PerSample
from sciflow.core.sampler import Sampler
from sciflow.core.state import Layout, State
from sciflow.processes.jump import Chain, Jump, KnownRates
from sciflow.solvers.gillespie import Gillespie
from sciflow.solvers.uniformisation import Uniformisation

CHAIN = Chain(ratchet().tolist())


def simulate(
    start: torch.Tensor, end: float, steps: int = 1, noise: Noise | None = None, chain: Chain = CHAIN, solver=None
):
    sampler = Sampler({"s": chain}, {"s": solver or Uniformisation(record=True)}, Physical(0.0, end))
    state = State({"s": start}, {"s": Layout(len(start))})
    return sampler.run(state, KnownRates(chain, chain.generator), noise or Fresh(0), steps=steps)


def test_law_at_two_times():
    """Joint law at 0.4 and 1: chi-square on 36 states, false alarm 1e-5; no network call."""
    solution = simulate(torch.zeros(20_000, dtype=torch.long), 1.0)
    states = solution.memory["s"].paths().on_grid(torch.tensor([0.4, 1.0], dtype=F64))
    P = transition_matrices(ratchet(), torch.tensor([0.4, 0.6], dtype=F64))
    counts = (states @ torch.tensor([6, 1])).bincount(minlength=36)
    assert chi_square(counts, P[0, 0][:, None] * P[1]) > FALSE_ALARM
    assert chi_square(counts, P[1, 0][:, None] * P[0]) < FALSE_ALARM
    assert torch.equal(states[:, 1], solution.state["s"]) and solution.evaluations == 0


def test_one_long_path_gives_the_rates_back():
    """14 000 jumps of one path in three moves: n_ij/T_i with variance F_ij/T_i, z below 5.1 (30 rates: 1e-5); the
    number of jumps against Gillespie's method."""
    paths = simulate(torch.tensor([3]), 5000.0, steps=3).memory["s"].paths()
    jumps, dwell = paths.statistics(6)
    z = (jumps / dwell[:, None] - ratchet()) / (ratchet().clamp_min(1e-300) / dwell[:, None]).sqrt()
    assert float(z[~torch.eye(6, dtype=torch.bool)].abs().max()) < 5.1
    assert bool((paths.times.diff(dim=1) >= 0).all()) and float(dwell.sum()) == pytest.approx(5000)
    law = stationary(ratchet())
    start = torch.multinomial(law, 4000, True, generator=torch.Generator().manual_seed(1))
    many, other = (simulate(start, 2.5, solver=s).memory["s"].paths() for s in (None, Gillespie(record=True)))
    first, second = ((one.lengths - 2).double() for one in (many, other))
    spread = math.sqrt((float(first.var()) + float(second.var())) / 4000)
    assert abs(float(first.mean() - second.mean())) < 4.42 * spread


def test_absorbing_and_resting_chains():
    chain = Chain([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    end = simulate(torch.tensor([0, 1, 2]), 50.0, chain=chain).state["s"]
    assert end.tolist() == [1, 1, 2]
    still = simulate(torch.tensor([0, 1]), 1.0, chain=Chain([[0.0, 0.0], [0.0, 0.0]]))
    assert still.state["s"].tolist() == [0, 1] and still.memory["s"].paths().lengths.tolist() == [2, 2]


def test_a_path_does_not_depend_on_its_batch_mates():
    few, many = (simulate(torch.zeros(n, dtype=torch.long), 2.5, 2, PerSample(5)).memory["s"].paths() for n in (4, 40))
    width = few.times.shape[1]
    assert torch.equal(few.times, many.times[:4, :width]) and torch.equal(few.states, many.states[:4, :width])


def test_what_it_refuses():
    x = torch.zeros(2, dtype=torch.long)
    with pytest.raises(UserError, match="needs generator, which Jump does not provide; solvers that fit: Gillespie"):
        Sampler({"s": Jump(6)}, {"s": Uniformisation()}, Physical())
    with pytest.raises(UserError, match="forward in physical time"):
        state = State({"s": x}, {"s": Layout(2)})
        Sampler({"s": CHAIN}, {"s": Uniformisation()}, Uniform()).run(state, lambda s, c: {}, Fresh(0), steps=1)
    for rates, message in (
        ([[0.0, 1.0]], "square"),
        ([[0.0, -1.0], [1.0, 0.0]], "negative"),
        ([[0, 1], [math.nan, 0]], "neg"),
    ):
        with pytest.raises(UserError, match=message):
            Chain(rates)


def test_a_chain_survives_a_checkpoint():
    again = from_config(to_config(CHAIN))
    assert torch.equal(again.generator, generator(ratchet())) and "generator" in again.provides()
