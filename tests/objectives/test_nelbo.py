"""Bounds of discrete processes against log p by enumeration of all noised states and Gauss-Legendre in t (no sampling).

Goldens: drakes.md, section 12, items 3, 9, 10.
"""

from __future__ import annotations

import numpy
import pytest
import torch
from token_toy import (
    CLEAN,
    DENOISER,
    F64,
    FIELD,
    GOLDEN_SMOOTHED,
    LENGTH,
    LOG_PRE,
    MASK,
    P_PRE,
    SMOOTHED,
    TableDenoiser,
    any_order_law,
    states,
)
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.objective import Example
from sciflow.core.process import Prediction
from sciflow.core.state import Layout, State
from sciflow.core.survival import Cosine, CosineSquared, Geometric, Linear, LogLinear, Survival
from sciflow.objectives.nelbo import MaskedNELBO
from sciflow.objectives.rate_bound import RateBound
from sciflow.processes.jump import Jump
from sciflow.processes.masked import Masked

MASKS = states(2, LENGTH).bool()  # the 8 subsets
EXACT_SCHEDULES = [LogLinear(0.0), Cosine(0.0), CosineSquared(0.0)]  # alpha from exactly 1 to exactly 0


def nodes(count: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on (0, 1)."""
    x, w = (torch.tensor(v, dtype=F64) for v in numpy.polynomial.legendre.leggauss(count))
    return (x + 1) / 2, w / 2


def integrand(objective, table: Tensor, survival: Survival, t: Tensor) -> Tensor:
    """E over the masks of the objective at one clock, for each of the 27 clean sequences: (27,), per sequence."""
    process = Masked(3, "data", survival=survival)
    x0 = CLEAN.repeat_interleave(len(MASKS), 0)
    masked = MASKS.repeat(len(CLEAN), 1)
    x, clock = torch.where(masked, MASK, x0), t.expand(len(x0))
    layout, lost = Layout(len(x0)), survival.lost(t)
    pred = Prediction(TableDenoiser(table).data(x), "data", process, x, clock, layout)
    loss = objective(pred, Example(FIELD, x0, State({FIELD: x}, {FIELD: layout}), lambda state, clocks: {}))
    assert loss.shape == (len(x0),)
    number = masked.sum(1)
    weight = lost**number * (1 - lost) ** (LENGTH - number)
    return LENGTH * (weight * loss).reshape(len(CLEAN), -1).sum(1)


def bound(objective, table: Tensor, survival: Survival, count: int = 8) -> Tensor:
    """Integral over t of the integrand: (27,)."""
    return torch.stack([w * integrand(objective, table, survival, t) for t, w in zip(*nodes(count), strict=True)]).sum(
        0
    )


@pytest.mark.parametrize("objective", [MaskedNELBO(), RateBound()], ids=lambda o: type(o).__name__)
def test_exact_denoiser_gives_minus_log_p_for_every_sequence(objective):
    """Item 3: 8 nodes suffice, the integrand is a polynomial in t."""
    torch.testing.assert_close(bound(objective, DENOISER, LogLinear(0.0)), -LOG_PRE, rtol=0, atol=1e-12)


def test_smoothed_denoiser_has_the_golden_bound():
    """Item 3: E NELBO 3.112677 >= E NLL 3.112528 >= entropy 3.093767."""
    visible = DENOISER.amax(-1, keepdim=True) == 1
    table = torch.where(visible, DENOISER, SMOOTHED)
    nelbo = (P_PRE * bound(MaskedNELBO(), table, LogLinear(0.0))).sum()
    nll = -(P_PRE * any_order_law(table).log()).sum()
    entropy = -(P_PRE * LOG_PRE).sum()
    assert float(nelbo) == pytest.approx(GOLDEN_SMOOTHED["E NELBO"], abs=1e-6)
    assert float(nll) == pytest.approx(GOLDEN_SMOOTHED["E NLL"], abs=1e-6)
    assert float(entropy) == pytest.approx(GOLDEN_SMOOTHED["entropy"], abs=1e-6)
    assert nelbo > nll > entropy


@pytest.mark.parametrize("objective", [MaskedNELBO(), RateBound()], ids=lambda o: type(o).__name__)
def test_the_bound_does_not_depend_on_the_schedule(objective):
    """Item 9: in the variable 1 - alpha all schedules have one integrand; hence one integral where alpha: 1 -> 0."""
    lost = torch.tensor([0.03, 0.4, 0.9], dtype=F64)
    reference = LogLinear(0.0)
    for survival in [*EXACT_SCHEDULES, LogLinear(), Linear(), Geometric(), Cosine(), CosineSquared()]:
        for value in lost:
            t, r = survival.time_at(value), reference.time_at(value)
            ours = integrand(objective, SMOOTHED, survival, t) / survival.slope(t)
            theirs = integrand(objective, SMOOTHED, reference, r) / reference.slope(r)
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    for survival in EXACT_SCHEDULES[1:]:
        torch.testing.assert_close(bound(objective, DENOISER, survival, 24), -LOG_PRE, rtol=0, atol=1e-10)


def test_without_the_weight_the_bound_is_wrong():
    """Power: the plain cross-entropy of the masked tokens is not -log p."""
    plain = torch.stack(
        [
            w * t * integrand(MaskedNELBO(), DENOISER, LogLinear(0.0), t)  # unmask_rate = 1/t undone
            for t, w in zip(*nodes(8), strict=True)
        ]
    ).sum(0)
    assert (plain + LOG_PRE).abs().max() > 0.5


def test_rate_bound_equals_the_nelbo_on_masked_states_one_by_one():
    """Total rates agree (the schedule), so only -log p of the true tokens is left: for every state, clock and kind."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 5, 4, dtype=F64, generator=generator)
    x0 = torch.randint(0, 4, (64, 5), generator=generator)
    masked = torch.rand(64, 5, generator=generator) < 0.5
    t = torch.rand(64, dtype=F64, generator=generator).clamp_min(0.01)
    mask = (torch.arange(5) < torch.randint(1, 6, (64, 1), generator=generator)).to(F64)
    layout = Layout(64, mask=mask)
    x, process = torch.where(masked, 4, x0), Masked(4, "logits", survival=Cosine())
    example = Example(FIELD, x0, State({FIELD: x}, {FIELD: layout}), lambda state, clocks: {})
    pred = Prediction(logits, "logits", process, x, t, layout)
    nelbo, rate = MaskedNELBO()(pred, example), RateBound()(pred, example)
    torch.testing.assert_close(nelbo, rate, rtol=1e-10, atol=1e-10)
    by_hand = torch.nn.functional.cross_entropy(logits.transpose(1, 2), x0, reduction="none") * masked * mask
    weight = process.survival.slope(t) / (1 - process.survival.alpha(t))
    torch.testing.assert_close(nelbo, weight * by_hand.sum(1) / mask.sum(1))
    assert (nelbo[(masked * mask).sum(1) == 0] == 0).all()


def test_gradients_reach_masked_tokens_only():
    logits = torch.zeros(1, 3, 4, requires_grad=True)
    x0, x = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 4, 2]])
    pred = Prediction(logits, "logits", Masked(4), x, torch.tensor([0.5]), Layout(1))
    MaskedNELBO()(pred, Example(FIELD, x0, State({FIELD: x}, {FIELD: Layout(1)}), lambda s, c: {})).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[0, 1], 2 / 3 * torch.tensor([0.25, -0.75, 0.25, 0.25]))
    assert logits.grad[0, 0].abs().max() == 0 == logits.grad[0, 2].abs().max()


def test_rate_bound_refuses_plain_rates():
    x = torch.tensor([0, 1])
    pred = Prediction(torch.rand(2, 3), "rates", Jump(3), x, torch.tensor(0.5), Layout(2))
    with pytest.raises(UserError, match="Jump has none"):
        RateBound()(pred, Example(FIELD, x, State({FIELD: x}, {FIELD: Layout(2)}), lambda s, c: {}))


def test_half_precision_logits_are_normalised_in_single_precision():
    """Mixed precision: the losses of bfloat16 logits are those of the same logits in float32, to its last digits."""
    x0 = torch.randint(0, 4, (8, 50), generator=torch.Generator().manual_seed(0))
    logits = torch.randn(8, 50, 4, generator=torch.Generator().manual_seed(1)).bfloat16()
    process, layout, x = Masked(4), Layout(8), torch.full((8, 50), 4)
    example = Example(FIELD, x0, State({FIELD: x}, {FIELD: layout}), lambda state, clocks: {})
    half, single = (
        MaskedNELBO()(Prediction(value, "logits", process, x, torch.full((8,), 0.5), layout), example)
        for value in (logits, logits.float())
    )
    assert torch.allclose(half, single, rtol=1e-6, atol=0)
    pred = Prediction(logits, "logits", process, x, torch.tensor(0.5), layout)
    assert torch.allclose(pred.to("data").double().sum(-1), torch.ones(8, 50, dtype=F64), rtol=0, atol=1e-6)
