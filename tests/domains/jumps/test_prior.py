"""The synthetic prior against the published sample of it (section 14.5) and against its own laws.

Statistical tests have fixed seeds; the false-alarm rate of each, over seeds, stands beside it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from stats import FALSE_ALARM, chi_square
from torch import Generator

from sciflow.core.markov import generator as with_diagonal
from sciflow.domains.jumps.prior import (
    Irregular,
    LogNormalPrior,
    PublishedPrior,
    Regular,
    Systems,
    chains,
    graphs,
    relabel,
    stationary,
)


@pytest.fixture(scope="module")
def ours() -> Systems:
    return PublishedPrior({6: 1}).sample(4000, Generator().manual_seed(0))


@pytest.fixture(scope="module")
def published(data_dir: Path) -> dict[str, np.ndarray]:
    with np.load(data_dir / "mjp" / "fim_prior_sample.npz") as file:
        parts = {
            name: [file[f"s6_irregular_{split}_{name}"] for split in ("train", "test")]
            for name in ("intensity_matrices", "adjacency_matrices", "initial_distributions")
        }
    return {name: np.concatenate(both) for name, both in parts.items()}


def test_rates_have_the_published_law(ours: Systems, published: dict[str, np.ndarray]):
    """Two-sample Kolmogorov-Smirnov, p > 0.01 as the specification asks (1 % false alarms over seeds)."""
    theirs = published["intensity_matrices"][published["adjacency_matrices"] > 0]
    rates = ours.rates[ours.rates > 0].numpy()
    assert ks_2samp(rates, theirs[theirs > 0]).pvalue > 0.01
    wrong = np.random.default_rng(0).beta(1.5, 4, len(rates))  # a planted fault: one Beta law for all edges
    assert ks_2samp(wrong, theirs[theirs > 0]).pvalue < FALSE_ALARM


def test_graphs_have_the_published_numbers_of_edges(ours: Systems, published: dict[str, np.ndarray]):
    """Mean over partial graphs within 0.3 of the published sample, whose standard error is 0.11."""
    counts = (ours.rates > 0).sum((1, 2)).double()
    theirs = torch.from_numpy((published["intensity_matrices"] * ~np.eye(6, dtype=bool) > 0).sum((1, 2))).double()
    assert abs(float(counts[counts < 30].mean() - theirs[theirs < 30].mean())) < 0.3
    complete = float((counts == 30).double().mean())
    assert abs(complete - 0.5) < 5 * 0.5 / 4000**0.5  # 5 sigma: 6e-7


def test_half_of_the_initial_laws_are_stationary(ours: Systems, published: dict[str, np.ndarray]):
    law = stationary(ours.rates, ours.n_states)
    torch.testing.assert_close(law.unsqueeze(1) @ with_diagonal(ours.rates), torch.zeros(4000, 1, 6).double())
    same = (ours.initial - law).abs().amax(1) < 1e-9
    assert abs(float(same.double().mean()) - 0.5) < 5 * 0.5 / 4000**0.5  # 5 sigma: 6e-7
    theirs = torch.from_numpy(published["initial_distributions"]).double()
    rates = torch.from_numpy(published["intensity_matrices"]).double()
    other = theirs[(theirs - stationary(rates, torch.full((len(rates),), 6))).abs().amax(1) > 1e-3]
    # Dirichlet(50) of 6: deviation 0.0215; 400 laws of 6 entries estimate it to 2 %
    assert abs(float(ours.initial[~same].std() / other.std()) - 1) < 0.1


def test_sizes_are_weighted():
    n_states = PublishedPrior().sample(9000, Generator().manual_seed(1)).n_states
    law = torch.tensor([1, 1, 1, 1, 5]) / 9
    assert chi_square(torch.bincount(n_states, minlength=7)[2:], law) > FALSE_ALARM


def test_regular_grids():
    systems = PublishedPrior().sample(400, Generator().manual_seed(2))
    batch = Regular().paths(systems, 3, Generator().manual_seed(3))
    lengths = batch.lengths[:, 0]
    counts = torch.tensor([(lengths == n).sum() for n in (100, 50, 34, 25)])
    assert int(counts.sum()) == 400 and chi_square(counts, torch.full((4,), 0.25)) > FALSE_ALARM
    last = batch.times[:, 0].gather(1, lengths[:, None] - 1)[:, 0]
    expected = {100: 10.0, 50: 98 * 10 / 99, 34: 10.0, 25: 96 * 10 / 99}
    torch.testing.assert_close(last, torch.tensor([expected[int(n)] for n in lengths]).double(), rtol=0, atol=1e-6)
    assert bool((batch.states < systems.n_states[:, None, None]).all())


def test_irregular_grids():
    systems = PublishedPrior().sample(200, Generator().manual_seed(2))
    batch = Irregular().paths(systems, 50, Generator().manual_seed(3))
    assert int(batch.lengths.min()) >= 2
    means = batch.lengths.double().mean(1).sort().values
    low, high = means[means < 37], means[means > 37]
    assert abs(float(low.mean()) - 25) < 0.5 and abs(float(high.mean()) - 50) < 0.5  # more than 10 sigma
    valid = torch.arange(batch.times.shape[-1] - 1) < (batch.lengths - 1)[..., None]
    steps = batch.times.diff(dim=-1)[valid] * 9.9
    assert bool((steps.round() >= 1).all()) and float((steps - steps.round()).abs().max()) < 1e-9
    few = Irregular((0.001,)).paths(systems, 50, Generator().manual_seed(3))
    assert int(few.lengths.min()) == 2  # at least two points are kept


def test_chains_follow_the_matrix_exponential():
    """Counts of (first, last) states against p0 exp(F t), by chi-square at 1e-5."""
    systems = PublishedPrior().sample(2, Generator().manual_seed(4))
    states = chains(systems, torch.tensor([0.4, 0.9]).double(), 3, 20_000, Generator().manual_seed(5))
    for row, spacing in enumerate((0.4, 0.9)):
        law = systems.initial[row, :, None] * torch.matrix_exp(with_diagonal(systems.rates[row]) * 3 * spacing)
        table = torch.bincount(states[row, :, 0] * 6 + states[row, :, 3], minlength=36).view(6, 6)
        assert chi_square(table, law) > FALSE_ALARM
        assert chi_square(table, law[[1, 0, 2, 3, 4, 5]]) < FALSE_ALARM  # a planted fault: two states exchanged


def test_label_noise_flips_as_stated():
    """p (S - 1)/S of the labels change, to 5 sigma (6e-7), and to each wrong state alike."""
    states, n_states = torch.zeros(1, 300, 1000, dtype=torch.long), torch.tensor([4])
    seen = relabel(states, torch.tensor([0.1]), n_states, Generator().manual_seed(6))
    law = torch.tensor([0.925, 0.025, 0.025, 0.025])
    assert chi_square(torch.bincount(seen.flatten(), minlength=4), law) > FALSE_ALARM
    assert torch.equal(relabel(states, torch.tensor([0.0]), n_states, Generator()), states)


def test_graphs_are_strongly_connected_and_mirrored_where_asked():
    two_way = torch.arange(300) < 150
    kept = graphs(torch.full((300,), 0.4), torch.full((300,), 5), 7, Generator().manual_seed(7), two_way)
    assert not bool(kept[:, 5:].any()) and not bool(kept[:, :, 5:].any())
    reach = torch.linalg.matrix_power(kept[:, :5, :5].double() + torch.eye(5).double(), 5)
    assert bool((reach > 0).all())
    assert torch.equal(kept[:150], kept[:150].mT) and not torch.equal(kept[150:], kept[150:].mT)


def test_log_normal_prior_has_the_stated_numbers_of_jumps():
    systems = LogNormalPrior(jumps=(5.0, 10.0)).sample(200, Generator().manual_seed(8))
    jumps = systems.rates.sum((1, 2)) * 10 / systems.n_states
    assert 5 <= float(jumps.min()) < 6 and 9 < float(jumps.max()) <= 10
