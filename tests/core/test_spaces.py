"""Spaces: projection, dimension, exponential and logarithm maps, and densities on the free coordinates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sciflow.core.kernels import Gaussian
from sciflow.core.noise import PRIOR, Draws, Fresh, PerSample
from sciflow.core.spaces import Discrete, Euclidean, SymmetricMatrix, Torus, ZeroCoM
from sciflow.core.state import Layout

INDEX = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], dtype=torch.float64)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def pair_mask(mask: Tensor) -> Tensor:
    return mask[:, :, None] * mask[:, None, :]


CASES = {
    "dense": (Euclidean(), normal(3, 5, 2), Layout(3), [10, 10, 10]),
    "padded": (Euclidean(), normal(3, 5, 2), Layout(3, mask=MASK[..., None]), [6, 4, 8]),
    "ragged": (Euclidean(), normal(9, 2), Layout(3, INDEX), [6, 4, 8]),
    "com-dense": (ZeroCoM(), normal(3, 5, 3), Layout(3), [12, 12, 12]),
    "com-padded": (ZeroCoM(), normal(3, 5, 3), Layout(3, mask=MASK[..., None]), [6, 3, 9]),
    "com-ragged": (ZeroCoM(), normal(9, 3), Layout(3, INDEX), [6, 3, 9]),
    "com-frames": (ZeroCoM(), normal(9, 4, 3), Layout(3, INDEX), [33, 21, 45]),
    "com-dense-frames": (ZeroCoM(), normal(3, 5, 4, 3), Layout(3, mask=MASK[..., None, None]), [33, 21, 45]),
    "symmetric": (SymmetricMatrix(), normal(3, 5, 5), Layout(3), [10, 10, 10]),
    "symmetric-padded": (SymmetricMatrix(), normal(3, 5, 5), Layout(3, mask=pair_mask(MASK)), [3, 1, 6]),
    "symmetric-channels": (
        SymmetricMatrix(),
        normal(3, 5, 5, 2),
        Layout(3, mask=pair_mask(MASK)[..., None]),
        [6, 2, 12],
    ),
    "torus": (Torus(2.0), normal(9, 2), Layout(3, INDEX), [6, 4, 8]),
}
cases = pytest.mark.parametrize("space, x, layout, dims", CASES.values(), ids=CASES.keys())


@cases
def test_dimension_counts_free_coordinates(space, x, layout, dims):
    assert space.dim(x, layout).tolist() == dims


@cases
def test_projection_is_idempotent_and_applies_the_mask(space, x, layout, dims):
    y = space.project(x, layout)
    torch.testing.assert_close(space.project(y, layout), y, rtol=0, atol=1e-15)
    if layout.mask is not None:
        assert (y * (1 - layout.mask)).abs().max() == 0


@cases
def test_noise_is_standard_on_the_free_coordinates(space, x, layout, dims):
    """Mean over 400 draws of |noise|^2, summed by `reduce`, is the dimension: z test, false-alarm rate 1e-5 per case.

    |noise|^2 of all samples together is chi-square with 400 sum(dims) degrees: standard deviation sqrt(2 of that).
    """
    draws = Fresh(7)
    total = sum(space.reduce(space.noise(x, layout, draws) ** 2, layout) for _ in range(400)).sum()  # type: ignore[union-attr]
    degrees = 400 * sum(dims)
    assert abs(float(total) - degrees) < 4.42 * math.sqrt(2 * degrees) + 1


@cases
def test_add_and_diff_are_inverse(space, x, layout, dims):
    a, b = space.project(x, layout), space.project(x.flip(0), layout)
    torch.testing.assert_close(space.add(a, space.diff(a, b)), b, rtol=0, atol=1e-14)
    assert space.diff(a, a).abs().max() == 0


@cases
@pytest.mark.parametrize("noise", [Fresh(1), PerSample(1)], ids=["fresh", "per_sample"])
def test_a_draw_lies_in_the_space(space, x, layout, dims, noise):
    mean = space.project(x, layout)
    draw = Gaussian(mean, torch.tensor(0.3, dtype=torch.float64), space, layout).sample(noise.at("x", PRIOR))
    torch.testing.assert_close(space.project(draw, layout), draw, rtol=0, atol=1e-14)


def test_centre_of_mass_stays_at_zero_over_many_moves():
    """The drift of 100 draws stays at rounding level, dense and ragged alike."""
    for name in ("com-padded", "com-ragged", "com-frames"):
        space, x, layout, _ = CASES[name]
        x = space.project(x, layout)
        draws = Fresh(0)
        for _ in range(100):
            x = Gaussian(0.99 * x, torch.tensor(0.1, dtype=torch.float64), space, layout).sample(draws)
        middle = tuple(range(1, x.ndim - 1))
        centre = (
            x.sum(middle)
            if layout.index is None
            else torch.zeros(3, 3, dtype=x.dtype).index_add(0, layout.index, x.sum(middle) if middle else x)
        )
        assert centre.abs().max() < 1e-12


def test_centre_of_mass_ragged_equals_padded():
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.float64)[..., None]
    padded = normal(3, 4, 3) * mask
    ragged = padded[mask[..., 0] > 0]
    a = ZeroCoM().project(padded, Layout(3, mask=mask))
    b = ZeroCoM().project(ragged, Layout(3, INDEX))
    torch.testing.assert_close(a[mask[..., 0] > 0], b, rtol=0, atol=1e-15)


def test_symmetric_noise_is_symmetric_with_zero_diagonal():
    space, x, layout, _ = CASES["symmetric-channels"]
    z = space.noise(x, layout, Fresh(0))
    assert torch.equal(z, z.transpose(1, 2))
    assert z.diagonal(dim1=1, dim2=2).abs().max() == 0
    assert z[0, 0, 1, 0] != z[0, 0, 1, 1]


def test_torus_differences_are_the_shortest():
    space = Torus(1.0)
    x, y = torch.rand(2, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    d = space.diff(x, y)
    brute = torch.stack([y - x + k for k in (-1, 0, 1)])
    assert (d.abs() <= 0.5).all()
    torch.testing.assert_close(d.abs(), brute.abs().min(0).values, rtol=0, atol=1e-15)
    assert space.diff(torch.tensor(0.9), torch.tensor(0.1)) > 0 > space.diff(torch.tensor(0.1), torch.tensor(0.9))
    wrapped = space.add(x, 5 * y)
    assert ((wrapped >= 0) & (wrapped < 1)).all()


@pytest.mark.parametrize("std", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("period", [1.0, 2 * math.pi])
def test_wrapped_normal_score_is_the_gradient_of_a_mixture_of_images(period, std):
    """Against automatic differentiation of log sum_k N(x; mean + k period, std^2) with 81 images."""
    std = torch.tensor(std * period, dtype=torch.float64)
    x = torch.linspace(0, period, 50, dtype=torch.float64)[:-1].requires_grad_()
    mean = torch.tensor(0.3 * period, dtype=torch.float64)
    images = mean + period * torch.arange(-40, 41, dtype=torch.float64)
    log_density = torch.logsumexp(-((x[:, None] - images) ** 2) / (2 * std**2), 1)
    (score,) = torch.autograd.grad(log_density.sum(), x)
    got = Torus(period).gaussian_score(x.detach(), mean.expand(49), std)
    torch.testing.assert_close(got, score, rtol=1e-9, atol=1e-12)


def test_flat_score_is_the_gradient_of_the_log_density():
    x = normal(4, 3).requires_grad_()
    mean, std = normal(4, 3).flip(0), torch.tensor(0.7, dtype=torch.float64)
    log_prob = torch.distributions.Normal(mean, std).log_prob(x)
    (score,) = torch.autograd.grad(log_prob.sum(), x)
    torch.testing.assert_close(Euclidean().gaussian_score(x.detach(), mean, std), score)


def test_impossible_spaces_are_refused():
    with pytest.raises(ValueError, match="period"):
        Torus(0.0)
    with pytest.raises(ValueError, match="states"):
        Discrete(1)


def test_custom_draws_need_only_normal_and_uniform():
    """`upper_normal` has a default, so a Draws that knows nothing of pairs serves symmetric fields."""

    class Ones(Draws):
        def normal(self, like: Tensor, layout: Layout) -> Tensor:
            return torch.ones_like(like)

        uniform = normal

    z = SymmetricMatrix().noise(torch.zeros(1, 3, 3), Layout(1), Ones())
    assert torch.equal(z[0], 1 - torch.eye(3))
