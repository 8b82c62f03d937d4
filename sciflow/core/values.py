r"""Values: what a noisy state is worth under a reward of finished objects, for guidance that chooses or resamples.

The soft value of a state at clock s is v_s(x) = alpha log E[exp(r(x0)/alpha) | x_s = x], v_0 = r; for alpha -> infinity
it is E[r(x0) | x_s = x]. Guidance towards p(x0) exp(r(x0)/alpha) is exact with exact values (Li et al., 2024).

* `PosteriorMean`: r(x0hat(x)) with the predicted clean state x0hat (most probable tokens); one network call.
* `PosteriorSamples`: alpha log mean_n exp(r(x0_n)/alpha), every entry of x0_n drawn from its predicted law; one network
  call. Low by about Var/(2 n alpha), and blind to what entries share.
* `LearnedValue`: a network of the noisy state, trained on finished runs; no call of the denoiser.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.core.hooks import Denoise
from sciflow.core.noise import Draws, Move, Noise
from sciflow.core.process import Prediction
from sciflow.core.state import Layout, State

Reward = Callable[[State], Tensor]


class Value(Configurable, ABC):
    """An estimate of the soft value."""

    @abstractmethod
    def __call__(self, state: State, move: Move, denoise: Denoise, noise: Noise) -> Tensor:
        """Values (B,) of states at clock `move.s`, in units of the reward.

        Args:
            state: States after a move; at clock 0 they are finished.
            move: The move that led there.
            denoise: The denoiser.
            noise: Source of random numbers for a batch of this size.
        """


class PosteriorMean(Value):
    """r(x0hat): the reward of the predicted clean state (SVDD-PM).

    Args:
        reward: Clean state -> (B,).
    """

    def __init__(self, reward: Reward) -> None:
        self.reward = reward

    def __call__(self, state: State, move: Move, denoise: Denoise, noise: Noise) -> Tensor:
        """One network call, none at clock 0."""
        return self.reward(predicted_clean(state, move, denoise))


class PosteriorSamples(Value):
    """alpha log mean exp(r/alpha) over completions drawn from the predicted distribution of every entry.

    Args:
        reward: Clean state -> (B,).
        draws: Completions n per state.
        alpha: Temperature in units of the reward; 0 takes the mean reward.
    """

    def __init__(self, reward: Reward, draws: int = 8, alpha: float = 0.1) -> None:
        if draws < 1 or alpha < 0:
            raise UserError(f"PosteriorSamples: got draws={draws}, alpha={alpha}; expected draws >= 1, alpha >= 0")
        self.reward, self.draws, self.alpha = reward, draws, alpha

    def __call__(self, state: State, move: Move, denoise: Denoise, noise: Noise) -> Tensor:
        """One network call, none at clock 0."""
        if move.s <= 0:
            return self.reward(state)
        clock = torch.tensor(move.s, dtype=torch.float64)
        predictions = denoise(state, dict.fromkeys(state.fields, clock))
        completions = {}
        for name, prediction in predictions.items():
            process: Any = prediction.process
            law = process.reconstruction(state[name], prediction.to("data"), clock, state.layouts[name])
            draws = (noise.at(f"{name}/completion", move, copy) for copy in range(self.draws))
            completions[name] = torch.cat([law.sample(one) for one in draws])
        rewards = (
            self.reward(state.repeat(self.draws).put(**completions))
            .reshape(self.draws, state.batch)
            .double()
            .nan_to_num(nan=-torch.inf)
        )
        if self.alpha == 0:
            return rewards.mean(0)
        return self.alpha * ((rewards / self.alpha).logsumexp(0) - math.log(self.draws))


class LearnedValue(Value):
    """A trained network's value of the noisy state; the reward itself once the clock is 0.

    Args:
        network: (state, signals) -> {"value": (B,)}.
        reward: Clean state -> (B,), for finished states; None: the network's value there too.
    """

    def __init__(self, network: Any, reward: Reward | None = None) -> None:
        self.network, self.reward = network, reward

    def __call__(self, state: State, move: Move, denoise: Denoise, noise: Noise) -> Tensor:
        """No call of the denoiser."""
        if move.s <= 0 and self.reward is not None:
            return self.reward(state)
        device = next(iter(state.fields.values())).device
        clock = torch.tensor(move.s, dtype=torch.get_default_dtype(), device=device)
        return self.network(state, dict.fromkeys(state.fields, clock))["value"]


class CommonNoise(Noise):
    """Noise for copies of a batch (copy after copy, as of `State.repeat`) in which all copies get the SAME draws.

    Candidates that are completed with common random numbers differ by what they are, not by luck: the choice among them
    is much sharper at the same cost (measured, benchmarks/utr.py), and equal candidates have equal values.

    Args:
        noise: Noise of the batch itself.
        copies: Number of copies.
    """

    def __init__(self, noise: Noise, copies: int) -> None:
        self.noise, self.copies = noise, copies

    def at(self, field: str, move: Move, copy: int = 0) -> Draws:
        """Draws of the batch, repeated."""
        return _CommonDraws(self.noise.at(field, move, copy), self.copies)


class _CommonDraws(Draws):
    def __init__(self, draws: Draws, copies: int) -> None:
        self.draws, self.copies = draws, copies

    def normal(self, like: Tensor, layout: Layout) -> Tensor:
        return torch.cat([self.draws.normal(*self._one(like, layout))] * self.copies)

    def uniform(self, like: Tensor, layout: Layout) -> Tensor:
        return torch.cat([self.draws.uniform(*self._one(like, layout))] * self.copies)

    def _one(self, like: Tensor, layout: Layout) -> tuple[Tensor, Layout]:
        """Field and layout of the first copy."""
        rows, batch = len(like) // self.copies, layout.batch // self.copies
        index = None if layout.index is None else layout.index[:rows]
        mask = None if layout.mask is None else layout.mask[: len(layout.mask) // self.copies]
        return like[:rows], Layout(batch, index, mask, None if layout.sizes is None else layout.sizes[:batch])


def predicted_clean(state: State, move: Move, denoise: Denoise) -> State:
    """The denoiser's prediction of the clean state at the end of a move; the state itself once the clock is 0."""
    if move.s <= 0:
        return state
    clock = torch.tensor(move.s, dtype=torch.float64)
    predictions = denoise(state, dict.fromkeys(state.fields, clock))
    return state.put(**{name: _clean(prediction) for name, prediction in predictions.items()})


def _clean(prediction: Prediction) -> Tensor:
    data, process = prediction.to("data"), prediction.process
    if data.shape == prediction.x.shape:
        return process.decode(data, data)
    # probabilities of tokens: what is known stays, all else is the most probable token
    return process.decode(prediction.x, data) if hasattr(process, "masked") else data.argmax(-1)
