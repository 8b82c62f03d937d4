r"""Reward of and Kullback-Leibler divergence along sampled paths of a masked process (DRAKES, Wang et al. 2025).

    maximise  E[r(x0)] - alpha KL(P_theta || P_pre)      over path laws that start from the same state.

Both laws share the unmasking times, so that only the token laws enter. For a move that draws a masked entry i with
probability c_i (ancestral (alpha_s - alpha_t)/(1 - alpha_t); any-order 1 at the chosen positions), exactly

    KL = sum over moves  E_theta[ sum over masked i of  c_i KL(p_theta(. | x_t)_i || p_pre(. | x_t)_i) ].

The sampler makes the path and a hook keeps what the network said, so the tuned network is called once per move. The
first N - K moves run without gradient; the last K on relaxed tokens (core/relaxation.py) with it. Of the first ones a
random subset enters the divergence with gradient, scaled so that it is unbiased. The frozen network is evaluated on all
kept states in one batch. Gradients through which states the FIRST moves reach are left out, as published, unless a
`ScoreFunction` adds them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sciflow.core.config import Configurable
from sciflow.core.denoiser import Denoiser
from sciflow.core.errors import UserError
from sciflow.core.hooks import Hook
from sciflow.core.noise import PRIOR, Noise
from sciflow.core.relaxation import HardEvents, hard_value
from sciflow.core.row_cache import RowCache
from sciflow.core.state import Layout, State
from sciflow.sampling import SamplingPlan
from sciflow.training.reward_hooks import PathHook, Recompute, Step, Unchanged, log_softmax

ROWS = 256  # states per call of the frozen network


class PathDivergence(Configurable, ABC):
    """Contribution of one move to the divergence of paths.

    Attributes:
        through_frozen: Gradients flow through the input of the frozen network. Without them the frozen network costs
            half as much, but the gradient lacks what makes paths stay where p_pre is large (measured on the toy of
            tests/training/test_reward.py: the objective ends 0.0175 below the optimum instead of 0.0009).
    """

    through_frozen: bool = True

    @abstractmethod
    def __call__(self, step: Step, log_probs: Tensor, log_frozen: Tensor, process: Any) -> Tensor:
        """Contribution of every entry, (B, L), from the log-probabilities (B, L, K) of both networks."""


class ExactPathKL(PathDivergence):
    """c_i m_i KL(p || p_pre), m_i the mask indicator of entry i. Nats.

    Args:
        through_frozen: See the base class.
    """

    def __init__(self, through_frozen: bool = True) -> None:
        self.through_frozen = through_frozen

    def __call__(self, step: Step, log_probs: Tensor, log_frozen: Tensor, process: Any) -> Tensor:
        """Exact for any number of moves."""
        masked = step.x[..., -1] if step.x.is_floating_point() else process.masked(step.x)
        return step.chance * masked * (log_probs.exp() * (log_probs - log_frozen)).sum(-1)


class ReleasedPathKL(PathDivergence):
    """(1 - m_i) sum_v x_iv [p_pre - p + p log(p/p_pre)]_v / (1 - alpha_t): the released code, for parity only.

    It weighs by the UNMASKED share, so it is zero on every hard state, and it lacks the length of the move.
    """

    def __call__(self, step: Step, log_probs: Tensor, log_frozen: Tensor, process: Any) -> Tensor:
        """Zero where a token is more probable than the mask: there both laws are that token."""
        if not step.x.is_floating_point():
            return torch.zeros_like(step.chance)
        probs, frozen = log_probs.exp(), log_frozen.exp()
        rate = frozen - probs + probs * (log_probs - log_frozen)
        share = (step.x[..., :-1] * rate).sum(-1) * (1 - step.x[..., -1])
        lost = process.survival.lost(torch.tensor(step.move.t, dtype=torch.float64)).to(share)
        return (step.x.argmax(-1) == process.tokens) * share / lost


class ScoreFunction(Configurable):
    """Gradient through the states that the first moves reach: grad log P(move) times the cost that follows it.

    cost of a move = alpha KL of the later moves - reward, less the mean of the other samples' costs (leave-one-out),
    which keeps it unbiased. With `grad_last=0` this is REINFORCE and the reward needs no derivative. It needs the
    frozen network on every hard state.
    """

    def __call__(self, log_prob: Tensor, cost: Tensor) -> Tensor:
        """Terms (moves, B) whose gradient is to be taken, from log P of the moves and the costs, both (moves, B)."""
        batch = cost.shape[1]
        if batch < 2:
            raise UserError("the leave-one-out baseline of ScoreFunction needs batches of at least 2 samples")
        others = (cost.sum(1, keepdim=True) - cost) / (batch - 1)
        return log_prob * (cost - others).detach()


@dataclass(frozen=True, eq=False)
class Outcome:
    """One batch of paths.

    Attributes:
        loss: () to be differentiated.
        reward: (B,) of the hard tokens.
        kl: (B,) divergence along the path.
        state: Finished state, hard tokens.
    """

    loss: Tensor
    reward: Tensor
    kl: Tensor
    state: State


class PathObjective:
    """alpha KL - reward of sampled paths, as a loss.

    Args:
        reward: (x (B, L, K) one-hot in value, state) -> (B,).
        alpha: Price of a nat, in units of the reward.
        plan: Solver, grid and number N of moves.
        grad_last: K; gradients flow through so many last moves.
        hard_moves: How many of the first N - K moves enter the divergence (unbiased random subset).
        relaxed_moves: How many of the last K moves do.
        divergence: Of the paths.
        score_function: Gradient through the first moves; None: left out.
        recompute: Recompute each relaxed move in the backward pass instead of keeping its activations (memory of one
            move instead of K, about a third more time).
    """

    def __init__(
        self,
        reward: Callable[[Tensor, State], Tensor],
        alpha: float,
        plan: SamplingPlan,
        *,
        grad_last: int,
        hard_moves: int = 4,
        relaxed_moves: int = 12,
        divergence: PathDivergence | None = None,
        score_function: ScoreFunction | None = None,
        recompute: bool = True,
    ) -> None:
        if not 0 <= grad_last <= plan.steps or (grad_last == 0 and score_function is None):
            raise UserError(
                f"grad_last: got {grad_last}, expected 1 to {plan.steps} (all moves), or 0 with a ScoreFunction"
            )
        if alpha < 0 or hard_moves < 0 or relaxed_moves < (alpha > 0 and grad_last > 0):
            raise UserError(
                f"got alpha={alpha}, hard_moves={hard_moves}, relaxed_moves={relaxed_moves}; expected >= 0, 0, 1"
            )
        self.reward, self.alpha, self.plan = reward, alpha, plan
        self.grad_last, self.hard_moves = grad_last, min(hard_moves, plan.steps - grad_last)
        self.relaxed_moves = min(relaxed_moves, grad_last)
        self.divergence = divergence if divergence is not None else ExactPathKL()
        self.score_function, self.recompute = score_function, recompute

    def __call__(self, tuned: Denoiser, frozen: Denoiser, field: str, start: State, noise: Noise) -> Outcome:
        """Sample paths from `start` and return their loss.

        Args:
            tuned: Denoiser with gradients.
            frozen: The pretrained one.
            field: The masked field.
            start: State at the first clock; hard tokens.
            noise: Source of all random numbers.
        """
        process: Any = tuned.processes[field]
        first = self.plan.steps - self.grad_last
        device = start[field].device
        kept = _some(first, self.hard_moves, noise, device)
        kept |= {first + k for k in _some(self.grad_last, self.relaxed_moves, noise, device)}
        every = set(range(first)) if self.score_function is not None else set()
        path = PathHook(field, process, first, kept | every)
        clock_free = bool(getattr(tuned.network, "clock_free", False))
        hooks: list[Hook] = [RowCache(clock_free)]
        hooks += [Recompute()] if self.recompute else []
        hooks += [Unchanged(field)] if clock_free and isinstance(process.relaxation, HardEvents) else []
        sampler = self.plan.sampler(tuned.processes, [*hooks, path])  # type: ignore[arg-type]
        begin = start if first else start.put(**{field: process.relaxed(start[field])})  # no move is hard
        end = sampler.run(begin, tuned, noise, steps=self.plan.steps, grad_last=self.grad_last).state
        soft = end[field] if self.grad_last else process.relaxed(end[field])
        x = hard_value(soft[..., : process.tokens])
        state = end.put(**{field: x.detach().argmax(-1)})
        reward = self.reward(x, state)
        kl, loss = self._divergence(path.steps, kept, tuned, frozen, field, start, reward)
        return Outcome(loss, reward.detach(), kl.detach(), state)

    def _divergence(
        self,
        steps: Sequence[Step],
        kept: set[int],
        tuned: Denoiser,
        frozen: Denoiser,
        field: str,
        start: State,
        reward: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Divergence (B,) and loss ()."""
        process, layout, first = tuned.processes[field], start.layouts[field], self.plan.steps - self.grad_last
        log_frozen = frozen_log_probs(frozen, field, start, steps, self.divergence.through_frozen, self.recompute)

        def nats(step: Step, log_probs: Tensor, log_q: Tensor) -> Tensor:
            return layout.per_sample(self.divergence(step, log_probs, log_q, process))

        hard = [(step, log_q) for step, log_q in zip(steps, log_frozen, strict=True) if step.move.index < first]
        soft = [(step, log_q) for step, log_q in zip(steps, log_frozen, strict=True) if step.move.index >= first]
        zero = reward.new_zeros(start.batch)
        kl = sum((nats(step, step.log_probs, log_q) for step, log_q in soft), zero)
        kl = kl * (self.grad_last / max(len(soft), 1))
        again = [(step, log_q) for step, log_q in hard if step.move.index in kept]
        with_gradient = log_probs_at(tuned, field, start, [step for step, _ in again]) if again else []
        scale = first / max(len(again), 1)
        terms = [nats(s, p, q) for (s, q), p in zip(again, with_gradient, strict=True)]
        kl_hard = scale * sum(terms, zero)
        loss = (self.alpha * (kl + kl_hard) - reward).mean()
        if self.score_function is None or not hard:
            return kl + kl_hard, loss
        values = torch.stack([nats(step, step.log_probs, log_q) for step, log_q in hard]).detach()
        cost = self.alpha * (kl.detach() + values.flip(0).cumsum(0).flip(0) - values) - reward.detach()
        rows = [step.move.index for step, _ in again]
        log_prob = torch.stack(
            [drawn_log_prob(s, p, process, layout) for (s, _), p in zip(again, with_gradient, strict=True)]
        )
        loss = loss + scale * self.score_function(log_prob, cost[rows]).sum(0).mean()
        return kl + values.sum(0), loss


def _some(count: int, number: int, noise: Noise, device: torch.device) -> set[int]:
    """`number` of `count` moves, every subset equally likely; read on the host."""
    if number in (0, count):
        return set(range(number))
    scores = noise.at("reward/moves", PRIOR).uniform(torch.empty(count, device=device), Layout(count))
    return set(scores.argsort()[:number].tolist())


def log_probs_at(denoiser: Denoiser, field: str, start: State, steps: Sequence[Step]) -> list[Tensor]:
    """Log-probabilities (B, L, K) of a network at the states of several moves, in one call."""
    if not steps:
        return []
    prepared = denoiser.prepare(start)
    batch = prepared.repeat(len(steps)).put(**{field: torch.cat([step.x for step in steps])})
    clocks = torch.tensor([step.move.t for step in steps], dtype=torch.float64).repeat_interleave(start.batch)
    prediction = denoiser(batch, {field: clocks.to(batch[field].device)})[field]
    return list(log_softmax(prediction).split(start.batch))


def frozen_log_probs(
    frozen: Denoiser, field: str, start: State, steps: Sequence[Step], through_input: bool, recompute: bool
) -> list[Tensor]:
    """`log_probs_at` of the frozen network; hard and relaxed states apart; without gradient unless `through_input`."""
    found: dict[int, Tensor] = {}
    for relaxed in (False, True):
        part = [step for step in steps if step.x.is_floating_point() == relaxed]
        size = max(ROWS // start.batch, 1)
        with torch.set_grad_enabled(through_input and torch.is_grad_enabled()):
            for some in (part[i : i + size] for i in range(0, len(part), size)):
                if recompute and torch.is_grad_enabled():
                    values: Any = checkpoint(log_probs_at, frozen, field, start, some, use_reentrant=False)
                else:
                    values = log_probs_at(frozen, field, start, some)
                found |= {step.move.index: value for step, value in zip(some, values, strict=True)}
    return [found[step.move.index] for step in steps]


def drawn_log_prob(step: Step, log_probs: Tensor, process: Any, layout: Layout) -> Tensor:
    """log P (B,) of the tokens that a hard move drew; the unmasking times do not depend on the network."""
    drawn = process.masked(step.x) & ~process.masked(step.after)
    tokens = step.after.clamp_max(log_probs.shape[-1] - 1)[..., None]
    entries = torch.where(drawn, log_probs.gather(-1, tokens)[..., 0], torch.zeros_like(step.chance))
    return layout.per_sample(entries)


def only_masked_field(processes: Mapping[str, Any]) -> str:
    """Name of the one field with relaxed draws.

    Raises:
        UserError: There is none, or more than one.
    """
    names = [name for name, process in processes.items() if hasattr(process, "relaxation")]
    if len(names) != 1 or len(processes) != 1:
        raise UserError(
            f"reward fine-tuning needs a model with one masked field and no other, got {', '.join(processes) or 'none'}"
        )
    return names[0]
