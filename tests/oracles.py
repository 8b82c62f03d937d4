"""Exact denoisers: problems whose posterior E[x0 | x_t] is known in closed form. Each is a denoiser for one field.

Called as `oracle(state, clocks)` like a network wrapped in a `Denoiser`; predictions come in the kind of the process.
The Gaussian ones also give `law(t)`, the true (mean, variance) of every entry of x_t.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sciflow.core.noise import Draws
from sciflow.core.process import Prediction, Process
from sciflow.core.state import Layout, State

FIELD = "x"
F64 = torch.float64


def f64(value: float | list) -> Tensor:
    """A float64 tensor."""
    return torch.tensor(value, dtype=F64)


JOINT = f64([[0.30, 0.05, 0.0], [0.05, 0.25, 0.05], [0.0, 0.05, 0.25]])
RATES = f64([[-2.0, 1.5, 0.5], [0.3, -0.8, 0.5], [1.0, 2.0, -3.0]])


class Oracle:
    """Base: `data` is E[x0 | x_t]; the prediction is converted to the kind of the process."""

    def __init__(self, process: Process, field: str = FIELD) -> None:
        self.process, self.field = process, field

    def data(self, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """E[x0 | x_t = x], or probabilities."""
        raise NotImplementedError

    def value(self, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """What a perfect network outputs."""
        return self.process.from_data(self.data(x, t, layout), self.process.kind, x, t, layout)

    def __call__(self, state: State, clocks: Mapping[str, Tensor]) -> dict[str, Prediction]:
        """Predictions for the one field."""
        x, t, layout = state[self.field], clocks[self.field], state.layouts[self.field]
        return {self.field: Prediction(self.value(x, t, layout), self.process.kind, self.process, x, t, layout)}


class GaussianOracle(Oracle):
    """Data N(mean, variance) under x_t = anchor + alpha (x0 - anchor) + sigma z (all anchors equal).

    E[x0 | x_t] = mean + alpha variance / V_t (x_t - m_t) with V_t = alpha^2 variance + sigma^2. With `draws` the
    prediction is a draw from p(x0 | x_t), of variance variance - alpha^2 variance^2 / V_t, instead of its mean.
    """

    def __init__(
        self,
        process: Process,
        mean: float | Tensor = 2.0,
        variance: float = 0.25,
        anchor: float | Tensor = 0.0,
        draws: Draws | None = None,
        field: str = FIELD,
    ) -> None:
        super().__init__(process, field)
        self.schedule = getattr(process, "base", process).schedule
        self.mean, self.variance, self.anchor, self.draws = mean, variance, anchor, draws

    def law(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """True (m_t, V_t)."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return self.anchor + alpha * (self.mean - self.anchor), alpha**2 * self.variance + sigma**2

    def data(self, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """Posterior mean or draw."""
        t = layout.rows(t, x)
        mean, variance = self.law(t)
        gain = self.schedule.alpha(t) * self.variance / variance.clamp_min(1e-300)  # 0/0 at the point of a BFN: no gain
        best = self.mean + gain * (x - mean)
        if self.draws is None:
            return best
        left = self.variance - gain * self.schedule.alpha(t) * self.variance
        return best + left.sqrt() * self.draws.normal(x, layout)


class MixtureOracle(Oracle):
    """Data sum_k w_k N(mean_k, variance I) in d dimensions: rows (B, d)."""

    def __init__(self, process: Process, weights: Tensor, means: Tensor, variance: float, field: str = FIELD) -> None:
        super().__init__(process, field)
        self.weights, self.means, self.variance = weights, means, variance

    def responsibilities(self, x: Tensor, t: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """P(k | x_t) (B, k, 1), x_t - m_k (B, k, d), alpha, V_t."""
        t = layout.rows(t, x)
        alpha, sigma = self.process.schedule.alpha(t), self.process.schedule.sigma(t)
        spread = alpha**2 * self.variance + sigma**2
        off = x[:, None] - (alpha[..., None] if alpha.ndim else alpha) * self.means
        weight = (self.weights.log() - 0.5 * (off**2).sum(-1) / spread).softmax(-1)
        return weight[..., None], off, alpha, spread

    def data(self, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """Posterior mean."""
        weight, off, alpha, spread = self.responsibilities(x, t, layout)
        gain = alpha * self.variance / spread
        return (weight * (self.means + (gain[..., None] if gain.ndim else gain) * off)).sum(1)


class BridgeOracle(Oracle):
    """(x0, x1) jointly normal, path pinned at both ends under the reference of a `Bridge`.

    x_t = r x1 + c x0 + sqrt(v) z with (r, c, v) the reference's transition from t = 1.
    """

    def __init__(self, process: Process, ends: tuple[float, float, float, float, float]) -> None:
        super().__init__(process)
        self.m0, self.v0, self.m1, self.v1, self.cov = ends

    def law(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """True (m_t, V_t)."""
        r, c, v = self.process.base.schedule.transition(torch.ones_like(t), t)
        return r * self.m1 + c * self.m0, r**2 * self.v1 + c**2 * self.v0 + 2 * r * c * self.cov + v

    def data(self, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """E[x0 | x_t]."""
        t = layout.rows(t, x)
        r, c, _ = self.process.base.schedule.transition(torch.ones_like(t), t)
        mean, variance = self.law(t)
        return self.m0 + (c * self.v0 + r * self.cov) / variance * (x - mean)


class InterpolantOracle(Oracle):
    """(x0, x1) jointly normal, x_t = (1 - t) x0 + t x1 + gamma z: exact b and eta by Gaussian conditioning."""

    def __init__(self, process: Process, ends: tuple[float, float, float, float, float]) -> None:
        super().__init__(process)
        self.m0, self.v0, self.m1, self.v1, self.cov = ends

    def law(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """True (m_t, V_t)."""
        noise = self.process.noise * t * (1 - t)
        return (1 - t) * self.m0 + t * self.m1, (1 - t) ** 2 * self.v0 + t**2 * self.v1 + 2 * t * (
            1 - t
        ) * self.cov + noise

    def ends_given(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """E[x0 | x_t], E[x1 | x_t]."""
        mean, variance = self.law(t)
        gain0 = ((1 - t) * self.v0 + t * self.cov) / variance
        gain1 = ((1 - t) * self.cov + t * self.v1) / variance
        return self.m0 + gain0 * (x - mean), self.m1 + gain1 * (x - mean)

    def value(self, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """b = E[x1 - x0 | x_t] + gamma' E[z | x_t] with gamma gamma' = noise (1 - 2 t)/2, and eta = gamma (x - m)/V."""
        t = layout.rows(t, x)
        (mean, variance), (x0, x1), noise = self.law(t), self.ends_given(x, t), self.process.noise
        whitened = (x - mean) / variance  # E[z | x_t] / gamma
        b = x1 - x0 + noise * (1 - 2 * t) / 2 * whitened
        return torch.stack([b, (noise * t * (1 - t)).sqrt() * whitened], -1)


class PairOracle(Oracle):
    """Two correlated tokens with joint law `joint` (K, K): P(x0_i | the other, maybe masked, token) by enumeration."""

    def __init__(self, process: Process, joint: Tensor, field: str = FIELD) -> None:
        super().__init__(process, field)
        tokens, self.joint = len(joint), joint
        # conditionals[i][other token]: law of token i; the last row (other token masked) is its marginal
        self.conditionals = [torch.cat([(j / j.sum(0)).T, j.sum(1)[None]]) for j in (joint, joint.T)]
        self.tokens = tokens

    def data(self, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """Probabilities (B, 2, K): one-hot for a visible token."""
        columns = []
        for i in (0, 1):
            guess = self.conditionals[i][x[:, 1 - i]]
            known = torch.nn.functional.one_hot(x[:, i].clamp_max(self.tokens - 1), self.tokens).to(guess)
            columns.append(torch.where((x[:, i] < self.tokens)[:, None], known, guess))
        return torch.stack(columns, 1)


class JumpOracle(Oracle):
    """A chain with the constant rate matrix Q (rows sum to zero)."""

    def __init__(self, process: Process, rates: Tensor, field: str = FIELD) -> None:
        super().__init__(process, field)
        self.rates = rates

    def value(self, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """Row of the present state."""
        return self.rates[x]


class LiftedTokenOracle(Oracle):
    """One token with law `weights` in lifted logits K e_k - 1 under a Gaussian process (categorical Bayesian flow).

    With `draws` the prediction is a draw of the lifted token, otherwise the posterior mean.
    """

    def __init__(self, process: Process, weights: Tensor, draws: Draws | None = None) -> None:
        super().__init__(process)
        self.weights, self.draws, classes = weights, draws, len(weights)
        self.lifted = classes * torch.eye(classes, dtype=F64) - 1

    def probabilities(self, x: Tensor, t: Tensor) -> Tensor:
        """P(token | x_t): weights times the Gaussian evidence."""
        schedule = self.process.schedule
        evidence = x @ self.lifted.T * schedule.alpha(t) / schedule.variance(t).clamp_min(1e-300)
        return (self.weights.log() + evidence).softmax(-1)  # all |lifted| are equal, and 0/0 occurs only at x = 0

    def data(self, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """Lifted draw or mean."""
        probs = self.probabilities(x, t)
        if self.draws is None:
            return probs @ self.lifted
        u = self.draws.uniform(x[:, :1], layout)
        return self.lifted[(probs.cumsum(-1) < u).sum(-1).clamp_max(len(self.weights) - 1)]


def together(*oracles: Oracle):
    """One denoiser for several independent fields."""
    return lambda state, clocks: {o.field: o(state, clocks)[o.field] for o in oracles}
