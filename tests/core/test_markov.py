"""Finite chains: golden values of the flashing ratchet, closed forms, identities of the expected counts."""

from __future__ import annotations

import math

import pytest
import torch
from markov_toy import F64, random_chain, ratchet
from stats import FALSE_ALARM, chi_square

from sciflow.core import markov
from sciflow.core.errors import UserError
from sciflow.core.markov import (
    TransitionCache,
    distinct_lags,
    eigen_transition,
    eigenvalues,
    entropy_production,
    generator,
    grid_paths,
    mean_first_passage,
    occupation,
    periods,
    stationary,
    timescales,
    transition_matrices,
    walk,
)
from sciflow.core.noise import PRIOR, Fresh, PerSample
from sciflow.core.uniformisation import uniformised


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)


def two_states(rate01: float, rate10: float) -> torch.Tensor:
    return generator(torch.tensor([[0.0, rate01], [rate10, 0.0]], dtype=F64))


# ---------------------------------------------------------------- golden values: fim_mjp.md, section 8a (derived there)

GOLDEN = {
    "law": (stationary, (0.301192, 0.136542, 0.062267, 0.200298, 0.159135, 0.140567)),
    "time scales": (timescales, (0.5, 0.349645, 0.280561, 0.205034, 0.158854)),
    "p(1) from 0": (
        lambda F: transition_matrices(F, tensor(1.0))[0, 0],
        (0.37088, 0.13653, 0.06026, 0.19925, 0.12540, 0.10768),
    ),
    "passage from 0": (lambda F: mean_first_passage(F)[0, 1:], (2.0535, 2.9653, 1.3307, 2.3831, 2.7266)),
    "entropy production": (lambda F: entropy_production(F)[None], (0.179194,)),
    "jumps per time": (lambda F: -(stationary(F) * F.diagonal()).sum()[None], (2.873,)),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values_of_the_ratchet(name):
    """To 1e-5, or to the digits given."""
    function, expected = GOLDEN[name]
    tolerance = {"passage from 0": 5e-5, "jumps per time": 5e-4}.get(name, 1e-5)
    torch.testing.assert_close(function(ratchet()), tensor(*expected), rtol=0, atol=tolerance)


def test_golden_entropy_production_of_four_ratchets_at_once():
    chains = torch.stack([ratchet(v) for v in (0.0, 1.0, 2.0, 3.0)])
    expected = tensor(0, 0.179194, 0.565647, 0.992735)
    torch.testing.assert_close(entropy_production(chains), expected, rtol=0, atol=1e-5)


def test_hellinger_distance_of_two_ratchets():
    """Stationary laws of V = 1 and V = 0: 0.156828 (section 14, item 7)."""
    p, q = stationary(ratchet(1.0)), stationary(ratchet(0.0))
    assert float((0.5 * (p.sqrt() - q.sqrt()).square().sum()).sqrt()) == pytest.approx(0.156828, abs=1e-6)


# ---------------------------------------------------------------- transition matrices

THREE_WAYS = [transition_matrices, uniformised, eigen_transition]


@pytest.mark.parametrize("chain", [ratchet(1.0), ratchet(3.0), random_chain(12, 0, 5.0)], ids=["V1", "V3", "random"])
def test_three_ways_to_a_transition_matrix_agree(chain):
    """Matrix exponential, uniformisation and eigenvectors to 1e-10, for short and long lags."""
    lags = tensor(0.0, 2.5 / 99, 1.0, 10.0)
    first, *others = [way(chain, lags) for way in THREE_WAYS]
    for other in others:
        assert float((first - other).abs().max()) < 1e-10
    assert float((first.sum(-1) - 1).abs().max()) < 1e-12
    torch.testing.assert_close(first[2] @ first[2], transition_matrices(chain, tensor(2.0))[0], rtol=0, atol=1e-12)


def test_two_states_in_closed_form():
    """P_01(D) = a/(a + b) (1 - e^-(a + b)D); batches of chains and lags; gradients flow."""
    a, b, lag = 0.7, 0.2, 1.3
    chains = torch.stack([two_states(a, b), two_states(b, a)]).requires_grad_()
    P = transition_matrices(chains, tensor(0.1, lag))
    assert P.shape == (2, 2, 2, 2)
    assert float(P[0, 1, 0, 1].detach()) == pytest.approx(a / (a + b) * (1 - math.exp(-(a + b) * lag)), abs=1e-14)
    P[0, 1, 0, 1].backward()
    assert float(chains.grad[0].abs().max()) > 0 == float(chains.grad[1].abs().max())  # type: ignore[index]


def test_lags_of_a_floating_point_grid_are_one_lag():
    grid = torch.linspace(0, 2.5, 100, dtype=F64)
    assert len(grid.diff().unique()) > 1
    values, number = distinct_lags(torch.cat([grid.diff(), tensor(0.0, 0.5)]))
    torch.testing.assert_close(values, tensor(0.0, 2.5 / 99, 0.5))
    assert number.tolist() == [1] * 99 + [0, 2]
    assert len(distinct_lags(tensor(1.0, 1.0 + 3e-9))[0]) == 2  # three times the tolerance apart


def test_the_cache_computes_each_lag_once(monkeypatch):
    computed = []

    def counted(F, lags):
        computed.extend(lags.tolist())
        return transition_matrices(F, lags)

    monkeypatch.setattr(markov, "transition_matrices", counted)
    chain = ratchet()
    cache = TransitionCache(chain)
    first, number = cache(torch.tensor([[0.2, 0.1], [0.1 * (1 + 1e-12), 0.2]], dtype=F64))
    second, again = cache(tensor(0.2, 0.3, 0.1))
    assert computed == [0.1, 0.2, 0.3] and number.tolist() == [[1, 0], [0, 1]]
    for matrices, index, lags in ((first, number, tensor(0.2, 0.1, 0.1, 0.2)), (second, again, tensor(0.2, 0.3, 0.1))):
        exact = transition_matrices(chain, lags)
        torch.testing.assert_close(matrices[index.flatten()], exact, rtol=0, atol=1e-14)


def test_more_than_500_lags_are_made_in_parts_and_not_kept(monkeypatch):
    largest = []
    exponential = torch.linalg.matrix_exp
    monkeypatch.setattr(torch.linalg, "matrix_exp", lambda A: largest.append(len(A)) or exponential(A))
    lags = torch.linspace(0.01, 3, 1201, dtype=F64)
    cache = TransitionCache(ratchet())
    matrices, number = cache(lags.flip(0))
    assert largest == [500, 500, 201] and len(cache.lags) == 0
    torch.testing.assert_close(matrices[number[0]], exponential(ratchet() * 3.0))


# ---------------------------------------------------------------- laws and times


def test_random_chains_solve_their_equations():
    """pi F = 0; passage times satisfy the one-step equation; the random target identity sum_j pi_j tau_ij = const."""
    chains = torch.stack([random_chain(5, seed) for seed in range(20)])
    law, tau = stationary(chains), mean_first_passage(chains)
    assert float((law[:, None] @ chains).abs().max()) < 1e-12 and float(law.min()) > 0
    kemeny = (tau @ law[..., None])[..., 0]
    expected = -(1 / eigenvalues(chains)).sum(-1).real  # Kemeny's constant
    torch.testing.assert_close(kemeny, expected[:, None].expand(-1, 5), rtol=1e-9, atol=0)
    assert float(tau.diagonal(dim1=-2, dim2=-1).abs().max()) < 1e-12


def test_metastable_law_keeps_its_digits():
    """Birth and death with rates from 1e-6 to 1e6: detailed balance to 1e-7."""
    chain = two_states(1e-6, 1e6)
    torch.testing.assert_close(stationary(chain), tensor(1e6, 1e-6) / (1e6 + 1e-6), rtol=0, atol=1e-9)


def test_a_cycle_oscillates():
    """Rates 0 -> 1 -> 2 -> 0 of 1: eigenvalues -3/2 +- i sqrt(3)/2; entropy production is infinite."""
    chain = generator(torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=F64))
    torch.testing.assert_close(timescales(chain), tensor(2 / 3, 2 / 3))
    torch.testing.assert_close(periods(chain), tensor(4 * math.pi / math.sqrt(3), 4 * math.pi / math.sqrt(3)))
    assert bool(periods(ratchet()).isinf().all()) and math.isinf(entropy_production(chain))


def test_absorbing_states():
    """0 <-> 1 -> 2: the law is all on 2; 2 is left never, 0 is reached from 1 with probability below one: inf."""
    chain = generator(torch.tensor([[0.0, 2, 0], [1, 0, 3], [0, 0, 0]], dtype=F64))
    torch.testing.assert_close(stationary(chain), tensor(0, 0, 1))
    tau = mean_first_passage(chain)
    # tau_12 = 1/4 + tau_02/4, tau_02 = 1/2 + tau_12
    expected = torch.tensor([[0, 0.5, 1.0], [math.inf, 0, 0.5], [math.inf, math.inf, 0]], dtype=F64)
    torch.testing.assert_close(tau, expected)
    split = generator(torch.tensor([[0.0, 1, 1], [0, 0, 0], [0, 0, 0]], dtype=F64))
    assert timescales(split).tolist() == [math.inf, 0.5]


def test_entropy_production_of_a_given_law():
    """Two states: (p a - q b) log(p a / (q b))."""
    p, a, b = 0.8, 0.7, 0.2
    expected = (p * a - (1 - p) * b) * math.log(p * a / ((1 - p) * b))
    assert float(entropy_production(two_states(a, b), tensor(p, 1 - p))) == pytest.approx(expected, abs=1e-14)


# ---------------------------------------------------------------- expected counts


def likelihood(chain: torch.Tensor, counts: torch.Tensor, lags: torch.Tensor) -> torch.Tensor:
    return torch.special.xlogy(counts, transition_matrices(chain, lags)).sum()


def test_occupation_identities_and_gradient():
    """Section 14, item 2: sum_i E[T_i] is the total time; M is the gradient of the log-likelihood, by autograd and by
    differences, and sum_D (M_ij - M_ii) that with respect to a free rate."""
    chain, lags = ratchet(), tensor(0.05, 0.4, 2.0)
    counts = torch.randint(0, 50, (3, 6, 6), generator=torch.Generator().manual_seed(0)).to(F64)
    M = occupation(chain, counts / transition_matrices(chain, lags), lags)
    total = (counts.sum((1, 2)) * lags).sum()
    torch.testing.assert_close(M.diagonal(dim1=1, dim2=2).sum(), total, rtol=1e-12, atol=0)
    entries = chain.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(likelihood(entries, counts, lags), entries)
    torch.testing.assert_close(M.sum(0), gradient, rtol=1e-9, atol=1e-9)
    free = M.sum(0) - M.sum(0).diagonal()[:, None]
    for i, j in ((0, 1), (4, 1), (2, 0)):
        shift = torch.zeros_like(chain)
        shift[i, j], shift[i, i] = 1e-5, -1e-5
        slope = (likelihood(chain + shift, counts, lags) - likelihood(chain - shift, counts, lags)) / 2e-5
        assert float(free[i, j]) == pytest.approx(float(slope), rel=1e-6)


def test_occupation_in_eigen_form():
    """M = V^T [(U^T W V^T) o J] U^T for F = U diag(w) V (section 10.4)."""
    chain, lag = random_chain(4, 3), 0.8
    W = torch.rand(1, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(1))
    w, U = torch.linalg.eig(chain)
    V, grown = torch.linalg.inv(U), (w * lag).exp()
    gap = w[:, None] - w
    J = torch.where(gap.abs() < 1e-9, lag * grown, (grown[:, None] - grown) / gap.masked_fill(gap == 0, 1))
    M = V.T @ ((U.T @ W[0].to(U) @ V.T) * J) @ U.T
    torch.testing.assert_close(occupation(chain, W, tensor(lag))[0], M.real, rtol=0, atol=1e-12)


# ---------------------------------------------------------------- paths on grids


def test_grid_paths_have_the_law_of_the_chain():
    """Two chains at once, uneven times: chi-square on the joint law of three states, false alarm 1e-5 each."""
    chains, times = torch.stack([ratchet(), random_chain(6, 5)]), tensor(0.3, 0.4, 1.2)
    law = stationary(chains)
    paths = grid_paths(chains, law, times, 20_000, Fresh(0))
    assert paths.shape == (2, 20_000, 3)
    for chain, start, path, other in zip(chains, law, paths, paths.flip(0), strict=True):
        P = transition_matrices(chain, times.diff())
        joint = start[:, None, None] * P[0][:, :, None] * P[1][None]
        for states, good in ((path, True), (other, False)):  # the other chain's paths must not pass
            counts = (states @ torch.tensor([36, 6, 1])).bincount(minlength=216)
            assert (chi_square(counts, joint) > FALSE_ALARM) is good


def test_grid_paths_of_a_path_do_not_depend_on_the_others():
    law, times = stationary(ratchet()), tensor(0, 1, 2)
    few, many = (grid_paths(ratchet(), law, times, n, PerSample(3).at("s", PRIOR)) for n in (3, 50))
    assert torch.equal(few, many[:3])


def test_grid_paths_refuse_decreasing_times():
    with pytest.raises(UserError, match="decreasing times"):
        grid_paths(ratchet(), stationary(ratchet()), tensor(0, 2, 1), 3, Fresh(0))
    one = grid_paths(ratchet(), tensor(0, 0, 1, 0, 0, 0), tensor(5.0), 4, Fresh(0))
    assert one.tolist() == [[2]] * 4


@pytest.mark.parametrize("paths, steps", [(1, 5000), (3, 1000), (700, 11), (2, 0), (0, 5)])
def test_walking_in_blocks_is_walking_step_by_step(paths, steps):
    """The same states as a loop over the steps, whatever the blocks; tables change from step to step."""
    tables = transition_matrices(ratchet(), tensor(0.1, 0.5)).cumsum(-1)
    draw = torch.Generator().manual_seed(0)
    u = torch.rand(paths, steps, dtype=F64, generator=draw)
    number = torch.randint(0, 2, (paths, steps), generator=draw)
    start = torch.randint(0, 6, (paths,), generator=draw)
    seen, x = walk(tables, number, start, u), start
    for m in range(steps):
        x = (tables[number[:, m], x] <= u[:, m, None]).sum(1)
        assert torch.equal(seen[:, m], x)
    assert seen.shape == (paths, steps)
