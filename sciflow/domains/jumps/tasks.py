"""Training tasks of the rate network, and its losses (specification of FIM-MJP, sections 3, 5 and 13).

A task is a batch of systems drawn from a prior, observed as a user might have: numbers of paths log-uniform, grids
regular or irregular, long or cut short, labels with or without noise. Nothing is stored; a task is a function of a
generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor
from torch.nn import functional

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.domains.jumps.batch import PathBatch, Truth
from sciflow.domains.jumps.network import RateLaw
from sciflow.domains.jumps.prior import Observation, PublishedPrior, RatePrior, Regular, relabel


class JumpTasks(Configurable):
    """Batches of systems with their truth.

    Args:
        priors: Laws of systems, one drawn for each batch.
        observations: Ways to read paths, one drawn for each batch.
        paths: Smallest and largest number of paths, log-uniform for each batch.
        noise: Replacement probabilities of labels, drawn for each system.
        between: Whether a quarter of the systems have a probability uniform between the smallest and the largest.
        shortest: Half of the batches keep only the first points, log-uniform from this number; None: all keep all.
        batch_size: B.
        shares: How often each prior is drawn, in proportion; (): all alike.
    """

    def __init__(
        self,
        priors: Sequence[RatePrior] = (),
        observations: Sequence[Observation] = (),
        paths: tuple[int, int] = (1, 1000),
        noise: tuple[float, ...] = (0.0,),
        between: bool = False,
        shortest: int | None = None,
        batch_size: int = 64,
        shares: Sequence[float] = (),
    ) -> None:
        self.priors, self.observations = tuple(priors) or (PublishedPrior(),), tuple(observations) or (Regular(),)
        self.shares = tuple(shares) or (1.0,) * len(self.priors)
        if len(self.shares) != len(self.priors):
            raise UserError(f"shares: got {len(self.shares)}, expected one for each of the {len(self.priors)} priors")
        self.paths, self.noise, self.between = tuple(paths), tuple(noise), between
        self.shortest, self.batch_size = shortest, batch_size

    def batch(self, generator: Generator) -> tuple[PathBatch, Truth]:
        """One task: what is observed, and what generated it."""

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator)

        def one(shares: Sequence[float]) -> int:
            return int(torch.multinomial(torch.tensor(shares, dtype=torch.float64), 1, generator=generator))

        least, most = self.paths
        count = round(least * (most / least) ** float(uniform()))
        systems = self.priors[one(self.shares)].sample(self.batch_size, generator)
        observed = self.observations[one((1.0,) * len(self.observations))].paths(systems, count, generator)
        if self.shortest is not None and float(uniform()) < 0.5:
            longest = observed.states.shape[-1]
            observed = _cut(observed, round(self.shortest * (longest / self.shortest) ** float(uniform())))
        levels = torch.tensor(self.noise)[torch.randint(len(self.noise), (self.batch_size,), generator=generator)]
        if self.between:
            anywhere = min(self.noise) + (max(self.noise) - min(self.noise)) * uniform(self.batch_size)
            levels = torch.where(uniform(self.batch_size) < 0.25, anywhere, levels)
        states = relabel(observed.states, levels, systems.n_states, generator)
        truth = Truth(systems.rates.float(), systems.initial.float(), levels, systems.n_states)
        return replace(observed, states=states), truth


def _cut(batch: PathBatch, points: int) -> PathBatch:
    """The first points of each path."""
    points = max(points, 2)
    return replace(
        batch,
        times=batch.times[..., :points],
        states=batch.states[..., :points],
        lengths=batch.lengths.clamp_max(points),
    )


class RateLikelihood(Configurable):
    """-log density of rates: log-normal where there is an edge, and cross-entropy of the edges; means over pairs."""

    def __call__(self, law: RateLaw, truth: Truth) -> Tensor:
        """Loss per system, (B,)."""
        edges, there = truth.edges, (truth.rates > 0) & truth.edges
        z = (truth.rates.clamp_min(1e-12).log() - law.log_rate) / law.log_sd.exp()
        width = torch.where(there, 0.5 * z.clamp(-30, 30) ** 2 + law.log_sd, 0.0)
        presence = functional.binary_cross_entropy_with_logits(law.presence, there.float(), reduction="none")
        return (width + presence * edges).sum((1, 2)) / edges.sum((1, 2))


class RateError(Configurable):
    """Mean squared error of the point estimate, in units of the mean rate that the network itself expects.

    A unit that depends on the data alone leaves the posterior mean the best estimate. True rates as the unit would give
    slow systems more weight than their probability, and estimates that are too low (by a tenth with one path).
    """

    def __call__(self, law: RateLaw, truth: Truth) -> Tensor:
        """Loss per system, (B,)."""
        pairs, mean = truth.edges.sum((1, 2)), law.mean()
        unit = (mean.detach() * truth.edges).sum((1, 2)) / pairs
        return ((mean - truth.rates) ** 2).sum((1, 2)) / pairs / unit**2


class InitialEntropy(Configurable):
    """Cross-entropy of the initial law against the whole true law, above the entropy of that law."""

    def __call__(self, law: RateLaw, truth: Truth) -> Tensor:
        """Loss per system, (B,)."""
        logs = law.initial.log_softmax(-1)
        real = torch.isfinite(law.initial) & (truth.initial > 0)
        return torch.where(real, truth.initial * (truth.initial.clamp_min(1e-12).log() - logs), 0.0).sum(-1)


class NoiseLikelihood(Configurable):
    """-log normal density of the noise probability, before and after the EM rounds.

    Args:
        floor: Least deviation.
    """

    def __init__(self, floor: float = 3e-4) -> None:
        self.floor = floor

    def __call__(self, law: RateLaw, truth: Truth) -> Tensor:
        """Loss per system, (B,)."""
        total = torch.zeros_like(law.noise)
        for mean, log_sd in ((law.noise, law.noise_log_sd), law.first_noise.unbind(1)):
            log_sd = log_sd.clamp(math.log(self.floor), 0)
            total = total + 0.5 * ((truth.noise - mean) / log_sd.exp()).clamp(-30, 30) ** 2 + log_sd
        return total / 2
