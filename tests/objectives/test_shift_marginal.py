"""The shift-marginalised losses against draws of the shift (crysbfn specification, sections 6, 14 and 21)."""

from __future__ import annotations

import math

import pytest
import torch

from sciflow.core.circular import von_mises
from sciflow.core.noise import Fresh
from sciflow.core.objective import Example
from sciflow.core.process import Prediction
from sciflow.core.state import Layout, State
from sciflow.objectives.circular import CosineLoss, SquaredWrapped
from sciflow.objectives.regression import Regression
from sciflow.objectives.shift_marginal import ShiftMarginal, shift_posterior_mean
from sciflow.objectives.snr_weighted import SNRWeighted
from sciflow.processes.planar_bfn import PlanarBFN, unit_vectors
from sciflow.processes.vonmises_bfn import VonMisesBFN, turn

F64 = torch.float64
DRAWS = 400_000
LAYOUT = Layout(2, torch.tensor([0, 0, 0, 1, 1]), sizes=(3, 2))


def crystals(process, t: torch.Tensor, seed=0):
    """Beliefs, true unit vectors and some predictions of two crystals with two axes."""
    generator = torch.Generator().manual_seed(seed)
    clean = unit_vectors(torch.rand(5, 2, generator=generator, dtype=F64) * 2 * math.pi)
    x = process.marginal(clean, t, LAYOUT).sample(Fresh(seed))
    guess = torch.randn(5, 2, 2, generator=generator, dtype=F64)
    return x, clean, guess


def case(process, x, clean, guess, t):
    kind = process.kind
    state = State({"coords": x}, {"coords": LAYOUT})
    return Prediction(guess, kind, process, x, t, LAYOUT), Example("coords", clean, state, lambda *_: {})


def posterior_shifts(x, clean, concentration_of_one: torch.Tensor) -> torch.Tensor:
    """Draws of the shift of each crystal and axis from p(tau | x) by brute force on a grid: (B, d, DRAWS).

    The likelihood of a shift is the product over atoms of exp(<x_j, u_j turned by tau>/width), written out.
    """
    grid = torch.linspace(-math.pi, math.pi, 20_001, dtype=F64)[:-1]
    generator = torch.Generator().manual_seed(1)
    shifts = torch.empty(2, 2, DRAWS, dtype=F64)
    for crystal, rows in enumerate((slice(0, 3), slice(3, 5))):
        for axis in range(2):
            moved = turn(clean[rows, axis][:, None], unit_vectors(grid)[None])
            log = (moved * x[rows, axis][:, None]).sum((0, 2)) / concentration_of_one[crystal]
            cumulative = (log - log.max()).exp().cumsum(0)
            u = torch.rand(DRAWS, generator=generator, dtype=F64) * cumulative[-1]
            shifts[crystal, axis] = grid[torch.searchsorted(cumulative, u)]
    return shifts


@pytest.mark.parametrize("clock", [0.95, 0.7])
def test_planar_target_is_the_posterior_mean_over_shifts(clock):
    """4e5 draws of the shift from its posterior; agreement 4e-3 (standard error below 1.2e-3)."""
    process, t = PlanarBFN(), torch.tensor([clock, clock], dtype=F64)
    x, clean, _ = crystals(process, t)
    width = 1 - process.schedule.alpha(t)
    shifts = posterior_shifts(x, clean, width)
    target = shift_posterior_mean(x, clean, width, LAYOUT)
    for row, crystal in enumerate((0, 0, 0, 1, 1)):
        for axis in range(2):
            drawn = turn(clean[row, axis], unit_vectors(shifts[crystal, axis])).mean(0)
            torch.testing.assert_close(target[row, axis], drawn, atol=5e-3, rtol=0)


def test_identity_of_the_cosine_loss():
    """Section 21: shifts from vM(arg R, |R|) by quantiles of 4e5 equal slices; agreement 1e-3."""
    generator = torch.Generator().manual_seed(3)
    belief = torch.randn(3, 2, generator=generator, dtype=F64)
    angles, guess = (torch.rand(3, generator=generator, dtype=F64) * 6 for _ in range(2))
    r = (torch.view_as_complex(belief) * torch.exp(-1j * angles)).sum()
    u = (torch.arange(DRAWS, dtype=F64) + 0.5) / DRAWS
    tau = r.angle() + von_mises(r.abs()[None], u[None])[0]
    target = shift_posterior_mean(
        belief[:, None], unit_vectors(angles)[:, None], torch.ones(1, dtype=F64), Layout(1, torch.zeros(3).long())
    )
    for j in range(3):
        drawn = float((1 - (guess[j] - angles[j] - tau).cos()).mean())
        formula = float(1 - (unit_vectors(guess[j]) * target[j, 0]).sum())
        assert formula == pytest.approx(drawn, abs=1e-3)


def test_without_the_marginal_it_is_the_bayesian_flow_loss():
    """-log(sigma_1) sigma_1^(-2 (1 - t)) |u - u'|^2, averaged over atoms and axes; the generic weight agrees."""
    process, t = PlanarBFN(), torch.tensor([0.9, 0.4], dtype=F64)
    x, clean, guess = crystals(process, t)
    pred, example = case(process, x, clean, guess, t)
    sigma = math.sqrt(1e-3)
    square = ((clean - guess) ** 2).sum(-1).mean(1)
    square = torch.stack([square[:3].mean(), square[3:].mean()])
    expected = -math.log(sigma) * sigma ** (-2 * (1 - t)) * square
    torch.testing.assert_close(ShiftMarginal(marginal=0.0)(pred, example), expected)
    torch.testing.assert_close(SNRWeighted()(pred, example), expected / 2)  # per entry, of which there are two
    torch.testing.assert_close(SNRWeighted(power=0.0)(pred, example), Regression("data")(pred, example))


def test_the_marginal_has_the_same_mean_and_less_variance():
    """For a shift-equivariant predictor the losses differ by the known 1 - E|target|^2 on average, and the marginal one
    fluctuates less. z-test of the means, false alarm 1e-5."""
    from stats import Z_LIMIT, mean_z

    process, rows = PlanarBFN(), 6_000
    layout = Layout(rows, torch.arange(rows).repeat_interleave(2), sizes=(2,) * rows)
    clean = unit_vectors(torch.tensor([0.3, 1.9], dtype=F64).repeat(rows)[:, None])
    t = torch.full((rows,), 0.8, dtype=F64)
    x = process.marginal(clean, t, layout).sample(Fresh(8))
    guess = torch.nn.functional.normalize(x, dim=-1)  # equivariant
    pred = Prediction(guess, "data", process, x, t, layout)
    example = Example("coords", clean, State({"coords": x}, {"coords": layout}), lambda *_: {})
    plain, marginal = (ShiftMarginal(share, power=0.0)(pred, example) for share in (0.0, 1.0))
    target = shift_posterior_mean(x, clean, 1 - process.schedule.alpha(t), layout)
    constant = layout.per_sample(1 - (target**2).sum(-1)) / 2
    assert mean_z(plain - marginal - constant, 0.0) < Z_LIMIT
    assert float(marginal.var()) < 0.8 * float(plain.var())


@pytest.mark.parametrize("loss", [CosineLoss(), SquaredWrapped()])
def test_marginal_von_mises_losses_ignore_the_description(loss):
    """Another origin of the data changes nothing; without the marginal it does."""
    process, t = VonMisesBFN(steps=20), torch.tensor([0.7, 0.3], dtype=F64)
    x, clean, guess = crystals(process, t)
    moved = turn(clean, unit_vectors(torch.tensor([1.1, -0.4], dtype=F64)).expand_as(clean))
    first, second = (loss(*case(process, x, c, guess, t)) for c in (clean, moved))
    torch.testing.assert_close(first, second)
    plain = type(loss)(marginal=False)
    gap = plain(*case(process, x, clean, guess, t)) - plain(*case(process, x, moved, guess, t))
    assert float(gap.abs().min()) > 1e-3


def test_von_mises_losses_by_hand():
    """rate (1 - cos) and rate (wrapped difference)^2; 350 degrees apart is 10 degrees."""
    process, t = VonMisesBFN(steps=20), torch.tensor([0.7, 0.3], dtype=F64)
    x, clean, _ = crystals(process, t)
    away = math.radians(350)
    guess = 3.0 * turn(clean, unit_vectors(torch.full((5, 2), away, dtype=F64)))  # only the direction counts
    rate = process.concentration_rate(t)
    cosine = CosineLoss(marginal=False)(*case(process, x, clean, guess, t))
    square = SquaredWrapped(marginal=False)(*case(process, x, clean, guess, t))
    torch.testing.assert_close(cosine, rate * (1 - math.cos(away)))
    torch.testing.assert_close(square, rate * math.radians(10) ** 2)
