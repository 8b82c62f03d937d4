"""Gillespie and tau-leaping: clocks, masks, several sites, absorbing states, refusals, the three-token toy."""

from __future__ import annotations

import pytest
import torch
from oracles import F64, FIELD, RATES, JumpOracle, f64
from stats import FALSE_ALARM, chi_square, order, total_variation
from token_toy import (
    DENOISER,
    MASK,
    P_PRE,
    PARTIAL,
    TableDenoiser,
    codes,
    factor_matrix,
    masked_state,
    match,
    start_law,
)

from sciflow.core.errors import UserError
from sciflow.core.grids import Physical, Uniform
from sciflow.core.noise import Fresh
from sciflow.core.process import Prediction
from sciflow.core.sampler import Sampler
from sciflow.core.solver import drive_one
from sciflow.core.state import Layout, State
from sciflow.core.survival import Cosine, LogLinear
from sciflow.processes.jump import Jump
from sciflow.processes.masked import Masked
from sciflow.solvers.gillespie import Gillespie
from sciflow.solvers.tau_leap import TauLeap

PROCESS = Jump(3)


def simulate(solver, x, rates=RATES, layout=None, end: float = 1.0, steps: int = 1, watch=None):
    """Final state; `watch` receives the clocks of each call."""
    oracle = JumpOracle(PROCESS, rates)

    def denoise(state, clocks):
        if watch is not None:
            watch.append(clocks[FIELD])
        return oracle(state, clocks)

    state = State({FIELD: x}, {FIELD: layout or Layout(len(x))})
    return Sampler({FIELD: PROCESS}, {FIELD: solver}, Physical(0.0, end)).run(state, denoise, Fresh(1), steps=steps)


def test_each_sample_has_its_own_clock_that_only_runs_forward():
    clocks = []
    solution = simulate(Gillespie(), torch.zeros(50, dtype=torch.long), watch=clocks)
    assert solution.evaluations == len(clocks) > 3 and bool((clocks[0] == 0).all())
    alive = [len(one) for one in clocks]
    assert alive[0] == 50 and alive == sorted(alive, reverse=True) and alive[-1] < 50  # who has arrived leaves
    assert all(bool(((one > 0) & (one < 1)).all()) and len(one.unique()) == len(one) for one in clocks[1:])
    earliest = torch.stack([one.min() for one in clocks])
    assert bool((earliest.diff() > 0).all())


@pytest.mark.parametrize("solver, steps", [(Gillespie(), 1), (TauLeap(), 200)], ids=["Gillespie", "TauLeap"])
def test_sites_jump_independently(solver, steps):
    """Two sites with the same rates: the joint law is the product; chi-square on 9 states, false alarm 1e-5.

    200 leaps are within 0.0007 of the law per site, below what 10 000 draws resolve.
    """
    x = torch.zeros(10_000, 2, dtype=torch.long)
    x[:, 1] = 2
    end = simulate(solver, x, end=0.7, steps=steps).state[FIELD]
    law = torch.linalg.matrix_exp(RATES * 0.7)
    counts = (end[:, 0] * 3 + end[:, 1]).bincount(minlength=9)
    assert chi_square(counts, law[0][:, None] * law[2]) > FALSE_ALARM
    assert chi_square(counts, law[0][:, None] * law[0]) < FALSE_ALARM  # power


def test_padding_does_not_jump():
    mask = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    x = torch.zeros(2, 2, dtype=torch.long)
    end = simulate(Gillespie(), x, layout=Layout(2, mask=mask), end=50.0).state[FIELD]
    assert int(end[0, 1]) == 0


def test_absorbing_state_stays():
    rates = f64([[-5.0, 5.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    for solver in (Gillespie(), TauLeap()):
        end = simulate(solver, torch.tensor([0, 1, 2]), rates, end=100.0).state[FIELD]
        assert end.tolist() == [1, 1, 2]


@pytest.mark.parametrize("solver", [Gillespie(), TauLeap()], ids=lambda s: type(s).__name__)
def test_the_rate_to_the_present_state_is_ignored(solver):
    """Whatever a network puts there: the same draws give the same states."""
    garbage, x = RATES - torch.diag(RATES.diag()) + 7 * torch.eye(3, dtype=F64), torch.zeros(100, dtype=torch.long)
    ends = [simulate(solver, x, rates, steps=5).state[FIELD] for rates in (RATES, garbage)]
    assert torch.equal(*ends) and len(ends[0].unique()) == 3


def test_gillespie_refuses_ragged_fields_and_explosions():
    ragged = Layout(2, torch.tensor([0, 0, 1]))
    with pytest.raises(UserError, match="ragged one; use TauLeap"):
        simulate(Gillespie(), torch.zeros(3, dtype=torch.long), layout=ragged)
    with pytest.raises(UserError, match="more than 20 events"):
        simulate(Gillespie(max_events=20), torch.zeros(3, dtype=torch.long), RATES * 1000)


def test_tau_leap_probabilities_by_hand():
    """State 1 has rates 0.3 and 0.5: stays with exp(-0.8 h), else 3 : 5; also for ragged rows."""
    layout, x, h = Layout(2, torch.tensor([0, 0, 1])), torch.tensor([1, 0, 1]), f64(0.25)
    pred = Prediction(RATES[x], "rates", PROCESS, x, f64(0.0), layout)
    kernel, _ = TauLeap().kernel(PROCESS, x, pred, f64(0.0), h, layout, None)
    stay = torch.exp(f64(-0.8 * 0.25))
    torch.testing.assert_close(kernel.probs[0], torch.stack([(1 - stay) * 3 / 8, stay, (1 - stay) * 5 / 8]))
    torch.testing.assert_close(kernel.probs.sum(-1), torch.ones(3, dtype=F64))


# ---------------------------------------------------------------- Toy A: masked tokens, exact denoiser

END = 0.1
SURVIVALS = [LogLinear(0.0), Cosine(0.0)]


def toy_truth(survival) -> torch.Tensor:
    """Law of the 64 partly masked states at the last clock."""
    lost, masked = survival.lost(f64(END)), (PARTIAL == MASK).sum(1)
    return lost**masked * (1 - lost) ** (3 - masked) * (match(3, 3) @ P_PRE)


@pytest.mark.parametrize("survival", SURVIVALS, ids=lambda s: type(s).__name__)
def test_tau_leaping_has_the_law_of_the_masked_toy_to_first_order(survival):
    """Exact laws on 64 states by enumeration; the fitted order is within 0.15 of 1."""
    denoiser, steps, gaps = TableDenoiser(DENOISER, Masked(3, "data", survival=survival)), [100, 200], []

    def predict(query):
        return Prediction(denoiser.data(query.x), "data", denoiser.process, query.x, query.t, Layout(64))

    for moves in steps:
        law = start_law(DENOISER)
        for t, s in Uniform(1.0, END).moves(moves):
            step = TauLeap().step(denoiser.process, PARTIAL, f64(t), f64(s), Layout(64), None, None)  # type: ignore[arg-type]
            law = law @ factor_matrix(drive_one(step, predict)[0].probs)  # type: ignore[attr-defined]
        gaps.append(total_variation(law, toy_truth(survival)))
    assert abs(order(steps, gaps) - TauLeap.order) < 0.15 and gaps[-1] < 0.01, gaps


@pytest.mark.parametrize("solver, steps", [(TauLeap(), 300), (Gillespie(), 100)], ids=["TauLeap", "Gillespie"])
def test_simulation_of_the_masked_toy(solver, steps):
    """Chi-square on 64 states, false alarm 1e-5; the bias of these moves (TV < 0.006) is below what 5000 draws see."""
    denoiser = TableDenoiser(DENOISER)
    sampler = Sampler({FIELD: denoiser.process}, {FIELD: solver}, Uniform(1.0, END))
    named = TableDenoiser(DENOISER, field=FIELD)
    x = sampler.run(masked_state(5000, 3, 3, FIELD), named, Fresh(4), steps=steps).state[FIELD]
    counts = codes(x).bincount(minlength=64)
    assert chi_square(counts, toy_truth(LogLinear(0.0))) > FALSE_ALARM
    assert chi_square(counts, toy_truth(Cosine(0.0))) < FALSE_ALARM  # power: another schedule
