r"""Relaxations: draws of tokens through which gradients reach earlier moves of a masked process.

A field of relaxed tokens is (rows, ..., K + 1), one-hot in value or nearly so, last channel = mask. A move draws every
masked entry with probability `chance` and leaves the others alone.

**Which entries are drawn does not depend on the network** (for masked diffusion the unmasking times are those of the
process), so the two draws are kept apart: (i) the events, hard Bernoulli numbers without gradient, (ii) the token, over
the K clean tokens only. Then the mask mass is that of the process whatever the temperature, an entry that is carried
over keeps value and gradient as they are, and no product of flags over the moves can shrink or explode. What remains
is the choice of how a token's one-hot vector depends on p = softmax(log p), g Gumbel noise:

| class | value | derivative |
|---|---|---|
| `SecondOrder` | one-hot of argmax(log p + g) | ReinMax: trapezium rule between draw and mean |
| `StraightThrough` | the same | of softmax((log p + g)/temperature) |
| `SoftTokens` | softmax((log p + g)/temperature) | its own |
| `JointGumbel` | events and token in one soft draw over K + 1 states, as in the released DRAKES | its own |

Sources: Jang et al. and Maddison et al. 2017 (Gumbel softmax), Liu et al. 2023 (ReinMax, arXiv 2304.08612, equation 5
and algorithm 2), Wang et al. 2025 (DRAKES, arXiv 2410.13643). Measured errors: tests/core/test_relaxation.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.core.noise import Draws
from sciflow.core.state import Layout

TINY = 1e-20


class Relaxation(Configurable, ABC):
    """How relaxed tokens are drawn."""

    @abstractmethod
    def draw(self, log_probs: Tensor, chance: Tensor, held: Tensor, layout: Layout, draws: Draws) -> Tensor:
        """The field after a move.

        Args:
            log_probs: (rows, ..., K) log-probabilities of the clean tokens at entries that are masked.
            chance: Probability that a masked entry is drawn, broadcastable to (rows, ..., 1).
            held: (rows, ..., K + 1) the field before the move.
            layout: Rows and mask.
            draws: Random numbers.

        Returns:
            (rows, ..., K + 1).
        """


class HardEvents(Relaxation):
    """Base of relaxations whose events are hard: an entry is either carried over or drawn anew."""

    def draw(self, log_probs: Tensor, chance: Tensor, held: Tensor, layout: Layout, draws: Draws) -> Tensor:
        """Bernoulli events without gradient, then `tokens` where they happen."""
        masked = held[..., -1]
        chance = torch.as_tensor(chance).detach()
        chance = chance[..., 0] if chance.ndim else chance
        drawn = (masked > 0.5) & (draws.uniform(masked.detach(), layout) < chance)
        fresh = functional.pad(self.tokens(log_probs, layout, draws), (0, 1))
        return torch.where(drawn[..., None], fresh, held)

    @abstractmethod
    def tokens(self, log_probs: Tensor, layout: Layout, draws: Draws) -> Tensor:
        """A token for every entry: (rows, ..., K), differentiable with respect to `log_probs`."""


class StraightThrough(HardEvents):
    """Hard draws with the derivative of their Gumbel softmax.

    The trajectories have exactly the law of hard sampling. As temperature -> 0 the bias of the derivative vanishes for
    rewards that are linear in each token and its variance grows without bound.

    Args:
        temperature: Of the softmax, > 0.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = _positive(temperature)

    def tokens(self, log_probs: Tensor, layout: Layout, draws: Draws) -> Tensor:
        """One-hot in value."""
        soft = ((log_probs + gumbel(log_probs, layout, draws)) / self.temperature).softmax(-1)
        return hard_value(soft)


class SecondOrder(HardEvents):
    """Hard draws with the ReinMax derivative, exact for functions that are quadratic in a token's one-hot vector.

    With D the draw and p its law, d/dlogits = 2 J((D + p)/2) - J(p)/2 applied to the gradient at D, where J(q) is the
    Jacobian diag(q) - q q^T of a softmax at q. There is no temperature and no Gumbel noise in the derivative.
    """

    def tokens(self, log_probs: Tensor, layout: Layout, draws: Draws) -> Tensor:
        """One-hot in value."""
        probs = log_probs.softmax(-1)
        fixed = log_probs.detach()
        drawn = _one_hot((fixed + gumbel(fixed, layout, draws)).argmax(-1), log_probs)
        middle = ((drawn + fixed.exp()) / 2).clamp_min(TINY).log()
        surrogate = 2 * (middle - fixed + log_probs).softmax(-1) - probs / 2
        return drawn + (surrogate - surrogate.detach())


class SoftTokens(HardEvents):
    """Soft draws: the network and the reward see mixtures of tokens, the events are hard.

    Args:
        temperature: Of the softmax, > 0.
    """

    def __init__(self, temperature: float = 0.5) -> None:
        self.temperature = _positive(temperature)

    def tokens(self, log_probs: Tensor, layout: Layout, draws: Draws) -> Tensor:
        """Points of the simplex."""
        return ((log_probs + gumbel(log_probs, layout, draws)) / self.temperature).softmax(-1)


class JointGumbel(Relaxation):
    """One soft draw over the K + 1 states, carried entries by a differentiable flag: the released DRAKES, for parity.

    y = softmax((log q + g)/temperature), q = (chance p, 1 - chance); x_s = (1 - m) x + m y with m = x[mask]. Entries
    drift back to the mask, so that the mask mass exceeds that of the process: prefer the other relaxations.

    Args:
        temperature: Of the softmax, > 0.
        copy_flag_temperature: c > 0 replaces m by 1 - sigmoid((1 - m)/c); None keeps m.
    """

    def __init__(self, temperature: float = 1.0, copy_flag_temperature: float | None = None) -> None:
        self.temperature = _positive(temperature)
        self.copy_flag_temperature = copy_flag_temperature

    def draw(self, log_probs: Tensor, chance: Tensor, held: Tensor, layout: Layout, draws: Draws) -> Tensor:
        """Soft in everything."""
        masked, state = held[..., -1:], held.argmax(-1)
        known = state < log_probs.shape[-1]  # tokens that are more probable than the mask: a constant, no gradient
        constant = _one_hot(state.clamp_max(log_probs.shape[-1] - 1), log_probs).clamp_min(TINY).log()
        log_probs = torch.where(known[..., None], constant, log_probs)
        chance = chance.to(log_probs) + torch.zeros_like(masked)
        joint = torch.cat([log_probs + chance.clamp_min(TINY).log(), (1 - chance).clamp_min(TINY).log()], -1)
        soft = ((joint + gumbel(joint, layout, draws)) / self.temperature).softmax(-1)
        if self.copy_flag_temperature is not None:
            masked = 1 - ((1 - masked) / self.copy_flag_temperature).sigmoid()
        return (1 - masked) * held + masked * soft


def gumbel(like: Tensor, layout: Layout, draws: Draws) -> Tensor:
    """Standard Gumbel numbers -log(-log u), shaped like `like`."""
    return -(-draws.uniform(like.detach(), layout).log()).clamp_min(TINY).log()


def hard_value(soft: Tensor) -> Tensor:
    """The one-hot vector of the largest entry with the derivative of `soft`: (..., K)."""
    return _one_hot(soft.argmax(-1), soft) + (soft - soft.detach())


def _one_hot(index: Tensor, like: Tensor) -> Tensor:
    return functional.one_hot(index, like.shape[-1]).to(like)  # the size is stated: a token may be absent


def _positive(temperature: float) -> float:
    if not temperature > 0:
        raise UserError(f"temperature must be positive, got {temperature}")
    return temperature
