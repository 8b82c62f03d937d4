"""Von Mises Bayesian flow: draws against sequential simulation, the sampler with an exact predictor (crysbfn
specification, section 21). Its accuracies: tests/core/test_accuracy_rules.py."""

from __future__ import annotations

import math

import pytest
import torch
from stats import FALSE_ALARM, Z_LIMIT, chi_square, mean_z

from sciflow.core.accuracy_rules import Closed, Continuous, Exact, concentration
from sciflow.core.circular import mean_resultant, von_mises
from sciflow.core.config import from_config, to_config
from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.kernels import Kernel
from sciflow.core.noise import Fresh
from sciflow.core.process import Prediction
from sciflow.core.sampler import Sampler
from sciflow.core.state import Layout, State
from sciflow.processes.planar_bfn import unit_vectors
from sciflow.processes.vonmises_bfn import VonMisesBFN, on_circle, turn
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.reperturb import Reperturb

F64 = torch.float64


def clock(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)


def sequential(process: VonMisesBFN, moves: int, rows: int, seed: int) -> torch.Tensor:
    """Beliefs about the angle 0 after `moves` updates drawn one after the other, (rows, 2)."""
    generator, belief = torch.Generator().manual_seed(seed), torch.zeros(rows, 2, dtype=F64)
    for alpha in process.alphas[:moves]:
        y = von_mises(alpha[None], torch.rand(1, rows, generator=generator, dtype=F64))[0]
        belief = belief + alpha * unit_vectors(y)
    return belief


def zero_angle(rows: int) -> torch.Tensor:
    return clock(1.0, 0.0).expand(rows, 1, 2)


# ---------------------------------------------------------------- schedule


@pytest.mark.parametrize("rule", [Closed(), Continuous(), Exact(2000)])
def test_moves_of_the_sampler_are_those_of_the_marginal(rule):
    """The update t -> s of a uniform grid has the accuracies that `marginal` sums."""
    process, clocks = VonMisesBFN(steps=12, rule=rule), 1 - torch.arange(13, dtype=F64) / 12
    x = zero_angle(1)
    alphas = [process.posterior(x, x, t, s, Layout(1)).alpha for t, s in zip(clocks[:-1], clocks[1:], strict=True)]
    torch.testing.assert_close(torch.stack(alphas), process.alphas, rtol=1e-9, atol=0)
    gains = (process.alphas * mean_resultant(process.alphas)).cumsum(0)
    mean = process.marginal(x, clocks[7], Layout(1)).mean
    torch.testing.assert_close(mean[0, 0, 0], gains[6])


def test_concentrations_of_the_process():
    process, t = VonMisesBFN(500.0), clock(0.95, 0.6)
    torch.testing.assert_close(process.concentration(t), concentration(t, 500.0))
    torch.testing.assert_close(process.concentration_rate(t), Continuous().rate(t, 500.0))


# ---------------------------------------------------------------- beliefs


def test_updates_commute_and_equal_the_polar_form():
    """c' = sqrt(alpha^2 + c^2 + 2 alpha c cos(y - m)), m' by atan2; any order of the senders; 1e-12."""
    generator = torch.Generator().manual_seed(0)
    alpha, y = torch.rand(6, generator=generator, dtype=F64) * 5, torch.rand(6, generator=generator, dtype=F64) * 6
    c, m = clock(0.0)[0], clock(0.0)[0]
    for a, angle in zip(alpha, y, strict=True):
        c, m = (
            (a**2 + c**2 + 2 * a * c * (angle - m).cos()).sqrt(),
            torch.atan2(a * angle.sin() + c * m.sin(), a * angle.cos() + c * m.cos()),
        )
    for order in (torch.arange(6), torch.randperm(6, generator=generator)):
        total = (alpha[order, None] * unit_vectors(y[order])).sum(0)
        torch.testing.assert_close(total, c * unit_vectors(m), atol=1e-12, rtol=0)


@pytest.mark.parametrize("steps", [10, 100, 1000])
@pytest.mark.parametrize("t", [0.8, 0.4, 0.0])
def test_flow_draws_agree_with_sequential_simulation(steps, t):
    """Two-sample Kolmogorov-Smirnov tests of length and angle, 5 000 draws each, false alarm 1e-5 each.

    Up to 64 terms the draws are exact; beyond, the normal remainder is wrong by at most .024 (specification), below the
    critical distance .045.
    """
    from scipy.stats import ks_2samp

    process, rows = VonMisesBFN(steps=steps), 5_000
    x = process.marginal(zero_angle(rows), clock(t)[0], Layout(rows)).sample(Fresh(1))[:, 0]
    y = sequential(process, round((1 - t) * steps), rows, seed=2)
    for function in (lambda v: v.norm(dim=-1), lambda v: torch.atan2(v[:, 1], v[:, 0])):
        result = ks_2samp(function(x).numpy(), function(y).numpy())
        assert result.pvalue > FALSE_ALARM  # type: ignore[attr-defined]


def test_flow_has_the_exact_mean():
    """E C = G(t) u but for the first move, which has A(c*) c* and not G; z-test, false alarm 1e-5."""
    t, rows = clock(0.37)[0], 20_000
    for steps in (7, 50, 300):
        process = VonMisesBFN(steps=steps)
        kernel = process.marginal(zero_angle(rows), t, Layout(rows))
        x = kernel.sample(Fresh(steps))[:, 0]
        first, gain = process.alphas[0], process.rule.gain(clock(0.37, 1 - 1 / steps), 1e3)
        target = float(gain[0] - gain[1] + first * mean_resultant(first))
        assert mean_z(x[:, 0], target) < Z_LIMIT and mean_z(x[:, 1], 0.0) < Z_LIMIT
        torch.testing.assert_close(kernel.mean[:1, 0], clock(target, 0.0)[None], rtol=1e-9, atol=1e-9)


def test_many_steps_approach_the_planar_flow():
    """Variance G in both components as steps -> infinity."""
    process = VonMisesBFN(steps=20_000)
    mean, along, across = process.moments[10_000].tolist()
    gain = float(process.rule.gain(clock(0.5), 1e3))
    assert mean == pytest.approx(gain, rel=1e-4)
    assert along == pytest.approx(gain, rel=0.01) and across == pytest.approx(gain, rel=0.01)


def test_flow_turns_with_the_data_and_respects_the_clock_of_each_sample():
    process, layout = VonMisesBFN(steps=8), Layout(2, torch.tensor([0, 0, 1]))
    clean = process.encode(torch.tensor([[0.1, 0.9], [0.4, 0.2], [0.7, 0.6]], dtype=F64))
    angle = unit_vectors(clock(0.6)).expand_as(clean)
    t = clock(0.55, 0.0)
    x = process.marginal(clean, t, layout).sample(Fresh(4))
    torch.testing.assert_close(process.marginal(turn(clean, angle), t, layout).sample(Fresh(4)), turn(x, angle))
    assert float(x[:2].norm(dim=-1).max()) < 60 < float(x[2].norm(dim=-1).min())


def test_prior_and_decode():
    process = VonMisesBFN()
    prior = process.prior(torch.rand(4, 3), Layout(4)).sample(Fresh())
    assert prior.shape == (4, 3, 2) and float(prior.abs().max()) == 0.0
    x = torch.tensor([[0.0, 0.999, 0.25]], dtype=F64)
    torch.testing.assert_close(process.decode(7 * process.encode(x), None), x)


def test_kernels_have_no_density():
    process = VonMisesBFN()
    clean = zero_angle(2)
    kernels: list[Kernel] = [
        process.marginal(clean, clock(0.5)[0], Layout(2)),
        process.posterior(clean, clean, clock(0.5)[0], clock(0.4)[0], Layout(2)),
    ]
    for kernel in kernels:
        with pytest.raises(TypeError, match="no density"):
            kernel.log_prob(clean)


def test_configuration_keeps_the_rule():
    again = from_config(to_config(VonMisesBFN(200.0, 8, Closed())))
    assert isinstance(again.rule, Closed) and again.accuracy == 200.0
    assert torch.equal(again.alphas, VonMisesBFN(200.0, 8, Closed()).alphas)


def test_bad_arguments_are_refused():
    with pytest.raises(UserError, match="positive"):
        VonMisesBFN(steps=0)


# ---------------------------------------------------------------- sampling


@pytest.mark.parametrize("solver, moves", [(Ancestral(), 60), (Ancestral(), 7), (Reperturb(), 6)])
def test_sampler_with_the_exact_predictor_reproduces_a_mixture(solver, moves):
    """Three angles with weights .2, .3, .5, predictions drawn from the exact posterior exp(<u, C>): chi-square, false
    alarm 1e-5. The posterior given C is exact for any accuracies, so few moves are as good as many."""
    process, rows, generator = VonMisesBFN(steps=moves), 4_000, torch.Generator().manual_seed(3)
    angles, weights = clock(0.4, 2.5, 5.0), clock(0.2, 0.3, 0.5)

    def denoise(state, clocks):
        x, layout = state["coords"], state.layouts["coords"]
        posterior = (weights.log() + x[:, 0] @ unit_vectors(angles).T).softmax(-1)
        drawn = unit_vectors(angles)[posterior.multinomial(1, generator=generator)[:, 0]]
        return {"coords": Prediction(2.5 * drawn[:, None], "direction", process, x, clocks["coords"], layout)}

    state = State({"coords": torch.zeros(rows, 1, 2, dtype=F64)}, {"coords": Layout(rows)})
    sampler = Sampler({"coords": process}, {"coords": solver}, Uniform(1.0, 0.0))
    end = sampler.run(state, denoise, Fresh(4), steps=moves).state["coords"]
    angle = 2 * math.pi * process.decode(end, None)[:, 0]
    off = ((angle[:, None] - angles + math.pi) % (2 * math.pi) - math.pi).abs()
    assert float(off.min(1).values.max()) < 6 * 0.0316
    assert chi_square(off.argmin(1).bincount(minlength=3), weights) > FALSE_ALARM


def test_on_circle():
    torch.testing.assert_close(on_circle(clock(3.0, -4.0)), clock(0.6, -0.8))
    assert on_circle(torch.zeros(2)).tolist() == [1.0, 0.0]
