"""Lattices without orientation: invariance, inverse, volume."""

from __future__ import annotations

import math

import pytest
import torch

from sciflow.core.errors import UserError
from sciflow.core.noise import Fresh
from sciflow.core.schedules import BFN
from sciflow.core.state import Layout
from sciflow.processes.polar_lattice import PolarLattice

F64 = torch.float64
PROCESS = PolarLattice(BFN(0.03), mean=0.7, std=0.2)


def lattices() -> torch.Tensor:
    """Random, cubic, long and nearly flat."""
    generator = torch.Generator().manual_seed(0)
    fixed = torch.diag_embed(torch.tensor([[2.0, 2.0, 2.0], [1.0, 1.0, 12.0]], dtype=F64))
    flat = torch.tensor([[[1.0, 0, 0], [0.9, 0.3, 0], [0.2, 0.1, 0.05]]], dtype=F64)
    return torch.cat([torch.randn(5, 3, 3, generator=generator, dtype=F64), fixed, flat])


def test_decode_gives_the_same_crystal():
    """The Gram matrix is unchanged, the decoded lattice symmetric with a positive volume."""
    x = lattices()
    k = PROCESS.encode(x)
    y = PROCESS.decode(k, None)
    assert k.shape == (8, 6)
    torch.testing.assert_close(y @ y.transpose(1, 2), x @ x.transpose(1, 2), atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(y, y.transpose(1, 2))
    torch.testing.assert_close(torch.linalg.det(y), torch.linalg.det(x).abs(), atol=1e-10, rtol=1e-7)


@pytest.mark.parametrize("sign", [1, -1])
def test_orientation_does_not_matter(sign):
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=F64))
    torch.testing.assert_close(
        PROCESS.encode(lattices() @ (sign * q)), PROCESS.encode(lattices()), atol=1e-9, rtol=1e-9
    )


def test_numbers_are_standardised_and_isometric():
    """A cube of edge e^mean is the origin; sums of squares are the Frobenius norm of S over std."""
    cube = math.exp(0.7) * torch.eye(3, dtype=F64)[None]
    torch.testing.assert_close(PROCESS.encode(cube), torch.zeros(1, 6, dtype=F64), atol=1e-12, rtol=0)
    s = torch.tensor([[[0.3, 0.1, -0.2], [0.1, -0.4, 0.05], [-0.2, 0.05, 0.2]]], dtype=F64)
    k = PROCESS.encode(math.exp(0.7) * torch.linalg.matrix_exp(s))
    assert float((k**2).sum()) == pytest.approx(float((s**2).sum()) / 0.2**2)


def test_prior_has_the_shape_of_the_belief():
    assert PROCESS.prior(torch.zeros(4, 3, 3), Layout(4)).sample(Fresh()).tolist() == [[0.0] * 6] * 4


def test_std_must_be_positive():
    with pytest.raises(UserError, match="std"):
        PolarLattice(std=0.0)
