r"""Periodic Bayesian flow of Wu et al. 2025 (CrysBFN): von Mises beliefs about angles.

The belief vM(m, c) about an angle x is kept as the planar vector C = c (cos m, sin m). A sender y ~ vM(x, alpha)
updates it by C <- C + alpha (cos y, sin y). Lengths do not add (c is random given x and t), but mean resultants do:
E[C | x] = sum_j alpha_j A(alpha_j) (cos x, sin x). An `AccuracyRule` says which alpha a move t -> s has, for any moves,
so that the mean entropy of the beliefs falls linearly in the clock. Whatever the accuracies were, vM(arg C, |C|) is the
posterior of x under a flat prior; so one network, which sees C, serves any number of moves.

The marginal at t is the law after equal moves of 1/steps. Its terms are drawn exactly where they are few (64), else the
first 16, whose law is far from normal, are drawn and the others are a normal with their exact moments:

    Var Re = sum alpha^2 ((1 + A2)/2 - A^2),   Var Im = sum alpha^2 (1 - A2)/2   along and across the direction of x.

For steps -> infinity C is normal with mean G u and variance G in both components, G = sum alpha A: the planar flow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sciflow.core import accuracy_rules
from sciflow.core.accuracy_rules import AccuracyRule, Continuous
from sciflow.core.circular import mean_resultant, second_resultant, von_mises
from sciflow.core.errors import UserError
from sciflow.core.kernels import Dirac, Kernel
from sciflow.core.noise import Draws
from sciflow.core.process import Process
from sciflow.core.spaces import Euclidean
from sciflow.core.state import Layout
from sciflow.processes.planar_bfn import fractions, unit_vectors

EXACT, FIRST = 64, 16  # terms drawn if there are no more; terms drawn if there are more


@dataclass(frozen=True, eq=False)
class VonMisesUpdate(Kernel):
    """Law of the belief after one sender: C + alpha (cos y, sin y), y ~ vM(x, alpha). It has no density in the plane.

    Attributes:
        belief: (rows, d, 2) C.
        clean: (rows, d, 2) unit vectors of x.
        alpha: Accuracy, () or (B,).
        layout: Rows.
    """

    belief: Tensor
    clean: Tensor
    alpha: Tensor
    layout: Layout

    def sample(self, draws: Draws) -> Tensor:
        """One uniform per coordinate."""
        y = _draw(self.alpha, self.clean[..., 0], self.layout, draws)
        length = self.layout.rows(self.alpha.to(self.belief), self.belief)
        return self.belief + turn(self.clean, length * unit_vectors(y))

    @property
    def mean(self) -> Tensor:
        """C + alpha A(alpha) u."""
        gain = self.alpha.double() * mean_resultant(self.alpha)
        return self.belief + self.layout.rows(gain.to(self.belief), self.belief) * self.clean


@dataclass(frozen=True, eq=False)
class VonMisesFlow(Kernel):
    """Law of the belief after many senders about `clean`: terms that are drawn, and a normal for the others.

    Attributes:
        clean: (rows, d, 2) unit vectors u.
        alphas: (J,) accuracies of the drawn terms.
        count: How many of them there are, from the first, () or (B,).
        last: Accuracy of one more drawn term, () or (B,).
        rest: (3,) or (B, 3) mean along u, variance along and across u of the other terms.
        layout: Rows.
    """

    clean: Tensor
    alphas: Tensor
    count: Tensor
    last: Tensor
    rest: Tensor
    layout: Layout

    def sample(self, draws: Draws) -> Tensor:
        """A uniform per drawn term, a normal vector for the others."""
        clean, layout = self.clean, self.layout
        first = clean[..., 0]
        u = draws.uniform(clean.new_empty(*first.shape, len(self.alphas)), layout)  # (rows, d, J)
        y = von_mises(self.alphas, u.flatten(0, 1).T).T.reshape(u.shape).to(clean)
        there = torch.arange(len(self.alphas), device=clean.device) < layout.rows(self.count, u)
        lengths = self.alphas.to(clean) * there  # (rows, 1, J)
        total = torch.stack([(lengths * y.cos()).sum(-1), (lengths * y.sin()).sum(-1)], -1)
        total = total + layout.rows(self.last.to(clean), clean) * unit_vectors(_draw(self.last, first, layout, draws))
        mean, along, across = (layout.rows(v.to(clean), first) for v in self.rest.unbind(-1))
        normal = draws.normal(clean, layout)
        rest = torch.stack([mean + along.sqrt() * normal[..., 0], across.sqrt() * normal[..., 1]], -1)
        return turn(clean, total + rest)

    @property
    def mean(self) -> Tensor:
        """Sum of alpha A(alpha), along u."""
        gains = torch.cat([self.alphas.new_zeros(1), (self.alphas * mean_resultant(self.alphas)).cumsum(0)])
        length = gains[self.count] + self.last * mean_resultant(self.last) + self.rest[..., 0]
        return self.layout.rows(length.to(self.clean), self.clean) * self.clean


class VonMisesBFN(Process):
    """Bayesian flow of periodic coordinates (rows, d) with von Mises beliefs (rows, d, 2).

    The network predicts planar vectors, of which only the direction counts.

    Args:
        accuracy: beta, the concentration c* at t = 0.
        steps: Number of equal moves whose law `marginal` is. Samplers may make any others.
        rule: Accuracies of the moves.

    Raises:
        UserError: Non-positive arguments.
    """

    kind = "direction"
    kinds: ClassVar[tuple[str, ...]] = ("direction", "data")
    alphas: Tensor
    moments: Tensor

    def __init__(self, accuracy: float = 1e3, steps: int = 100, rule: AccuracyRule | None = None) -> None:
        super().__init__()
        if accuracy <= 0 or steps < 1:
            raise UserError(f"accuracy and steps must be positive, got {accuracy} and {steps}")
        self.accuracy, self.steps, self.space = float(accuracy), steps, Euclidean()
        self.rule = rule if rule is not None else Continuous()
        alphas = self.rule.table(steps, self.accuracy)
        self.register_buffer("alphas", alphas, persistent=False)
        self.register_buffer("moments", torch.cat([torch.zeros(1, 3), moments(alphas).cumsum(0)]), persistent=False)

    def concentration(self, t: Tensor) -> Tensor:
        """c*(t), whose entropy falls linearly in the clock; float64."""
        return accuracy_rules.concentration(t, self.accuracy)

    def concentration_rate(self, t: Tensor) -> Tensor:
        """n alpha A(alpha), the mean resultant that a unit of clock brings; float64."""
        return self.rule.rate(t, self.accuracy)

    def encode(self, x: Tensor) -> Tensor:
        """Coordinates in units of the period (rows, d) -> unit vectors (rows, d, 2)."""
        return unit_vectors(2 * math.pi * x)

    def decode(self, x: Tensor, data: Tensor | None) -> Tensor:
        """Direction of the beliefs -> coordinates in [0, 1): (rows, d)."""
        return fractions(x)

    def prior(self, like: Tensor, layout: Layout) -> Dirac:
        """No knowledge: the origin. `like` is shaped like the data, (rows, d)."""
        return Dirac(torch.zeros_like(self.encode(like)))

    def marginal(self, x0: Tensor, t: Tensor, layout: Layout, x1: Tensor | None = None) -> VonMisesFlow:
        """Law of the belief at t after equal moves of 1/steps from no knowledge, the last one shorter."""
        t = t.double()
        whole = ((1 - t) * self.steps + 1e-9).floor().clamp(0, self.steps).long()  # moves
        last = self.rule.alpha(1 - whole.double() / self.steps, t, self.accuracy)
        drawn = self.steps if self.steps <= EXACT else FIRST
        count = whole.clamp_max(drawn)
        return VonMisesFlow(x0, self.alphas[:drawn], count, last, self.moments[whole] - self.moments[count], layout)

    def posterior(self, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, layout: Layout) -> VonMisesUpdate:
        """Bayesian update with one sender about x0, which is a point of the circle."""
        return VonMisesUpdate(x_t, on_circle(x0), self.rule.of_move(t, s, self.accuracy), layout)

    def to_data(self, value: Tensor, kind: str, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """A direction -> the point of the unit circle."""
        return on_circle(value) if kind == "direction" else super().to_data(value, kind, x, t, layout)

    def from_data(self, data: Tensor, kind: str, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """A point of the circle is a direction."""
        return data if kind == "direction" else super().from_data(data, kind, x, t, layout)


def moments(alpha: Tensor) -> Tensor:
    """Mean along x, variance along and across of alpha e^{i (y - x)}, y ~ vM(x, alpha): (..., 3) float64."""
    a, a2 = mean_resultant(alpha), second_resultant(alpha)
    return torch.stack([alpha * a, alpha**2 * ((1 + a2) / 2 - a**2), alpha**2 * (1 - a2) / 2], -1)


def on_circle(x: Tensor) -> Tensor:
    """Planar vectors (..., 2) scaled to length 1; (1, 0) for the zero vector."""
    angle = torch.atan2(x[..., 1], x[..., 0])
    return unit_vectors(angle)


def turn(u: Tensor, v: Tensor) -> Tensor:
    """v turned by the angle of the unit vector u: the product of complex numbers, (..., 2)."""
    real = u[..., 0] * v[..., 0] - u[..., 1] * v[..., 1]
    return torch.stack([real, u[..., 0] * v[..., 1] + u[..., 1] * v[..., 0]], -1)


def _draw(alpha: Tensor, like: Tensor, layout: Layout, draws: Draws) -> Tensor:
    """Draws of vM(0, alpha) for alpha () or (B,), shaped like `like` (rows, d)."""
    u = draws.uniform(like, layout)
    if alpha.ndim == 0:
        return von_mises(alpha[None], u.reshape(1, -1)).reshape(u.shape).to(like)
    return von_mises(alpha, u, layout.index).to(like)
