"""Masked and jump processes: laws by enumeration; goldens of the three-token toy (drakes.md, section 12)."""

from __future__ import annotations

import pytest
import token_toy as toy
import torch
from stats import order, total_variation
from torch import Tensor

from sciflow.core.config import from_config, to_config
from sciflow.core.kernels import Categorical, Dirac, RelaxedCategorical
from sciflow.core.noise import Fresh
from sciflow.core.process import Prediction
from sciflow.core.solver import drive_one
from sciflow.core.state import Layout
from sciflow.core.survival import Cosine, Geometric, Linear, LogLinear
from sciflow.processes.jump import Jump
from sciflow.processes.masked import Masked
from sciflow.solvers.ancestral import Ancestral

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


def test_whatever_the_schedule_reconstruction_leaves_no_mask():
    """Linear noise has alpha(0) < 1, so that the posterior at s = 0 may keep a mask."""
    process = Masked(K, "data", survival=Linear(0.01, 5.0))
    assert process.posterior(TOKENS, probabilities(), T, T * 0, LAYOUT).probs[..., MASK].max() > 0.005
    assert process.reconstruction(TOKENS, probabilities(), T, LAYOUT).probs[..., MASK].max() == 0


def test_masked_and_unmask():
    """`chance` per entry: 0 keeps the mask, 1 draws from the prediction; clean tokens stay whatever it is."""
    assert torch.equal(PROCESS.masked(TOKENS), TOKENS == MASK)
    soft = torch.nn.functional.one_hot(TOKENS, K + 1).double()
    assert torch.equal(PROCESS.masked(soft), TOKENS == MASK)
    chance = torch.tensor([[1.0, 1.0, 1.0], [0.25, 1.0, 0.0]], dtype=torch.float64)[..., None]
    probs = PROCESS.unmask(TOKENS, probabilities(), chance, LAYOUT).probs
    torch.testing.assert_close(probs[0, 1, :K], probabilities()[0, 1])
    torch.testing.assert_close(probs[1, 0, :K], 0.25 * probabilities()[1, 0])
    assert probs[1, 0, MASK] == 0.75 and probs[1, 2, MASK] == 1
    known = TOKENS != MASK
    assert (probs[known].gather(-1, TOKENS[known][:, None]) == 1).all()


def test_survival_is_one_minus_t_unless_stated_and_survives_a_checkpoint():
    assert float(PROCESS.alpha(T)) == 1 - 0.8
    rebuilt = from_config(to_config(Masked(K, "data", survival=Cosine(0.01))))
    assert isinstance(rebuilt, Masked)
    torch.testing.assert_close(rebuilt.alpha(T), Cosine(0.01).alpha(T))


@pytest.mark.parametrize("survival", [None, LogLinear(1e-3), Linear(0.01, 5.0), Geometric(), Cosine()])
def test_rates_are_the_derivative_of_the_posterior(survival):
    """d/ds P(x_s = k | mask) at s = t, by a small difference; clean tokens do not move."""
    process = Masked(K, "data", survival=survival)
    probs, h = probabilities(), 1e-7
    pred = Prediction(probs, "data", process, TOKENS, T, LAYOUT)
    rates = process.rates(TOKENS, pred, T, LAYOUT)
    moved = process.posterior(TOKENS, probs, T, T - h, LAYOUT).probs / h
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


# ---------------------------------------------------------------- Toy A (drakes.md section 12, items 1, 2, 4, 5, 9)

PRE, TILTED = toy.TableDenoiser(toy.DENOISER), toy.TableDenoiser(toy.TILTED)


def ancestral(denoiser: toy.TableDenoiser, t: float, s: float) -> Categorical:
    """Kernel of one ancestral move from each of the 64 states."""

    def predict(query):
        return Prediction(denoiser.data(query.x), "data", denoiser.process, query.x, query.t, Layout(len(toy.PARTIAL)))

    now, then = (torch.tensor(v, dtype=torch.float64) for v in (t, s))
    kernel, _ = drive_one(
        Ancestral().step(denoiser.process, toy.PARTIAL, now, then, Layout(64), None, Fresh()), predict
    )
    assert isinstance(kernel, Categorical)
    return kernel


def chain(moves: int, denoiser: toy.TableDenoiser = PRE):
    """(law before each move, kernel of the move), and the last law."""
    law, path = toy.start_law(denoiser.table), []
    for k in range(moves, 0, -1):
        kernel = ancestral(denoiser, k / moves, (k - 1) / moves)
        path.append((law, k))
        law = law @ toy.factor_matrix(kernel.probs)
    return path, law


def test_golden_means_of_the_toy():
    """Item 1."""
    kl = (toy.P_STAR * (toy.P_STAR / toy.P_PRE).log()).sum()
    found = {
        "E_pre r": toy.P_PRE @ toy.REWARD,
        "E_star r": toy.P_STAR @ toy.REWARD,
        "a log Z": toy.SOFT_VALUE[-1],
        "KL(p*||p)": kl,
    }
    for name, value in toy.GOLDEN_MEANS.items():
        assert float(found[name]) == pytest.approx(value, abs=1e-6), name
    assert float(found["E_star r"] - toy.ALPHA * kl - found["a log Z"]) == pytest.approx(0, abs=1e-14)
    assert toy.P_PRE[:6].tolist() == pytest.approx(toy.GOLDEN_PRE, abs=1e-6)
    assert toy.P_STAR[:6].tolist() == pytest.approx(toy.GOLDEN_STAR, abs=1e-6)


def test_rate_invariance():
    """Item 2: sum over v of p(v | x_t) exp((V(child) - V)/a) = 1 at every masked position; the terms are p*'s law."""
    worst = 0.0
    for number, state in enumerate(toy.PARTIAL):
        for i in (state == toy.MASK).nonzero()[:, 0]:
            children = state.repeat(3, 1)
            children[:, i] = torch.arange(3)
            tilt = ((toy.SOFT_VALUE[toy.codes(children)] - toy.SOFT_VALUE[number]) / toy.ALPHA).exp()
            law = toy.DENOISER[number, i] * tilt
            worst = max(worst, abs(float(law.sum()) - 1), float((law - toy.TILTED[number, i]).abs().max()))
    assert 0 < worst < 1e-14


@pytest.mark.parametrize("moves", toy.GOLDEN_TV)
def test_golden_gap_of_the_ancestral_sampler(moves):
    """Item 4: total variation from the data law after N equal moves."""
    gap = total_variation(toy.clean_part(chain(moves)[1], 3, 3), toy.P_PRE)
    assert gap == pytest.approx(toy.GOLDEN_TV[moves], abs=1e-6)


def test_the_gap_falls_as_one_over_the_moves():
    gaps = [total_variation(toy.clean_part(chain(moves)[1], 3, 3), toy.P_PRE) for moves in (32, 64)]
    assert abs(order([32, 64], gaps) - 1) < 0.15


@pytest.mark.parametrize("moves", toy.GOLDEN_PATH_KL)
def test_golden_path_divergence_of_the_optimal_denoiser(moves):
    """Item 5: sum over the moves of E KL(optimal kernel || base kernel), from the library's kernels."""
    total = 0.0
    for law, k in chain(moves, TILTED)[0]:
        ours, base = (ancestral(d, k / moves, (k - 1) / moves) for d in (TILTED, PRE))
        total += float((law * ours.kl(base)).nan_to_num()[law > 0].sum())
    assert total == pytest.approx(toy.GOLDEN_PATH_KL[moves], abs=1e-6)


def test_path_divergence_one_token_at_a_time_is_exact():
    """Item 5: 1.420042 = KL(p* || p)."""
    law, total = toy.start_law(toy.TILTED), 0.0
    masked = (toy.PARTIAL == toy.MASK).double()
    per_position = torch.special.xlogy(toy.TILTED, toy.TILTED / toy.DENOISER.clamp_min(1e-300)).sum(-1)
    for _ in range(3):
        total += float((law * (masked * per_position).sum(1) / masked.sum(1).clamp_min(1)).sum())
        law = law @ toy.event_matrix(toy.TILTED)
    assert total == pytest.approx(toy.GOLDEN_MEANS["KL(p*||p)"], abs=1e-6)
    assert total == pytest.approx(float((toy.P_STAR * (toy.P_STAR / toy.P_PRE).log()).sum()), abs=1e-13)


def test_the_exact_denoiser_does_not_know_the_clock():
    """Item 9: Bayes with the marginals at two clocks gives one table, through `process.marginal`."""
    for clock in (0.15, 0.9):
        probs = PRE.process.marginal(toy.CLEAN, torch.tensor(clock, dtype=torch.float64), Layout(27)).probs.double()
        likelihood = torch.ones(64, 27, dtype=torch.float64)
        for i in range(3):
            likelihood = likelihood * probs[:, i, :].T[toy.PARTIAL[:, i]]
        weights = likelihood * toy.P_PRE
        one_hot = torch.nn.functional.one_hot(toy.CLEAN, 3).double()
        table = torch.einsum("sc,civ->siv", weights / weights.sum(1, keepdim=True), one_hot)
        torch.testing.assert_close(table, toy.DENOISER, rtol=1e-6, atol=1e-7)  # the marginal is float32
