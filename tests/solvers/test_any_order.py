"""Any-order sampling: exact in law on Toy A by enumeration and by simulation; lengths, in-painting, noise, refusals."""

from __future__ import annotations

import itertools

import pytest
import torch
from stats import FALSE_ALARM, chi_square, total_variation
from token_toy import (
    CLEAN,
    DENOISER,
    F64,
    FIELD,
    LENGTH,
    MASK,
    P_PRE,
    SMOOTHED,
    TableDenoiser,
    any_order_law,
    codes,
    masked_state,
    oracle,
)

from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.kernels import Categorical
from sciflow.core.noise import Fresh, PerSample
from sciflow.core.process import Prediction
from sciflow.core.sampler import Sampler
from sciflow.core.solver import drive_one
from sciflow.core.state import Layout, State
from sciflow.processes.masked import Masked
from sciflow.solvers.any_order import AnyOrder, random_positions

DRAWS = 20_000
GRID = Uniform(1.0, 0.0)


def simulate(state: State, denoise, steps: int, noise=None, record=False):
    sampler = Sampler({FIELD: denoise.process}, {FIELD: AnyOrder()}, GRID)
    return sampler.run(state, denoise, noise or Fresh(1), steps=steps, record=record)


def counts(x) -> torch.Tensor:
    return codes(x, 3).bincount(minlength=27)


def test_enumerated_law_is_exact_one_token_at_a_time_only():
    """drakes.md section 12 item 4: any-order TV = 0; independent draws of 2 or 3 tokens are biased."""
    assert total_variation(any_order_law(DENOISER), P_PRE) < 1e-15
    gaps = [total_variation(any_order_law(DENOISER, count), P_PRE) for count in (2, 3)]
    assert 0.05 < gaps[0] < gaps[1] == pytest.approx(0.221007, abs=1e-6)


@pytest.mark.parametrize("steps, per_move", [(3, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("table", [DENOISER, SMOOTHED], ids=["exact", "smoothed"])
def test_simulation_has_the_enumerated_law(table, steps, per_move):
    """Chi-square on 27 sequences, false alarm 1e-5 each. 2 steps on 3 tokens: round(1.5) = 2 stay, so 1, then 2."""
    x = simulate(masked_state(DRAWS, 3, 3), TableDenoiser(table), steps).state[FIELD]
    if steps == 2:
        law = law_of_one_then_two(table)
    else:
        law = any_order_law(table, per_move)
    assert chi_square(counts(x), law) > FALSE_ALARM


def law_of_one_then_two(table):
    from token_toy import clean_part, event_matrix, start_law

    return clean_part(start_law(table) @ event_matrix(table, 1) @ event_matrix(table, 2), 3, 3)


def test_wrong_numbers_per_move_would_be_seen():
    """Power: two tokens at once differ from one at a time far beyond the test's limit."""
    x = simulate(masked_state(DRAWS, 3, 3), oracle, 2).state[FIELD]
    assert chi_square(counts(x), P_PRE) < FALSE_ALARM


@pytest.mark.parametrize("length, steps", [(200, 200), (200, 50), (7, 7), (7, 3), (5, 12)])
def test_numbers_revealed_per_move(length, steps):
    """L/steps tokens per move, to within rounding; exactly one where steps = L; nothing masked at the end."""
    flat = TableDenoiser(torch.full((1, length, 4), 0.25, dtype=F64), Masked(4, "data"))
    flat.data = lambda x: flat.table.expand(len(x), length, 4)  # a table of all states would be too large
    solution = simulate(masked_state(2, 4, length), flat, steps, record=True)
    left = torch.stack([(state[FIELD] == 4).sum(1) for state in solution.path])
    revealed = -left.diff(dim=0)
    assert solution.evaluations == steps and bool((left[-1] == 0).all())
    assert bool((revealed >= 0).all()) and int(revealed.max()) <= -(-length // steps) + (length % steps > 0)
    if length % steps == 0:
        assert bool((revealed == length // steps).all())


def test_known_tokens_stay_and_the_rest_has_the_conditional_law():
    """In-painting: x1 = 2 known from the start, 3 steps; chi-square on 9 states, false alarm 1e-5."""
    start = masked_state(DRAWS, 3, 3)
    start[FIELD][:, 1] = 2
    x = simulate(start, oracle, 3).state[FIELD]
    assert bool((x[:, 1] == 2).all())
    law = torch.where(CLEAN[:, 1] == 2, P_PRE, torch.zeros_like(P_PRE))
    assert chi_square(counts(x), law / law.sum()) > FALSE_ALARM


def test_short_samples_finish_with_the_long_ones_and_padding_is_left_alone():
    mask = torch.tensor([[1.0] * 6, [1.0] * 2 + [0.0] * 4])
    x = torch.full((2, 6), 4)
    flat = TableDenoiser(torch.full((1, 6, 4), 0.25, dtype=F64), Masked(4, "data"))
    flat.data = lambda x: flat.table.expand(len(x), 6, 4)
    state = State({FIELD: x}, {FIELD: Layout(2, mask=mask, sizes=(6, 2))})
    path = simulate(state, flat, 6, record=True).path
    assert bool((path[-1][FIELD][1, 2:] == 4).all()) and bool((path[-1][FIELD][mask > 0] < 4).all())
    left = [int((s[FIELD][1, :2] == 4).sum()) for s in path]
    assert left[0] == 2 and left[-1] == 0 and sorted(left, reverse=True) == left and left[3] == 1


def test_every_subset_is_equally_likely():
    """Of 4 masked positions among 5, two are chosen: 6 pairs; chi-square, false alarm 1e-5."""
    masked = torch.tensor([True, True, False, True, True]).expand(DRAWS, 5)
    chosen = random_positions(masked, torch.full((DRAWS,), 2), Fresh(5))
    assert bool((chosen.sum(1) == 2).all()) and not bool(chosen[:, 2].any())
    numbers = (chosen.long() * (2 ** torch.arange(5))).sum(1).bincount(minlength=32)
    law = torch.zeros(32, dtype=F64)
    for a, b in itertools.combinations([0, 1, 3, 4], 2):
        law[2**a + 2**b] = 1 / 6
    assert chi_square(numbers, law) > FALSE_ALARM


def test_the_kernel_is_random_in_the_chosen_positions_only():
    """What SVDD's candidates and enumeration rely on: children of ONE position, never a mask there."""

    def predict(query):
        return Prediction(oracle.data(query.x), "data", oracle.process, query.x, query.t, Layout(len(query.x)))

    x, clock = torch.full((50, 3), MASK), torch.tensor(1.0, dtype=F64)
    kernel, _ = drive_one(AnyOrder().step(oracle.process, x, clock, clock * 2 / 3, Layout(50), None, Fresh(3)), predict)
    assert isinstance(kernel, Categorical)
    random = kernel.probs.max(-1).values < 1
    assert bool((random.sum(1) == 1).all()) and len(random.unique(dim=0)) == LENGTH
    assert kernel.probs[..., MASK][random].max() == 0
    assert bool((kernel.probs[..., MASK][~random] == 1).all())


def test_a_sample_does_not_depend_on_its_batch():
    noise = PerSample(seed=3)
    batch = simulate(masked_state(8, 3, 3), oracle, 3, noise).state[FIELD]
    alone = simulate(masked_state(1, 3, 3), oracle, 3, PerSample(seed=3, samples=5)).state[FIELD]
    assert torch.equal(batch[5:6], alone) and len(batch.unique(dim=0)) > 1


def test_relaxed_tokens_have_the_same_law():
    """Float one-hot fields (for gradients): straight-through draws are one-hot; chi-square, false alarm 1e-5."""
    masks = torch.nn.functional.one_hot(torch.full((DRAWS, 3), MASK), 4).to(F64)
    x = simulate(State({FIELD: masks}, {FIELD: Layout(DRAWS)}), oracle, 3).state[FIELD]
    assert bool(((x == 0) | (x == 1)).all()) and x[..., MASK].max() == 0
    assert chi_square(counts(x.argmax(-1)), P_PRE) > FALSE_ALARM


def test_ragged_fields_are_refused():
    state = State({FIELD: torch.full((4,), MASK)}, {FIELD: Layout(2, torch.tensor([0, 0, 1, 1]))})
    with pytest.raises(UserError, match="ragged one; use Ancestral"):
        simulate(state, oracle, 2)
