"""The order-averaged bound against enumeration of all orders and subsets (Toy A); padding, conditions, lengths."""

from __future__ import annotations

import itertools

import pytest
import torch
from stats import Z_LIMIT, mean_z
from token_toy import CLEAN, DENOISER, F64, FIELD, GOLDEN_SMOOTHED, LOG_PRE, MASK, P_PRE, SMOOTHED, TableDenoiser, codes

from sciflow.core.denoiser import Denoiser
from sciflow.core.errors import UserError
from sciflow.core.noise import Fresh, PerSample
from sciflow.core.order_likelihood import order_bound
from sciflow.core.state import Layout, State
from sciflow.processes.jump import Jump
from sciflow.processes.masked import Masked

PARTLY_SMOOTHED = torch.where(DENOISER.amax(-1, keepdim=True) == 1, DENOISER, SMOOTHED)


def repeated(copies: int) -> State:
    """Each of the 27 sequences `copies` times."""
    x = CLEAN.repeat_interleave(copies, 0)
    return State({FIELD: x}, {FIELD: Layout(len(x))})


def by_orders(table: torch.Tensor) -> torch.Tensor:
    """-log p averaged over the 6 orders, by enumeration: (27,)."""
    total = torch.zeros(27, dtype=F64)
    for chosen in itertools.permutations(range(3)):
        x = torch.full_like(CLEAN, MASK)
        for i in chosen:
            total -= table[codes(x), i].gather(1, CLEAN[:, i : i + 1])[:, 0].log() / 6
            x = x.clone()
            x[:, i] = CLEAN[:, i]
    return total


def test_enumerated_orders_have_the_golden_values():
    """Exact denoiser: every order gives -log p. Smoothed: 3.112677 (drakes.md section 12, item 3)."""
    torch.testing.assert_close(by_orders(DENOISER), -LOG_PRE, rtol=0, atol=1e-13)
    value = float(P_PRE @ by_orders(PARTLY_SMOOTHED))
    assert value == pytest.approx(GOLDEN_SMOOTHED["E NELBO"], abs=1e-6)


@pytest.mark.parametrize("strata", [None, 2, 7])
@pytest.mark.parametrize("table", [DENOISER, PARTLY_SMOOTHED], ids=["exact", "smoothed"])
def test_the_estimate_is_unbiased_and_its_error_is_honest(table, strata):
    """z-test of the mean for each of the 27 sequences, false alarm 1e-5 in all (Bonferroni: limit 5.1).

    The standard error is at least the true spread (its square is an upward-biased estimate) and at most 2.5 times it.
    """
    copies = 1000
    bound, error = order_bound(repeated(copies), FIELD, TableDenoiser(table), Fresh(2), strata=strata, rows=10**6)
    assert bound.shape == error.shape == (27 * copies,)
    values = bound.reshape(27, copies)
    truth = by_orders(table)
    z = (values.mean(1) - truth).abs() / (values.std(1) / copies**0.5).clamp_min(1e-12)
    assert float(z.max()) < 5.1
    ratio = (error**2).reshape(27, copies).mean(1).sqrt() / values.std(1)
    assert float(ratio.min()) > 0.93 and float(ratio.max()) < 2.5


def test_without_the_share_of_each_number_the_estimate_is_wrong():
    """Power: the limit of the test above is far below the gap to the entropy of independent tokens."""
    product = PARTLY_SMOOTHED[-1].expand(64, 3, 3)
    gap = (by_orders(product) - by_orders(DENOISER)).abs().max()
    assert float(gap) > 0.3


def test_more_strata_less_error():
    errors = [
        float(order_bound(repeated(20), FIELD, TableDenoiser(DENOISER), Fresh(1), strata=m)[1].mean()) for m in (4, 64)
    ]
    assert 2.5 < errors[0] / errors[1] < 8  # about sqrt(16), or better where strata help


def test_chunks_of_rows_do_not_change_the_numbers():
    results = [
        order_bound(repeated(1), FIELD, TableDenoiser(DENOISER), PerSample(3), strata=8, rows=rows) for rows in (1, 200)
    ]
    torch.testing.assert_close(results[0], results[1])


class Conditioned(torch.nn.Module):
    """Independent tokens with a law per sample given as a condition; the clock and padding must not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.clocks: list[torch.Tensor] = []

    def forward(self, state, signals):
        assert bool((state[FIELD] == 4).any(1).all())
        self.clocks.append(signals[FIELD])
        return {FIELD: state.cond["logits"][:, None].expand(-1, state[FIELD].shape[1], -1)}


def test_lengths_padding_and_conditions():
    """Independent tokens: every subset gives the exact answer up to which tokens are in it; equal tokens: no spread."""
    logits = torch.randn(3, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([5, 1, 3])
    mask = (torch.arange(5) < lengths[:, None]).to(F64)
    x = torch.tensor([[2] * 5, [1] + [0] * 4, [3] * 3 + [0] * 2])
    state = State({FIELD: x}, {FIELD: Layout(3, mask=mask, sizes=(5, 1, 3))}, {"logits": logits})
    network = Conditioned()
    bound, error = order_bound(state, FIELD, Denoiser(network, {FIELD: Masked(4)}), Fresh(0), strata=6, rows=7)
    truth = -lengths * logits.log_softmax(-1).gather(1, x[:, :1])[:, 0]
    torch.testing.assert_close(bound, truth)
    torch.testing.assert_close(error, torch.zeros(3, dtype=F64), rtol=0, atol=1e-12)
    clocks = torch.cat(network.clocks)
    assert len(clocks) == 18 and float(clocks.min()) > 0 and float(clocks.max()) < 1


def test_a_random_sequence_of_independent_tokens_is_estimated_without_bias():
    """Mixed tokens: the subset matters. z-test of the mean over 2000 repeats, false alarm 1e-5."""
    logits = torch.tensor([[0.3, -1.0, 0.5, 2.0]], dtype=F64)
    x = torch.tensor([[0, 1, 2, 3, 1]]).expand(2000, 5)
    state = State({FIELD: x}, {FIELD: Layout(2000)}, {"logits": logits.expand(2000, 4)})
    bound, _ = order_bound(state, FIELD, Denoiser(Conditioned(), {FIELD: Masked(4)}), Fresh(0), strata=4)
    truth = -float(logits.log_softmax(-1)[0, x[0]].sum())
    assert mean_z(bound, truth) < Z_LIMIT


def test_refusals():
    state = repeated(1)
    with pytest.raises(UserError, match="is Jump"):
        order_bound(state, FIELD, Denoiser(Conditioned(), {FIELD: Jump(3)}), Fresh(0))
    with pytest.raises(UserError, match="dense int64"):
        order_bound(state.put(**{FIELD: torch.zeros(27, 3, 4)}), FIELD, TableDenoiser(DENOISER), Fresh(0))
