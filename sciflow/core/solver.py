"""Solvers: one move t -> s of ONE field. A solver never sees the network or the other fields.

A solver is a coroutine: it yields `Query(x, t)`, receives a `Prediction`, and returns a kernel and its memory. Most
methods need one evaluation and derive from `OneEvaluation` instead, with no generator in sight.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.core.kernels import Kernel
from sciflow.core.noise import Draws
from sciflow.core.process import Prediction, Process
from sciflow.core.state import Layout

Memory = Any


class Query(NamedTuple):
    """'Please evaluate the network with my field at `x` and clock `t`.'

    A solver that is `alone` may ask about some samples only: `rows` (n,) names them, and `x`, `t` and the prediction
    that comes back have n samples.
    """

    x: Tensor
    t: Tensor
    rows: Tensor | None = None


Step = Generator[Query, Prediction, tuple[Kernel, Memory]]


class Solver(Configurable, ABC):
    """One step method.

    Attributes:
        needs: Capabilities that the process must provide.
        order: Order of convergence (strong order for additive noise); 0 where it does not apply.
        evaluations: Network calls per move; 0 if it varies.
        corrector: It stays at its clock: to be run before a move, not as one.
        alone: It moves its own clock between queries, so no other field may evolve beside it.
        couples_samples: A sample depends on its batch-mates.
        moves: Number of moves that the method is made for; None: any.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    order: ClassVar[float] = 0.0
    evaluations: ClassVar[int] = 1
    corrector: ClassVar[bool] = False
    alone: ClassVar[bool] = False
    couples_samples: ClassVar[bool] = False
    moves: int | None = None

    @abstractmethod
    def step(self, process: Any, x: Tensor, t: Tensor, s: Tensor, layout: Layout, memory: Memory, draws: Draws) -> Step:
        """Advance the field from clock t to s. No tensors on `self`: what a method remembers is `memory`."""
        ...


class OneEvaluation(Solver):
    """A method with one network call per move: write `kernel`."""

    @abstractmethod
    def kernel(
        self, process: Any, x: Tensor, pred: Prediction, t: Tensor, s: Tensor, layout: Layout, memory: Memory
    ) -> tuple[Kernel, Memory]:
        """The law of x_s given x_t and the prediction, and the memory for the next move."""

    def step(self, process: Any, x: Tensor, t: Tensor, s: Tensor, layout: Layout, memory: Memory, draws: Draws) -> Step:
        """Ask once, return the kernel."""
        pred = yield Query(x, t)
        return self.kernel(process, x, pred, t, s, layout, memory)


def drive_one(step: Step, predict: Callable[[Query], Prediction]) -> tuple[Kernel, Memory]:
    """Run one step to its end with a function in place of the network: unit tests of a new solver."""
    try:
        query = next(step)
        while True:
            query = step.send(predict(query))
    except StopIteration as done:
        return done.value


def check_fit(field: str, process: Process, solver: Solver) -> None:
    """Refuse a solver whose needs the process does not provide, naming those that fit.

    Raises:
        UserError: The pair does not fit.
    """
    missing = solver.needs - process.provides()
    if not missing:
        return
    fits = [
        cls.__name__ for cls in known_solvers() if cls.needs <= process.provides() and cls.corrector == solver.corrector
    ]
    raise UserError(
        f"field '{field}': solver {type(solver).__name__} needs {', '.join(sorted(missing))}, which "
        f"{type(process).__name__} does not provide; solvers that fit: {', '.join(fits) or 'none that is imported'}"
    )


def known_solvers() -> list[type[Solver]]:
    """All concrete solver classes of sciflow.solvers and of imported user modules, by name."""
    import importlib
    import pkgutil

    package = importlib.import_module("sciflow.solvers")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"sciflow.solvers.{module.name}")
    found: set[type[Solver]] = set()
    todo: list[type[Solver]] = [Solver]
    while todo:
        for cls in todo.pop().__subclasses__():
            todo.append(cls)
            if not getattr(cls, "__abstractmethods__", None):
                found.add(cls)
    return sorted(found, key=lambda cls: cls.__name__)
