"""SVDD and enumeration on Toy A against exact laws by enumeration and the golden table of svdd.md, section 9.

The law of SVDD with M candidates is known: per state and position a sum over all multinomial counts of the children.
The sampler is tested against that law (chi-square), the law against the golden figures. Every statistical test has a
false-alarm rate <= 1e-5 (see stats.py) and a fixed seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from stats import FALSE_ALARM, chi_square, total_variation
from token_toy import (
    ALPHA,
    CLEAN,
    DENOISER,
    F64,
    FIELD,
    MASK,
    P_PRE,
    P_STAR,
    PARTIAL,
    REWARD,
    SOFT_VALUE,
    any_order_law,
    clean_part,
    codes,
    event_matrix,
    masked_state,
    match,
    oracle,
    reward,
    start_law,
)
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.hooks import Hook
from sciflow.core.noise import Noise, PerSample
from sciflow.core.row_cache import RowCache
from sciflow.core.sampler import Sampler
from sciflow.core.state import State
from sciflow.core.values import LearnedValue, PosteriorMean, PosteriorSamples, Value
from sciflow.guidance.enumeration import Enumeration, tilt_of_values
from sciflow.guidance.svdd import SVDD
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.any_order import AnyOrder

MEAN_VALUE = (match(3, 3) @ (P_PRE * REWARD)) / (match(3, 3) @ P_PRE)  # E[r | x_t]: what least squares learns
PLUG_IN = REWARD[codes(torch.where(PARTIAL == MASK, DENOISER.argmax(-1), PARTIAL), 3)]  # r(most probable completion)
VALUES = {"exact": SOFT_VALUE, "mean": MEAN_VALUE, "plug-in": PLUG_IN}


def tabulated(values: Tensor) -> Value:
    return LearnedValue(lambda state, signals: {"value": values[codes(state[FIELD])]})


def sample(hooks: list[Hook], count: int, noise: Noise | None = None, solver=None) -> Tensor:
    """Sequences (count, 3), one token per move."""
    sampler = Sampler({FIELD: oracle.process}, {FIELD: solver or AnyOrder()}, Uniform(end=0.0), hooks=hooks)
    return sampler.run(masked_state(count, 3, 3), oracle, noise or PerSample(1), steps=3).state[FIELD]


def counts(hook: Hook, count: int, **more) -> Tensor:
    return torch.bincount(codes(sample([hook], count, **more), 3), minlength=27)


# ---------------------------------------------------------------- exact laws


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `total` as an ordered sum."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in compositions(total - first, parts - 1):
            yield (first, *rest)


def chosen_law(p: Tensor, values: Tensor, candidates: int, alpha: float) -> Tensor:
    """Law of the child that goes on when `candidates` draws from p are weighed by exp(value/alpha)."""
    n = torch.tensor(list(compositions(candidates, len(p))), dtype=F64)
    log_probability = math.lgamma(candidates + 1) - torch.lgamma(n + 1).sum(1) + torch.xlogy(n, p).sum(1)
    if alpha == 0:
        best = torch.where(n > 0, values, -torch.inf).amax(1, keepdim=True)
        weights = n * (values == best)
    else:
        weights = n * ((values - values.max()) / alpha).exp()
    return (log_probability.exp()[:, None] * weights / weights.sum(1, keepdim=True)).sum(0)


def svdd_law(values: Tensor, candidates: int, alpha: float, own_positions: bool = False) -> Tensor:
    """Law (27,) of SVDD on Toy A.

    Args:
        values: (64,) of the partial states.
        candidates: M.
        alpha: Temperature.
        own_positions: Every candidate draws its own position, as in the prototype of svdd.md; ours share one position.
    """
    matrix = torch.zeros(64, 64, dtype=F64)
    for number, x in enumerate(PARTIAL):
        positions = (x == MASK).nonzero()[:, 0].tolist()
        if not positions:
            matrix[number, number] = 1
            continue
        children = x.repeat(len(positions), 3, 1)
        for row, i in enumerate(positions):
            children[row, :, i] = torch.arange(3)
        to, p = codes(children), DENOISER[number, positions]  # (positions, 3)
        groups = [(to.flatten(), p.flatten())] if own_positions else list(zip(to, p, strict=True))
        for child, probability in groups:
            law = chosen_law(probability / probability.sum(), values[child], candidates, alpha)
            matrix[number].index_add_(0, child, law / len(groups))
    law = start_law(DENOISER)
    for _ in range(3):
        law = law @ matrix
    return clean_part(law, 3, 3)


def mean_reward(law: Tensor) -> float:
    return float(law @ REWARD)


# svdd.md, section 9: (value, M, alpha, TV to p*, E r); 40 000 chains of a prototype, error of a TV about 0.005
GOLDEN = [
    ("exact", 1, ALPHA, 0.645, 0.714),
    ("exact", 2, ALPHA, 0.439, 1.160),
    ("exact", 4, ALPHA, 0.229, 1.569),
    ("exact", 8, ALPHA, 0.110, 1.840),
    ("exact", 32, ALPHA, 0.029, 2.036),
    ("exact", 128, ALPHA, 0.011, 2.071),
    ("mean", 128, ALPHA, 0.071, 1.972),
]


@pytest.mark.golden
@pytest.mark.parametrize(("value", "candidates", "alpha", "distance", "mean"), GOLDEN)
def test_exact_law_reproduces_the_golden_table(value: str, candidates: int, alpha: float, distance: float, mean: float):
    """Tolerance 0.01 (2 standard errors) for the TV, 0.015 for E r (standard error 0.005)."""
    law = svdd_law(VALUES[value], candidates, alpha)
    assert total_variation(law, P_STAR) == pytest.approx(distance, abs=0.01)
    assert mean_reward(law) == pytest.approx(mean, abs=0.015)


@pytest.mark.golden
def test_greedy_figure_is_that_of_candidates_with_positions_of_their_own():
    """The golden greedy row (M = 8: TV 0.367, E r 2.689) has a position per candidate; ours share one."""
    golden = svdd_law(SOFT_VALUE, 8, 0.0, own_positions=True)
    assert total_variation(golden, P_STAR) == pytest.approx(0.367, abs=0.01)
    assert mean_reward(golden) == pytest.approx(2.689, abs=0.01)
    ours = svdd_law(SOFT_VALUE, 8, 0.0)
    assert total_variation(ours, P_STAR) == pytest.approx(0.320, abs=1e-3)  # regression
    assert mean_reward(ours) == pytest.approx(2.630, abs=1e-3)


@pytest.mark.golden
def test_plug_in_figure():
    """Argmax plug-in, M = 128: TV 0.264, E r 1.667 with own positions (tilted limit below), 0.235, 1.604 with one."""
    ours = svdd_law(PLUG_IN, 128, ALPHA)
    assert total_variation(ours, P_STAR) == pytest.approx(0.2351, abs=1e-3)
    assert mean_reward(ours) == pytest.approx(1.6035, abs=1e-3)
    weights = event_matrix(DENOISER) * (PLUG_IN / ALPHA).exp()  # M -> infinity: position and token are tilted together
    law = start_law(DENOISER)
    for _ in range(3):
        law = law @ (weights / weights.sum(1, keepdim=True))
    law = clean_part(law, 3, 3)
    assert total_variation(law, P_STAR) == pytest.approx(0.264, abs=0.015)
    assert mean_reward(law) == pytest.approx(1.667, abs=0.02)


def test_total_variation_falls_with_the_number_of_candidates():
    distances = [total_variation(svdd_law(SOFT_VALUE, m, ALPHA), P_STAR) for m in (1, 2, 4, 8, 32, 128)]
    assert all(later < 0.75 * earlier for earlier, later in zip(distances[:-1], distances[1:], strict=True))
    assert distances[-1] < 0.02


# ---------------------------------------------------------------- the sampler follows the laws

CASES = [("exact", m, ALPHA) for m in (1, 2, 4, 8, 32)] + [
    ("exact", 8, 0.0),
    ("mean", 16, ALPHA),
    ("plug-in", 8, ALPHA),
]


@pytest.mark.parametrize(("value", "candidates", "alpha"), CASES)
def test_samples_follow_the_exact_law(value: str, candidates: int, alpha: float):
    """Chi-square, false-alarm rate 1e-5; the law of twice the candidates is refused (power)."""
    drawn = counts(SVDD(tabulated(VALUES[value]), candidates, alpha), 20_000)
    assert chi_square(drawn, svdd_law(VALUES[value], candidates, alpha)) > FALSE_ALARM
    if candidates < 32:
        assert chi_square(drawn, svdd_law(VALUES[value], 2 * candidates, alpha)) < FALSE_ALARM


def test_posterior_mean_is_the_plug_in():
    """`PosteriorMean` on the exact denoiser has the law of the tabulated plug-in values."""
    value = PosteriorMean(lambda clean: reward(clean[FIELD]))
    assert chi_square(counts(SVDD(value, 8, ALPHA), 20_000), svdd_law(PLUG_IN, 8, ALPHA)) > FALSE_ALARM


@pytest.mark.slow
@pytest.mark.parametrize(("value", "candidates", "alpha", "distance", "mean"), GOLDEN)
def test_golden_table_by_sampling(value: str, candidates: int, alpha: float, distance: float, mean: float):
    """40 000 chains; tolerance 0.01 for the sampling error of either side plus 0.01 for one shared position."""
    law = counts(SVDD(tabulated(VALUES[value]), candidates, alpha), 40_000).to(F64) / 40_000
    assert total_variation(law, P_STAR) == pytest.approx(distance, abs=0.02)
    assert mean_reward(law) == pytest.approx(mean, abs=0.02)


def test_infinite_temperature_is_the_unguided_law():
    drawn = counts(SVDD(tabulated(SOFT_VALUE), 8, 1e6), 20_000)
    assert chi_square(drawn, any_order_law(DENOISER)) > FALSE_ALARM


def test_one_candidate_is_the_base_sampler_to_the_bit():
    assert torch.equal(sample([SVDD(tabulated(SOFT_VALUE), 1, ALPHA)], 500), sample([], 500))


def test_ties_are_decided_by_lot():
    """Only token 0 is worse: with alpha = 0 and p the law of the candidates, tokens 1 and 2 go on evenly in p."""
    values = torch.zeros(64, dtype=F64)
    values[(PARTIAL == 0).any(1)] = -1
    law = svdd_law(values, 4, 0.0)
    assert chi_square(counts(SVDD(tabulated(values), 4, 0.0), 20_000), law) > FALSE_ALARM
    first_of_best = values + 1e-9 * torch.arange(64)  # a fixed preference among equals
    assert chi_square(counts(SVDD(tabulated(values), 4, 0.0), 20_000), svdd_law(first_of_best, 4, 0.0)) < FALSE_ALARM


def test_nan_rewards_are_chosen_only_if_there_is_nothing_else():
    """A third of the sequences has no reward: one of the three children of every last position."""
    nan = torch.where(CLEAN.sum(1) % 3 == 0, torch.nan, REWARD)

    def network(state: State, signals) -> dict[str, Tensor]:
        return {"value": SOFT_VALUE[codes(state[FIELD])]}

    value = LearnedValue(network, lambda clean: nan[codes(clean[FIELD], 3)])
    assert not nan[codes(sample([Enumeration(value, ALPHA)], 3_000), 3)].isnan().any()
    worst = SOFT_VALUE.clone()
    worst[codes(CLEAN)] = torch.where(nan.isnan(), -20.0, REWARD)  # all candidates alike: taken with p^M
    assert chi_square(counts(SVDD(value, 3, ALPHA), 20_000), svdd_law(worst, 3, ALPHA)) > FALSE_ALARM


@pytest.mark.parametrize("rows", [1, 7, None])
def test_chunks_and_deduplication_change_nothing(rows: int | None):
    """The row cache consumes no random numbers, so the samples are the same to the bit."""
    value = PosteriorSamples(lambda clean: reward(clean[FIELD]), 4, ALPHA)
    plain = sample([SVDD(value, 4, ALPHA)], 40)
    cache = RowCache(clock_free=True, rows=rows)
    assert torch.equal(sample([cache, SVDD(value, 4, ALPHA)], 40), plain)
    assert cache.asked == 3 * 40 + 2 * 4 * 40  # one solver call per move; no value call at clock 0
    assert (
        cache.evaluated <= 1 + 3 * 40 * 2
    )  # one fully masked row; at most three children of 40 parents per value call


# ---------------------------------------------------------------- enumeration


def test_bellman_identity():
    """exp(V/alpha) is the mean of exp(V/alpha) over any one position's children (rate invariance)."""
    weights = (SOFT_VALUE / ALPHA).exp()
    assert torch.allclose(event_matrix(DENOISER) @ weights, weights, rtol=1e-12, atol=0)


def test_enumeration_with_exact_values_samples_the_target():
    """No bias from M: 20 000 chains pass chi-square against p* itself and lie within TV 0.02."""
    drawn = counts(Enumeration(tabulated(SOFT_VALUE), ALPHA), 20_000)
    assert chi_square(drawn, P_STAR) > FALSE_ALARM
    assert total_variation(drawn / drawn.sum(), P_STAR) < 0.02
    assert chi_square(drawn, svdd_law(SOFT_VALUE, 32, ALPHA)) < FALSE_ALARM  # power: M = 32 is refused


def tilted_law(values: Tensor, alpha: float) -> Tensor:
    """Exact law of enumeration: the limit of SVDD with one position for all candidates."""
    factors = DENOISER.clone()
    for number, x in enumerate(PARTIAL):
        for i in (x == MASK).nonzero()[:, 0].tolist():
            children = x.repeat(3, 1)
            children[:, i] = torch.arange(3)
            factors[number, i] = (DENOISER[number, i].log() + values[codes(children)] / alpha).softmax(0)
    return any_order_law(factors)


def test_enumeration_with_plug_in_values():
    drawn = counts(Enumeration(PosteriorMean(lambda clean: reward(clean[FIELD])), ALPHA), 20_000)
    assert chi_square(drawn, tilted_law(PLUG_IN, ALPHA)) > FALSE_ALARM


def test_enumeration_at_zero_temperature_takes_the_best_child():
    """From exact values the best child leads to the best sequence; equal children go by p."""
    assert (sample([Enumeration(tabulated(SOFT_VALUE), 0.0)], 200) == CLEAN[REWARD.argmax()]).all()
    level = torch.zeros(64, dtype=F64)
    assert chi_square(counts(Enumeration(tabulated(level), 0.0), 20_000), P_PRE) > FALSE_ALARM


def test_tilt_of_values():
    drawn = torch.tensor([[True, True, True, False], [False] * 4, [True, True, False, False]])
    values = torch.tensor([[0.0, math.log(2), math.nan, 9.0], [0.0] * 4, [math.nan, -math.inf, 0.0, 0.0]], dtype=F64)
    tilt = tilt_of_values(values, drawn, 0.5)
    assert torch.allclose(tilt[0].softmax(0), torch.tensor([1, 4, 0, 0], dtype=F64) / 5)
    assert torch.equal(tilt[1:], torch.zeros(2, 4, dtype=F64))  # no choice; nothing but NaN: unguided
    greedy = tilt_of_values(torch.tensor([[1.0, 1.0, 0.5, 3.0]], dtype=F64), drawn[:1], 0.0)
    assert greedy.tolist() == [[0.0, 0.0, -math.inf, -math.inf]]


def test_enumeration_scores_each_possible_child_once_per_move():
    """The mask is no child: 3 copies of the batch, not 4."""
    seen = []

    def value(state: State, signals) -> dict[str, Tensor]:
        seen.append(state.batch)
        return {"value": SOFT_VALUE[codes(state[FIELD])]}

    sample([Enumeration(LearnedValue(value), ALPHA)], 10)
    assert seen == [30, 30, 30]


def test_enumeration_refuses_moves_of_several_tokens():
    with pytest.raises(UserError, match="random in 3 positions.*AnyOrder"):
        sample([Enumeration(tabulated(SOFT_VALUE), ALPHA)], 10, solver=Ancestral())


def test_sample_does_not_depend_on_its_batch():
    for hook in (SVDD(tabulated(SOFT_VALUE), 4, ALPHA), Enumeration(tabulated(SOFT_VALUE), ALPHA)):
        together = sample([hook], 64, PerSample(7))
        for i in (0, 17, 63):
            assert torch.equal(sample([hook], 1, PerSample(7, torch.tensor([i])))[0], together[i])
