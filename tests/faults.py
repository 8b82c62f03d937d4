"""Planted faults: processes, solvers, noise and samplers that are wrong in one place.

tests/core/test_faults.py runs the statistic of a proof on each of them and demands that it fails; on the right code the
same statistic must pass.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from sciflow.core.kernels import Categorical, Dirac
from sciflow.core.noise import Draws, Fresh, Move, Noise, PerSample
from sciflow.core.schedules import VP
from sciflow.core.solver import Query, Solver
from sciflow.core.state import Layout
from sciflow.processes.anchored import Anchored
from sciflow.processes.bridge import Bridge
from sciflow.processes.gaussian import GaussianProcess
from sciflow.processes.interpolant import StochasticInterpolant
from sciflow.processes.masked import Masked
from sciflow.solvers.dpmpp import DPMpp2M
from sciflow.solvers.euler_maruyama import EulerMaruyama
from sciflow.solvers.gillespie import Gillespie
from sciflow.solvers.heun import Heun
from sciflow.solvers.langevin import Langevin, NormLangevin
from sciflow.solvers.s4 import S4
from sciflow.solvers.tau_leap import TauLeap

# ---------------------------------------------------------------- processes


class HalfScore(GaussianProcess):
    """Reverse drift with half the score: the probability flow's drift with the SDE's noise."""

    def sde(self, x, pred, t, layout):
        f, g2 = self._rows(t, layout, x, self.schedule.f, self.schedule.g2)
        return f * x - 0.5 * g2 * pred.to("score"), g2.sqrt()


class FullScoreFlow(GaussianProcess):
    """Probability flow with the whole score instead of half of it."""

    def velocity(self, x, pred, t, layout):
        f, g2 = self._rows(t, layout, x, self.schedule.f, self.schedule.g2)
        return f * x - g2 * pred.to("score")


class WidePosterior(GaussianProcess):
    """Posterior with a standard deviation 5 percent too large."""

    def posterior(self, x_t, x0, t, s, layout):
        kernel = super().posterior(x_t, x0, t, s, layout)
        return replace(kernel, std=1.05 * kernel.std)


class SwappedTransition(VP):
    """alpha_s / alpha_t in place of alpha_t / alpha_s."""

    def transition(self, t, s):
        a = self.alpha(s) / self.alpha(t)
        r = a * self.variance(s) / self.variance(t)
        return r, self.alpha(s) - r * self.alpha(t), (self.variance(s) * (1 - a * r)).clamp_min(0)


class UnshiftedPosterior(Anchored):
    """The posterior stays in centred coordinates."""

    def posterior(self, x_t, x0, t, s, layout):
        return self.base.posterior(self._inside(x_t, layout), self._inside(x0, layout), t, s, layout)


class ForwardBridge(Bridge):
    """Bridge drift without the pull to the predicted end."""

    def sde(self, x, pred, t, layout):
        return self.base.noise_sde(x, t, layout)


class InterpolantOtherSign(StochasticInterpolant):
    """The paper's clock runs the other way: b + epsilon score."""

    def sde(self, x, pred, t, layout):
        drift, g = super().sde(x, pred, t, layout)
        return 2 * pred.value[..., 0] - drift, g


class MaskedWrongAlpha(Masked):
    """Unmasking probability alpha_s - alpha_t, not divided by 1 - alpha_t."""

    def posterior(self, x_t, x0, t, s, layout):
        kernel = super().posterior(x_t, x0, t, s, layout)
        unmask, masked = layout.rows(t - s, kernel.probs), x_t == self.tokens
        fresh = torch.cat([unmask * x0, 1 - unmask + 0 * x0[..., :1]], -1)
        return Categorical(torch.where(masked[..., None], fresh, kernel.probs), layout)


class MaskedRedraws(Masked):
    """Clean tokens are not carried over: they may be masked again and are drawn anew."""

    def posterior(self, x_t, x0, t, s, layout):
        return super().posterior(torch.full_like(x_t, self.tokens), x0, t, s, layout)


# ---------------------------------------------------------------- solvers


class FirstVelocityHeun(Heun):
    """Asks twice but uses the first velocity only."""

    def step(self, process, x, t, s, layout, memory, draws):
        step = layout.rows(s - t, x)
        velocity = process.velocity(x, (yield Query(x, t)), t, layout)
        yield Query(x + velocity * step, s)
        return Dirac(x + velocity * step), memory


class WholeRatioDPMpp2M(DPMpp2M):
    """Extrapolates by h/h' instead of h/(2 h')."""

    def kernel(self, process, x, pred, t, s, layout, memory):
        memory = None if memory is None else (memory[0], memory[1] / 2)
        kernel, (data, h) = super().kernel(process, x, pred, t, s, layout, memory)
        return kernel, (data, h)


class InverseRatioDPMpp2M(DPMpp2M):
    """Extrapolates by h'/(2 h). Still second order (the errors telescope): only a single uneven move shows it."""

    def kernel(self, process, x, pred, t, s, layout, memory):
        if memory is not None:
            memory = (memory[0], (process.log_snr(s) - process.log_snr(t)) ** 2 / memory[1])
        return super().kernel(process, x, pred, t, s, layout, memory)


class ForgetfulDPMpp2M(DPMpp2M):
    """Returns no memory: DDIM under another name."""

    def kernel(self, process, x, pred, t, s, layout, memory):
        return super().kernel(process, x, pred, t, s, layout, None)[0], None


class LinearTimeNoise(EulerMaruyama):
    """Noise grows with the step, not with its square root."""

    def step(self, process, x, t, s, layout, memory, draws):
        kernel, memory = yield from super().step(process, x, t, s, layout, memory, draws)
        return replace(kernel, std=kernel.std * layout.rows((s - t).abs(), x).sqrt()), memory


class PerSampleLangevin(NormLangevin):
    """Norms of each sample alone, not averaged over the batch."""

    def correct(self, process, x, score, t, layout, draws):
        z = process.space.noise(x, layout, draws)
        ratio = layout.per_sample(z**2).sqrt() / layout.per_sample(score**2).sqrt()
        step = layout.rows(2 * process.langevin_alpha(t, self.scales) * (self.snr * ratio) ** 2, x)
        mean = x + step * score
        return mean, mean + (2 * step).sqrt() * z * self.scale


class WeakLangevin(Langevin):
    """Noise sqrt(e) instead of sqrt(2 e)."""

    def kernel(self, process, x, pred, t, s, layout, memory):
        kernel, memory = super().kernel(process, x, pred, t, s, layout, memory)
        return replace(kernel, std=kernel.std / 2**0.5), memory


class HalfStepS4(S4):
    """The score acts over half the step."""

    def step(self, process, x, t, s, layout, memory, draws):
        class Half:
            def __getattr__(self, name):
                return getattr(process, name)

            def score_step(self, *args):
                sigma, g2 = process.score_step(*args)
                return sigma, g2 / 2

        return (yield from super().step(Half(), x, t, s, layout, memory, draws))


class NoStayTauLeap(TauLeap):
    """Every row that can jump does jump."""

    def kernel(self, process, x, pred, t, s, layout, memory):
        rates = process.rates(x, pred, t, layout)
        total = rates.sum(-1, keepdim=True)
        stuck = torch.zeros_like(rates).scatter(-1, x[..., None], 1.0)
        return Categorical(torch.where(total > 0, rates / total.clamp_min(1e-30), stuck), layout), memory


class SlowGillespie(Gillespie):
    """Waiting times twice too long."""

    def step(self, process, x, t, s, layout, memory, draws):
        class Half:
            def rates(self, *args):
                return process.rates(*args) / 2

        return (yield from super().step(Half(), x, t, s, layout, memory, draws))


class OverrunGillespie(Gillespie):
    """Executes the event that falls behind the end of the move too."""

    def step(self, process, x, t, s, layout, memory, draws):
        kernel, memory = yield from super().step(process, x, t, s, layout, memory, draws)
        rates = process.rates(kernel.value, (yield Query(kernel.value, s)), s, layout)
        return Dirac(Categorical(rates, layout).sample(draws)), memory


# ---------------------------------------------------------------- noise and sampler


class ReusedNoise(Noise, Draws):
    """The same numbers in every move."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def at(self, field: str, move: Move, copy: int = 0) -> Draws:
        return Fresh(self.seed)

    def normal(self, like, layout):
        raise AssertionError("unused")

    uniform = normal


class PhaselessNoise(PerSample):
    """Corrector and predictor of a move draw the same numbers."""

    def at(self, field: str, move: Move, copy: int = 0) -> Draws:
        return super().at(field, move._replace(phase=0), copy)


class SharedNoise(Fresh):
    """One number for the whole batch."""

    def normal(self, like, layout: Layout):
        return super().normal(like[:1], layout).expand_as(like)


class PredictorCorrector(Solver):
    """Corrector and predictor in one solver: no barrier, so the other fields are already at s when it predicts."""

    needs = Langevin.needs | EulerMaruyama.needs

    def step(self, process, x, t, s, layout, memory, draws):
        kernel, _ = yield from Langevin().step(process, x, t, t, layout, None, draws)
        return (yield from EulerMaruyama().step(process, kernel.sample(draws), t, s, layout, memory, draws))
