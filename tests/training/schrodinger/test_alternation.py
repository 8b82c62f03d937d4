"""The alternation: J falls, interrupted fits end with the same numbers, acceleration, and the LV target."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciflow.core.errors import UserError
from sciflow.networks.references import OU, Brownian, LotkaVolterra, Vortex
from sciflow.training.schrodinger.alternation import Anderson, alternate
from sciflow.training.schrodinger.history import FILE, History
from sciflow.training.schrodinger.kernel_bridge import KernelBridge
from sciflow.training.schrodinger.snapshots import Snapshots

ENGINE = KernelBridge(paths=40)


def clouds(seed=0, dim=1):
    """Relaxation from 3 towards 1 at rate 1: snapshots of fresh cells."""
    rng = np.random.default_rng(seed)
    times = [0.0, 0.5, 1.0, 2.0]
    means = [1 + 2 * np.exp(-t) for t in times]
    return Snapshots.of([m + 0.2 * rng.normal(size=(30, dim)) for m in means], times)


def fit(**options):
    return alternate(clouds(), OU(1), ENGINE, sigma=0.3, dt=0.1, **{"rounds": 6, "tolerance": 0.0, **options})


def test_j_falls_and_the_drift_is_found():
    """J never rises by more than the Monte Carlo noise; the fitted drift pulls towards 1."""
    result = fit(rounds=12)
    assert len(result.objective) == 13
    assert result.objective[-1] < result.objective[0] - 1
    assert np.diff(result.objective).max() < 0.01
    assert result.theta["rate"] > 0.3
    assert result.drift(np.array([[3.0]]), 0.0)[0, 0] < 0 < result.drift(np.array([[0.0]]), 0.0)[0, 0]
    assert set(result.theta_stderr) == {"rate", "pull.0"}
    assert result.vanilla().theta == {}
    assert result.vanilla().objective[0] == pytest.approx(result.objective[0])  # theta starts at zero drift


class Interrupted(Exception):
    """Ctrl-C at some round."""


def stop_at(number):
    def told(row):
        if row.number == number:
            raise Interrupted

    return told


@pytest.mark.parametrize("acceleration", [None, Anderson()], ids=["plain", "anderson"])
@pytest.mark.parametrize("number", [0, 3])
def test_an_interrupted_fit_ends_with_the_same_numbers(tmp_path, number, acceleration):
    whole = fit(acceleration=acceleration)
    with pytest.raises(Interrupted):
        fit(acceleration=acceleration, folder=tmp_path, told=stop_at(number))
    assert [one.name for one in tmp_path.iterdir()] == [FILE]
    rounds = []
    again = fit(acceleration=acceleration, folder=tmp_path, told=lambda row: rounds.append(row.number))
    assert rounds == list(range(number + 1, 7))  # the others are not done again
    assert again.theta == whole.theta
    np.testing.assert_array_equal(again.objective, whole.objective)
    np.testing.assert_array_equal(again.sample(5, [0.2, 1.5]), whole.sample(5, [0.2, 1.5]))


def test_a_finished_fit_is_read_not_done_again(tmp_path):
    first = fit(folder=tmp_path)
    rounds = []
    again = fit(folder=tmp_path, told=lambda row: rounds.append(row.number))
    assert rounds == [] and again.theta == first.theta
    further = fit(folder=tmp_path, rounds=8, told=lambda row: rounds.append(row.number))
    assert rounds == [7, 8] and len(further.objective) == 9


def test_rounds_of_another_problem_are_refused(tmp_path):
    fit(folder=tmp_path, rounds=1)
    with pytest.raises(UserError, match="other data or settings"):
        alternate(clouds(1), OU(1), ENGINE, sigma=0.3, dt=0.1, rounds=1, folder=tmp_path)
    with pytest.raises(UserError, match="other data or settings"):
        alternate(clouds(), OU(1), ENGINE, sigma=0.31, dt=0.1, rounds=1, folder=tmp_path)
    (tmp_path / FILE).write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be read"):
        fit(folder=tmp_path)


def test_it_stops_once_theta_has_settled():
    assert len(fit(rounds=50, tolerance=0.2).objective) < 20


def test_the_given_reference_is_left_alone():
    reference = OU(1)
    alternate(clouds(), reference, ENGINE, sigma=0.3, dt=0.1, rounds=1)
    assert float(reference.rate) == 0


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sigma": 0.0}, "sigma: got 0.0, expected a finite number > 0"),
        ({"sigma": float("nan")}, "sigma"),
        ({"dt": -1.0}, "dt"),
        ({"rounds": -1}, "rounds"),
    ],
)
def test_bad_numbers_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        alternate(clouds(), OU(1), ENGINE, **{"sigma": 0.3, "dt": 0.1, **change})


def test_a_family_of_another_dimension_is_refused():
    with pytest.raises(UserError, match="Vortex is made for dimension 2, the data have dimension 1"):
        alternate(clouds(), Vortex(), ENGINE, sigma=0.3, dt=0.1)


def test_times_out_of_range_are_refused_and_forecasts_go_on():
    result = alternate(clouds(), OU(1, rate=1.0), ENGINE, sigma=0.3, dt=0.1, rounds=0)
    with pytest.raises(UserError, match="forecast"):
        result.sample(3, [0.0, 2.5])
    with pytest.raises(UserError, match="increasing"):
        result.sample(3, [1.0, 0.5])
    future = result.forecast(np.full((4000, 1), 3.0), [2.0, 3.0, 5.0])
    assert future.shape == (4000, 3, 1)
    # Euler steps of 0.1: mean 3 (0.9)^10 after one unit; 5 standard errors of the stationary spread
    assert future[:, 1].mean() == pytest.approx(3 * 0.9**10, abs=5 * 0.22 / 4000**0.5)


def test_anderson_solves_linear_maps():
    """F(theta) = M theta + c in three dimensions: exact after four differences' worth of rounds."""
    matrix = torch.tensor([[0.9, 0.2, 0.0], [0.0, 0.8, 0.1], [0.0, 0.0, 0.95]], dtype=torch.float64)
    shift = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    fixed = torch.linalg.solve(torch.eye(3, dtype=torch.float64) - matrix, shift)
    errors = []
    for acceleration in (Anderson(memory=3, reach=1e6), None):
        history = History(thetas=[torch.ones(3, dtype=torch.float64)])
        for _ in range(9):
            history.mapped.append(matrix @ history.thetas[-1] + shift)
            history.objectives.append(float((history.thetas[-1] - fixed).norm()))
            history.thetas.append(acceleration.next(history) if acceleration else history.mapped[-1])
        errors.append(float((history.thetas[-1] - fixed).norm() / fixed.norm()))
    assert errors[0] < 1e-4 < 0.1 < errors[1]


def test_anderson_goes_back_after_a_rise():
    thetas = [torch.tensor([float(v)], dtype=torch.float64) for v in (1, 2, 3, 9)]
    mapped = [torch.tensor([float(v)], dtype=torch.float64) for v in (2, 3, 3.5, 8)]
    history = History(thetas=thetas, mapped=mapped, objectives=[4.0, 3.0, 2.0, 7.0])
    assert float(Anderson().next(history)) == 3.5  # the plain step from the best theta, 3


@pytest.mark.slow
def test_lotka_volterra_target(data_dir):
    """Eight rounds on the published array: mean W1 <= .13, parameters within 6 % (full table: benchmarks)."""
    with np.load(data_dir / "singlecell" / "lv_published.npz") as file:
        train, held = Snapshots.of([file[f"X{k}"] for k in range(9)], file["times"]).split([1, 3, 5, 7])
    result = alternate(train, LotkaVolterra(), KernelBridge(), sigma=0.1, dt=0.02, rounds=8, acceleration=Anderson())
    assert result.heldout(held)[0].mean() <= 0.13
    truth = {"alpha": 1.0, "beta": 0.4, "gamma": 0.4, "delta": 0.1}
    assert all(abs(result.theta[name] / value - 1) < 0.06 for name, value in truth.items())
    vanilla = alternate(train, Brownian(), KernelBridge(), sigma=0.1, dt=0.02)
    assert vanilla.heldout(held)[0].mean() == pytest.approx(0.407, abs=0.02)


@pytest.mark.slow
def test_bootstrap_errors_are_those_of_fresh_cells():
    """The spread of fits to resampled cells is that of fits to fresh cells; the information of the paths is not.

    Ratio of two variances of 16 normal values: outside (1/20, 20) with probability < 1e-6 if they are equal.
    """
    options = {"sigma": 0.3, "dt": 0.1, "rounds": 5, "tolerance": 0.0}
    fits = [alternate(clouds(seed), OU(1), ENGINE, **options) for seed in range(16)]
    fresh = np.array([list(result.theta.values()) for result in fits]).var(0, ddof=1)
    again = fits[0].bootstrap(16).var(0, ddof=1)
    assert ((again / fresh > 1 / 20) & (again / fresh < 20)).all()
