"""Reference drifts: values by hand, Jacobians by differences, design matrices."""

from __future__ import annotations

import math

import pytest
import torch

from sciflow.core.config import from_config, to_config
from sciflow.networks.references import (
    OU,
    Brownian,
    GradientField,
    LambOseen,
    LotkaVolterra,
    Repressilator,
    Spring,
    Vortex,
)

F64 = torch.float64


def awake(reference):
    """Parameters away from their zeros."""
    with torch.no_grad():
        for i, value in enumerate(reference.parameters()):
            value += 0.3 + 0.1 * torch.sin(torch.arange(value.numel(), dtype=F64) + i).reshape(value.shape)
    return reference


FAMILIES = [
    (awake(LotkaVolterra()), 2),
    (awake(OU(3)), 3),
    (Repressilator(10.0, 3.0, 1.0, 1.0), 3),
    (awake(Vortex()), 2),
    (awake(LambOseen()), 2),
    (awake(Spring()), 2),
    (awake(GradientField(3, (8, 4))), 3),
    (Brownian(), 2),
]
IDS = [type(family).__name__ for family, _ in FAMILIES]


@pytest.mark.parametrize("reference, dim", FAMILIES, ids=IDS)
def test_jacobian_is_the_derivative(reference, dim):
    x = 0.5 + torch.rand(4, dim, generator=torch.Generator().manual_seed(0), dtype=F64)
    step, columns = 1e-6, []
    with torch.no_grad():
        for shift in step * torch.eye(dim, dtype=F64):
            columns.append((reference(x + shift, 0.0) - reference(x - shift, 0.0)) / (2 * step))
    torch.testing.assert_close(reference.jacobian(x, 0.0), torch.stack(columns, -1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("reference, dim", FAMILIES, ids=IDS)
def test_linear_families_say_so_truly(reference, dim):
    """b at theta = a + b is the sum of the drifts for linear families, and for no other here."""
    x = 0.5 + torch.rand(4, dim, generator=torch.Generator().manual_seed(1), dtype=F64)
    before = [value.detach().clone() for value in reference.parameters()]
    with torch.no_grad():
        once = reference(x, 0.0).clone()
        for value in reference.parameters():
            value *= 2
        twice = reference(x, 0.0).clone()
        for value, old in zip(reference.parameters(), before, strict=True):
            value.copy_(old)
    assert torch.allclose(twice, 2 * once, atol=1e-12) == (reference.linear or isinstance(reference, Spring))


def test_values_by_hand():
    x = torch.tensor([[2.0, 3.0]], dtype=F64)
    assert LotkaVolterra(1.0, 0.4, 0.5, 0.1)(x, 0.0)[0].tolist() == pytest.approx([2 - 0.4 * 6, 0.1 * 6 - 0.5 * 3])
    got = Vortex(0.5, 1.0, math.log(2.0), 3.0)(x, 0.0)[0].tolist()
    assert got == pytest.approx([3 * (3 - 1) / 2, -3 * (2 - 0.5)])
    genes = torch.tensor([[1.0, -2.0, 2.0]], dtype=F64)
    expected = [10 / (1 + 2.0**3) - 1.0, 10 / 2 - 1e-8, 10 / (1 + 0.0) - 2.0]  # the second gene is clamped at 0
    assert Repressilator(10.0, 3.0, 1.0, 1.0)(genes, 0.0)[0].tolist() == pytest.approx(expected, abs=1e-6)
    same = Repressilator(-10.0, -3.0, -1.0, -1.0)(genes, 0.0)
    assert same[0].tolist() == pytest.approx(expected, abs=1e-6)  # by absolute values
    assert Spring(-0.5)(x, 0.0).tolist() == [[-1.0, -1.5]]


def test_starts_are_without_drift():
    """Published starts: round 0 is (nearly) the vanilla bridge."""
    x = torch.rand(5, 2, dtype=F64)
    for reference in (LotkaVolterra(), Vortex(), GradientField(2), OU(2)):
        with torch.no_grad():
            assert float(reference(x, 0.0).abs().max()) <= 2e-5


def test_gradient_field_is_a_gradient():
    """Its Jacobian is symmetric; of a drift of another kind it is not."""
    x = torch.rand(5, 3, dtype=F64)
    jacobian = awake(GradientField(3, (8, 8))).jacobian(x, 0.0)
    torch.testing.assert_close(jacobian, jacobian.mT, rtol=0, atol=1e-12)
    assert float(jacobian.abs().max()) > 1e-3


def test_ou_steps_compose():
    """Two exact steps are one of twice the duration."""
    reference = awake(OU(2))
    x, t, h = torch.rand(3, 2, dtype=F64), torch.zeros(3, dtype=F64), torch.full((3,), 0.7, dtype=F64)
    half, matrix, noise = reference.linearised(x, t, h, 0.5)
    mean, again, more = reference.linearised(half, t, h, 0.5)
    whole, both, total = reference.linearised(x, t, 2 * h, 0.5)
    torch.testing.assert_close(mean, whole, rtol=0, atol=1e-13)
    torch.testing.assert_close(again @ matrix, both, rtol=0, atol=1e-13)
    torch.testing.assert_close(again @ noise @ again.mT + more, total, rtol=0, atol=1e-13)


def test_families_are_rebuilt_from_their_configuration():
    again = from_config(to_config(GradientField(3, [8, 4], seed=3)))
    x = torch.rand(4, 3, dtype=F64)
    assert torch.equal(again.potential[0](x), GradientField(3, (8, 4), seed=3).potential[0](x))
