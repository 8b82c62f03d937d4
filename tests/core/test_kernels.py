"""Kernels: densities and divergences against torch.distributions, frequencies of draws, gradients of relaxed draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from sciflow.core.kernels import Categorical, Dirac, Gaussian, RelaxedCategorical, one_hot
from sciflow.core.noise import Fresh
from sciflow.core.relaxation import Relaxation, SecondOrder, SoftTokens, StraightThrough
from sciflow.core.spaces import Euclidean, SymmetricMatrix, ZeroCoM
from sciflow.core.state import Layout

GENERATOR = torch.Generator()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=GENERATOR.manual_seed(seed))


def free_basis(points: int, dims: int) -> Tensor:
    """Orthonormal basis of zero-mean configurations: (points dims, points dims - dims)."""
    centre = torch.eye(points, dtype=torch.float64) - 1 / points
    vectors = torch.linalg.svd(centre)[0][:, : points - 1].contiguous()
    return torch.kron(vectors, torch.eye(dims, dtype=torch.float64))


def test_zero_com_density_is_normalised_on_the_free_coordinates():
    """Against the explicit multivariate normal in 3 (4 - 1) = 9 coordinates."""
    space, layout = ZeroCoM(), Layout(2)
    x, mean = (space.project(normal(2, 4, 3, seed=s), layout) for s in (1, 2))
    std = torch.tensor([0.4, 1.7], dtype=torch.float64)
    basis = free_basis(4, 3)
    got = Gaussian(mean, layout.rows(std, mean), space, layout).log_prob(x)
    for i in range(2):
        free = MultivariateNormal(basis.T @ mean[i].flatten(), std[i] ** 2 * torch.eye(9, dtype=torch.float64))
        torch.testing.assert_close(got[i], free.log_prob(basis.T @ x[i].flatten()))


def test_symmetric_density_counts_each_pair_once():
    """Against the explicit normal on the 3 (real nodes 3) and 6 (real nodes 4) pairs."""
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.float64)
    space, layout = SymmetricMatrix(), Layout(2, mask=mask[:, :, None] * mask[:, None, :])
    x, mean = (space.project(normal(2, 4, 4, seed=s), layout) for s in (1, 2))
    got = Gaussian(mean, torch.tensor(0.6, dtype=torch.float64), space, layout).log_prob(x)
    for i, n in enumerate((3, 4)):
        row, column = torch.triu_indices(n, n, 1)
        truth = Normal(mean[i][row, column], 0.6).log_prob(x[i][row, column]).sum()
        torch.testing.assert_close(got[i], truth)


def test_entries_without_probabilities_stay_masked():
    """A network that returns NaN must not look like one that says "A": the entry gets the last state, the mask."""
    probs = torch.tensor([[[0.0, 1.0, 0.0], [torch.nan, 0.5, 0.5], [0.2, torch.nan, 0.0]]])
    assert Categorical(probs, Layout(1)).sample(Fresh(0)).tolist() == [[1, 2, 2]]


@pytest.mark.parametrize("per_entry", [False, True])
def test_gaussian_density_and_kl_against_torch(per_entry):
    layout, shape = Layout(3), (3, 4, 2)
    x, m1, m2 = (normal(*shape, seed=s) for s in (1, 2, 3))
    s1, s2 = (normal(*(shape if per_entry else (3, 1, 1)), seed=s).exp() for s in (4, 5))
    first, second = Gaussian(m1, s1, Euclidean(), layout), Gaussian(m2, s2, Euclidean(), layout)
    truth1, truth2 = (Independent(Normal(m, s.expand(shape)), 2) for m, s in ((m1, s1), (m2, s2)))
    torch.testing.assert_close(first.log_prob(x), truth1.log_prob(x))
    torch.testing.assert_close(first.kl(second), kl_divergence(truth1, truth2))
    assert first.kl(first).abs().max() < 1e-14


def test_gaussian_density_and_kl_masked_and_ragged():
    """A padded and a ragged batch give the values of the samples one by one."""
    sizes, index = (3, 1), torch.tensor([0, 0, 0, 1])
    x, m1, m2 = (normal(4, 2, seed=s) for s in (1, 2, 3))
    s1, s2 = torch.tensor(0.5, dtype=torch.float64), torch.tensor([0.7, 1.3], dtype=torch.float64)
    ragged = Layout(2, index)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]], dtype=torch.float64)[..., None]
    padded = Layout(2, mask=mask)

    def pad(v: Tensor) -> Tensor:
        return torch.stack([torch.nn.functional.pad(p, (0, 0, 0, 3 - len(p))) for p in v.split(sizes)])

    for layout, make in ((ragged, lambda v: v), (padded, pad)):
        first = Gaussian(make(m1), s1, Euclidean(), layout)
        second = Gaussian(make(m2), layout.rows(s2, make(m2)), Euclidean(), layout)
        log_prob, kl = second.log_prob(make(x)), first.kl(second)
        for i, (a, b, c) in enumerate(zip(x.split(sizes), m1.split(sizes), m2.split(sizes), strict=True)):
            one, two = Normal(b, s1), Normal(c, s2[i])
            torch.testing.assert_close(log_prob[i], two.log_prob(a).sum())
            torch.testing.assert_close(kl[i], kl_divergence(one, two).sum())


def test_zero_com_kl_counts_free_coordinates():
    space, layout = ZeroCoM(), Layout(1)
    m1, m2 = (space.project(normal(1, 4, 3, seed=s), layout) for s in (1, 2))
    s1, s2 = (torch.tensor(v, dtype=torch.float64) for v in (0.5, 0.9))
    basis, eye = free_basis(4, 3), torch.eye(9, dtype=torch.float64)
    truth = kl_divergence(
        MultivariateNormal(basis.T @ m1.flatten(), s1**2 * eye), MultivariateNormal(basis.T @ m2.flatten(), s2**2 * eye)
    )
    got = Gaussian(m1, s1, space, layout).kl(Gaussian(m2, s2, space, layout))
    torch.testing.assert_close(got[0], truth)


def test_gaussian_draws_are_differentiable():
    mean = torch.zeros(2, 3, requires_grad=True)
    std = torch.tensor(2.0, requires_grad=True)
    draw = Gaussian(mean, std, Euclidean(), Layout(2)).sample(Fresh(0))
    draw.sum().backward()
    assert torch.equal(mean.grad, torch.ones(2, 3))  # type: ignore[arg-type]
    torch.testing.assert_close(std.grad, draw.detach().sum() / 2)


PROBS = torch.tensor([0.05, 0.0, 0.6, 0.25, 0.1, 0.0], dtype=torch.float64)


def test_categorical_frequencies():
    """100 000 draws: chi-square with 3 degrees of freedom, false-alarm rate 1e-5 (threshold 25.90)."""
    n = 100_000
    kernel = Categorical(PROBS.expand(n, 6), Layout(n))
    draws = kernel.sample(Fresh(2))
    counts = torch.bincount(draws, minlength=6).double()
    assert counts[PROBS == 0].sum() == 0
    live = PROBS > 0
    chi2 = ((counts - n * PROBS)[live] ** 2 / (n * PROBS)[live]).sum()
    assert chi2 < 25.90
    wrong = (PROBS + 0.01 * (PROBS == 0.6) - 0.01 * (PROBS == 0.25))[live]
    assert ((counts[live] - n * wrong) ** 2 / (n * wrong)).sum() > 25.90  # a 1 % error would be seen


def test_categorical_weights_need_not_be_normalised():
    kernel, scaled = (Categorical((c * PROBS).expand(1000, 6), Layout(1000)) for c in (1.0, 7.0))
    assert torch.equal(kernel.sample(Fresh(2)), scaled.sample(Fresh(2)))


def test_categorical_density_and_kl_against_torch():
    p, q = (normal(3, 4, 5, seed=s).softmax(-1) for s in (1, 2))
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], dtype=torch.float64)
    x = torch.randint(0, 5, (3, 4), generator=GENERATOR.manual_seed(3))
    first, second = Categorical(p, Layout(3, mask=mask)), Categorical(q, Layout(3, mask=mask))
    torch.testing.assert_close(first.log_prob(x), (TorchCategorical(p).log_prob(x) * mask).sum(1))
    truth = (kl_divergence(TorchCategorical(p), TorchCategorical(q)) * mask).sum(1)
    torch.testing.assert_close(first.kl(second), truth)


def test_impossible_categories():
    kernel = Categorical(PROBS.expand(1, 6), Layout(1))
    assert kernel.log_prob(torch.tensor([1])) == -math.inf
    uniform = Categorical(torch.full((1, 6), 1 / 6, dtype=torch.float64), Layout(1))
    assert uniform.kl(kernel) == math.inf
    truth = (PROBS[PROBS > 0] * (6 * PROBS[PROBS > 0]).log()).sum()
    torch.testing.assert_close(kernel.kl(uniform)[0], truth)
    assert kernel.mean.item() == 2


def test_dirac_and_mixed_kinds_say_what_is_wrong():
    point = Dirac(torch.ones(2, 1))
    assert torch.equal(point.sample(Fresh(0)), point.mean)
    with pytest.raises(TypeError, match="Dirac has no density"):
        point.log_prob(torch.ones(2, 1))
    gaussian = Gaussian(torch.zeros(2, 1), torch.ones(()), Euclidean(), Layout(2))
    categorical = Categorical(torch.ones(2, 3) / 3, Layout(2))
    for first, second in ((point, gaussian), (gaussian, categorical), (categorical, point)):
        with pytest.raises(TypeError, match="KL"):
            first.kl(second)


def relaxed(masked: list[bool], relaxation: Relaxation, count: int = 1) -> RelaxedCategorical:
    """Entries that are masked or hold token 0, tokens from (0.2, 0.3, 0.5) with chance 0.4."""
    held = one_hot(torch.tensor([[3 if one else 0 for one in masked]] * count), 4).double()
    tokens = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).expand(count, len(masked), 3)
    return RelaxedCategorical(tokens, torch.tensor(0.4), held, relaxation, Layout(count))


def test_relaxed_mean_is_the_expected_one_hot_vector():
    kernel = relaxed([False, True], SoftTokens(0.2), 1)
    truth = torch.tensor([[[1.0, 0, 0, 0], [0.08, 0.12, 0.2, 0.6]]], dtype=torch.float64)
    torch.testing.assert_close(kernel.mean, truth)
    hard = Categorical(truth, Layout(1))
    x = torch.tensor([[0, 3]])
    torch.testing.assert_close(kernel.log_prob(one_hot(x, 4).double()), hard.log_prob(x))
    other = RelaxedCategorical(kernel.tokens.flip(-1), kernel.chance, kernel.held, kernel.relaxation, Layout(1))
    torch.testing.assert_close(kernel.kl(other), hard.kl(Categorical(other.probs, Layout(1))))
    with pytest.raises(TypeError, match="KL"):
        kernel.kl(hard)


@pytest.mark.parametrize("relaxation", [SecondOrder(), StraightThrough(0.5), SoftTokens(0.2)])
def test_relaxed_argmax_has_the_categorical_law(relaxation):
    """Chi-square with 3 degrees of freedom over 50 000 draws of masked entries, false-alarm rate 1e-5; others stay."""
    n = 50_000
    draw = relaxed([True, False], relaxation, n).sample(Fresh(4)).argmax(-1)
    expected = torch.tensor([0.08, 0.12, 0.2, 0.6]) * n
    counts = torch.bincount(draw[:, 0], minlength=4)
    assert ((counts - expected) ** 2 / expected).sum() < 25.90
    assert (draw[:, 1] == 0).all()
