"""Row cache: the same predictions as without it, from the fewest rows."""

from __future__ import annotations

import pytest
import torch

from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.noise import Fresh, PerSample
from sciflow.core.process import Prediction
from sciflow.core.row_cache import RowCache, row_names
from sciflow.core.sampler import Sampler
from sciflow.core.state import Layout, State
from sciflow.processes.masked import Masked
from sciflow.solvers.ancestral import Ancestral

PROCESS, LENGTH, BATCH = Masked(3), 6, 8


class Network:
    """Logits that are a function of (tokens, condition[, clock]); counts calls and rows."""

    def __init__(self, clocks: bool = False) -> None:
        self.clocks, self.calls, self.rows = clocks, 0, 0

    def __call__(self, state: State, clocks) -> dict[str, Prediction]:
        self.calls, self.rows = self.calls + 1, self.rows + state.batch
        x = state["seq"]
        shift = state.cond.get("shift", torch.zeros(state.batch))[:, None, None]
        value = torch.stack([(x * (k + 1)).cumsum(1).float().cos() for k in range(3)], -1) + shift
        if self.clocks:
            value = value * clocks["seq"].float().reshape(-1, 1, 1)
        return {"seq": Prediction(value, "logits", PROCESS, x, clocks["seq"], state.layouts["seq"])}


def state(x: torch.Tensor, **cond) -> State:
    return State({"seq": x}, {"seq": Layout(len(x))}, cond)


def tokens(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 4, (batch, LENGTH), generator=torch.Generator().manual_seed(seed))


CLOCK = {"seq": torch.tensor(0.5, dtype=torch.float64)}
LATER = {"seq": torch.tensor(0.25, dtype=torch.float64)}


def wrapped(network: Network, **arguments):
    cache = RowCache(**arguments)
    cache.prepare(state(tokens(1)))
    return cache, torch.no_grad()(cache.wrap(network))


@pytest.mark.parametrize("rows", [None, 1, 3])
def test_values_are_those_of_the_network_and_each_distinct_row_is_asked_once(rows):
    network = Network()
    cache, call = wrapped(network, clock_free=True, rows=rows)
    first = tokens(BATCH)
    first[3] = first[1]
    second = torch.cat([first[[5, 0, 0]], tokens(2, seed=1), first[[3]]])
    for x, seen in ((first, BATCH - 1), (second, BATCH + 1), (second.flip(0), BATCH + 1)):
        out = call(state(x), CLOCK)["seq"]
        torch.testing.assert_close(out.value, Network()(state(x), CLOCK)["seq"].value, rtol=0, atol=0)
        assert out.x is not None and torch.equal(out.x, x) and out.layout.batch == len(x)
        assert cache.evaluated == network.rows == seen
    assert cache.asked == BATCH + 2 * len(second)


def test_rows_of_the_last_call_only_are_kept():
    cache, call = wrapped(Network(), clock_free=True)
    for x in (tokens(2), tokens(3, seed=1), tokens(2)):
        call(state(x), CLOCK)
    assert cache.evaluated == 7


def test_clocks_tell_rows_apart_unless_the_network_ignores_them():
    for clock_free, expected in ((True, BATCH), (False, 2 * BATCH)):
        cache, call = wrapped(Network(clocks=not clock_free), clock_free=clock_free)
        call(state(tokens(BATCH)), CLOCK)
        late = call(state(tokens(BATCH)), LATER)["seq"].value
        assert cache.evaluated == expected
        torch.testing.assert_close(late, Network(not clock_free)(state(tokens(BATCH)), LATER)["seq"].value)
    cache, call = wrapped(Network(clocks=True))
    x, clocks = tokens(1).repeat(4, 1), {"seq": torch.tensor([0.1, 0.2, 0.1, 0.3])}  # a clock per sample
    torch.testing.assert_close(call(state(x), clocks)["seq"].value, Network(True)(state(x), clocks)["seq"].value)
    assert cache.evaluated == 3


def test_conditions_tell_rows_apart_and_derived_ones_are_not_hashed():
    x = tokens(1).repeat(3, 1)
    given = state(x, shift=torch.tensor([0.0, 1.0, 0.0]), shared=torch.ones(7))
    derived = given.condition(encoded=torch.rand(3, 5))
    names = row_names(derived, CLOCK, tuple(given.cond))
    assert names[0] == names[2] != names[1]
    cache, network = RowCache(True), Network()
    cache.prepare(given)
    out = torch.no_grad()(cache.wrap(network))(derived, CLOCK)["seq"].value
    assert network.rows == 2
    torch.testing.assert_close(out, Network()(given, CLOCK)["seq"].value)


@pytest.mark.parametrize(
    ("first", "second"),
    [(torch.ones(1, 1, 1), torch.zeros(1, 1, 1)), (torch.ones(4, 1, 3), torch.zeros(4, 1, 3)), (1.0, 0.0), (1.0, None)],
    ids=["shared tensor", "per sample", "number", "left out"],
)
def test_conditions_that_change_between_calls_are_seen(first, second):
    """As in guidance without classifier: the same rows with and without condition. Equal conditions are not lost."""

    def network(state: State, clocks) -> dict[str, Prediction]:
        calls.append(state.batch)
        offset = state.cond.get("offset")
        value = torch.zeros(state.batch, LENGTH, 3) + (0.0 if offset is None else offset)
        return {"seq": Prediction(value, "logits", PROCESS, state["seq"], clocks["seq"], state.layouts["seq"])}

    cache, calls, given = RowCache(clock_free=True), [], state(tokens(4), offset=first)
    cache.prepare(given)
    call = torch.no_grad()(cache.wrap(network))
    changed = given.condition(offset=second)
    values = [
        call(one, CLOCK)["seq"].value[0, 0, 0].item() for one in (given, given, changed, changed.repeat(2), given)
    ]
    assert values == [1.0, 1.0, 0.0, 0.0, 1.0]
    assert calls == [4, 4, 4]


def test_names_of_close_rows_differ():
    """All 4096 token rows of length 6 and single-bit changes of floats: no collision (chance 1e-12)."""
    every = torch.cartesian_prod(*[torch.arange(4)] * LENGTH)
    assert len(torch.unique(row_names(state(every), {}, ()))) == 4096
    floats = torch.eye(64).unsqueeze(-1) * 1e-30
    assert len(torch.unique(row_names(State({"x": floats}, {"x": Layout(64)}), {}, ()))) == 64


def test_gradients_and_ragged_states_pass_through():
    network, cache = Network(), RowCache(True)
    cache.prepare(state(tokens(1)))
    cache.wrap(network)(state(tokens(1).repeat(5, 1)), CLOCK)
    assert network.rows == 5 == cache.evaluated


@pytest.mark.parametrize("steps", [4, 40])
def test_sampling_is_the_same_and_saves_what_theory_says(steps):
    """Same numbers with and without; a row changes in a move unless none of its masked tokens does.

    Expected share of evaluated rows: (1 + (N-1)(1 - (1 - 1/N)^L))/N; binomial, false alarm < 1e-5 at 4.42 sd.
    """
    batch, results = 2000, []
    for hooks in ([], [RowCache(clock_free=True)]):
        sampler = Sampler({"seq": PROCESS}, {"seq": Ancestral()}, Uniform(end=0.0), hooks=hooks)
        start = sampler.prior(state(torch.zeros(batch, LENGTH, dtype=torch.long)), noise := PerSample(3))
        results.append(sampler.run(start, Network(), noise, steps=steps).state["seq"])
    assert torch.equal(*results)
    distinct_samples = state(torch.zeros(batch, LENGTH, dtype=torch.long), own=torch.arange(batch))
    cache, network = RowCache(clock_free=True), Network()
    sampler = Sampler({"seq": PROCESS}, {"seq": Ancestral()}, Uniform(end=0.0), hooks=[cache])
    sampler.run(sampler.prior(distinct_samples, Fresh(1)), network, Fresh(2), steps=steps)
    changed = 1 - (1 - 1 / steps) ** LENGTH
    expected = batch * (1 + (steps - 1) * changed)
    sd = (batch * (steps - 1) * changed * (1 - changed)) ** 0.5
    assert abs(network.rows - expected) < 4.42 * sd + 1 and cache.asked == batch * steps


def test_arguments():
    with pytest.raises(UserError, match="at least 1"):
        RowCache(rows=0)
