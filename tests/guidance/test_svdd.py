"""SVDD against exact laws: finite M by enumeration and quadrature, the tilted law in the limit, and its bookkeeping.

Every statistical test has a false-alarm rate <= 1e-5 (see stats.py) and a fixed seed.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from oracles import F64, FIELD, GaussianOracle, f64
from stats import FALSE_ALARM, Z_LIMIT, batch_state, chi_square, mean_z

from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.hooks import Hook
from sciflow.core.noise import Fresh, Move, PerSample
from sciflow.core.process import Prediction
from sciflow.core.sampler import Sampler
from sciflow.core.schedules import VP
from sciflow.core.state import Layout, State
from sciflow.guidance.svdd import SVDD, predicted_clean, selection_weights
from sciflow.processes.gaussian import GaussianProcess
from sciflow.processes.masked import Masked
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.dpmpp import DDIM

ALPHA, MEAN, VARIANCE = 0.5, 2.0, 0.25  # reward r(x0) = x0: exact tilt N(MEAN + VARIANCE / ALPHA, VARIANCE)
PROCESS = GaussianProcess(VP(), kind="data")
ORACLE = GaussianOracle(PROCESS, MEAN, VARIANCE)


def value(clean: State) -> torch.Tensor:
    """For a linear reward the soft value is E[x0 | x_s] + a constant that cancels: the posterior mean is exact."""
    return clean[FIELD][:, 0]


def guided(batch: int, moves: int, hook: Hook, noise, samples: torch.Tensor | None = None) -> torch.Tensor:
    start = torch.zeros(batch, 1, dtype=F64)
    sampler = Sampler({FIELD: PROCESS}, {FIELD: Ancestral()}, Uniform(), hooks=[hook])
    state = sampler.prior(batch_state(start), noise)
    return sampler.run(state, ORACLE, noise, steps=moves).state[FIELD]


def tilt_of_two(slope: float) -> float:
    """E[sum_m w_m z_m] for two normals and w = softmax(slope z): E[(d/2) tanh(slope d/2)], d ~ N(0, 2)."""
    d = torch.linspace(-12, 12, 4001, dtype=F64)
    density = (-(d**2) / 4).exp() / math.sqrt(4 * math.pi)
    return float(torch.trapezoid(d / 2 * torch.tanh(slope * d / 2) * density, d))


def exact_mean(moves: int, tilt) -> float:
    """Mean of the guided chain: kernels are affine in x and values linear, so a move shifts by sd tilt(slope)."""
    mean = 0.0
    for t, s in Uniform().moves(moves):
        t, s, layout, x = f64(t), f64(s), Layout(1), f64([[mean]])
        kernel = PROCESS.posterior(x, ORACLE.data(x, t, layout), t, s, layout)
        gain = ORACLE.data(f64([[1.0]]), s, layout) - ORACLE.data(f64([[0.0]]), s, layout)
        sd = float(kernel.std)
        mean = float(kernel.mean) + sd * tilt(sd * float(gain) / ALPHA)
    return mean


def test_two_candidates_give_the_exact_mean_of_the_guided_chain():
    x = guided(20_000, 50, SVDD(value, 2, ALPHA), Fresh(1))
    assert mean_z(x, exact_mean(50, tilt_of_two)) < Z_LIMIT


def test_planted_fault_forgotten_temperature_is_caught():
    x = guided(20_000, 50, SVDD(value, 2, 1.0), Fresh(1))
    assert mean_z(x, exact_mean(50, tilt_of_two)) > 3 * Z_LIMIT


def test_many_candidates_and_steps_give_the_exactly_tilted_law():
    """Tilted exactly at each move the chain tends to the tilted law; M candidates fall short of its shift by 1/M."""
    assert exact_mean(2000, lambda slope: slope) == pytest.approx(MEAN + VARIANCE / ALPHA, abs=0.02)
    x = guided(3_000, 100, SVDD(value, 32, ALPHA), Fresh(2))
    allowed = Z_LIMIT * float(x.std()) / math.sqrt(len(x)) + VARIANCE / ALPHA / 32
    assert abs(float(x.mean()) - exact_mean(100, lambda slope: slope)) < allowed


@pytest.mark.golden
@pytest.mark.parametrize(("candidates", "published"), [(4, 2.33), (16, 2.40)])
def test_prototype_figures(candidates: int, published: float):
    """Means printed by an independent prototype (20 000 chains, s.e. 0.0033); here 8000 chains, s.e. 0.0052.

    Tolerance: rounding 0.005 + 4.42 sqrt(0.0033^2 + 0.0052^2)."""
    x = guided(8_000, 100, SVDD(value, candidates, ALPHA), Fresh(3))
    assert abs(float(x.mean()) - published) < 0.005 + Z_LIMIT * 0.0062


def test_law_of_one_token_by_enumeration():
    """One move unmasks one token; P(k) is a sum over the K^M candidate tuples. False-alarm rate 1e-5."""
    p, reward, count = f64([0.5, 0.3, 0.15, 0.05]), f64([0.0, 0.3, 1.0, -2.0]), 3
    process = Masked(4, kind="data")

    def oracle(state: State, clocks) -> dict[str, Prediction]:
        x, layout = state[FIELD], state.layouts[FIELD]
        return {FIELD: Prediction(p.expand(len(x), 1, 4), "data", process, x, clocks[FIELD], layout)}

    exact = torch.zeros(4, dtype=F64)
    for drawn in itertools.product(range(4), repeat=count):
        weight = (reward[list(drawn)] / ALPHA).softmax(0)
        exact.index_add_(0, torch.tensor(drawn), weight * p[list(drawn)].prod())
    noise = PerSample(5)
    hook = SVDD(lambda clean: reward[clean[FIELD][:, 0]], count, ALPHA)
    sampler = Sampler({FIELD: process}, {FIELD: Ancestral()}, Uniform(end=0.0), hooks=[hook])
    start = sampler.prior(State({FIELD: torch.zeros(30_000, 1, dtype=torch.long)}, {FIELD: Layout(30_000)}), noise)
    counts = torch.bincount(sampler.run(start, oracle, noise, steps=1).state[FIELD].flatten(), minlength=4)
    assert chi_square(counts, exact) > FALSE_ALARM
    assert chi_square(counts, p) < FALSE_ALARM  # power: the unguided law is refused


def test_selection_weights():
    values = f64(
        [
            [0.0, 1.0, -torch.inf, torch.nan],
            [math.log(2), 1.0, 3.0, -torch.inf],
            [math.log(3), 0.0, torch.nan, torch.nan],
        ]
    )
    assert torch.allclose(selection_weights(values, 1.0)[:, 0], f64([1, 2, 3]) / 6)
    assert torch.allclose(selection_weights(values, 0.0)[:, 1], f64([0.5, 0.5, 0]))  # a tie is decided by lot
    assert torch.equal(selection_weights(values, 0.3)[:, 2], f64([0, 1, 0]))  # NaN and -inf are never taken ...
    assert torch.allclose(selection_weights(values, 0.3)[:, 3], f64([1, 1, 1]) / 3)  # ... unless there is nothing else


def test_zero_temperature_takes_the_best_of_all_fields_together():
    """Dense and ragged fields of a sample come from the same option."""
    dense, ragged = Layout(3), Layout(3, index=torch.tensor([0, 0, 1, 2, 2, 2]))
    options = [
        State({"a": torch.full((3, 2), float(m)), "b": torch.full((6, 1), float(m))}, {"a": dense, "b": ragged})
        for m in range(4)
    ]
    rank = torch.tensor([[0.0, 9.0, 1.0, 2.0], [5.0, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 1.0]]).T  # (M, B)
    hook = SVDD(lambda clean: rank.flatten(), 4, alpha=0)
    chosen = hook.select(options, Move(0, 0.5, 0.0), lambda state, clocks: {}, PerSample(0))
    assert chosen["a"][:, 0].tolist() == [1, 0, 3]
    assert chosen["b"][:, 0].tolist() == [1, 1, 0, 3, 3, 3]


def test_sample_does_not_depend_on_its_batch():
    together = guided(64, 20, SVDD(value, 4, ALPHA), PerSample(7))
    for i in (0, 17, 63):
        alone = guided(1, 20, SVDD(value, 4, ALPHA), PerSample(7, torch.tensor([i])))
        assert torch.allclose(alone[0], together[i], rtol=0, atol=1e-12)


def test_one_candidate_and_a_window_that_never_opens_leave_the_sampler_alone():
    plain = guided(8, 20, Hook(), PerSample(7))
    assert torch.equal(guided(8, 20, SVDD(value, 1, ALPHA), PerSample(7)), plain)
    assert torch.equal(guided(8, 20, SVDD(value, 5, ALPHA, start=0.0), PerSample(7)), plain)


def test_window_and_interval():
    hook = SVDD(value, 2, start=0.5, every=3)
    assert [i for i in range(10) if hook.selects(Move(i, 1 - i / 10, 0.9 - i / 10))] == [6, 9]


def test_predicted_clean_keeps_known_tokens_and_fills_masked_ones():
    process, x = Masked(3, kind="data"), torch.tensor([[0, 3, 2]])
    probs = f64([[[0.1, 0.8, 0.1], [0.2, 0.3, 0.5], [0.9, 0.1, 0.0]]])
    state = State({FIELD: x}, {FIELD: Layout(1)})

    def oracle(state: State, clocks):
        return {FIELD: Prediction(probs, "data", process, x, clocks[FIELD], state.layouts[FIELD])}

    assert predicted_clean(state, Move(0, 0.6, 0.4), oracle)[FIELD].tolist() == [[0, 2, 2]]
    assert predicted_clean(state, Move(0, 0.6, 0.0), oracle) is state


def test_a_deterministic_solver_is_refused():
    with pytest.raises(UserError, match="stochastic"):
        sampler = Sampler({FIELD: PROCESS}, {FIELD: DDIM()}, Uniform(), hooks=[SVDD(value, 3)])
        sampler.run(batch_state(torch.ones(2, 1, dtype=F64)), ORACLE, PerSample(0), steps=3)


@pytest.mark.parametrize("wrong", [{"candidates": 0}, {"alpha": -1.0}, {"every": 0}])
def test_arguments_out_of_range(wrong):
    with pytest.raises(UserError, match="expected candidates"):
        SVDD(value, **wrong)
