"""The rate networks: symmetries (section 14.6), pooled statistics against loops, EM rounds against closed forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor, nn

from sciflow.core.config import from_config, to_config
from sciflow.core.errors import UserError
from sciflow.core.markov import generator
from sciflow.domains.jumps.batch import PathBatch, Truth
from sciflow.domains.jumps.network import FAR, NEAR, PairNetwork, RateLaw
from sciflow.domains.jumps.pooling import STRIDES, Pooled, expectation, labelling, pool
from sciflow.domains.jumps.prior import Irregular, PublishedPrior, Regular, relabel
from sciflow.domains.jumps.published_network import PublishedLoss, PublishedNetwork, RecurrentPaths
from sciflow.domains.jumps.tasks import JumpTasks


def task(grid=None, noise: float = 0.05, sizes=None, paths: int = 20, systems: int = 4) -> tuple[PathBatch, Truth]:
    options = ([PublishedPrior(sizes)], [grid or Irregular()], (paths, paths), (noise,))
    return JumpTasks(*options, batch_size=systems).batch(Generator().manual_seed(3))


@pytest.fixture(scope="module")
def network() -> PairNetwork:
    """A network that is not trained, with heads that are not zero: corrections take part in every test."""
    torch.manual_seed(0)
    net = PairNetwork(hidden=16, layers=2, rounds=4, long_rounds=2)
    for head in (net.pair_out, net.node_out, net.global_out):
        nn.init.normal_(head[-1].weight, std=0.3)  # type: ignore[arg-type]
    return net.eval()


def tables(law: RateLaw) -> dict[str, Tensor]:
    edges = law.edges
    both = {name: torch.where(edges, getattr(law, name), 0.0) for name in ("presence", "log_rate", "log_sd")}
    return {**both, "initial": law.initial.softmax(-1), "noise": law.noise[:, None]}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=2e-4)


@torch.no_grad()
@pytest.mark.parametrize("grid", [Regular(), Irregular()], ids=["regular", "irregular"])
def test_relabelling_permutes_the_rates(network, grid):
    batch, _ = task(grid, sizes={6: 1})
    order = torch.tensor([3, 0, 5, 1, 4, 2])  # new label of each state
    law, moved = tables(network(batch)), tables(network(replace(batch, states=order[batch.states])))
    back = {name: value[:, order] if value.shape[1] == 6 else value for name, value in moved.items()}
    back = {name: value[:, :, order] if value.ndim == 3 else value for name, value in back.items()}
    assert_same(back, law)
    assert float((law["log_rate"] - moved["log_rate"]).abs().max()) > 0.1


@torch.no_grad()
def test_order_of_paths_does_not_matter(network):
    batch, _ = task()
    order = torch.randperm(20, generator=Generator().manual_seed(0))
    shuffled = {name: getattr(batch, name)[:, order] for name in ("times", "states", "lengths", "starts")}
    assert_same(tables(network(replace(batch, **shuffled))), tables(network(batch)))


@torch.no_grad()
@pytest.mark.parametrize("unit", [1e-6, 2.0, 1e9])
def test_rates_scale_inversely_with_time(network, unit):
    batch, _ = task()
    law, scaled = network(batch), network(replace(batch, times=batch.times * unit))
    torch.testing.assert_close(scaled.mean() * unit, law.mean(), rtol=1e-4, atol=0)
    torch.testing.assert_close(scaled.deviation() * unit, law.deviation(), rtol=1e-3, atol=0)
    shifted = network(replace(batch, times=batch.times + 1000.0))
    torch.testing.assert_close(shifted.mean(), law.mean(), rtol=1e-4, atol=0)


@torch.no_grad()
def test_padding_does_not_matter(network):
    """More columns, absent paths and a larger system in the batch change nothing."""
    batch, _ = task(sizes={3: 1})
    small = tables(network(replace(batch, size=3)))
    states = nn.functional.pad(batch.states, (0, 5, 0, 2), value=1)
    times = nn.functional.pad(batch.times, (0, 5, 0, 2), value=7.7)
    lengths, starts = nn.functional.pad(batch.lengths, (0, 2)), nn.functional.pad(batch.starts, (0, 2), value=True)
    padded = PathBatch(times, states, lengths, starts, batch.n_states, 8)
    found = tables(network(padded))
    cut = {name: value[:, :3] if value.shape[1] == 8 else value for name, value in found.items()}
    assert_same({name: value[:, :, :3] if value.ndim == 3 else value for name, value in cut.items()}, small)
    assert float(found["initial"][:, 3:].abs().max()) == 0 and float(found["log_rate"][:, 3:].abs().max()) == 0


@torch.no_grad()
def test_batch_mates_do_not_matter(network):
    batch, _ = task(Regular())
    rows = {name: getattr(batch, name)[1:2] for name in ("times", "states", "lengths", "starts", "n_states")}
    alone, whole = tables(network(replace(batch, **rows))), tables(network(batch))
    assert_same(alone, {name: value[1:2] for name, value in whole.items()})


@torch.no_grad()
@pytest.mark.parametrize("paths", [1, 5000])
def test_any_number_of_paths_and_states(network, paths):
    batch, _ = task(Regular((4,)), sizes={11: 1}, paths=paths, systems=1)
    law = network(batch)
    assert law.mean().shape == (1, 11, 11) and bool(torch.isfinite(law.mean()).all())


@torch.no_grad()
def test_paths_without_information_give_finite_laws(network):
    """One state for all time, and paths of one observation."""
    still = PathBatch(
        torch.arange(5).double().expand(1, 1, 5), torch.zeros(1, 2, 5).long(), torch.tensor([[5, 1]]),
        torch.ones(1, 2, dtype=torch.bool), torch.tensor([3]), 3,
    )  # fmt: skip
    for batch in (still, replace(still, lengths=torch.tensor([[1, 1]]))):
        law = network(batch)
        assert all(bool(torch.isfinite(value).all()) for value in tables(law).values())
        assert bool((law.mean()[law.edges] > 0).all())


def test_quantiles_hold_the_mixture(network):
    """Draws lie below the quantile of level q with frequency q (5 sigma: 6e-7); atoms at 0 count as below."""
    batch, _ = task()
    law = network(batch)
    law = replace(law, presence=torch.full_like(law.presence, 0.4))
    draws = law.sample(4000, Generator().manual_seed(0))
    for level in (0.55, 0.9):
        share = (draws <= law.quantile(level)).double().mean(0)[law.edges]
        assert float((share - level).abs().max()) < 5 * (level * (1 - level) / 4000) ** 0.5
    assert float(law.quantile(0.3).abs().max()) == 0  # the edge is absent with probability 0.40
    errors = (draws.mean(0) - law.mean()).abs() / (draws.std(0) / 4000**0.5 + 1e-12)
    assert float(errors[law.edges].max()) < 6  # heavy tails: wider than 5 sigma


# ---------------------------------------------------------------- pooled statistics and EM rounds


def test_pooled_counts_against_loops():
    batch, _ = task(paths=3, systems=2)
    pooled = pool(replace(batch, starts=torch.tensor([[True, True, False]] * 2)))
    for row in range(2):
        table = torch.zeros(len(STRIDES), 6, 6).double()
        spent, returns, first = torch.zeros(len(STRIDES)).double(), torch.zeros(6, 6).double(), torch.zeros(6).double()
        for path in range(3):
            n = int(batch.lengths[row, path])
            y, t = batch.states[row, path, :n].tolist(), batch.times[row, path, :n].tolist()
            first[y[0]] += path < 2
            for place, stride in enumerate(STRIDES):
                for a, b, s, e in zip(y, y[stride:], t, t[stride:], strict=False):
                    table[place, a, b] += 1
                    spent[place] += e - s
            for a, b, c in zip(y, y[1:], y[2:], strict=False):
                returns[a, b] += a == c != b
        for place in range(len(STRIDES)):
            own = (pooled.strides[row] == place) & pooled.used[row]
            torch.testing.assert_close(pooled.counts[row, own].sum(0), table[place])
            total = (pooled.counts[row, own].sum((1, 2)) * pooled.lags[row, own]).sum() * pooled.window[row]
            torch.testing.assert_close(total, spent[place])
        torch.testing.assert_close(pooled.returns[row], returns)
        torch.testing.assert_close(pooled.first[row], first)


def exact_counts(rates: Tensor, lags: Tensor, noise: float, number: float) -> Pooled:
    """Statistics of infinitely many stationary paths, scaled: one bin per stride."""
    size = len(rates)
    sizes, emission = torch.tensor([size]), labelling(torch.tensor([noise]), torch.tensor([size]), size)[0]
    move = torch.matrix_exp(generator(rates) * lags[:, None, None])
    law = torch.matrix_exp(generator(rates) * 1e4)[0]
    counts = emission.T @ (law[:, None] * move) @ emission * number
    places = torch.arange(len(lags))[None]
    nothing = torch.zeros(1, size, size).double()
    return Pooled(
        counts[None], lags[None], places, places >= 0, nothing, nothing[:, 0], torch.ones(1), torch.tensor([1]),
        torch.tensor([1]), sizes,
    )  # fmt: skip


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_em_rounds_find_the_rates_behind_exact_counts(noise):
    """Consistency: with the noise known, the rates are the fixed point as counts grow (prior: 1e-6 of the counts)."""
    rates = torch.tensor([[0.0, 1.5, 0.4], [0.7, 0.0, 1.0], [0.3, 2.0, 0.0]]).double()
    pooled = exact_counts(rates, torch.tensor([0.05, 0.1, 0.2]).double(), noise, 1e7)
    shares = NEAR if noise == 0 else FAR
    found = expectation(pooled, torch.tensor([noise]), shares, 60)
    torch.testing.assert_close(found.rates[0], rates, rtol=2e-3, atol=1e-3)
    start = torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]).double()[None]
    again = expectation(pooled, torch.tensor([noise]), shares, 300, start)
    torch.testing.assert_close(again.rates[0], rates, rtol=5e-3, atol=5e-3)


def test_dwell_times_sum_to_the_observed_time():
    batch, _ = task(noise=0.0)
    pooled = pool(batch)
    found = expectation(pooled, torch.zeros(4), NEAR, 3)
    near = pooled.strides == 0
    total = (pooled.counts.sum((2, 3)) * pooled.lags * near).sum(1)
    torch.testing.assert_close(found.dwell.sum(1), total, rtol=1e-9, atol=0)


# ---------------------------------------------------------------- the published architecture


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 3_467_830),
        ({"encoder": RecurrentPaths(), "attention_width": 128, "attention_heads": 1, "last": False}, 1_244_226),
    ],
    ids=["transformer", "lstm"],
)
def test_published_sizes_and_symmetries(options, parameters):
    torch.manual_seed(0)
    net = PublishedNetwork(**options).eval()
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert to_config(from_config(to_config(net))) == to_config(net)
    batch, truth = task(sizes={4: 1}, paths=5, systems=2)
    with torch.no_grad():
        law = net(batch)
        order = torch.tensor([4, 2, 0, 1, 3])
        moved = {name: getattr(batch, name)[:, order] for name in ("times", "states", "lengths", "starts")}
        torch.testing.assert_close(net(replace(batch, **moved)).mean(), law.mean(), rtol=1e-4, atol=1e-6)
        scaled = net(replace(batch, times=batch.times * 8.0))
        torch.testing.assert_close(scaled.mean() * 8, law.mean(), rtol=1e-4, atol=1e-6)
        pads = {name: nn.functional.pad(getattr(batch, name), (0, 3), value=1) for name in ("times", "states")}
        torch.testing.assert_close(net(replace(batch, **pads)).mean(), law.mean(), rtol=1e-4, atol=1e-6)
    assert float(law.mean()[:, 4:].abs().max()) == 0
    assert bool(torch.isfinite(PublishedLoss()(net(batch), truth)).all())


def test_published_network_refuses_seven_states():
    batch, _ = task(sizes={7: 1})
    with pytest.raises(UserError, match="at most 6 states, got 7"):
        PublishedNetwork(RecurrentPaths())(batch)


def test_noise_reaches_the_network():
    """The statistics that tell noise from jumps react to noise (a planted blindness would pass all symmetries)."""
    batch, _ = task(Regular((1,)), noise=0.0, paths=200)
    noisy = relabel(batch.states, torch.full((4,), 0.1), batch.n_states, Generator().manual_seed(1))
    calm, loud = pool(batch), pool(replace(batch, states=noisy))
    assert bool((loud.returns.sum((1, 2)) > 2 * calm.returns.sum((1, 2))).all())
