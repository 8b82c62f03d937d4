"""Event-driven solvers: recorded paths, who leaves the work, thinning against closed forms, order of tau-leaping."""

from __future__ import annotations

import math

import pytest
import torch
from markov_toy import F64, dwell_of, jumps_of, ratchet, simulate
from oracles import FIELD, JOINT, PairOracle
from stats import FALSE_ALARM, chi_square, kernel_matrix, order, pair_truth, run
from torch.utils._python_dispatch import TorchDispatchMode

from sciflow.core.errors import UserError
from sciflow.core.grids import Physical, Uniform
from sciflow.core.markov import generator, stationary, transition_matrices
from sciflow.core.noise import Fresh, PerSample
from sciflow.core.sampler import Sampler
from sciflow.core.state import Layout, State
from sciflow.processes.jump import Jump, KnownRates
from sciflow.processes.masked import Masked
from sciflow.solvers.gillespie import Gillespie
from sciflow.solvers.tau_leap import TauLeap
from sciflow.solvers.thinning import Thinning

BOTH = [Gillespie(record=True), Thinning(6.0, record=True)]  # 5.37 is the largest total rate of the ratchet


def zeros(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.long)


# ---------------------------------------------------------------- the law


@pytest.mark.parametrize("solver", BOTH, ids=lambda s: type(s).__name__)
def test_histogram_of_the_ratchet(solver):
    """Section 14, item 1: within 4 sigma of p(1) for 60 000 paths, which is 5.16 sigma of the 100 000 drawn here: a
    false alarm of 1.5e-6 for the six states."""
    end = simulate(solver, zeros(100_000), ratchet()).state["s"]
    law = transition_matrices(ratchet(), torch.ones(1, dtype=F64))[0, 0]
    error = (end.bincount(minlength=6) / 100_000 - law).abs()
    assert bool((error < 4 * (law * (1 - law) / 60_000).sqrt()).all())


@pytest.mark.parametrize("solver", BOTH, ids=lambda s: type(s).__name__)
def test_recorded_paths_give_the_rates_back(solver):
    """n_ij/T_i has variance F_ij/E[T_i]: 18 rates and 12 zeros, z below 5.1 (false alarm 1e-5); several moves join."""
    F, start = (
        ratchet(),
        torch.multinomial(stationary(ratchet()), 10_000, True, generator=torch.Generator().manual_seed(0)),
    )
    solution = simulate(solver, start, F, 2.5, steps=3)
    paths = solution.memory["s"].paths()
    jumps, dwell = paths.statistics(6)
    z = (jumps / dwell[:, None] - F) / (F.clamp_min(1e-300) / dwell[:, None]).sqrt()
    off = ~torch.eye(6, dtype=torch.bool)
    assert float(z[off].abs().max()) < 5.1
    assert torch.equal(jumps, jumps_of(paths, 6).sum(0))
    torch.testing.assert_close(dwell, dwell_of(paths, 6).sum(0))
    assert float(dwell.sum()) == pytest.approx(25_000)
    ends = paths.on_grid(torch.tensor([0.0, 2.5]))
    assert torch.equal(ends[:, 0], start) and torch.equal(ends[:, 1], solution.state["s"])
    assert bool((paths.times.diff(dim=1) >= 0).all())


def test_paths_are_recorded_only_on_request():
    assert simulate(Gillespie(), zeros(5), ratchet()).memory == {"s": None}


@pytest.mark.parametrize("solver", BOTH, ids=lambda s: type(s).__name__)
def test_absorbed_paths_hold_and_cost_nothing(solver):
    """0 -> 1 with rate 5, 1 is absorbing: waiting times are exponential; chi-square on 20 bins, false alarm 1e-5."""
    F = generator(torch.tensor([[0.0, 5], [0, 0]], dtype=F64))
    solution = simulate(solver, zeros(20_000), F, 10.0)
    paths = solution.memory["s"].paths()
    assert bool((solution.state["s"] == 1).all() and (paths.lengths == 3).all())
    bins = (20 * (1 - (-5 * paths.times[:, 1]).exp())).long().clamp(0, 19)
    assert chi_square(bins.bincount(minlength=20), torch.full((20,), 1 / 20)) > FALSE_ALARM
    if isinstance(solver, Gillespie):
        assert solution.evaluations == 2


# ---------------------------------------------------------------- cost


class Watched(KnownRates):
    """Known rates that count the rows they are asked for."""

    rows = 0

    def __call__(self, state, clocks):
        self.rows += state.batch
        return super().__call__(state, clocks)


@pytest.mark.parametrize("solver", BOTH, ids=lambda s: type(s).__name__)
def test_a_path_that_has_arrived_is_not_asked_about(solver):
    """Rows shown to the network: one per event, and (Gillespie only) one per path for the wait that ends the move."""
    process = Jump(6)
    rates = Watched(process, ratchet())
    sampler = Sampler({"s": process}, {"s": solver}, Physical(0.0, 2.5))
    solution = sampler.run(State({"s": zeros(300)}, {"s": Layout(300)}), rates, Fresh(0), steps=1)
    proposals = sum(len(one[0]) for one in solution.memory["s"].rounds)
    assert rates.rows == proposals + (300 if isinstance(solver, Gillespie) else 0)


class Reads(TorchDispatchMode):
    """Counts the operations whose result the host has to wait for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = func is torch.ops.aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1])
        self.count += masks or func in (torch.ops.aten.nonzero.default, torch.ops.aten._local_scalar_dense.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("solver", BOTH, ids=lambda s: type(s).__name__)
def test_one_look_on_the_host_per_round(solver):
    """And at most four per move: the direction of time, and the largest rate."""
    with Reads() as reads:
        calls = simulate(solver, zeros(200), ratchet(), 2.5).evaluations
    assert calls > 10 and calls <= reads.count <= calls + 5


@pytest.mark.parametrize("solver", BOTH, ids=lambda s: type(s).__name__)
def test_a_path_does_not_depend_on_its_batch_mates(solver):
    """With `PerSample`, although rows leave the work at different rounds."""
    few, many = (
        simulate(solver, zeros(n), ratchet(), 2.5, steps=2, noise=PerSample(5)).memory["s"].paths() for n in (4, 40)
    )
    width = few.times.shape[1]
    assert torch.equal(few.lengths, many.lengths[:4])
    assert torch.equal(few.times, many.times[:4, :width]) and torch.equal(few.states, many.states[:4, :width])


# ---------------------------------------------------------------- rates that depend on time


def swing(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Both rates of a two-state chain: r(t) = 1 + 0.9 sin(5 t)."""
    return (1 + 0.9 * torch.sin(5 * t)).to(F64).expand(len(x))[:, None].expand(-1, 2)


def swung(t: torch.Tensor | float) -> torch.Tensor:
    """Integral of r over [0, t]."""
    t = torch.as_tensor(t, dtype=F64)
    return t + 0.18 * (1 - torch.cos(5 * t))


def test_thinning_against_the_closed_form():
    """p_1(t) = (1 - exp(-2 int r))/2 at three times, chi-square on the 8 joint states (false alarm 1e-5); rates frozen
    between events fail. The law of the first jump: int r is exponential(1)."""
    times = torch.tensor([0.3, 0.8, 1.3], dtype=F64)
    change = (1 - torch.exp(-2 * swung(times).diff(prepend=torch.zeros(1, dtype=F64)))) / 2
    law = torch.tensor([[1 - float(c), float(c)] for c in change], dtype=F64)
    joint = torch.einsum("a,b,c->abc", *law)  # whether the state differs from the one before: independent
    worlds = {}
    for name, solver in (("thinning", Thinning(1.9, record=True)), ("frozen", Gillespie(record=True))):
        paths = simulate(solver, zeros(30_000), swing, 1.3).memory["s"].paths()
        seen = torch.cat([zeros(30_000)[:, None], paths.on_grid(times)], 1).diff(dim=1).abs()
        worlds[name] = chi_square((seen @ torch.tensor([4, 2, 1])).bincount(minlength=8), joint)
        if name == "thinning":
            first = swung(paths.times[:, 1]).clamp_max(swung(1.3))
            bins = (10 * (1 - (-first).exp()) / (1 - (-swung(1.3)).exp())).long()[paths.lengths > 2].clamp_max(9)
            assert chi_square(bins.bincount(minlength=10), torch.full((10,), 0.1)) > FALSE_ALARM
    assert worlds["thinning"] > FALSE_ALARM > worlds["frozen"]


def ode(t: float, steps: int = 2000) -> float:
    """p_1(t) of dp/dt = a (1 - p) - b p, a = 1 + 0.8 sin(3 t), b = 0.7 + 0.35 cos(2 t), by Runge-Kutta 4."""

    def slope(t: float, p: float) -> float:
        return (1 + 0.8 * math.sin(3 * t)) * (1 - p) - (0.7 + 0.35 * math.cos(2 * t)) * p

    p, h = 0.0, t / steps
    for k in range(steps):
        k1 = slope(k * h, p)
        k2 = slope((k + 0.5) * h, p + h / 2 * k1)
        k3 = slope((k + 0.5) * h, p + h / 2 * k2)
        p += h / 6 * (k1 + 2 * k2 + 2 * k3 + slope((k + 1) * h, p + h * k3))
    return p


def unequal(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    up, down = 1 + 0.8 * torch.sin(3 * t), 0.7 + 0.35 * torch.cos(2 * t)
    return torch.where(x == 0, up, down)[:, None].expand(-1, 2)


@pytest.mark.parametrize("end", [0.6, 1.8])
def test_thinning_against_the_master_equation(end):
    """Two different sinusoids, starting after 0 too; 5-sigma bound (false alarm 6e-7)."""
    x = simulate(Thinning(1.8), zeros(40_000), unequal, end, steps=2).state["s"]
    p = ode(end)
    assert abs(float(x.double().mean()) - p) < 5 * math.sqrt(p * (1 - p) / 40_000)


def test_thinning_refuses_rates_above_the_bound():
    with pytest.raises(UserError, match=r"total rate of 1\.[6-9].*above the bound 1.5; give a larger"):
        simulate(Thinning(1.5), zeros(1000), swing)
    with pytest.raises(UserError, match="expected a positive"):
        Thinning(0.0)
    with pytest.raises(UserError, match="more than 20 events"):
        simulate(Thinning(1e4, max_events=20), zeros(3), swing)


def test_thinning_is_exact_backwards_in_time_too():
    """The masked pair, whose rates p/t grow as the clock falls to 0.3: one move, chi-square on 16 states (1e-5)."""
    process = Masked(3, kind="data")
    x = run(
        process,
        Thinning(2 / 0.3),
        PairOracle(process, JOINT),
        torch.full((20_000, 2), 3),
        1,
        Uniform(1.0, 0.3),
        Fresh(2),
    )
    assert chi_square((x[:, 0] * 4 + x[:, 1]).bincount(minlength=16), pair_truth(0.3)) > FALSE_ALARM


# ---------------------------------------------------------------- tau-leaping


def test_tau_leaping_in_physical_time_is_of_first_order():
    """Exact laws of the ratchet by enumeration: the order fitted over 64 to 256 moves is within 0.15 of 1; a simulation
    has the law of the discretised chain (chi-square, false alarm 1e-5)."""
    F, process = ratchet(), Jump(6)
    truth = transition_matrices(F, torch.ones(1, dtype=F64))[0]
    moves, errors, laws = [64, 128, 256], [], {}

    for n in (4, *moves):
        move = kernel_matrix(process, TauLeap(), KnownRates(process, F, FIELD), torch.arange(6), 0.0, 1 / n)
        laws[n] = torch.linalg.matrix_power(move, n)
        errors.append(float((laws[n] - truth).abs().max()))
    assert abs(order(moves, errors[1:]) - 1) < 0.15 and errors[-1] < 0.01
    assert abs(math.log(errors[1] / errors[3]) / math.log(4) - 1) < 0.15
    counts = simulate(TauLeap(), zeros(20_000), F, steps=4).state["s"].bincount(minlength=6)
    assert chi_square(counts, laws[4][0]) > FALSE_ALARM > chi_square(counts, truth[0])
