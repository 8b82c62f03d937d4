"""First-hitting sampling: exact for any grid and schedule, one call per event, own clocks."""

from __future__ import annotations

import pytest
import torch
from stats import FALSE_ALARM, Z_LIMIT, chi_square, mean_z
from token_toy import (
    CLEAN,
    DENOISER,
    F64,
    FIELD,
    MASK,
    P_PRE,
    PARTIAL,
    SMOOTHED,
    TableDenoiser,
    any_order_law,
    codes,
    masked_state,
    match,
    oracle,
)

from sciflow.core.errors import UserError
from sciflow.core.grids import Explicit, Uniform
from sciflow.core.noise import Fresh, PerSample
from sciflow.core.sampler import Sampler
from sciflow.core.state import Layout, State
from sciflow.core.survival import Cosine, LogLinear
from sciflow.processes.masked import Masked
from sciflow.solvers.first_hitting import FirstHitting

DRAWS = 20_000


def simulate(state, denoise, grid, steps, noise=None):
    return Sampler({FIELD: denoise.process}, {FIELD: FirstHitting()}, grid).run(
        state, denoise, noise or Fresh(1), steps=steps
    )


@pytest.mark.parametrize("grid, steps", [(Uniform(1.0, 0.0), 1), (Explicit([1.0, 0.9, 0.2, 0.0]), 3)], ids=["1", "3"])
@pytest.mark.parametrize("table", [DENOISER, SMOOTHED], ids=["exact", "smoothed"])
def test_terminal_law_is_that_of_any_order(grid, steps, table):
    """For any grid; chi-square on 27 sequences, false alarm 1e-5."""
    solution = simulate(masked_state(DRAWS, 3, 3), TableDenoiser(table), grid, steps)
    counts = codes(solution.state[FIELD], 3).bincount(minlength=27)
    assert chi_square(counts, any_order_law(table)) > FALSE_ALARM
    assert solution.evaluations <= 3 * steps


@pytest.mark.parametrize("survival", [LogLinear(0.0), Cosine(0.0)], ids=lambda s: type(s).__name__)
def test_law_at_an_intermediate_clock_is_the_marginal(survival):
    """All 64 partly masked states at t = 0.4, from two moves: chi-square, false alarm 1e-5."""
    process = Masked(3, "data", survival=survival)
    grid = Explicit([1.0, 0.7, 0.4])
    x = simulate(masked_state(DRAWS, 3, 3), TableDenoiser(DENOISER, process), grid, 2).state[FIELD]
    lost = survival.lost(torch.tensor(0.4, dtype=F64))
    masked = (PARTIAL == MASK).sum(1)
    law = lost**masked * (1 - lost) ** (3 - masked) * (match(3, 3) @ P_PRE)
    counts = codes(x, 4).bincount(minlength=64)
    assert chi_square(counts, law) > FALSE_ALARM
    wrong = torch.tensor(0.5, dtype=F64) ** 3 * (match(3, 3) @ P_PRE)
    assert chi_square(counts, wrong) < FALSE_ALARM or abs(float(lost) - 0.5) < 0.05  # power


def test_event_times_are_order_statistics():
    """1 - alpha at the three events: the order statistics of three uniforms, means 3/4, 1/2, 1/4; false alarm 1e-5."""
    clocks, process = [], Masked(3, "data", survival=Cosine(0.0))
    table = TableDenoiser(DENOISER, process)

    class Watch:
        def __init__(self):
            self.process = process

        def __call__(self, state, times):
            clocks.append(times[FIELD])
            return table(state, times)

    simulate(masked_state(DRAWS, 3, 3), Watch(), Uniform(1.0, 0.0), 1)
    lost = process.survival.lost(torch.stack(clocks))
    assert lost.shape == (3, DRAWS) and bool((lost.diff(dim=0) <= 0).all())
    for event, mean in zip(lost, (0.75, 0.5, 0.25), strict=True):
        assert mean_z(event, mean) < Z_LIMIT


def test_known_tokens_padding_and_batch_mates():
    start = masked_state(DRAWS, 3, 3)
    start[FIELD][:, 1] = 2
    x = simulate(start, oracle, Uniform(1.0, 0.0), 1).state[FIELD]
    law = torch.where(CLEAN[:, 1] == 2, P_PRE, torch.zeros_like(P_PRE))
    assert chi_square(codes(x, 3).bincount(minlength=27), law / law.sum()) > FALSE_ALARM

    mask = torch.tensor([[1.0, 1.0, 0.0]]).expand(4, 3)
    padded = State({FIELD: torch.full((4, 3), MASK)}, {FIELD: Layout(4, mask=mask)})
    end = simulate(padded, oracle, Uniform(1.0, 0.0), 2).state[FIELD]
    assert bool((end[:, 2] == MASK).all()) and bool((end[:, :2] < MASK).all())

    batch = simulate(masked_state(8, 3, 3), oracle, Uniform(1.0, 0.0), 2, PerSample(3)).state[FIELD]
    alone = simulate(masked_state(1, 3, 3), oracle, Uniform(1.0, 0.0), 2, PerSample(3, samples=5)).state[FIELD]
    assert torch.equal(batch[5:6], alone) and len(batch.unique(dim=0)) > 1


def test_ragged_fields_are_refused():
    state = State({FIELD: torch.full((4,), MASK)}, {FIELD: Layout(2, torch.tensor([0, 0, 1, 1]))})
    with pytest.raises(UserError, match="ragged one; use Ancestral"):
        simulate(state, oracle, Uniform(1.0, 0.0), 1)
