"""Uniform token noise: laws by enumeration; exact scores give back the data and the likelihood (item 10)."""

from __future__ import annotations

import numpy
import pytest
import torch
from stats import FALSE_ALARM, chi_square, kernel_matrix, order, total_variation
from token_toy import F64, FIELD, UniformOracle, codes, states

from sciflow.core.errors import UserError
from sciflow.core.grids import Power, Uniform
from sciflow.core.noise import Fresh
from sciflow.core.objective import Example
from sciflow.core.process import Prediction
from sciflow.core.sampler import Sampler
from sciflow.core.state import Layout, State
from sciflow.core.survival import Cosine, Geometric, LogLinear
from sciflow.objectives.rate_bound import RateBound
from sciflow.processes.uniform_tokens import UniformTokens
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.gillespie import Gillespie
from sciflow.solvers.tau_leap import TauLeap

K = 3
PROCESS = UniformTokens(K, "data", Geometric(0.05, 4.0))
T, S = torch.tensor(0.8, dtype=F64), torch.tensor(0.3, dtype=F64)
LAW = torch.tensor([0.45, 0.05, 0.15, 0.35], dtype=F64)  # V = 2, L = 2, correlated
PAIR = UniformTokens(2, "data")
ORACLE = UniformOracle(LAW, PAIR, 2)
label = lambda v: type(v).__name__ if not isinstance(v, int) else str(v)  # noqa: E731
DRAWS = 10_000


def step_matrix(alpha) -> torch.Tensor:
    """q(x_t = b | x_0 = a): (K, K)."""
    return alpha * torch.eye(K, dtype=F64) + (1 - alpha) / K


def test_marginal_composes_over_intermediate_times():
    """q(x_t | x0) = sum over x_s of q(x_t | x_s) q(x_s | x0), from the generator beta (1/K - delta)."""
    alpha_t, alpha_s = PROCESS.survival.alpha(T), PROCESS.survival.alpha(S)
    generator = torch.full((K, K), 1 / K, dtype=F64) - torch.eye(K, dtype=F64)
    noise = -(alpha_t / alpha_s).log()
    torch.testing.assert_close(step_matrix(alpha_s) @ torch.linalg.matrix_exp(noise * generator), step_matrix(alpha_t))
    x0 = torch.tensor([[0, 1, 2]])
    torch.testing.assert_close(PROCESS.marginal(x0, T, Layout(1)).probs[0].double(), step_matrix(alpha_t))
    soft = torch.rand(1, 4, K, dtype=F64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    torch.testing.assert_close(PROCESS.marginal(soft, T, Layout(1)).probs, soft @ step_matrix(alpha_t))


def test_posterior_by_bayes():
    """P(x_s | x_t, x0) prop. to P(x_t | x_s) P(x_s | x0), averaged over x0; tokens and their one-hot agree."""
    alpha_t, alpha_s = PROCESS.survival.alpha(T), PROCESS.survival.alpha(S)
    p = torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    x = torch.arange(K)[:, None]
    got = PROCESS.posterior(x, p.expand(K, 1, K), T, S, Layout(K)).probs[:, 0]
    joint = step_matrix(alpha_s)[:, :, None] * step_matrix(alpha_t / alpha_s)[None]  # (x0, x_s, x_t)
    truth = (p[:, None, None] * joint / joint.sum(1, keepdim=True)).sum(0).T
    torch.testing.assert_close(got, truth, rtol=1e-12, atol=1e-12)
    x0 = torch.tensor([[0], [2], [1]])
    one_hot = torch.nn.functional.one_hot(x0, K).double()
    a, b = (PROCESS.posterior(x, v, T, S, Layout(K)).probs for v in (x0, one_hot))
    torch.testing.assert_close(a.double(), b, rtol=1e-6, atol=1e-7)


def test_reconstruction_is_the_posterior_at_zero_noise():
    p = torch.rand(K, 1, K, dtype=F64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    process, x, zero = UniformTokens(K, "data"), torch.arange(K)[:, None], torch.zeros((), dtype=F64)
    exact = process.posterior(x, p, T, zero, Layout(K)).probs
    torch.testing.assert_close(exact, process.reconstruction(x, p, T, Layout(K)).probs)


def test_rates_are_the_derivative_of_the_posterior_and_the_concrete_score():
    """d/ds P(x_s = y | x_t) at s = t; and Q_t(y, x) p_t(y)/p_t(x) with the law p_t of the noised pair."""
    x, h = states(2, 2), 1e-7
    state = State({FIELD: x}, {FIELD: Layout(4)})
    pred = ORACLE(state, {FIELD: T})[FIELD]
    rates = PAIR.rates(x, pred, T, Layout(4))
    moved = PAIR.posterior(x, pred.value, T, T - h, Layout(4)).probs / h
    other = torch.nn.functional.one_hot(x, 2) == 0
    torch.testing.assert_close(rates[other], moved[other], rtol=1e-5, atol=0)
    assert rates[~other].abs().max() == 0
    noised = ORACLE.evidence(x, T) @ LAW
    beta = PAIR.survival.beta(T)
    for row in range(4):
        for i in range(2):
            y = x[row].clone()
            y[i] = 1 - y[i]
            score = noised[codes(y, 2)] / noised[row]
            torch.testing.assert_close(rates[row, i, y[i]], beta / 2 * score)


def test_per_sample_clocks():
    t, s = torch.tensor([0.9, 0.6], dtype=F64), torch.tensor([0.5, 0.2], dtype=F64)
    p = torch.rand(2, 3, K, dtype=F64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    x = torch.tensor([[0, 1, 2], [2, 2, 0]])
    both = PROCESS.posterior(x, p, t, s, Layout(2)).probs
    for i in range(2):
        torch.testing.assert_close(
            both[i], PROCESS.posterior(x[i : i + 1], p[i : i + 1], t[i], s[i], Layout(1)).probs[0]
        )


def test_prior_is_uniform():
    probs = PROCESS.prior(torch.zeros(2, 3, dtype=torch.long), Layout(2)).probs
    torch.testing.assert_close(probs, torch.full((2, 3, K), 1 / K))


def test_logits_and_probabilities_convert_and_wrong_arguments_are_refused():
    process, logits = UniformTokens(K), torch.randn(2, 3, K, dtype=F64)
    pred = Prediction(logits, "logits", process, torch.zeros(2, 3).long(), T, Layout(2))
    torch.testing.assert_close(pred.to("data"), logits.softmax(-1))
    back = Prediction(logits.softmax(-1), "data", process, pred.x, T, Layout(2)).to("logits")
    torch.testing.assert_close(back, logits.log_softmax(-1))
    with pytest.raises(TypeError, match="no 'noise'"):
        pred.to("noise")
    with pytest.raises(UserError, match="kind"):
        UniformTokens(K, "score")
    with pytest.raises(UserError, match="alpha\\(1\\) > 0"):
        UniformTokens(K, survival=LogLinear(0.0))
    assert {"prior", "marginal", "posterior", "reconstruction", "rates"} == process.provides()


# ---------------------------------------------------------------- V = 2, L = 2 with exact scores (item 10)


def chain(solver, moves: int) -> torch.Tensor:
    """Law of the pair at t = 1e-3 after `moves` moves from the prior, by enumeration."""
    law = torch.full((4,), 0.25, dtype=F64)
    for t, s in Power(1.0, 1e-3, 2.0).moves(moves):
        law = law @ kernel_matrix(PAIR, solver, _Named(), states(2, 2), t, s)
    return law


class _Named:
    """The oracle under the field name of tests/stats.py."""

    def __call__(self, state, clocks):
        (field,) = clocks
        return UniformOracle(LAW, PAIR, 2, field)(state, clocks)


@pytest.mark.parametrize("solver", [Ancestral(), TauLeap()], ids=lambda s: type(s).__name__)
def test_enumerated_chain_converges_at_first_order(solver):
    """To the data noised at the last clock; order within 0.15 of 1."""
    end = torch.tensor(1e-3, dtype=F64)
    truth = LAW @ ORACLE.evidence(states(2, 2), end).T
    steps = [200, 400]
    gaps = [total_variation(chain(solver, moves), truth) for moves in steps]
    assert abs(order(steps, gaps) - 1) < 0.15 and gaps[-1] < 0.01, gaps


@pytest.mark.parametrize("solver, steps", [(Gillespie(), 60), (Ancestral(), 100), (TauLeap(), 200)], ids=label)
def test_simulation_with_exact_scores_gives_the_data(solver, steps):
    """Chi-square on 4 states, false alarm 1e-5; the bias of these moves (TV < 0.005) is below what 10 000 draws see."""
    start = PAIR.prior(torch.zeros(DRAWS, 2, dtype=torch.long), Layout(DRAWS)).sample(Fresh(7))
    state = State({FIELD: start}, {FIELD: Layout(DRAWS)})
    sampler = Sampler({FIELD: PAIR}, {FIELD: solver}, Power(1.0, 1e-3, 2.0))
    x = sampler.run(state, ORACLE, Fresh(8), steps=steps).state[FIELD]
    counts = codes(x, 2).bincount(minlength=4)
    assert chi_square(counts, LAW) > FALSE_ALARM
    assert chi_square(counts, torch.tensor([0.48, 0.12, 0.22, 0.18], dtype=F64)) < FALSE_ALARM  # power


@pytest.mark.parametrize("survival", [LogLinear(1e-3), Cosine(1e-2)], ids=lambda s: type(s).__name__)
def test_bound_with_exact_scores_is_minus_log_p(survival):
    """Item 10: integral of RateBound + KL(q(x_1 | x0) || uniform) = -log p_model(x0), every x0, by quadrature.

    The model starts from the uniform law, the exact reverse process from the true law at t = 1; both are compared.
    """
    process = UniformTokens(2, "data", survival)
    oracle = UniformOracle(LAW, process, 2)
    nodes, weights = (torch.tensor(v, dtype=F64) for v in numpy.polynomial.legendre.leggauss(60))
    u, weights = (nodes + 1) / 2, weights / 2
    # t = u^4 / (u^4 + (1 - u)^4): the integrand is log-like at t = 0, and steep at t = 1 where alpha is small
    times = u**4 / (u**4 + (1 - u) ** 4)
    jacobian = 4 * u**3 * (1 - u) ** 3 / (u**4 + (1 - u) ** 4) ** 2
    x0, x = states(2, 2).repeat_interleave(4, 0), states(2, 2).repeat(4, 1)
    layout = Layout(16)
    total = torch.zeros(4, dtype=F64)
    for t, w in zip(times, weights * jacobian, strict=True):
        state = State({FIELD: x}, {FIELD: layout})
        loss = RateBound()(oracle(state, {FIELD: t})[FIELD], Example(FIELD, x0, state, lambda s, c: {}))
        assert bool((loss > -1e-12).all())
        law = oracle.evidence(states(2, 2), t)  # (x_t, x0)
        total += w * (law.T * 2 * loss.reshape(4, 4)).sum(1)
    far = oracle.evidence(states(2, 2), torch.ones((), dtype=F64)).T  # q(x_1 | x0): (x0, x_1)
    noised = LAW @ far
    bound = total + (far * (far / noised).log()).sum(1)  # prior = the true law at t = 1
    torch.testing.assert_close(bound, -LAW.log(), rtol=0, atol=1e-5)
    uniform = total + (far * (far * 4).log()).sum(1)
    torch.testing.assert_close(uniform, -LAW.log(), rtol=0, atol=1e-3)


def test_a_wrong_score_costs_more():
    """Power: the bound of a factorised model (marginals only) exceeds the entropy by about the total correlation."""
    product = (LAW.reshape(2, 2).sum(1)[:, None] * LAW.reshape(2, 2).sum(0)).flatten()
    state = State({FIELD: states(2, 2)}, {FIELD: Layout(4)})
    t = torch.tensor(0.4, dtype=F64)
    losses = []
    for law in (LAW, product):
        pred = UniformOracle(law, PAIR, 2)(state, {FIELD: t})[FIELD]
        terms = torch.zeros((), dtype=F64)
        for index, x0 in enumerate(states(2, 2)):
            loss = RateBound()(pred, Example(FIELD, x0.expand(4, 2), state, lambda s, c: {}))
            terms = terms + LAW[index] * (ORACLE.evidence(states(2, 2), t)[:, index] * loss).sum()
        losses.append(float(terms))
    assert losses[1] > losses[0] + 0.05


def test_tau_leap_and_gillespie_start_at_clock_one():
    """beta(1) = 999 with eps = 1e-3: finite rates, probabilities that sum to one, one frozen Gillespie move ends."""
    start = states(2, 2).repeat(50, 1)
    state = State({FIELD: start}, {FIELD: Layout(200)})
    for solver in (TauLeap(), Gillespie()):
        sampler = Sampler({FIELD: PAIR}, {FIELD: solver}, Uniform(1.0, 0.5))
        end = sampler.run(state, ORACLE, Fresh(1), steps=4).state[FIELD]
        assert end.shape == start.shape and int(end.min()) >= 0 and int(end.max()) <= 1
