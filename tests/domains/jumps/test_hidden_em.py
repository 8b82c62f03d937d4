"""CT-HMM EM: likelihood and posteriors by enumeration, recovered noise and levels (section 14, item 4)."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from sciflow.core.errors import UserError
from sciflow.core.markov import generator, transition_matrices
from sciflow.domains.jumps import hidden_em
from sciflow.domains.jumps.ascent import maximise
from sciflow.domains.jumps.counts import occupancy, transitions
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.em import Labelled, pack
from sciflow.domains.jumps.emissions import Confusion, Gaussian, UniformNoise
from sciflow.domains.jumps.estimation import estimate
from sciflow.domains.jumps.hidden_em import Hidden
from sciflow.domains.jumps.rate_prior import NONE, GammaPrior
from sciflow.jumps import simulate

TIMES = [[0.0, 0.4, 1.0, 1.3], [0.0, 0.7], [2.0, 2.4, 3.0]]
LABELS = [[0, 1, 1, 2], [2, 2], [1, 0, 0]]


def small() -> tuple[Hidden, torch.Tensor, torch.Tensor]:
    """Three ragged paths of three states, the last of which does not start from p0; F and theta."""
    paths = Paths.of(TIMES, LABELS, states_count=3, starts=[True, True, False])
    F = generator(torch.rand(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    model = Hidden(paths, 3, UniformNoise(paths), NONE, occupancy(paths))
    return model, F, model.pack(pack(F).log())


def enumerated(model: Hidden, F: torch.Tensor) -> tuple[float, np.ndarray]:
    """Log-likelihood and posteriors (K, L, 3) as sums over all state sequences."""
    e = np.where(np.eye(3, dtype=bool), 0.95, 0.025)
    p0, loglik, posterior = model.occupancy.numpy(), 0.0, np.zeros((3, 4, 3))
    for k, (times, labels) in enumerate(zip(TIMES, LABELS, strict=True)):
        P = transition_matrices(F, torch.tensor(times, dtype=torch.float64).diff()).numpy()
        total = 0.0
        for x in itertools.product(range(3), repeat=len(times)):
            weight = p0[x[0]] * np.prod([e[s, y] for s, y in zip(x, labels, strict=True)])
            weight *= np.prod([P[l, x[l], x[l + 1]] for l in range(len(x) - 1)])
            total += weight
            for l, s in enumerate(x):
                posterior[k, l, s] += weight
        posterior[k] /= total
        loglik += np.log(total)
    return loglik, posterior


@pytest.mark.parametrize("tree", [True, False])
def test_likelihood_and_posteriors_are_those_of_enumeration(monkeypatch: pytest.MonkeyPatch, tree: bool):
    monkeypatch.setattr(hidden_em, "TREE_PATHS", 100 if tree else 0)
    model, F, theta = small()
    loglik, slope, posterior, first = model.expectations(theta)
    wanted, law = enumerated(model, F)
    assert float(loglik) == pytest.approx(wanted, abs=1e-10)
    assert np.allclose(posterior, law, atol=1e-10)
    assert np.allclose(first, law[:2, 0].sum(0), atol=1e-10)
    assert float(slope.diagonal().sum()) == pytest.approx(1.3 + 0.7 + 1.0, abs=1e-9)  # expected dwell times add up


def test_no_noise_is_the_exact_likelihood():
    """rho = 0: the likelihood of labels and the expected statistics of plain EM."""
    model, F, theta = small()
    theta[6] = torch.logit(torch.tensor(1e-14, dtype=torch.float64))
    loglik, slope, *_ = model.expectations(theta)
    exact, free = Labelled(transitions(Paths.of(TIMES, LABELS, states_count=3))), F.clone().requires_grad_()
    value = exact.loglik(free)
    first = sum(float(model.occupancy[labels[0]].log()) for labels in LABELS)
    assert float(loglik) == pytest.approx(float(value.detach()) + first, abs=1e-9)
    assert torch.allclose(slope, torch.autograd.grad(value, free)[0], atol=1e-8)


@pytest.mark.parametrize("kind", [UniformNoise, Confusion])
def test_likelihood_never_decreases(kind: type):
    random = np.random.default_rng(0)
    paths = Paths.of(np.arange(30.0), random.integers(0, 3, (20, 30)), states_count=3)
    model = Hidden(paths, 3, kind(paths), GammaPrior(0.5, 1.0), occupancy(paths))
    values = maximise(model, model.pack(torch.full((6,), -1.0, dtype=torch.float64)), 40, 0, tolerance=0).values
    assert (np.diff(values) > -1e-9 * abs(values[0])).all()


def noisy_ratchet(data_dir: Path, noise: float, count: int = 300) -> tuple[Paths, np.ndarray]:
    with np.load(data_dir / "mjp" / "dfr_V1.npz") as stored:
        states, Q = stored["states"][:count, ::2].astype(int), stored["Q"]
    random = np.random.default_rng(0)
    states = np.where(random.random(states.shape) < noise, random.integers(0, 6, states.shape), states)
    return Paths.of(np.linspace(0, 2.5, 100)[::2], states, states_count=6), Q


@pytest.mark.slow
@pytest.mark.parametrize("emission", ["noise", "confusion"])
def test_ratchet_with_wrong_labels(data_dir: Path, emission: str):
    """300 paths of 50 points, 10 % replaced: RMSE <= 0.13, noise within 0.01 of 0.0833; plain EM is far off."""
    paths, Q = noisy_ratchet(data_dir, 0.1)
    off = ~np.eye(6, dtype=bool)
    found, blind = estimate(paths, "hmm_em", emission=emission), estimate(paths, "em")
    assert np.sqrt(np.square((found.rates - Q)[off]).mean()) <= 0.13
    assert found.noise_rate == pytest.approx(0.0833, abs=0.01)
    assert np.sqrt(np.square((blind.rates - Q)[off]).mean()) > 0.5
    assert any(w.startswith("lag-dependent") for w in blind.warnings)
    low, high = found.intervals(0.9)
    assert ((low <= Q) & (high >= Q))[off].mean() > 0.75


def test_noise_rate_of_a_confusion_matrix():
    """State 0 is the rarer label, for 40 % of its labels are wrong: the share of wrong ones counts states, not labels.

    Weights by label say 0.12 instead of the true 0.2. Limit: 5 standard errors of the share in 24300 labels with
    neighbours that agree for about four steps (0.005), 1e-6. Padding repeats a right label and must not count.
    """
    random = np.random.default_rng(0)
    paths = simulate([[0, 0.5], [0.5, 0]], 300, times=np.linspace(0, 20, 81), seed=3)
    assert paths.states is not None
    wrong = (paths.states == 0) & (random.random(paths.states.shape) < 0.4)
    labels = [np.where(w, 1, x)[: 41 + 40 * (k % 2)] for k, (w, x) in enumerate(zip(wrong, paths.states, strict=True))]
    share = np.concatenate([w[: len(y)] for w, y in zip(wrong, labels, strict=True)]).mean()
    found = estimate(Paths.of([paths.times[0, : len(y)] for y in labels], labels), "hmm_em", emission="confusion")
    assert found.confusion is not None and found.confusion[0, 1] == pytest.approx(0.4, abs=0.05)
    assert found.noise_rate == pytest.approx(share, abs=0.025)


def test_clean_labels_give_no_noise(data_dir: Path):
    paths, _ = noisy_ratchet(data_dir, 0.0, 60)
    hidden, plain = estimate(paths, "hmm_em"), estimate(paths, "em")
    assert hidden.noise_rate is not None and hidden.noise_rate < 5e-3
    assert np.allclose(hidden.rates, plain.rates, atol=0.05)


def test_signal_with_overlapping_levels():
    """Two levels one and a half deviations of noise apart: rates, levels and widths within 4 standard errors."""
    random, rates = np.random.default_rng(1), np.array([[-0.5, 0.5], [1.0, -1.0]])
    P = transition_matrices(torch.from_numpy(rates), torch.tensor([0.2], dtype=torch.float64))[0].numpy()
    states = np.zeros((30, 200), int)
    for l in range(1, 200):
        states[:, l] = random.random(30) < P[states[:, l - 1], 1]
    signal = np.where(states == 0, -1.0, 2.0) + 1.0 * random.standard_normal(states.shape)
    found = estimate(Paths.of(np.arange(200) * 0.2, signal=signal), states=2)
    assert found.method == "hmm_em" and found.means is not None and found.deviations is not None
    off = ~np.eye(2, dtype=bool)
    assert (abs(found.rates - rates)[off] < 4 * found.stderr[off]).all()
    assert (found.stderr[off] < 0.15 * rates[off]).all()
    assert np.allclose(found.means, [-1, 2], atol=0.1)
    assert np.allclose(found.deviations, 1, atol=0.05)


def test_emissions_say_what_they_need():
    labels = Paths.of(TIMES, LABELS)
    with pytest.raises(UserError, match='no signal; use emission "noise"'):
        estimate(labels, "hmm_em", emission="gaussian")
    with pytest.raises(UserError, match="constant"):
        Gaussian(Paths.of([[0.0, 1.0]], signal=[[1.0, 1.0]]), np.zeros(2), np.ones(2))
    with pytest.raises(UserError, match="expected one of noise"):
        estimate(labels, "hmm_em", emission="poisson")
    with pytest.raises(UserError, match="states=2"):
        estimate(Paths.of([[0.0, 1.0]], signal=[[1.0, 2.0]]))
    with pytest.raises(UserError, match="label it"):
        estimate(Paths.of([[0.0, 1.0]], signal=[[1.0, 2.0]]), "em", states=2)
