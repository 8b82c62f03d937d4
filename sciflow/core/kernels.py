"""Kernels: distributions over the next value of a field. Processes build them, the sampler draws from them.

One object serves ancestral sampling, the variational bound (`kl`), reward fine-tuning and importance weights
(`log_prob`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sciflow.core.errors import UserError
from sciflow.core.noise import Draws
from sciflow.core.relaxation import Relaxation
from sciflow.core.spaces import Euclidean, log_normalizer
from sciflow.core.state import Layout


class Kernel(ABC):
    """A distribution over x_s."""

    @abstractmethod
    def sample(self, draws: Draws) -> Tensor:
        """One draw, differentiable with respect to the parameters where the type allows it."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """Expected value; for categories the most probable one."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log density (or probability) of `x` per sample: (B,)."""
        raise TypeError(
            f"{type(self).__name__} has no density (its solver draws inside the step); "
            "use a solver with a Gaussian or categorical kernel"
        )

    def kl(self, other: Kernel) -> Tensor:
        """KL(self || other) per sample: (B,). `other` must be of the same type."""
        raise TypeError(
            f"no KL from {type(self).__name__} to {type(other).__name__}; both must be Gaussian or both categorical"
        )

    def tilt(self, gradient: Tensor) -> Kernel:
        """The kernel times exp(<gradient, x>), normalised: one step of first-order guidance.

        Raises:
            UserError: The kernel has no law that could be tilted.
        """
        raise UserError(
            f"{type(self).__name__} kernels cannot be tilted; use a stochastic solver that leaves the draw to the "
            "sampler, such as Ancestral"
        )


@dataclass(frozen=True, eq=False)
class Dirac(Kernel):
    """A point mass: deterministic solvers, and solvers that draw inside the step."""

    value: Tensor

    def sample(self, draws: Draws) -> Tensor:
        """The point."""
        return self.value

    @property
    def mean(self) -> Tensor:
        """The point."""
        return self.value


@dataclass(frozen=True, eq=False)
class Gaussian(Kernel):
    """N(mean, std^2) in a space: isotropic per sample or per entry.

    Attributes:
        location: (rows, ...) mean.
        std: Standard deviation, broadcastable to the mean.
        space: Geometry.
        layout: Rows and mask.
    """

    location: Tensor
    std: Tensor
    space: Euclidean
    layout: Layout

    def sample(self, draws: Draws) -> Tensor:
        """add(mean, std z)."""
        return self.space.add(self.location, self.std * self.space.noise(self.location, self.layout, draws))

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.location

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density on the free coordinates of the space."""
        z = self.space.diff(self.location, x) / self.std
        return -0.5 * self.space.reduce(z**2, self.layout) - self._per_dim(log_normalizer(self.std.to(z)))

    def kl(self, other: Kernel) -> Tensor:
        """Sum over coordinates of log(s2/s1) + (s1^2 + d^2)/(2 s2^2) - 1/2."""
        if not isinstance(other, Gaussian):
            return super().kl(other)
        s1, s2 = self.std.to(self.location), other.std.to(self.location)
        shift = self.space.diff(self.location, other.location) / s2
        spread = torch.log(s2 / s1) + 0.5 * (s1 / s2) ** 2 - 0.5
        return self._per_dim(spread) + 0.5 * self.space.reduce(shift**2, self.layout)

    def tilt(self, gradient: Tensor) -> Gaussian:
        """N(mean + std^2 gradient, std^2); `gradient` (rows, ...) as from automatic differentiation."""
        shift = self.space.gradient(gradient, self.layout)
        return Gaussian(self.space.add(self.location, self.std**2 * shift), self.std, self.space, self.layout)

    def _per_dim(self, entries: Tensor) -> Tensor:
        """Sum of a per-coordinate quantity over the FREE coordinates (fewer than the entries for ZeroCoM)."""
        full = entries.expand_as(self.location)
        free = self.space.dim(self.location, self.layout)
        return self.space.reduce(full, self.layout) * free / self.space.reduce(torch.ones_like(full), self.layout)


@dataclass(frozen=True, eq=False)
class Categorical(Kernel):
    """Independent categories: probs (rows, ..., K) over the states 0 .. K-1 of a field (rows, ...)."""

    probs: Tensor
    layout: Layout

    def sample(self, draws: Draws) -> Tensor:
        """Inverse distribution function of one uniform per entry: (rows, ...) int64.

        Entries whose probabilities are NaN (a broken network) get the last state: of a masked process the mask, which
        no codec takes for a token.
        """
        cumulative = self.probs.cumsum(-1)
        drawn = pick(cumulative, draws.uniform(self.probs[..., 0], self.layout))
        return torch.where(cumulative[..., -1].isnan(), self.probs.shape[-1] - 1, drawn)

    @property
    def mean(self) -> Tensor:
        """Most probable state (rows, ...): categories have no mean."""
        return self.probs.argmax(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log probability; -inf where an impossible state occurs."""
        return self.layout.per_sample(self.probs.gather(-1, x[..., None])[..., 0].log())

    def kl(self, other: Kernel) -> Tensor:
        """Sum of p log(p/q) with 0 log 0 = 0."""
        if not isinstance(other, Categorical):
            return super().kl(other)
        terms = torch.special.xlogy(self.probs, self.probs) - torch.special.xlogy(self.probs, other.probs)
        return self.layout.per_sample(terms.sum(-1))

    def tilt(self, gradient: Tensor) -> Categorical:
        """Probabilities in proportion to p_k exp(gradient_k); `gradient` (rows, ..., K)."""
        tilted = (self.probs.log() + gradient.to(self.probs)).softmax(-1)  # impossible states stay so: log 0 = -inf
        return Categorical(tilted, self.layout)


def pick(cumulative: Tensor, u: Tensor) -> Tensor:
    """Inverse distribution function: categories (...) int64 of cumulative weights (..., K) at uniforms u (...)."""
    total = cumulative[..., -1]
    below = total * (1 - torch.finfo(total.dtype).eps)  # u * total may round to the total
    level = torch.minimum((u * total).to(total), below)
    return torch.searchsorted(cumulative, level[..., None], right=True)[..., 0].clamp_max(cumulative.shape[-1] - 1)


@dataclass(frozen=True, eq=False)
class RelaxedCategorical(Kernel):
    """Draws of relaxed tokens, (rows, ..., K + 1) one-hot or nearly so, through which gradients reach earlier moves.

    Masked entries become a clean token with probability `chance`, the others are carried over.

    Attributes:
        tokens: (rows, ..., K) probabilities of the clean tokens.
        chance: Probability that a masked entry is drawn, broadcastable to (rows, ..., 1).
        held: (rows, ..., K + 1) field before the move, last channel = mask.
        relaxation: How the draw depends on the probabilities.
        layout: Rows and mask.
    """

    tokens: Tensor
    chance: Tensor
    held: Tensor
    relaxation: Relaxation
    layout: Layout

    def sample(self, draws: Draws) -> Tensor:
        """As the relaxation says: (rows, ..., K + 1)."""
        log_probs = self.tokens.clamp_min(torch.finfo(self.tokens.dtype).tiny).log()
        return self.relaxation.draw(log_probs, self.chance, self.held, self.layout, draws)

    @property
    def probs(self) -> Tensor:
        """Expected one-hot vector, (rows, ..., K + 1): what `Categorical.probs` is to hard tokens."""
        masked = self.held[..., -1:]
        stay = (1 - self.chance) + torch.zeros_like(masked)
        return (1 - masked) * self.held + masked * torch.cat([self.chance * self.tokens, stay], -1)

    @property
    def mean(self) -> Tensor:
        """Expected one-hot vector."""
        return self.probs

    def log_prob(self, x: Tensor) -> Tensor:
        """Log probability of one-hot (or soft) vectors under the expected one-hot vector, `sum x log mean`."""
        return self.layout.per_sample((x * self.probs.clamp_min(1e-20).log()).sum(-1))

    def kl(self, other: Kernel) -> Tensor:
        """KL between the expected one-hot vectors."""
        if not isinstance(other, RelaxedCategorical):
            return super().kl(other)
        return Categorical(self.probs, self.layout).kl(Categorical(other.probs, self.layout))


def one_hot(x: Tensor, classes: int) -> Tensor:
    """Integer states (rows, ...) as one-hot vectors (rows, ..., classes) of the default float type."""
    return functional.one_hot(x, classes).to(torch.get_default_dtype())
