"""Masked and jump processes: laws by enumeration."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sciflow.core.kernels import Dirac, RelaxedCategorical
from sciflow.core.noise import Fresh
from sciflow.core.process import Prediction
from sciflow.core.state import Layout
from sciflow.processes.jump import Jump
from sciflow.processes.masked import Masked

K, MASK = 3, 3
PROCESS, LAYOUT = Masked(K, "data"), Layout(2)
TOKENS = torch.tensor([[0, MASK, 2], [MASK, 1, MASK]])
T, S = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)


def probabilities() -> Tensor:
    return torch.rand(2, 3, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(-1)


def test_marginal_masks_with_probability_t():
    x0 = torch.tensor([[0, 1, 2], [2, 2, 0]])
    probs = PROCESS.marginal(x0, T, LAYOUT).probs
    torch.testing.assert_close(probs[..., MASK], torch.full((2, 3), 0.8).to(probs))
    torch.testing.assert_close(probs.gather(-1, x0[..., None])[..., 0], torch.full((2, 3), 0.2).to(probs))
    torch.testing.assert_close(probs.sum(-1), torch.ones(2, 3).to(probs))


def test_posterior_by_bayes_over_all_states():
    """P(x_s | x_t, x0) prop. to P(x_t | x_s) P(x_s | x0), averaged over x0 ~ p, by enumeration."""
    alpha_t, alpha_s = 0.2, 0.7
    probs = probabilities()
    got = PROCESS.posterior(TOKENS, probs, T, S, LAYOUT).probs
    for b in range(2):
        for i in range(3):
            now, truth = int(TOKENS[b, i]), torch.zeros(K + 1, dtype=torch.float64)
            for x0 in range(K):
                if now not in (MASK, x0):
                    continue
                weight = float(probs[b, i, x0]) if now == MASK else 1.0
                joint = torch.zeros(K + 1, dtype=torch.float64)
                joint[x0] = alpha_s * (1 - alpha_t / alpha_s if now == MASK else alpha_t / alpha_s)
                joint[MASK] = (1 - alpha_s) * (1.0 if now == MASK else 0.0)
                truth += weight * joint / joint.sum()
            torch.testing.assert_close(got[b, i], truth, rtol=1e-12, atol=1e-12)


def test_posterior_given_clean_tokens_equals_one_hot_probabilities():
    x0 = torch.tensor([[0, 1, 2], [2, 1, 0]])
    one_hot = torch.nn.functional.one_hot(x0, K).double()
    a, b = (PROCESS.posterior(TOKENS, v, T, S, LAYOUT).probs for v in (x0, one_hot))
    torch.testing.assert_close(a.double(), b, rtol=1e-6, atol=1e-7)


def test_per_sample_clocks():
    t, s = torch.tensor([0.9, 0.6], dtype=torch.float64), torch.tensor([0.5, 0.2], dtype=torch.float64)
    probs = probabilities()
    both = PROCESS.posterior(TOKENS, probs, t, s, LAYOUT).probs
    for i in range(2):
        one = PROCESS.posterior(TOKENS[i : i + 1], probs[i : i + 1], t[i], s[i], Layout(1)).probs
        torch.testing.assert_close(both[i], one[0])


def test_everything_is_unmasked_at_zero():
    zero = torch.zeros((), dtype=torch.float64)
    for kernel in (
        PROCESS.posterior(TOKENS, probabilities(), T, zero, LAYOUT),
        PROCESS.reconstruction(TOKENS, probabilities(), T, LAYOUT),
    ):
        assert kernel.probs[..., MASK].max() == 0
        assert (kernel.sample(Fresh(0)) != MASK).all()


def test_rates_are_the_derivative_of_the_posterior():
    """d/ds P(x_s = k | mask) at s = t, by a small difference; clean tokens do not move."""
    probs, h = probabilities(), 1e-6
    pred = Prediction(probs, "data", PROCESS, TOKENS, T, LAYOUT)
    rates = PROCESS.rates(TOKENS, pred, T, LAYOUT)
    moved = PROCESS.posterior(TOKENS, probs, T, T - h, LAYOUT).probs / h
    masked = TOKENS == MASK
    torch.testing.assert_close(rates[masked][:, :K], moved[masked][:, :K], rtol=1e-5, atol=0)
    assert rates[~masked].abs().max() == 0 and rates[..., MASK].abs().max() == 0


def test_prior_is_all_masks():
    assert (PROCESS.prior(torch.zeros(2, 3, dtype=torch.long), LAYOUT).value == MASK).all()
    soft = PROCESS.prior(torch.zeros(2, 3, K + 1), LAYOUT)
    assert isinstance(soft, Dirac) and (soft.value.argmax(-1) == MASK).all() and soft.value.sum() == 6


def test_soft_fields_give_relaxed_kernels_with_the_same_mean():
    soft = torch.nn.functional.one_hot(TOKENS, K + 1).double()
    relaxed = PROCESS.posterior(soft, probabilities(), T, S, LAYOUT)
    assert isinstance(relaxed, RelaxedCategorical)
    torch.testing.assert_close(relaxed.mean, PROCESS.posterior(TOKENS, probabilities(), T, S, LAYOUT).probs)


def test_logits_and_probabilities_convert():
    process, logits = Masked(K), torch.randn(2, 3, K, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pred = Prediction(logits, "logits", process, TOKENS, T, LAYOUT)
    torch.testing.assert_close(pred.to("data"), logits.softmax(-1))
    back = Prediction(pred.to("data"), "data", process, TOKENS, T, LAYOUT).to("logits")
    torch.testing.assert_close(back, logits.log_softmax(-1))
    with pytest.raises(TypeError, match="no 'score'"):
        pred.to("score")
    with pytest.raises(ValueError, match="kind"):
        Masked(K, "score")


def test_decode_fills_what_is_still_masked():
    tokens = PROCESS.decode(TOKENS, probabilities())
    assert (tokens[TOKENS != MASK] == TOKENS[TOKENS != MASK]).all()
    assert torch.equal(tokens[TOKENS == MASK], probabilities().argmax(-1)[TOKENS == MASK])
    assert torch.equal(PROCESS.decode(TOKENS, None), TOKENS)


def test_jump_rates_leave_out_the_present_state():
    process, x = Jump(3), torch.tensor([0, 2])
    rates = torch.tensor([[-3.0, 1.0, 2.0], [4.0, 5.0, -9.0]])
    pred = Prediction(rates, "rates", process, x, torch.tensor(0.5), Layout(2))
    assert process.rates(x, pred, torch.tensor(0.5), Layout(2)).tolist() == [[0, 1, 2], [4, 5, 0]]
    assert process.provides() == {"rates"}
