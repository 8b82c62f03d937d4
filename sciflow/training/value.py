r"""Learning the value of noisy states from finished unguided runs (SVDD-MC: Li et al., arXiv 2408.08252).

Each update rolls the unguided sampler out, keeps every state x_t on the way and regresses V(x_t) on the reward r(x_0)
that its own run ended with. What is learned is decided by the loss:

| loss | V(x_t) at its minimum |
|---|---|
| `MeanSquared` | E[r(x_0) given x_t]: NOT the soft value, only its limit for large alpha |
| `Linex` | alpha log E[exp(r(x_0)/alpha) given x_t]: the soft value exactly |
| `SoftBellman` | the same through alpha log mean exp(V(x_s)/alpha) over candidates x_s of one move (CD-Q) |

LINEX (Varian 1975; Zellner 1986): L(u) = exp(u) - u - 1 with u = (r - V)/alpha; dL/dV = 0 is E exp((r - V)/alpha) = 1.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.core.hooks import Hook, Transition
from sciflow.core.noise import Fresh, Move, Noise
from sciflow.core.state import State
from sciflow.core.values import Reward
from sciflow.model import Model
from sciflow.training.schedules import WarmupCosine

Progress = Callable[[str, float], None]


class ValueLoss(Configurable, ABC):
    """Compares values with targets.

    Attributes:
        candidates: Draws of each move that `backup` needs; 0: the target is the final reward of the run.
    """

    candidates: int = 0

    @abstractmethod
    def __call__(self, values: Tensor, targets: Tensor) -> Tensor:
        """Losses (N,) of values (N,) and targets (N,)."""

    def backup(self, values: Tensor) -> Tensor:
        """Target (N,) of a state from the values (candidates, N) of its candidates; only asked if there are any."""
        raise TypeError(f"{type(self).__name__} draws no candidates, its targets are final rewards")


class MeanSquared(ValueLoss):
    """(V - r)^2: learns E[r given x_t]."""

    def __call__(self, values: Tensor, targets: Tensor) -> Tensor:
        """Squared differences."""
        return (values - targets) ** 2


class Linex(ValueLoss):
    """exp(u) - u - 1, u = (r - V)/alpha: learns the soft value.

    Args:
        alpha: Temperature in units of the reward.
        clip: exp is continued by its tangent above this u, so that a bad start is bounded and still pulled upwards (a
            flat continuation would push V DOWN there). Exact if no u exceeds it at the end.
    """

    def __init__(self, alpha: float, clip: float = 10.0) -> None:
        self.alpha, self.clip = _positive("Linex", alpha), clip

    def __call__(self, values: Tensor, targets: Tensor) -> Tensor:
        """LINEX losses."""
        u = (targets - values) / self.alpha
        return u.clamp_max(self.clip).exp() * (1 + (u - self.clip).clamp_min(0)) - u - 1


class SoftBellman(MeanSquared):
    """(V(x_t) - alpha log mean_m exp(V'(x_s^m)/alpha))^2 with an averaged copy V' (CD-Q with the exact soft backup).

    The released arithmetic mean of V' learns E[r given x_t] instead. Low by about Var/(2 M alpha) per move.

    Args:
        alpha: Temperature in units of the reward.
        candidates: M >= 2 draws of each move; they cost no network call of the denoiser.
    """

    def __init__(self, alpha: float, candidates: int = 10) -> None:
        if candidates < 2:
            raise UserError(f"SoftBellman: got candidates={candidates}, expected at least 2")
        self.alpha, self.candidates = _positive("SoftBellman", alpha), candidates

    def backup(self, values: Tensor) -> Tensor:
        """alpha log mean exp(values/alpha) over the candidates."""
        return self.alpha * ((values / self.alpha).logsumexp(0) - math.log(len(values)))


def _positive(name: str, alpha: float) -> float:
    if alpha <= 0:
        raise UserError(f"{name}: got alpha={alpha}, expected alpha > 0; MeanSquared is the limit of large alpha")
    return alpha


class _Candidates(Hook):
    """Keeps the candidates of every move and goes on with the first: the unguided run."""

    def __init__(self, candidates: int) -> None:
        self.candidates = max(candidates, 1)
        self.options: list[Sequence[State]] = []
        self.moves: list[Move] = []

    def select(self, options: Sequence[State], transition: Transition) -> State:
        self.options.append(options)
        return options[0]

    def after(self, state: State, kernels: Mapping, transition: Transition) -> State:
        self.moves.append(transition.move)
        return state


def fit_value(
    model: Model,
    reward: Reward,
    network: nn.Module,
    loss: ValueLoss,
    template: State,
    *,
    updates: int = 2000,
    learning_rate: float = 1e-3,
    decay: float = 0.99,
    seed: int = 0,
    progress: Progress = lambda stage, done: None,
) -> list[float]:
    """Train a value network; use it as `LearnedValue(network, reward)`.

    One update = one batch of unguided runs (all states of all runs), AdamW without weight decay, gradients clipped at
    norm 1, learning rate warmed up over 5 % of the updates and then lowered by a cosine to 1 %.

    Args:
        model: Its sampling plan makes the runs; it is not changed.
        reward: Finished state -> (B,). States of runs with a reward that is not finite are left out.
        network: (state, signals) -> {"value": (B,)}; trained in place, left in evaluation mode.
        loss: What to learn.
        template: Shape of a batch of runs, e.g. `model.codec.template([50] * 64)`.
        updates: Number of updates.
        learning_rate: At its highest.
        decay: Of the averaged copy behind `SoftBellman`, per update.
        seed: Of the runs.
        progress: Called with (stage, share done).

    Returns:
        Loss of each update (NaN where no run had a finite reward).
    """
    if updates < 1:
        raise UserError(f"updates must be at least 1, got {updates}")
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = WarmupCosine(optimizer, updates, max(updates // 20, 1))
    average = copy.deepcopy(network).eval().requires_grad_(False)
    network.train()
    model.denoiser.eval()
    noise, losses = Fresh(seed, next(iter(template.fields.values())).device), []
    for update in range(updates):
        states, clocks, targets = _examples(model, reward, loss, average, template, noise)
        valid = targets.isfinite()
        values = _values(network, states, clocks)
        total = loss(values[valid], targets[valid].to(values)).mean()
        losses.append(float(total.detach()))
        if bool(valid.any()):
            optimizer.zero_grad()
            total.backward()
            clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            for old, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                old.lerp_(new, 1 - decay) if old.is_floating_point() else old.copy_(new)
        schedule.step()
        progress("value", (update + 1) / updates)
    network.eval()
    return losses


def _examples(
    model: Model, reward: Reward, loss: ValueLoss, average: nn.Module, template: State, noise: Noise
) -> tuple[State, Tensor, Tensor]:
    """States of runs, their clocks and targets: all of (moves + 1) B rows, run after run of the path."""
    keeper, plan = _Candidates(loss.candidates), model.sampling
    sampler = plan.sampler(model.processes, [keeper])
    path = sampler.run(sampler.prior(template, noise), model.denoiser, noise, steps=plan.steps, record=True).path
    moves, batch = keeper.moves, template.batch
    clocks = torch.tensor([moves[0].t, *(move.s for move in moves)], dtype=torch.get_default_dtype())
    with torch.no_grad():
        final = reward(path[-1]).double()
        if loss.candidates:
            ends = reward(_joined(keeper.options[-1])).double().reshape(1, loss.candidates, batch)
            inner = [option for options in keeper.options[:-1] for option in options]
            if inner:
                times = clocks[1:-1].repeat_interleave(loss.candidates * batch)
                values = _values(average, _joined(inner), times).double()
                ends = torch.cat([values.reshape(-1, loss.candidates, batch), ends])
            targets = torch.cat([loss.backup(ends.transpose(0, 1).flatten(1)), final])
        else:
            targets = final.repeat(len(path))
    return _joined(path), clocks.repeat_interleave(batch), targets


def _joined(states: Sequence[State]) -> State:
    """States of one layout as one batch."""
    first = states[0]
    joined = first.repeat(len(states)).put(**{name: torch.cat([one[name] for one in states]) for name in first.fields})
    return joined.map(lambda value: value.clone())  # out of inference mode


def _values(network: nn.Module, states: State, clocks: Tensor) -> Tensor:
    return network(states, dict.fromkeys(states.fields, clocks.to(next(iter(states.fields.values())).device)))["value"]
