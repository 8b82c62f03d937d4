"""A sampling plan: everything about a run of the sampler that a checkpoint stores and a command line may change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.core.grids import Grid, Uniform
from sciflow.core.hooks import Hook
from sciflow.core.process import Process
from sciflow.core.sampler import Sampler
from sciflow.core.solver import Solver, known_solvers


class SamplingPlan(Configurable):
    """Solvers per field, grid and number of steps.

    Args:
        solvers: Field -> solver.
        grid: Where the moves lie.
        steps: Number of moves.
        correct: Field -> corrector.
        n_correct: Corrector rounds per move.
        final: "mean" drops the noise of the last move; tokens are drawn all the same.
    """

    def __init__(
        self,
        solvers: dict[str, Solver],
        grid: Grid | None = None,
        steps: int = 200,
        correct: dict[str, Solver] | None = None,
        n_correct: int = 1,
        final: Literal["sample", "mean"] = "mean",
    ) -> None:
        self.solvers, self.grid, self.steps = dict(solvers), grid if grid is not None else Uniform(), steps
        self.correct, self.n_correct = dict(correct or {}), n_correct
        self.final: Literal["sample", "mean"] = final

    def sampler(self, processes: Mapping[str, Process], hooks: Iterable[Hook] = ()) -> Sampler:
        """The sampler of this plan.

        Raises:
            UserError: A solver does not fit its process, or is made for another number of moves.
        """
        for solver in self.solvers.values():
            if solver.moves not in (None, self.steps):
                raise UserError(
                    f"{type(solver).__name__} is made for {solver.moves} moves, {self.steps} were asked for; choose "
                    "another solver, e.g. EulerMaruyama"
                )
        return Sampler(processes, self.solvers, self.grid, correct=self.correct, n_correct=self.n_correct, hooks=hooks)

    @property
    def couples_samples(self) -> bool:
        """Whether a sample of this plan depends on its batch-mates."""
        return any(solver.couples_samples for solver in [*self.solvers.values(), *self.correct.values()])

    def changed(self, steps: int | None = None, solver: str | None = None) -> SamplingPlan:
        """A plan with another number of steps, or another solver (by class name) for every field, without corrector.

        Raises:
            UserError: Unknown solver, or one that cannot be made without arguments.
        """
        solvers, correct = self.solvers, self.correct
        if solver is not None:
            known = {cls.__name__.lower(): cls for cls in known_solvers()}
            if solver.lower() not in known:
                names = ", ".join(cls.__name__ for cls in known.values())
                raise UserError(f"unknown solver '{solver}'; expected one of: {names}")
            try:
                solvers, correct = {name: known[solver.lower()]() for name in solvers}, {}
            except TypeError:
                raise UserError(f"solver '{solver}' needs arguments; write it into the plan of a YAML") from None
        if steps is not None and steps < 1:
            raise UserError(f"steps must be at least 1, got {steps}")
        return SamplingPlan(
            solvers, self.grid, steps if steps is not None else self.steps, correct, self.n_correct, self.final
        )
