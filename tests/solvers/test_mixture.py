"""A mixture of normals: not affine, so its proportions are tested by simulation."""

from __future__ import annotations

import pytest
import torch
from oracles import F64, MixtureOracle, f64
from stats import FALSE_ALARM, chi_square, run

from sciflow.core import schedules
from sciflow.core.grids import LogSNR
from sciflow.core.noise import Fresh
from sciflow.core.state import Layout
from sciflow.processes.gaussian import GaussianProcess
from sciflow.solvers.dpmpp import DPMpp2M
from sciflow.solvers.euler_maruyama import EulerMaruyama
from sciflow.solvers.heun import Heun

MIXTURE = f64([0.2, 0.5, 0.3]), f64([[2.0, 0.0], [-1.0, 2.0], [-1.0, -2.0]]), 0.04


def mixture_density(x, t):
    """log p_t(x), written out."""
    weights, means, spread = MIXTURE
    alpha, variance = schedules.VP().alpha(t), schedules.VP().alpha(t) ** 2 * spread + schedules.VP().variance(t)
    squares = ((x[:, None] - alpha * means) ** 2).sum(-1)
    return (weights.log() - squares / (2 * variance) - variance.log()).logsumexp(-1)


def test_mixture_oracle_is_the_score_of_the_noised_density():
    """Tweedie: E[x0 | x_t] converted to a score is the gradient of the log density, by automatic differentiation."""
    process, t = GaussianProcess(schedules.VP(), kind="score"), f64(0.3)
    x = Fresh(1).normal(torch.zeros(9, 2, dtype=F64), Layout(9)).requires_grad_()
    (score,) = torch.autograd.grad(mixture_density(x, t).sum(), x)
    torch.testing.assert_close(MixtureOracle(process, *MIXTURE).value(x.detach(), t, Layout(9)), score)


@pytest.mark.parametrize("cls, moves", [(Heun, 60), (DPMpp2M, 60), (EulerMaruyama, 200)])
def test_mixture_proportions(cls, moves):
    """Not affine: three well separated components keep their weights; chi-square, false alarm 1e-5, 3000 samples."""
    process = GaussianProcess(schedules.VP(), kind="score")
    x = Fresh(1).normal(torch.zeros(3000, 2, dtype=F64), Layout(3000))
    x = run(process, cls(), MixtureOracle(process, *MIXTURE), x, moves, LogSNR(schedules.VP(), 1.0, 1e-3), Fresh(2))
    component = torch.cdist(x, MIXTURE[1]).argmin(1)
    assert chi_square(component.bincount(minlength=3), MIXTURE[0]) > FALSE_ALARM
    spread = ((x - MIXTURE[1][component]) ** 2).mean()
    assert float(spread) == pytest.approx(MIXTURE[2], rel=0.15)
