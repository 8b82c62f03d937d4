"""The solver protocol: a new method in six lines, unit tests without a network, no state on the object."""

from __future__ import annotations

import copy

import torch
from oracles import F64, FIELD, GaussianOracle, f64
from stats import batch_state, run

from sciflow.core import schedules
from sciflow.core.config import from_config, to_config
from sciflow.core.grids import Uniform
from sciflow.core.kernels import Dirac, Gaussian
from sciflow.core.noise import Fresh
from sciflow.core.solver import OneEvaluation, Query, Solver, drive_one, known_solvers
from sciflow.core.state import Layout
from sciflow.processes.gaussian import GaussianProcess
from sciflow.solvers.adaptive import Adaptive
from sciflow.solvers.euler_ode import EulerODE
from sciflow.solvers.heun import Heun
from sciflow.solvers.s4 import S4

PROCESS = GaussianProcess(schedules.VP(), kind="noise")
ORACLE = GaussianOracle(PROCESS)


def make(cls) -> Solver:
    return Adaptive(Heun()) if cls is Adaptive else cls()


def predict(query: Query):
    return ORACLE(batch_state(query.x), {FIELD: query.t})[FIELD]


class Midpoint(Solver):
    """A user's method, written only with the public protocol (explicit midpoint rule, second order)."""

    needs = frozenset({"velocity"})
    order, evaluations = 2.0, 2

    def step(self, process, x, t, s, layout, memory, draws):
        half = layout.rows((s - t) / 2, x)
        middle = process.space.add(x, half * process.velocity(x, (yield Query(x, t)), t, layout))
        velocity = process.velocity(middle, (yield Query(middle, (t + s) / 2)), (t + s) / 2, layout)
        return Dirac(process.space.add(x, 2 * half * velocity)), memory


class FlowFirst(OneEvaluation):
    """A user's composition: needs nothing but the velocity."""

    needs = frozenset({"velocity"})

    def kernel(self, process, x, pred, t, s, layout, memory):
        return EulerODE().kernel(process, x, pred, t, s, layout, memory)


def test_a_users_solver_is_found_and_runs():
    assert {Midpoint, FlowFirst, Heun, S4} <= set(known_solvers())
    x, grid = torch.linspace(-1, 1, 4, dtype=F64)[:, None], Uniform(0.9, 0.1)
    assert torch.equal(*(run(PROCESS, s, ORACLE, x, 5, grid, Fresh()) for s in (FlowFirst(), EulerODE())))
    ends = [run(PROCESS, Midpoint(), ORACLE, x, moves, grid, Fresh()) for moves in (40, 80, 160)]
    ratio = float((ends[0] - ends[1]).abs().max() / (ends[1] - ends[2]).abs().max())
    assert 3.4 < ratio < 4.6  # second order: 4


def test_drive_one_answers_every_query():
    asked = []

    def spy(query):
        asked.append(float(query.t))
        return predict(query)

    x, layout = f64([[0.3]]), Layout(1)
    kernel, memory = drive_one(Heun().step(PROCESS, x, f64(0.6), f64(0.5), layout, None, Fresh()), spy)
    assert asked == [0.6, 0.5] and isinstance(kernel, Dirac) and memory is None
    kernel, _ = drive_one(S4().step(PROCESS, x, f64(0.6), f64(0.5), layout, None, Fresh()), predict)
    assert isinstance(kernel, Gaussian)


def test_solvers_keep_nothing_and_survive_a_checkpoint():
    """After a run the object is as before; its configuration rebuilds a solver that gives the same numbers."""
    x = torch.linspace(-1, 1, 4, dtype=F64)[:, None]
    for cls in known_solvers():
        if not cls.__module__.startswith("sciflow.") or not cls.needs <= PROCESS.provides():
            continue
        solver = make(cls)
        before = copy.deepcopy(
            {k: v for k, v in vars(solver).items() if not isinstance(v, Solver) and k != "init_args"}
        )
        end = play(solver, x)
        assert {k: v for k, v in vars(solver).items() if k in before} == before, cls
        assert set(vars(solver)) == set(vars(make(cls))), cls
        again = from_config(to_config(solver))
        assert torch.equal(end, play(again, x)), cls


def play(solver: Solver, x: torch.Tensor) -> torch.Tensor:
    """Three moves, as a solver or as a corrector."""
    roles = {"solver": None, "correct": solver} if solver.corrector else {"solver": solver}
    return run(PROCESS, oracle=ORACLE, x=x, moves=3, grid=Uniform(0.8, 0.4), noise=Fresh(1), **roles)
