"""Hooks: guidance and control of a sampling run. All methods do nothing by default.

A hook may wrap the predictions (`wrap`), change the kernel that is drawn from (`propose`), choose among candidate draws
(`select`) and edit the state after a move (`after`). Memory that belongs to one run is set up in `prepare`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sciflow.core.config import Configurable
from sciflow.core.kernels import Kernel
from sciflow.core.noise import Move, Noise
from sciflow.core.process import Prediction
from sciflow.core.state import State

Denoise = Callable[[State, Mapping[str, Tensor]], dict[str, Prediction]]


@dataclass(frozen=True, eq=False)
class Transition:
    """One move as hooks see it.

    Attributes:
        before: The state at clock `move.t`, all fields.
        move: The move.
        denoise: The denoiser as all hooks have wrapped it.
        noise: Source of further random numbers; take them under a name of the hook's own.
    """

    before: State
    move: Move
    denoise: Denoise
    noise: Noise


class Hook(Configurable):
    """Base of all hooks.

    Attributes:
        candidates: How many draws of each kernel the hook wants to choose from; the draws cost no network call.
        needs_grad: The hook differentiates predictions with respect to the state; the sampler then runs without
            inference mode.
    """

    candidates: int = 1
    needs_grad: ClassVar[bool] = False

    def prepare(self, state: State) -> None:
        """Called once before the first move, with the state as it was given (before `Denoiser.prepare`)."""

    def wrap(self, denoise: Denoise) -> Denoise:
        """A new denoise callable around the old one: classifier-free guidance, forward models, superposition."""
        return denoise

    def propose(self, field: str, kernel: Kernel, transition: Transition) -> Kernel:
        """The kernel to draw the field's next value from, made from the solver's."""
        return kernel

    def selects(self, move: Move) -> bool:
        """Whether candidates are drawn for this move. Never asked where means replace all last draws."""
        return True

    def select(self, options: Sequence[State], transition: Transition) -> State:
        """One state made from `candidates` options, draws of the same kernels: SVDD, best of n."""
        return options[0]

    def after(self, state: State, kernels: Mapping[str, Kernel], transition: Transition) -> State:
        """The state to go on with: in-painting, constraints, resampling, accumulators of log-probabilities.

        `kernels` are those that were drawn from.
        """
        return state
