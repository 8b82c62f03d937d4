"""Values against enumeration on Toy A and closed forms. Statistical tests: false-alarm rate <= 1e-5, fixed seeds."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import F64, GaussianOracle, f64
from oracles import FIELD as POINT
from stats import Z_LIMIT, batch_state, mean_z
from token_toy import ALPHA, DENOISER, FIELD, MASK, PARTIAL, REWARD, SOFT_VALUE, codes, oracle, reward
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.noise import Fresh, Move, PerSample
from sciflow.core.process import Prediction
from sciflow.core.schedules import VP
from sciflow.core.state import Layout, State
from sciflow.core.values import CommonNoise, LearnedValue, PosteriorMean, PosteriorSamples, predicted_clean
from sciflow.processes.gaussian import GaussianProcess
from sciflow.processes.masked import Masked
from sciflow.processes.uniform_tokens import UniformTokens

MIDDLE, LAST = Move(0, 1.0, 0.5), Move(2, 0.3, 0.0)


def tokens(x: Tensor) -> State:
    return State({FIELD: x}, {FIELD: Layout(len(x))})


def clean_reward(state: State) -> Tensor:
    return reward(state[FIELD])


def refuse(state: State, clocks) -> dict[str, Prediction]:
    raise AssertionError("no network call expected")


def fixed(probs: Tensor, process):
    def denoise(state: State, clocks) -> dict[str, Prediction]:
        return {FIELD: Prediction(probs, "data", process, state[FIELD], clocks[FIELD], state.layouts[FIELD])}

    return denoise


def test_predicted_clean_keeps_known_tokens_and_fills_masked_ones():
    probs = f64([[[0.1, 0.8, 0.1], [0.2, 0.3, 0.5], [0.9, 0.1, 0.0]]])
    state = tokens(torch.tensor([[0, 3, 2]]))
    assert predicted_clean(state, MIDDLE, fixed(probs, Masked(3, kind="data")))[FIELD].tolist() == [[0, 2, 2]]
    assert predicted_clean(state, LAST, refuse) is state


def test_predicted_clean_of_uniform_noise_believes_no_token():
    probs = f64([[[0.1, 0.8, 0.1], [0.2, 0.3, 0.5], [0.9, 0.1, 0.0]]])
    state = tokens(torch.tensor([[0, 1, 2]]))
    assert predicted_clean(state, MIDDLE, fixed(probs, UniformTokens(3, "data")))[FIELD].tolist() == [[1, 2, 0]]


def test_posterior_mean_on_all_partial_states():
    best = torch.where(PARTIAL == MASK, DENOISER.argmax(-1), PARTIAL)
    values = PosteriorMean(clean_reward)(tokens(PARTIAL), MIDDLE, oracle, Fresh())
    assert torch.equal(values, REWARD[codes(best, 3)])
    finished = tokens(torch.tensor([[2, 0, 1]]))
    assert PosteriorMean(clean_reward)(finished, LAST, refuse, Fresh()).tolist() == [3.0]


def exact_one_shot(alpha: float) -> Tensor:
    """alpha log E exp(r/alpha), or E r for alpha = 0, over completions drawn position by position: (64,)."""
    x = torch.where((PARTIAL == MASK)[..., None], DENOISER, torch.nn.functional.one_hot(PARTIAL % 3, 3).to(F64))
    law = torch.einsum("si,sj,sk->sijk", x[:, 0], x[:, 1], x[:, 2]).reshape(64, 27)
    return law @ REWARD if alpha == 0 else alpha * (law @ (REWARD / alpha).exp()).log()


@pytest.mark.parametrize("alpha", [0.0, ALPHA])
def test_posterior_samples_have_the_law_of_independent_completions(alpha: float):
    """Means over 40 copies of 64 states of 50 draws each: z-tests of the mean (of exp(r/alpha))."""
    value = PosteriorSamples(clean_reward, 50, alpha)
    states = tokens(PARTIAL).repeat(40)
    values = value(states, MIDDLE, oracle, Fresh(3)).reshape(40, 64)
    got, exact = values, exact_one_shot(alpha)
    if alpha:
        got, exact = (values / alpha).exp(), (exact / alpha).exp()
    certain = (PARTIAL != MASK).all(1)
    assert torch.allclose(got[:, certain], exact[certain].expand(40, -1))
    z = (got.mean(0) - exact)[~certain].abs() / (got.std(0) / math.sqrt(40))[~certain]
    assert float(z.max()) < 6.5  # t with 39 degrees of freedom: P(|t| > 6.5) = 1e-7 for each of 37 states


def test_one_masked_position_gives_the_soft_value():
    """Only there is drawing position by position exact; the bias of the logarithm is Var/(2 n alpha)."""
    one = (PARTIAL == MASK).sum(1) == 1
    values = PosteriorSamples(clean_reward, 3000, ALPHA)(tokens(PARTIAL), MIDDLE, oracle, Fresh(1))
    assert torch.allclose(values[one], SOFT_VALUE[one], rtol=0, atol=0.05)
    assert not torch.allclose(values, SOFT_VALUE, rtol=0, atol=0.05)  # ... and nowhere else


def test_few_draws_are_low_by_the_stated_bias():
    """n = 8: the mean over 40 000 copies of a state lies below the limit by Var/(2 n alpha), to 25 %."""
    x = torch.tensor([[MASK, 0, 1]])
    rewards, p = reward(torch.tensor([[v, 0, 1] for v in range(3)])), DENOISER[codes(x)[0], 0]
    low = PosteriorSamples(clean_reward, 8, 4.0)(tokens(x).repeat(40_000), MIDDLE, oracle, PerSample(2))
    limit = 4.0 * float((p @ (rewards / 4.0).exp()).log())
    variance = float(p @ rewards**2 - (p @ rewards) ** 2)
    assert limit - float(low.mean()) == pytest.approx(
        variance / (2 * 8 * 4.0), rel=0.25, abs=Z_LIMIT * float(low.std()) / 200
    )
    assert mean_z(low, limit) > Z_LIMIT


def test_copies_are_completed_with_common_random_numbers():
    """Equal candidates have equal values; sample i has those it would have alone, with any number of candidates."""
    value = PosteriorSamples(clean_reward, 4, ALPHA)
    x = torch.full((5, 3), MASK)
    joint = value(tokens(x).repeat(3), MIDDLE, oracle, CommonNoise(PerSample(7), 3)).reshape(3, 5)
    assert torch.equal(joint[0], joint[1])
    assert torch.equal(joint[0], value(tokens(x), MIDDLE, oracle, PerSample(7)))
    alone = [value(tokens(x[:1]).repeat(2), MIDDLE, oracle, CommonNoise(PerSample(7, i), 2))[0] for i in range(5)]
    assert torch.equal(torch.stack(alone), joint[0])
    assert joint.unique().numel() > 2


def test_common_noise_of_padded_and_ragged_copies():
    like, layout = torch.zeros(3, 2, dtype=F64), Layout(2, index=torch.tensor([0, 1, 1]), sizes=(1, 2))
    one = PerSample(1).at("x", MIDDLE, 2).normal(like, layout)
    both = CommonNoise(PerSample(1), 2).at("x", MIDDLE, 2).normal(torch.cat([like, like]), layout.repeat(2))
    assert torch.equal(both, torch.cat([one, one]))
    mask = Layout(3, mask=torch.ones(3, 2, dtype=F64))
    one = PerSample(1).at("x", MIDDLE).uniform(like, mask)
    both = CommonNoise(PerSample(1), 2).at("x", MIDDLE).uniform(torch.cat([like, like]), mask.repeat(2))
    assert torch.equal(both, torch.cat([one, one]))


def test_posterior_samples_of_a_gaussian():
    """Completions N(x0hat, (sigma/alpha)^2): the mean of r = x0 is x0hat, that of (x0 - x0hat)^2 the variance."""
    process = GaussianProcess(VP(), kind="data")
    truth, x, s = GaussianOracle(process), torch.full((4000, 1), 0.7, dtype=F64), f64(0.5)
    hat = truth.data(x[:1], s, Layout(1))
    mean = PosteriorSamples(lambda clean: clean[POINT][:, 0], 4, 0.0)(batch_state(x), MIDDLE, truth, PerSample(0))
    assert mean_z(mean, float(hat)) < Z_LIMIT
    square = PosteriorSamples(lambda clean: (clean[POINT] - hat)[:, 0] ** 2, 4, 0.0)
    variance = float((process.schedule.sigma(s) / process.schedule.alpha(s)) ** 2)
    assert mean_z(square(batch_state(x), MIDDLE, truth, PerSample(0)), variance) < Z_LIMIT


def test_nan_rewards_of_completions_count_as_nothing():
    """A share of NaN lowers the soft value by alpha log(share of the others); all NaN gives -inf."""
    half = PosteriorSamples(lambda clean: torch.where(clean[FIELD][:, 0] == 0, torch.nan, 1.0), 2000, ALPHA)
    probs = f64([[[0.25, 0.75, 0.0]]])
    state = tokens(torch.tensor([[3]]))
    got = half(state, MIDDLE, fixed(probs, Masked(3, "data")), Fresh(0))
    assert float(got) == pytest.approx(1 + ALPHA * math.log(0.75), abs=0.05)
    none = PosteriorSamples(lambda clean: torch.full((clean.batch,), torch.nan), 3, ALPHA)
    assert none(state, MIDDLE, fixed(probs, Masked(3, "data")), PerSample(0)).tolist() == [-math.inf]


def test_learned_value_uses_the_reward_of_finished_states():
    told = []

    def network(state: State, signals) -> dict[str, Tensor]:
        told.append(float(signals[FIELD]))
        return {"value": SOFT_VALUE[codes(state[FIELD])]}

    state = tokens(torch.tensor([[2, 0, 1]]))
    assert LearnedValue(network, lambda clean: torch.tensor([7.0]))(state, LAST, refuse, Fresh()).tolist() == [7.0]
    assert LearnedValue(network)(state, LAST, refuse, Fresh()).tolist() == pytest.approx([3.0])
    assert LearnedValue(network)(state, MIDDLE, refuse, Fresh()).tolist() == pytest.approx([3.0])
    assert told == [0.0, 0.5]


@pytest.mark.parametrize("wrong", [{"draws": 0}, {"alpha": -1.0}])
def test_arguments_out_of_range(wrong):
    with pytest.raises(UserError, match="expected draws >= 1"):
        PosteriorSamples(clean_reward, **wrong)
