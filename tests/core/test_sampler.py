"""The loop: lock-step of several fields, barriers, counting, gradients, hooks, errors, and what a sample depends on."""

from __future__ import annotations

import pytest
import torch
from oracles import F64, FIELD, GaussianOracle, f64, together
from stats import Z_LIMIT, batch_state, mean_z, run

from sciflow.core import schedules
from sciflow.core.errors import UserError
from sciflow.core.grids import Explicit, Uniform
from sciflow.core.hooks import Hook
from sciflow.core.noise import Fresh, Move, PerSample
from sciflow.core.process import Prediction
from sciflow.core.sampler import Sampler
from sciflow.core.solver import drive_one
from sciflow.core.state import Layout, State
from sciflow.processes.gaussian import GaussianProcess
from sciflow.processes.masked import Masked
from sciflow.solvers.adaptive import Adaptive
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.dpmpp import DPMpp2M
from sciflow.solvers.euler_maruyama import EulerMaruyama
from sciflow.solvers.heun import Heun
from sciflow.solvers.langevin import Langevin
from sciflow.solvers.s4 import S4

VP = schedules.VP(0.1, 10.0)
GRID = Uniform(0.9, 0.1)


def process(kind: str = "noise", space=None) -> GaussianProcess:
    return GaussianProcess(VP, space, kind)


PAIR = {"a": process("score"), "b": process("data")}


class Spy:
    """Exact denoiser for fields a and b that writes down the clocks and the fields it was shown."""

    def __init__(self) -> None:
        self.oracle = together(*(GaussianOracle(p, field=name) for name, p in PAIR.items()))
        self.clocks, self.states = [], []

    def __call__(self, state, clocks):
        self.clocks.append({name: float(t) for name, t in clocks.items()})
        self.states.append(state)
        return self.oracle(state, clocks)


def pair_state(batch: int = 3) -> State:
    fields = {name: torch.linspace(-1, 1, 2 * batch, dtype=F64).reshape(batch, 2) + i for i, name in enumerate("ab")}
    return State(fields, dict.fromkeys("ab", Layout(batch)))


@pytest.mark.parametrize(
    "solver_a, solver_b, correct, rounds, calls",
    [
        (EulerMaruyama(), Ancestral(), {}, 1, 5),
        (Heun(), Ancestral(), {}, 1, 10),
        (Heun(), Heun(), {}, 1, 10),
        (EulerMaruyama(), Ancestral(), {"a": Langevin(), "b": Langevin()}, 1, 10),
        (EulerMaruyama(), Ancestral(), {"a": Langevin()}, 3, 20),
        (S4(), DPMpp2M(), {"b": Langevin()}, 2, 15),
    ],
)
def test_one_call_per_stage_and_all_fields_at_one_clock(solver_a, solver_b, correct, rounds, calls):
    """Counts by hand for 5 moves. A field that has finished is shown at s, just where Heun asks its second question."""
    spy = Spy()
    sampler = Sampler(PAIR, {"a": solver_a, "b": solver_b}, GRID, correct=correct, n_correct=rounds)
    solution = sampler.run(pair_state(), spy, Fresh(), steps=5)
    assert solution.evaluations == calls == len(spy.clocks)
    assert all(len(set(clocks.values())) == 1 for clocks in spy.clocks)


def test_heun_sees_the_new_value_of_the_finished_field():
    """Stage 1 at (t, t); stage 2 shows field b AFTER its move, at clock s, beside Heun's guess."""
    spy, start = Spy(), pair_state()
    sampler = Sampler(PAIR, {"a": Heun(), "b": DPMpp2M()}, Explicit([0.9, 0.6]))
    end = sampler.run(start, spy, Fresh(), steps=1).state
    first, second = spy.states
    assert spy.clocks == [{"a": 0.9, "b": 0.9}, {"a": 0.6, "b": 0.6}]
    torch.testing.assert_close(first["b"], start["b"], rtol=0, atol=0)
    torch.testing.assert_close(second["b"], end["b"], rtol=0, atol=0)
    assert not torch.allclose(end["b"], start["b"])


def test_corrector_round_updates_all_fields_from_the_same_old_state():
    """Both fields' scores in a round come from the state before the round (the reference GDSS sampler does so)."""
    spy, start = Spy(), pair_state()
    sampler = Sampler(PAIR, {}, Explicit([0.5, 0.5]), correct={"a": Langevin(), "b": Langevin()}, n_correct=2)
    sampler.run(start, spy, Fresh(), steps=1)
    assert len(spy.states) == 2
    for name in "ab":
        torch.testing.assert_close(spy.states[0][name], start[name], rtol=0, atol=0)
        assert not torch.equal(spy.states[1][name], start[name])


def test_fields_without_a_solver_stay_and_are_shown_at_the_moving_clock():
    spy, start = Spy(), pair_state()
    end = Sampler(PAIR, {"a": Ancestral()}, GRID).run(start, spy, Fresh(), steps=3).state
    assert torch.equal(end["b"], start["b"]) and not torch.equal(end["a"], start["a"])
    assert [clocks["b"] for clocks in spy.clocks] == pytest.approx([0.9, 0.9 - 0.8 / 3, 0.9 - 1.6 / 3])


def test_final_mean_is_the_mean_of_the_last_kernel():
    start, sampler = pair_state(), Sampler(PAIR, {"a": EulerMaruyama(), "b": Ancestral()}, GRID)
    sample, mean = (
        sampler.run(start, Spy(), PerSample(1), steps=4, final=final, record=True) for final in ("sample", "mean")
    )
    before = sample.path[-2]
    assert len(sample.path) == len(mean.path) == 5
    assert torch.equal(sample.path[0]["a"], start["a"]) and torch.equal(sample.path[-1]["a"], sample.state["a"])
    t, s = (f64(clock) for clock in GRID.moves(4)[-1])
    for name, solver in sampler.solvers.items():
        step = solver.step(PAIR[name], before[name], t, s, Layout(3), None, Fresh())
        kernel, _ = drive_one(step, lambda query, name=name: Spy()(before, dict.fromkeys("ab", t))[name])
        torch.testing.assert_close(mean.state[name], kernel.mean)
        z = PerSample(1).at(name, _move(sampler, 4, 3)).normal(before[name], Layout(3))
        torch.testing.assert_close(sample.state[name], kernel.mean + kernel.std * z)


def _move(sampler, steps: int, index: int) -> Move:
    return Move(index, *sampler.grid.moves(steps)[index])


def test_prior_draws_every_field_that_has_one():
    template = State(
        {"x": torch.zeros(5, 2), "seq": torch.zeros(5, 4, dtype=torch.long)}, dict.fromkeys(("x", "seq"), Layout(5))
    )
    sampler = Sampler({"x": process(), "seq": Masked(3)}, {}, GRID)
    drawn = sampler.prior(template, Fresh())
    assert bool((drawn["seq"] == 3).all()) and float(drawn["x"].std()) > 0.3


def test_unknown_field_and_misfit_are_refused():
    with pytest.raises(UserError, match="unknown field 'c'; fields with a process: a, b"):
        Sampler(PAIR, {"c": Ancestral()}, GRID)
    with pytest.raises(UserError, match="field 's': solver Heun needs velocity, which Masked.*Ancestral.*TauLeap"):
        Sampler({"s": Masked(3)}, {"s": Heun()}, GRID)
    with pytest.raises(UserError, match="Langevin needs score_step"):
        Sampler({"s": Masked(3)}, {"s": Ancestral()}, GRID, correct={"s": Langevin()})


# ---------------------------------------------------------------- gradients

SOLVERS = {"Heun": Heun(), "DPMpp2M": DPMpp2M(), "EulerMaruyama": EulerMaruyama()}


def end_of_run(mean, solver, moves: int = 6, grad_last: int = 0):
    sampler = Sampler({FIELD: process("data")}, {FIELD: solver}, GRID)
    start = batch_state(torch.linspace(-1, 1, 4, dtype=F64)[:, None])
    oracle = GaussianOracle(sampler.processes[FIELD], mean=mean)
    return sampler.run(start, oracle, PerSample(3), steps=moves, grad_last=grad_last).state[FIELD]


@pytest.mark.parametrize("name", SOLVERS)
def test_gradient_through_all_moves_is_the_gradient(name):
    """Against a central difference; the runs are affine in the parameter, so the difference is exact."""
    mean, solver = f64(2.0).requires_grad_(), SOLVERS[name]
    end_of_run(mean, solver, grad_last=6).sum().backward()
    difference = (end_of_run(f64(2.5), solver) - end_of_run(f64(1.5), solver)).sum()
    assert float(mean.grad) == pytest.approx(float(difference), rel=1e-9)
    assert not end_of_run(mean, solver).requires_grad


@pytest.mark.parametrize("last", [1, 3])
def test_truncated_gradient_stops_at_the_last_moves(last):
    """By hand: x_{k+1} depends on the parameter directly in the last moves only; earlier states are constants."""
    mean = f64(2.0).requires_grad_()
    end_of_run(mean, EulerMaruyama(), grad_last=last).sum().backward()

    def tail(value: float):  # change the parameter in the last moves only, from the path of the original run
        sampler = Sampler({FIELD: process("data")}, {FIELD: EulerMaruyama()}, GRID)
        counter = []

        def denoise(state, clocks):
            counter.append(1)
            return GaussianOracle(sampler.processes[FIELD], mean=value if len(counter) > 6 - last else 2.0)(
                state, clocks
            )

        start = batch_state(torch.linspace(-1, 1, 4, dtype=F64)[:, None])
        return sampler.run(start, denoise, PerSample(3), steps=6).state[FIELD].sum()

    assert float(mean.grad) == pytest.approx(float(tail(2.5) - tail(1.5)), rel=1e-9)


# ---------------------------------------------------------------- hooks


class Log(Hook):
    """Writes down what is called; keeps a memory per run."""

    def __init__(self, name: str, log: list, candidates: int = 1) -> None:
        self.name, self.log, self.candidates = name, log, candidates

    def prepare(self, state):
        self.moves = 0
        self.log.append(f"{self.name} prepare")

    def wrap(self, denoise):
        def wrapped(state, clocks):
            self.log.append(f"{self.name} in")
            out = denoise(state, clocks)
            self.log.append(f"{self.name} out")
            return out

        return wrapped

    def select(self, options, transition):
        self.log.append(f"{self.name} select")
        self.options = options
        return options[-1]

    def after(self, state, kernels, transition):
        self.moves += 1
        self.log.append(f"{self.name} after {transition.move.index} {sorted(kernels)}")
        return state.put(b=state["b"] + 1) if self.name == "second" else state


def test_order_and_memory_of_hooks():
    """The first hook is innermost around the network and first after the move; each run starts with fresh memory."""
    log = []
    hooks = [Log("first", log, candidates=3), Log("second", log)]
    sampler = Sampler(PAIR, {"a": Ancestral()}, GRID, hooks=hooks)
    start = pair_state()
    for _ in range(2):
        log.clear()
        end = sampler.run(start, Spy(), Fresh(), steps=2).state
        move = ["second in", "first in", "first out", "second out", "first select"]
        assert log == [
            "first prepare",
            "second prepare",
            *move,
            "first after 0 ['a']",
            "second after 0 ['a']",
            *move,
            "first after 1 ['a']",
            "second after 1 ['a']",
        ]
        assert [hook.moves for hook in hooks] == [2, 2]
        torch.testing.assert_close(end["b"], start["b"] + 2)


def test_hooks_have_the_last_word_on_the_final_mean():
    """A constraint imposed after each move (a = 0) holds for the mean too."""

    class Zero(Hook):
        def after(self, state, kernels, transition):
            return state.put(a=torch.zeros_like(state["a"]))

    sampler = Sampler(PAIR, {"a": Ancestral()}, GRID, hooks=[Zero()])
    solution = sampler.run(pair_state(), Spy(), Fresh(), steps=2, final="mean", record=True)
    assert bool((solution.state["a"] == 0).all()) and solution.path[-1] is solution.state


class ConstantTokens:
    """Oracle of one Gaussian field `a` and tokens `seq` with p = (0.6, 0.4) everywhere."""

    processes = {"a": PAIR["b"], "seq": Masked(2, kind="data")}

    def __call__(self, state, clocks):
        layouts, probs = state.layouts, f64([0.6, 0.4]).expand(*state["seq"].shape, 2)
        values = {"a": torch.zeros_like(state["a"]), "seq": probs}
        return {n: Prediction(v, "data", self.processes[n], state[n], clocks[n], layouts[n]) for n, v in values.items()}


@pytest.mark.parametrize("candidates", [1, 2])
def test_tokens_are_drawn_even_where_the_final_mean_is_asked_for(candidates):
    """The most probable token would be of another law. z-test, false alarm 1e-5; hooks still choose among tokens."""
    count, log = 4000, []
    oracle, solvers = ConstantTokens(), {"a": Ancestral(), "seq": Ancestral()}
    fields = {"a": torch.ones(count, 1, dtype=F64), "seq": torch.full((count, 1), 2)}
    start = State(fields, dict.fromkeys(fields, Layout(count)))
    hook = Log("first", log, candidates=candidates)
    sampler = Sampler(oracle.processes, solvers, Uniform(0.9, 0.0), hooks=[hook])
    end = sampler.run(start, oracle, PerSample(2), steps=1, final="mean").state
    assert bool((end["a"] == 0).all())  # the mean of the Gaussian's last kernel
    assert mean_z(end["seq"].double().flatten(), 0.4) < Z_LIMIT
    if candidates > 1:
        first, second = hook.options
        assert torch.equal(first["a"], second["a"]) and not torch.equal(first["seq"], second["seq"])


def test_candidates_are_draws_of_the_same_kernel_without_network_calls():
    log, spy = [], Spy()
    hook = Log("first", log, candidates=4)
    sampler = Sampler(PAIR, {"a": Ancestral(), "b": EulerMaruyama()}, Explicit([0.6, 0.5]), hooks=[hook])
    start, noise = pair_state(), PerSample(7)
    end = sampler.run(start, spy, noise, steps=1)
    assert end.evaluations == 1 and len(hook.options) == 4
    plain = Sampler(PAIR, sampler.solvers, sampler.grid).run(start, Spy(), noise, steps=1).state
    mean = Sampler(PAIR, sampler.solvers, sampler.grid).run(start, Spy(), noise, steps=1, final="mean").state
    for name in "ab":
        assert torch.equal(hook.options[0][name], plain[name])  # candidate 0 is the usual draw
        scale = None
        for copy, option in enumerate(hook.options):
            z = noise.at(name, _move(sampler, 1, 0), copy).normal(start[name], Layout(3))
            std = ((option[name] - mean[name]) / z).mean()
            torch.testing.assert_close(option[name], mean[name] + std * z)
            scale = std if scale is None else scale
            torch.testing.assert_close(std, scale)
    assert torch.equal(end.state["a"], hook.options[-1]["a"])


def test_runs_are_reproducible_and_leave_no_trace():
    """The same noise gives the same numbers; solvers keep nothing between runs."""
    sampler = Sampler({FIELD: process()}, {FIELD: DPMpp2M()}, GRID)
    oracle, x = GaussianOracle(sampler.processes[FIELD]), f64([[0.3], [-1.0]])
    ends = [run(sampler.processes[FIELD], sampler.solvers[FIELD], oracle, x, 4, GRID, Fresh(1)) for _ in range(2)]
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("fields", "solver", "message"),
    [
        ("x", Langevin(0.1), "stays at its clock: give field 'x' to `correct`"),
        ("xy", Adaptive(Heun()), "single evolving field, got x, y"),
    ],
)
def test_solvers_that_cannot_do_what_is_asked_are_refused(fields, solver, message):
    with pytest.raises(UserError, match=message):
        Sampler(dict.fromkeys(fields, GaussianProcess()), dict.fromkeys(fields, solver), Uniform())
