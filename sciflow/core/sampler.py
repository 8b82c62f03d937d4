"""The sampler: the one loop of the library.

Per move t -> s it runs the solvers of all fields in lock-step: every solver that wants a prediction states its query,
ONE network call answers them all, and when a solver returns its kernel the new value is drawn and shown to the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.grids import Grid
from sciflow.core.hooks import Denoise, Hook, Transition
from sciflow.core.kernels import Categorical, Kernel, RelaxedCategorical
from sciflow.core.noise import PRIOR, Move, Noise
from sciflow.core.process import Prediction, Process
from sciflow.core.solver import Memory, Solver, check_fit
from sciflow.core.state import State

TOKENS = (Categorical, RelaxedCategorical)  # kernels whose `mean` is no value of the field


@dataclass(frozen=True, eq=False)
class Solution:
    """Result of a run.

    Attributes:
        state: State at the end of the grid.
        evaluations: Number of network calls.
        path: States after each move, if recorded; the first entry is the start.
        memory: Field -> what its solver remembered last, e.g. the events that `Gillespie(record=True)` logs.
    """

    state: State
    evaluations: int
    path: list[State] = field(default_factory=list)
    memory: dict[str, Memory] = field(default_factory=dict)


class Sampler:
    """Moves a state along a grid.

    Args:
        processes: Field -> process.
        solvers: Field -> solver; fields without one stay as they are.
        grid: Where the moves lie.
        correct: Field -> corrector, run before each move with all fields held at clock t.
        n_correct: Corrector rounds per move.
        hooks: Guidance and control, applied in order.

    Raises:
        UserError: A solver needs what its process does not provide (the message names the solvers that fit), or a
            field has no process.
    """

    def __init__(
        self,
        processes: Mapping[str, Process],
        solvers: Mapping[str, Solver],
        grid: Grid,
        *,
        correct: Mapping[str, Solver] | None = None,
        n_correct: int = 1,
        hooks: Iterable[Hook] = (),
    ) -> None:
        self.processes, self.solvers, self.grid = dict(processes), dict(solvers), grid
        self.correct, self.n_correct, self.hooks = dict(correct or {}), n_correct, tuple(hooks)
        for name, solver in [*self.solvers.items(), *self.correct.items()]:
            if name not in self.processes:
                raise UserError(
                    f"solver for unknown field '{name}'; fields with a process: {', '.join(self.processes)}"
                )
            check_fit(name, self.processes[name], solver)
        for name, solver in self.solvers.items():
            if solver.corrector:
                raise UserError(f"{type(solver).__name__} stays at its clock: give field '{name}' to `correct` instead")
            if solver.alone and len(self.solvers) > 1:
                raise UserError(
                    f"{type(solver).__name__} moves field '{name}' on clocks of its own; it works for states with a "
                    f"single evolving field, got {', '.join(self.solvers)}"
                )

    def prior(self, template: State, noise: Noise) -> State:
        """A state drawn from the priors of all fields that have one, shaped like `template`."""
        drawn = {}
        for name, process in self.processes.items():
            if hasattr(process, "prior"):
                kernel: Kernel = process.prior(template[name], template.layouts[name])  # type: ignore[operator]
                drawn[name] = kernel.sample(noise.at(name, PRIOR))
        return template.put(**drawn)

    def noised(self, clean: State, clock: float, noise: Noise) -> State:
        """A clean state noised to a clock, where a run may start: editing and refinement (SDEdit)."""
        t, drawn = torch.tensor(clock, dtype=torch.float64), {}
        for name, process in self.processes.items():
            if not hasattr(process, "marginal"):
                raise UserError(f"{type(process).__name__} of field '{name}' has no law of noised data to start from")
            kernel: Kernel = process.marginal(process.encode(clean[name]), t, clean.layouts[name])  # type: ignore[operator]
            drawn[name] = kernel.sample(noise.at(name, PRIOR))
        return clean.put(**drawn)

    def run(
        self,
        state: State,
        denoiser: Denoise,
        noise: Noise,
        *,
        steps: int,
        final: Literal["sample", "mean"] = "sample",
        grad_last: int = 0,
        record: bool = False,
    ) -> Solution:
        """Move `state` along the grid.

        Args:
            state: Start, e.g. from `prior`.
            denoiser: `Denoiser` or any callable (state, clocks) -> {field: Prediction}.
            noise: Source of all random numbers.
            steps: Number of moves.
            final: "mean" returns the mean of the last kernel instead of a draw (removes the last noise). Tokens have no
                mean and are drawn all the same: their most probable value would be of another law.
            grad_last: Gradients flow through this many last moves; 0: none.
            record: Keep the path.
        """
        moves = [Move(i, t, s) for i, (t, s) in enumerate(self.grid.moves(steps))]
        calls = _Counted(denoiser)
        denoise: Denoise = calls
        for hook in self.hooks:
            denoise = hook.wrap(denoise)
        graph = grad_last > 0 or any(hook.needs_grad for hook in self.hooks)
        memory: dict[str, Memory] = {}
        with torch.inference_mode(False) if graph else torch.inference_mode():
            if graph:  # tensors made in inference mode cannot enter a graph; Lightning's predict runs in that mode
                state = state.map(lambda value: value.clone() if value.is_inference() else value)
            clocks = torch.tensor([(m.t, m.s) for m in moves], dtype=torch.float64)  # on the host: no sync, no kernels
            for hook in self.hooks:
                hook.prepare(state)
            prepare = getattr(denoiser, "prepare", None)
            state = state if prepare is None else prepare(state)
            path = [state] if record else []
            for move, (t, s) in zip(moves, clocks.unbind(), strict=True):
                grad = move.index >= len(moves) - grad_last
                with torch.set_grad_enabled(grad) if graph else contextlib.nullcontext():
                    mean = final == "mean" and move.index == len(moves) - 1
                    state = self._move(state, move, t, s, denoise, noise, memory, mean)
                if record:
                    path.append(state)
        return Solution(state, calls.count, path, memory)

    def _move(
        self,
        state: State,
        move: Move,
        t: Tensor,
        s: Tensor,
        denoise: Denoise,
        noise: Noise,
        memory: dict[str, Memory],
        mean: bool = False,
    ) -> State:
        for phase in range(1, self.n_correct + 1 if self.correct else 1):
            corrector = move._replace(s=move.t, phase=phase)
            state, _ = self._stage(self.correct, state, corrector, t, t, denoise, noise, {}, _as_it_is)
        transition = Transition(state, move, denoise, noise)
        state, kernels = self._stage(
            self.solvers, state, move, t, s, denoise, noise, memory, self._proposals(transition)
        )
        random = {name: kernel for name, kernel in kernels.items() if not mean or isinstance(kernel, TOKENS)}
        if mean:  # before the hooks: what they impose (in-painting, constraints) holds for the mean too
            state = state.put(**{name: kernel.mean for name, kernel in kernels.items() if name not in random})
        copies = 0
        for hook in self.hooks:
            if hook.candidates > 1 and random and hook.selects(move):
                # further draws of the SAME kernels: no network call
                others = []
                for _ in range(1, hook.candidates):
                    copies += 1
                    draws = {name: kernel.sample(noise.at(name, move, copies)) for name, kernel in random.items()}
                    others.append(state.put(**draws))
                state = hook.select([state, *others], transition)
            state = hook.after(state, kernels, transition)
        return state

    def _proposals(self, transition: Transition) -> Callable[[str, Kernel], Kernel]:
        """What the hooks, in order, make of a solver's kernel."""

        def propose(name: str, kernel: Kernel) -> Kernel:
            for hook in self.hooks:
                kernel = hook.propose(name, kernel, transition)
            return kernel

        return propose

    def _stage(
        self,
        solvers: Mapping[str, Solver],
        state: State,
        move: Move,
        t: Tensor,
        s: Tensor,
        denoise: Denoise,
        noise: Noise,
        memory: dict[str, Memory],
        propose: Callable[[str, Kernel], Kernel],
    ) -> tuple[State, dict[str, Kernel]]:
        """Run one coroutine per field to its end, all in lock-step; draw from what `propose` makes of its kernel."""
        draws = {name: noise.at(name, move) for name in solvers}
        live = {
            name: solver.step(
                self.processes[name], state[name], t, s, state.layouts[name], memory.get(name), draws[name]
            )
            for name, solver in solvers.items()
        }
        inbox: dict[str, Any] = dict.fromkeys(live)
        kernels: dict[str, Kernel] = {}
        clocks = dict.fromkeys(state.fields, t)
        while live:
            queries = {}
            for name in list(live):
                try:
                    queries[name] = live[name].send(inbox[name])
                except StopIteration as done:
                    kernel, memory[name] = done.value
                    kernels[name] = propose(name, kernel)
                    del live[name]
                    state = state.put(**{name: kernels[name].sample(draws[name])})
                    clocks[name] = s
            if queries:
                shown = state
                for query in queries.values():
                    shown = shown if query.rows is None else shown.select(query.rows)  # its solver is alone
                shown = shown.put(**{name: query.x for name, query in queries.items()})
                state = shown if shown.batch == state.batch else state
                clocks |= {name: query.t for name, query in queries.items()}
                inbox = dict(denoise(shown, clocks))
        return state, kernels


def _as_it_is(name: str, kernel: Kernel) -> Kernel:
    """Correctors are not guided: they keep the law at their clock."""
    return kernel


class _Counted:
    """A denoiser that counts its calls."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise, self.count = denoise, 0

    def __call__(self, state: State, clocks: Mapping[str, Tensor]) -> dict[str, Prediction]:
        self.count += 1
        return self.denoise(state, clocks)
