"""SMC and TDS: unbiased normaliser, the target law, resampling, groups. Statistical tests: false-alarm rate <= 1e-5."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import F64, GaussianOracle
from oracles import FIELD as POINT
from stats import FALSE_ALARM, Z_LIMIT, batch_state, chain_law, chi_square, mean_z, total_variation
from token_toy import (
    ALPHA,
    FIELD,
    P_PRE,
    P_STAR,
    PARTIAL,
    REWARD,
    SOFT_VALUE,
    codes,
    masked_state,
    oracle,
    reward,
)
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.hooks import Hook, Transition
from sciflow.core.kernels import Kernel
from sciflow.core.noise import Fresh, Move, Noise, PerSample
from sciflow.core.sampler import Sampler
from sciflow.core.schedules import VP
from sciflow.core.state import Layout, State
from sciflow.core.values import LearnedValue, PosteriorMean, Value
from sciflow.guidance.gradient import GradientGuidance
from sciflow.guidance.smc import SMC, systematic
from sciflow.processes.gaussian import GaussianProcess
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.any_order import AnyOrder

NORMALISER = math.exp(1.372310 / ALPHA)  # 15.559: golden a log Z of Toy A (svdd.md, section 9, item 10)
EXACT = LearnedValue(lambda state, signals: {"value": SOFT_VALUE[codes(state[FIELD])]})
PLUG_IN = PosteriorMean(lambda clean: reward(clean[FIELD]))
NOTHING = LearnedValue(  # no idea before the end: plain importance sampling
    lambda state, signals: {"value": torch.zeros(state.batch, dtype=F64)}, lambda clean: reward(clean[FIELD])
)


def sample(hook: Hook, count: int, noise: Noise | None = None) -> Tensor:
    sampler = Sampler({FIELD: oracle.process}, {FIELD: AnyOrder()}, Uniform(end=0.0), hooks=[hook])
    return sampler.run(masked_state(count, 3, 3), oracle, noise or PerSample(1), steps=3).state[FIELD]


class Twist(Hook):
    """Any tilt of the kernels, with no relation to the reward."""

    def propose(self, field: str, kernel: Kernel, transition: Transition) -> Kernel:
        return kernel.tilt(torch.tensor([0.7, -0.4, 0.1, 0.0], dtype=F64).expand(kernel.probs.shape))  # type: ignore[attr-defined]


class Forgetful(SMC):
    """Planted fault: the twist is not in the weights."""

    def propose(self, field: str, kernel: Kernel, transition: Transition) -> Kernel:
        self.untwisted[field] = twisted = self.guide.propose(field, kernel, transition)
        return twisted


class Unnormalised(SMC):
    """Planted fault: the proposal's probabilities are divided out without their normaliser (released TDS)."""

    def propose(self, field: str, kernel: Kernel, transition: Transition) -> Kernel:
        twisted = super().propose(field, kernel, transition)
        factor = torch.tensor([0.7, -0.4, 0.1, 0.0], dtype=F64).exp()
        self.untwisted[field] = type(kernel)(twisted.probs / factor, kernel.layout)  # type: ignore[attr-defined,call-arg]
        return twisted


GUIDE = GradientGuidance(lambda clean: reward(clean[FIELD]), 1 / ALPHA)
TRUE = [
    SMC(EXACT, ALPHA, 16),
    SMC(PLUG_IN, ALPHA, 16),
    SMC(NOTHING, ALPHA, 16),
    SMC(EXACT, ALPHA, 16, threshold=1.0),
    SMC(EXACT, ALPHA, 16, guide=Twist()),
    SMC(PLUG_IN, ALPHA, 16, guide=GUIDE),
]


@pytest.mark.parametrize("hook", TRUE, ids=["exact", "plug-in", "none", "always", "twisted", "TDS"])
def test_normaliser_is_unbiased(hook: SMC):
    """2000 groups of 16: the mean of exp(log_normalizer) within 4.42 standard errors of 15.559 (svdd.md, D11)."""
    sample(hook, 32_000)
    assert mean_z(hook.log_normalizer.exp(), NORMALISER) < Z_LIMIT


@pytest.mark.parametrize("fault", [Forgetful, Unnormalised])
def test_planted_faults_in_the_weights_are_caught(fault: type[SMC]):
    hook = fault(EXACT, ALPHA, 16, guide=Twist())
    sample(hook, 32_000)
    assert mean_z(hook.log_normalizer.exp(), NORMALISER) > 1.5 * Z_LIMIT


def one_per_group(hook: SMC, groups: int, noise: Noise | None = None) -> Tensor:
    """Counts (27,) of independent draws: a particle of each group, as the particles of one share ancestors."""
    drawn = sample(hook, groups * hook.particles, noise).reshape(groups, hook.particles, 3)
    which = torch.randint(hook.particles, (groups,), generator=torch.Generator().manual_seed(0))
    return torch.bincount(codes(drawn[torch.arange(groups), which], 3), minlength=27)


@pytest.mark.parametrize(
    "hook", [SMC(EXACT, ALPHA, 64), SMC(PLUG_IN, ALPHA, 64, guide=Twist())], ids=["SMC", "twisted"]
)
def test_many_particles_give_the_target(hook: SMC):
    """1500 independent draws; the bias of 64 particles (TV about 0.02) lies below what chi-square sees of them."""
    drawn = one_per_group(hook, 1500)
    assert chi_square(drawn, P_STAR) > FALSE_ALARM
    assert chi_square(drawn, P_PRE) < FALSE_ALARM


def test_more_particles_come_closer():
    """TV of all particles of 32 000 chains (dependent within groups): 4 -> 16 -> 64 particles."""
    distances = []
    for particles in (1, 4, 16, 64):
        drawn = codes(sample(SMC(EXACT, ALPHA, particles), 32_000), 3)
        distances.append(total_variation(torch.bincount(drawn, minlength=27) / 32_000, P_STAR))
    assert distances[0] > 0.6
    assert all(later < 0.6 * earlier for earlier, later in zip(distances[:-1], distances[1:], strict=True))


def test_gaussian_normaliser_with_a_wrong_twist():
    """x0 ~ N(2, 1/4), r = x0, alpha = 1/2. With the chain's own law of x0, E exp(r/alpha) = exp(2 m + 2 v) exactly."""
    process = GaussianProcess(VP(), kind="data")
    truth = GaussianOracle(process, 2.0, 0.25)
    value = PosteriorMean(lambda clean: clean[POINT][:, 0])

    def run(hook: Hook) -> Tensor:
        sampler = Sampler({POINT: process}, {POINT: Ancestral()}, Uniform(end=0.0), hooks=[hook])
        noise = Fresh(3)
        start = sampler.prior(batch_state(torch.zeros(32_000, 1, dtype=F64)), noise)
        return sampler.run(start, truth, noise, steps=20).state[POINT]

    start = (torch.zeros((), dtype=F64), process.schedule.sigma(torch.ones((), dtype=F64)) ** 2)
    m, v = chain_law(process, Ancestral(), truth, 20, Uniform(end=0.0), start=start)
    hook = SMC(value, 0.5, 16, guide=GradientGuidance(lambda clean: -clean[POINT][:, 0], 0.5))  # pulls the wrong way
    run(hook)
    assert mean_z(hook.log_normalizer.exp(), float((2 * m + 2 * v).exp())) < Z_LIMIT


# ---------------------------------------------------------------- bookkeeping


def test_systematic_resampling():
    """Each particle floor or ceil of P share times, in expectation P share; never one without weight."""
    shares = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.0, 0.1, 0.0, 0.9], [0.3, 0.3, 0.3, 0.1]], dtype=F64)
    total = torch.zeros(3, 4, dtype=F64)
    grid = (torch.arange(1000, dtype=F64) + 0.5) / 1000
    for u in grid.tolist():
        copies = torch.nn.functional.one_hot(systematic(shares, torch.full((3,), u)), 4).sum(1)
        assert ((copies >= (4 * shares).floor()) & (copies <= (4 * shares).ceil())).all()
        total += copies
    assert torch.allclose(total / 1000, 4 * shares, atol=2e-3)
    edges = systematic(shares, torch.tensor([1 - 2**-53, 1e-300, 0.999999999999], dtype=F64))
    assert (shares.gather(1, edges) > 0).all()


def test_a_group_depends_on_itself_only():
    hook = SMC(PLUG_IN, ALPHA, 8)
    together = sample(hook, 64, PerSample(7))
    normaliser = hook.log_normalizer
    alone = sample(hook, 8, PerSample(7, torch.arange(16, 24)))
    assert torch.equal(alone, together[16:24])
    assert torch.equal(hook.log_normalizer[0], normaliser[2])


def test_one_particle_is_the_base_sampler():
    assert torch.equal(sample(SMC(EXACT, ALPHA, 1), 200), sample(Hook(), 200))


def test_weights_are_equal_at_the_end_and_the_cond_follows_its_particle():
    hook = SMC(EXACT, ALPHA, 4)
    sampler = Sampler({FIELD: oracle.process}, {FIELD: AnyOrder()}, Uniform(end=0.0), hooks=[hook])
    state = masked_state(12, 3, 3).condition(name=torch.arange(12))
    end = sampler.run(state, oracle, PerSample(1), steps=3).state
    assert torch.equal(hook.log_weights, torch.zeros(12, dtype=F64))
    assert torch.equal(end.cond["name"] // 4, torch.arange(12) // 4)  # resampled within its group
    assert not torch.equal(end.cond["name"], torch.arange(12))


def test_nan_values_carry_no_weight_and_a_group_of_nan_goes_on():
    """NaN for x0 = 0: the rest is in proportion. All NaN: the chain runs on unguided with normaliser 0."""
    partial = torch.where((PARTIAL == 0)[:, 0], torch.nan, SOFT_VALUE)
    nan = LearnedValue(lambda state, signals: {"value": partial[codes(state[FIELD])]})
    hook = SMC(nan, ALPHA, 16)
    drawn = sample(hook, 16_000)
    alive = hook.log_normalizer.isfinite().repeat_interleave(16)
    assert alive.double().mean() > 0.9
    assert (drawn[alive][:, 0] != 0).all()
    expected = float((P_PRE * (REWARD / ALPHA).exp())[9:].sum())  # of the sequences with x0 > 0
    assert mean_z(hook.log_normalizer.exp(), expected) < Z_LIMIT
    dead: Value = LearnedValue(lambda state, signals: {"value": torch.full((state.batch,), torch.nan)})
    hook = SMC(dead, ALPHA, 16)
    assert torch.equal(sample(hook, 64), sample(Hook(), 64))
    assert hook.log_normalizer.isneginf().all()


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="multiple of particles=16"):
        sample(SMC(EXACT, ALPHA, 16), 40)


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"particles": 0}, {"threshold": 1.5}])
def test_arguments_out_of_range(wrong):
    with pytest.raises(UserError, match="expected alpha > 0"):
        SMC(EXACT, **wrong)


def test_resampling_moves_all_fields_of_a_state_together():
    """Two fields: the pair of a particle stays a pair."""
    hook = SMC(LearnedValue(lambda state, signals: {"value": state["a"][:, 0].double()}), 0.5, 4)
    number, layout = torch.arange(8)[:, None], Layout(8)
    state = State({"a": number, "b": number}, {"a": layout, "b": layout})
    hook.prepare(state)
    end = hook.after(state, {}, Transition(state, Move(0, 0.5, 0.0), lambda *_: {}, PerSample(0)))
    assert torch.equal(end["a"], end["b"])
    assert not torch.equal(end["a"], state["a"])
