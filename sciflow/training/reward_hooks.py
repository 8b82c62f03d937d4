"""Hooks of reward fine-tuning: what is kept of a sampled path, and how its network calls save time and memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sciflow.core.errors import UserError
from sciflow.core.hooks import Denoise, Hook, Transition
from sciflow.core.kernels import Categorical, Kernel, RelaxedCategorical
from sciflow.core.noise import Move
from sciflow.core.process import Prediction
from sciflow.core.state import State


@dataclass(frozen=True, eq=False)
class Step:
    """What is kept of one move.

    Attributes:
        move: The move.
        x: Field before it, (B, L) int64 or relaxed (B, L, K + 1).
        after: Field after it.
        chance: (B, L) probability that a masked entry is drawn in this move; 0 where nothing is masked.
        log_probs: (B, L, K) of the tuned network; without gradient in the first moves.
    """

    move: Move
    x: Tensor
    after: Tensor
    chance: Tensor
    log_probs: Tensor


class PathHook(Hook):
    """Keeps the moves and relaxes the tokens after the last hard one. Must be the last hook that wraps."""

    needs_grad = True

    def __init__(self, field: str, process: Any, first: int, kept: set[int]) -> None:
        self.field, self.process, self.first, self.kept = field, process, first, kept
        self.steps: list[Step] = []
        self.prediction: Prediction | None = None

    def wrap(self, denoise: Denoise) -> Denoise:
        """Remember the prediction of the tuned network."""

        def remembered(state: State, clocks: Mapping[str, Tensor]) -> dict[str, Prediction]:
            predictions = denoise(state, clocks)
            self.prediction = predictions[self.field]
            return predictions

        return remembered

    def after(self, state: State, kernels: Mapping[str, Kernel], transition: Transition) -> State:
        """Keep the move."""
        move, x = transition.move, transition.before[self.field]
        if move.index in self.kept:
            assert self.prediction is not None
            chance = (drawn_chance(kernels[self.field]) * self.process.masked(x)).detach()
            self.steps.append(Step(move, x, state[self.field], chance, log_softmax(self.prediction)))
        if move.index == self.first - 1 and not state[self.field].is_floating_point():
            return state.put(**{self.field: self.process.relaxed(state[self.field])})
        return state


class Recompute(Hook):
    """Keeps no activations of the calls with gradients; the backward pass makes them again, one move at a time."""

    def wrap(self, denoise: Denoise) -> Denoise:
        """Checkpointed calls."""

        def checkpointed(state: State, clocks: Mapping[str, Tensor]) -> dict[str, Prediction]:
            if not torch.is_grad_enabled():
                return denoise(state, clocks)
            return checkpoint(denoise, state, clocks, use_reentrant=False, preserve_rng_state=False)  # type: ignore

        return checkpointed


class Unchanged(Hook):
    """Keeps the prediction, with its graph, of samples that the last relaxed move left as they were.

    For networks that ignore the clock. Entries that are carried over pass their gradient on as they are, so that value
    and gradient are those of a new call. With N moves and L tokens (1 - 1/N)^L of the samples are unchanged.
    """

    needs_grad = True

    def __init__(self, field: str) -> None:
        self.field = field
        self.last: tuple[Tensor, dict[str, Prediction]] | None = None

    def prepare(self, state: State) -> None:
        """Forget the last run."""
        self.last = None

    def wrap(self, denoise: Denoise) -> Denoise:
        """Ask for the samples that changed."""

        def asked(state: State, clocks: Mapping[str, Tensor]) -> dict[str, Prediction]:
            x = state[self.field]
            if not x.is_floating_point() or not torch.is_grad_enabled():
                return denoise(state, clocks)
            if self.last is None:
                found = denoise(state, clocks)
            else:
                rows = (x.detach() != self.last[0]).flatten(1).any(1).nonzero()[:, 0]
                found = self.last[1]
                if len(rows):
                    new = denoise(state.select(rows), clocks)
                    values = {name: one.value.index_copy(0, rows, new[name].value) for name, one in found.items()}
                    found = {name: one.replace(values[name], one.kind) for name, one in new.items()}
            place = {name: (one.value, one.kind, one.process) for name, one in found.items()}
            found = {n: Prediction(*place[n], state[n], clocks[n], state.layouts[n]) for n in place}
            self.last = (x.detach(), found)
            return found

        return asked


def drawn_chance(kernel: Kernel) -> Tensor:
    """(B, L) probability that a masked entry is drawn.

    Raises:
        UserError: The kernel does not say: the solver draws inside the step.
    """
    if isinstance(kernel, RelaxedCategorical):
        return (kernel.chance + torch.zeros_like(kernel.held[..., -1:]))[..., 0]
    if isinstance(kernel, Categorical):
        return 1 - kernel.probs[..., -1]
    raise UserError(
        "reward fine-tuning needs a solver that returns token probabilities, such as Ancestral or AnyOrder; got one "
        f"that returns {type(kernel).__name__}"
    )


def log_softmax(prediction: Prediction) -> Tensor:
    """Log-probabilities of the clean tokens, at least float32."""
    logits = prediction.to("logits")
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)
