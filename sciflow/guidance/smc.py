r"""Sequential Monte Carlo: particles that are weighted by their value and resampled, and TDS, its twisted form.

Groups of P samples ("particles") run side by side. With v the soft value estimate of the state (`sciflow.core.values`),

    log w = v(x_1)/alpha            at the start,
    log w += (v(x_s) - v(x_t))/alpha [+ log p(x_s | x_t) - log q(x_s | x_t)]     per move,

and where the effective number of particles (sum w)^2 / sum w^2 falls below `threshold` P the group is resampled
(systematically: one uniform per group). The bracket is there if x_s was drawn from a twisted kernel q instead of p,
e.g.
from one tilted by the gradient of the reward (twisted diffusion sampler: Wu et al., arXiv 2306.17775, 2023): both are
normalised, so ANY twist is corrected exactly. The weights telescope to exp(r(x_0)/alpha) whatever v is at intermediate
clocks: v decides the variance only. The law tends to p(x_0) exp(r(x_0)/alpha) as P grows, and the product over
resamplings of the mean weights is an UNBIASED estimate of its normaliser E_p exp(r/alpha) for every P.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.hooks import Denoise, Hook, Transition
from sciflow.core.kernels import Kernel
from sciflow.core.noise import Move, Noise
from sciflow.core.state import Layout, State
from sciflow.core.values import Value


class SMC(Hook):
    """Resamples groups of consecutive samples; without `guide` the moves are the unguided ones.

    A sample depends on its group: with `PerSample` noise, samples gP .. gP + P - 1 are the same whenever they are run
    together, with or without other groups (keep batch sizes multiples of P, and all sizes equal where
    `Model.sample` orders samples by size). The P samples of a group share ancestors: they are NOT independent. For n
    independent designs run n groups and take one sample of each.

    Put it first: hooks after it may change kernels, the weights see to it. Solvers with a memory (multistep ones) are
    not for particles that are resampled. Exact with `final="sample"`: a last move that takes the mean is no draw.
    Not together with a hook that selects (`SVDD`): its candidates would be those of particles before the resampling.

    Args:
        value: Values of states; NaN is -inf: the particle has no weight.
        alpha: Temperature > 0 in units of the reward.
        particles: P >= 1 per group; the batch must be a multiple.
        threshold: Resample below this share of effective particles, in [0, 1]: 0 never, 1 whenever weights differ.
        guide: Hook whose `propose` twists the kernels, e.g. `GradientGuidance`: TDS.
        end: From this clock on every move ends with a resampling, so that the final particles have equal weights; the
            last clock of the grid must not lie above it.

    Attributes:
        log_weights: (B,) after a move: log weights since the last resampling; all 0 at the end of a run.

    Raises:
        UserError: An argument out of range; while sampling: a batch that does not divide into groups.
    """

    def __init__(
        self,
        value: Value,
        alpha: float = 0.1,
        particles: int = 16,
        threshold: float = 0.5,
        guide: Hook | None = None,
        end: float = 1e-3,
    ) -> None:
        if alpha <= 0 or particles < 1 or not 0 <= threshold <= 1:
            raise UserError(
                f"SMC: got alpha={alpha}, particles={particles}, threshold={threshold}; expected alpha > 0, "
                "particles >= 1, threshold in [0, 1]"
            )
        self.value, self.alpha, self.particles, self.threshold = value, alpha, particles, threshold
        self.guide, self.end = guide if guide is not None else Hook(), end

    @property
    def needs_grad(self) -> bool:  # type: ignore[override]
        """Whether the guide does."""
        return self.guide.needs_grad

    def prepare(self, state: State) -> None:
        """Equal weights."""
        if state.batch % self.particles:
            raise UserError(
                f"SMC: got a batch of {state.batch}, expected a multiple of particles={self.particles}; change the "
                "number of samples or the batch size"
            )
        self.guide.prepare(state)
        self.log_weights = self.normalizers = torch.empty(0)
        self.corrections: Tensor | None = None  # log weights less values/alpha: finite also where a value is -inf
        self.untwisted: dict[str, Kernel] = {}

    @property
    def log_normalizer(self) -> Tensor:
        """(groups,) log of the estimate of E_p exp(r/alpha), complete at the end of a run; -inf for a group of NaN."""
        return self.normalizers + self._mean_weight(self.log_weights)

    def _mean_weight(self, log_weights: Tensor) -> Tensor:
        return log_weights.reshape(-1, self.particles).logsumexp(1) - math.log(self.particles)

    def wrap(self, denoise: Denoise) -> Denoise:
        """As the guide wraps it."""
        return self.guide.wrap(denoise)

    def propose(self, field: str, kernel: Kernel, transition: Transition) -> Kernel:
        """The guide's kernel; the solver's is kept for the weights."""
        self.untwisted[field] = kernel
        return self.guide.propose(field, kernel, transition)

    def after(self, state: State, kernels: Mapping[str, Kernel], transition: Transition) -> State:
        """Weigh, and resample where needed."""
        move = transition.move
        if self.corrections is None:
            start = self._values(transition.before, Move(move.index - 1, move.t, move.t), transition)
            self.corrections = torch.zeros_like(start)
            self.normalizers = start.new_zeros(state.batch // self.particles)
        corrections = self.corrections
        for name, kernel in kernels.items():
            plain = self.untwisted[name]
            if kernel is not plain:
                ratio = plain.log_prob(state[name]) - kernel.log_prob(state[name])
                corrections = corrections + ratio.detach().double().nan_to_num(nan=0.0)  # inf - inf: no spread, no draw
        values = self._values(state, move, transition)
        return self._resampled(state, corrections, values, move, transition.noise)

    def _values(self, state: State, move: Move, transition: Transition) -> Tensor:
        """values/alpha as (B,) float64, -inf for NaN."""
        with torch.no_grad():
            values = self.value(state, move, transition.denoise, transition.noise)
        return values.detach().double().nan_to_num(nan=-torch.inf, neginf=-torch.inf) / self.alpha

    def _resampled(self, state: State, corrections: Tensor, values: Tensor, move: Move, noise: Noise) -> State:
        """The next state; keeps what the weights and the normaliser need."""
        weights, mean = corrections + values, self._mean_weight(corrections + values)
        shares = weights.reshape(-1, self.particles).softmax(1)
        due = 1 / shares.square().sum(1) < self.threshold * self.particles * (1 - 1e-9)
        due = (due | (move.s <= self.end)) & mean.isfinite()  # a group without weight goes on: values may come back
        uniform = noise.at("smc", move).uniform(weights, Layout(state.batch))
        own = torch.arange(state.batch, device=weights.device).reshape(shares.shape)
        ancestors = own[:, :1] + systematic(shares, uniform.reshape(shares.shape)[:, 0])
        chosen = torch.where(due[:, None], ancestors, own).flatten()
        again = due.repeat_interleave(self.particles)
        self.corrections = torch.where(again, -values[chosen], corrections)
        self.log_weights = torch.where(again, torch.zeros_like(weights), weights)
        self.normalizers = torch.where(due, self.normalizers + mean, self.normalizers)
        return state.select(chosen)


def systematic(shares: Tensor, uniform: Tensor) -> Tensor:
    """Ancestors (groups, P) of systematic resampling: particle i is taken floor or ceil of P share_i times.

    Args:
        shares: (groups, P), each row sums to 1.
        uniform: (groups,) in (0, 1).
    """
    particles = shares.shape[1]
    cumulative = shares.cumsum(1)
    points = (torch.arange(particles, device=shares.device) + uniform[:, None].to(shares)) / particles
    ancestors = torch.searchsorted(cumulative, points * cumulative[:, -1:], right=True)
    return torch.minimum(ancestors, (cumulative < cumulative[:, -1:]).sum(1, keepdim=True))  # rounding at the end
