"""Golden values of section 8 of the specification, closed forms, and equilibrium of the toy model by quadrature."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciflow.core import markov
from sciflow.core.errors import UserError
from sciflow.domains.jumps.systems import (
    flashing_ratchet,
    ratchet_parameters,
    toy_folding,
    with_diagonal,
)

ALANINE = [  # alanine dipeptide in six states: rates per ns found by NeuralMJP (Seifner & Sanchez, ICML 2023)
    [0, 53, 0.19, 7.9, 0.06, 0.02],
    [47, 0, 0.05, 12, 0.04, 0.01],
    [0.28, 0.13, 0, 17, 0.02, 0.04],
    [36, 26.9, 41, 0, 0.3, 0.01],
    [0.17, 0.2, 0.4, 0.2, 0, 3],
    [1.2, 1.8, 0.5, 0.7, 19, 0],
]


def f64(values) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def test_ratchet_against_the_file(data_dir):
    for potential in range(4):
        with np.load(data_dir / "mjp" / f"dfr_V{potential}.npz") as stored:
            np.testing.assert_allclose(flashing_ratchet(potential), stored["Q"], atol=1e-5)  # float32


@pytest.mark.golden
def test_ratchet_golden_values():
    rates = f64(flashing_ratchet())
    law = [0.301192, 0.136542, 0.062267, 0.200298, 0.159135, 0.140567]
    np.testing.assert_allclose(markov.stationary(rates), law, atol=1e-6)
    scales = [0.5, 0.349645, 0.280561, 0.205034, 0.158854]
    np.testing.assert_allclose(markov.timescales(rates), scales, atol=1e-6)
    eigenvalues = np.sort(torch.linalg.eigvals(rates).real.numpy())[::-1]
    np.testing.assert_allclose(eigenvalues[1:], [-2, -2.860046, -3.564290, -4.877228, -6.295102], atol=1e-6)
    law_at_one = markov.transition_matrices(rates, f64([1.0]))[0, 0]
    np.testing.assert_allclose(law_at_one, [0.37088, 0.13653, 0.06026, 0.19925, 0.12540, 0.10768], atol=1e-5)
    passages = markov.mean_first_passage(rates)[0]
    np.testing.assert_allclose(passages, [0, 2.0535, 2.9653, 1.3307, 2.3831, 2.7266], atol=5e-5)
    jumps = -(markov.stationary(rates) * rates.diagonal()).sum()
    assert float(jumps) == pytest.approx(2.873, abs=5e-4)


@pytest.mark.golden
@pytest.mark.parametrize(("potential", "expected"), [(0, 0.0), (1, 0.179194), (2, 0.565647), (3, 0.992735)])
def test_ratchet_entropy_production(potential, expected):
    assert float(markov.entropy_production(f64(flashing_ratchet(potential)))) == pytest.approx(expected, abs=1e-6)


@pytest.mark.golden
def test_hellinger_distance_of_two_ratchets():
    one, other = (markov.stationary(f64(flashing_ratchet(v))) for v in (1, 0))
    assert float((0.5 * (one.sqrt() - other.sqrt()).square().sum()).sqrt()) == pytest.approx(0.156828, abs=1e-6)


@pytest.mark.golden
def test_alanine_published_rates():
    rates = f64(with_diagonal(np.array(ALANINE)))
    np.testing.assert_allclose(markov.stationary(rates), [0.298, 0.312, 0.232, 0.097, 0.053, 0.008], atol=6e-4)
    np.testing.assert_allclose(markov.timescales(rates), [0.691, 0.0679, 0.0387, 0.0088, 0.0088], rtol=0.01)


@pytest.mark.parametrize(("V", "r", "b"), [(0.0, 1.0, 1.0), (1.3, 0.4, 2.0), (-2.0, 3.0, 0.1)])
def test_ratchet_read_out_inverts(V, r, b):
    assert ratchet_parameters(flashing_ratchet(V, r, b)) == pytest.approx((V, r, b))


def test_mistakes():
    with pytest.raises(UserError, match="expected positive rates"):
        flashing_ratchet(1.0, r=0.0)
    with pytest.raises(UserError, match="expected \\(6, 6\\)"):
        ratchet_parameters(np.zeros((3, 3)))


@pytest.mark.slow
@pytest.mark.parametrize(("stated", "published"), [(False, 0.988), (True, 0.996)])
def test_toy_folding_equilibrium(stated, published):
    """P(r < 2) by quadrature of r^4 exp(-U), and by simulation from a long burn-in.

    2000 independent paths: limit 4.42 standard errors of the mean over paths (false alarm 1e-5) plus .004 for the
    time step of .01 (the difference to a step of .0025 was about .001).
    """
    grid = np.linspace(1e-4, 9, 100_001)
    u = grid - 3
    outside = u**3 / 2 - u**2 if stated else 0.75 * u**2 - 2 * u
    energy = np.where(u < 0, -2.5 * u**2, outside)
    weight = grid**4 * np.exp(-(energy - energy.min()))
    exact = weight[grid < 2].sum() / weight.sum()
    assert exact == pytest.approx(published, abs=6e-4)
    low = (toy_folding(2000, 200, stated=stated, burn_in=2800) < 2).mean(1)
    assert abs(low.mean() - exact) < 4.42 * low.std() / np.sqrt(len(low)) + 0.004
