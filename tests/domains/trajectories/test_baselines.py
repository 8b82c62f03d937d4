"""Naive forecasts: exact on the motions they assume, for any mask and times; reference points of the specification."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sciflow.core.errors import UserError
from sciflow.domains.trajectories.baselines import backward_velocity, naive_forecasts, true_dynamics
from sciflow.domains.trajectories.energies import energy_drift, total_energy
from sciflow.domains.trajectories.metrics import ade, fde
from sciflow.domains.trajectories.nbody import simulate
from sciflow.domains.trajectories.pedestrians import pedestrian_set

TIMES = np.array([0.0, 1, 2.5, 3, 4, 6, 7, 7.5, 9, 10])
FIRST = np.arange(10) < 4
BOTH = (np.arange(10) < 2) | (np.arange(10) > 6)


def polynomial(*degrees: int) -> np.ndarray:
    """Trajectories (2, 10, 3, 3) at TIMES, random coefficients of the given powers of time."""
    rng = np.random.default_rng(0)
    return sum(rng.normal(size=(2, 1, 3, 3)) * TIMES[None, :, None, None] ** d for d in degrees)  # type: ignore[return-value]


@pytest.mark.parametrize("mask", [FIRST, BOTH, ~FIRST, np.arange(10) % 3 == 0])
def test_exact_on_their_own_motion(mask: np.ndarray):
    at_rest, line, parabola = polynomial(0), polynomial(0, 1), polynomial(0, 1, 2)
    for name, motion in (
        ("last frame", at_rest),
        ("mean of observed frames", at_rest),
        ("constant velocity", line),
        ("constant acceleration", parabola),
    ):
        np.testing.assert_allclose(naive_forecasts(motion, mask, TIMES)[name], motion, atol=1e-9)
    assert np.abs(naive_forecasts(parabola, mask, TIMES)["constant velocity"] - parabola).max() > 0.1


def test_hand_case():
    """x = 0, 1, 3 then free: copies 3, line 5 and 7, parabola 6 and 10, mean 4/3."""
    x = np.array([0.0, 1, 3, 99, 99])[None, :, None, None]
    found = naive_forecasts(x, np.arange(5) < 3)
    expected = {
        "last frame": [3, 3],
        "constant velocity": [5, 7],
        "constant acceleration": [6, 10],
        "mean of observed frames": [4 / 3, 4 / 3],
    }
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name][0, 3:, 0, 0].tolist() == pytest.approx(values)
        assert found[name][0, :3, 0, 0].tolist() == [0, 1, 3]


def test_interpolation_is_there_only_between_observed_frames():
    line = polynomial(0, 1)
    np.testing.assert_allclose(naive_forecasts(line, BOTH, TIMES)["linear interpolation"], line, atol=1e-12)
    assert "linear interpolation" not in naive_forecasts(line, FIRST, TIMES)
    keys = np.isin(np.arange(10), [0, 4])
    found = naive_forecasts(line, keys, TIMES)["linear interpolation"]
    np.testing.assert_allclose(found[:, :5], line[:, :5], atol=1e-12)
    np.testing.assert_allclose(found[:, 5:], np.broadcast_to(line[:, 4:5], found[:, 5:].shape), atol=1e-12)


def test_free_frames_are_not_read():
    known = polynomial(0, 1, 2)
    spoiled = np.where(FIRST[:, None, None], known, np.nan)
    for name, one in naive_forecasts(spoiled, FIRST, TIMES).items():
        np.testing.assert_array_equal(one, naive_forecasts(known, FIRST, TIMES)[name])


def test_bad_masks():
    for mask in (np.zeros(10, bool), np.ones(10, bool), np.ones(9, bool)):
        with pytest.raises(UserError, match="observed"):
            naive_forecasts(polynomial(0), mask)
    with pytest.raises(UserError, match="increasing"):
        naive_forecasts(polynomial(0), FIRST, TIMES[::-1])
    assert "constant velocity" not in naive_forecasts(polynomial(0), np.arange(10) < 1)


def test_backward_velocity_is_exact_on_parabolas():
    t = 0.1 * np.arange(3)
    x = (2 + 3 * t + 5 * t**2)[None, :, None, None]
    assert backward_velocity(x, 0.1)[0, 0, 0] == pytest.approx(3 + 2 * 5 * 0.2)


@pytest.mark.parametrize(
    ("system", "points"),
    [
        # ADE, FDE of our specification, section 8 (1000, 1000, 400 trajectories of the same simulators)
        ("springs", [(0.489, 0.902), (0.141, 0.379), (0.051, 0.174), (0.00036, 0.00060)]),
        ("charged", [(0.796, 1.468), (0.507, 1.070), (1.745, 4.721), (0.130, 0.263)]),
    ],
)
def test_reference_points_of_nbody(system: str, points: list[tuple[float, float]]):
    """Means over other draws of the same systems, at 6 standard errors of the difference (false alarms below 1e-5)."""
    count = 250
    made = simulate(system, count, frames=30, seed=11)
    dynamics = true_dynamics(system, made.nodes, made.couplings)
    free = np.arange(30) >= 10
    found = naive_forecasts(made.positions, ~free, 0.1 * np.arange(30), dynamics)
    names = ("last frame", "constant velocity", "constant acceleration", "true simulator, naive velocity")
    for name, expected in zip(names, points, strict=True):
        for score, value in zip((ade, fde), expected, strict=True):
            each = score(found[name][:, None, free], made.positions[:, free])[:, 0]
            error = each.std() * np.sqrt(1 / count + 1 / 1000)
            assert abs(each.mean() - value) < 6 * error + 0.01 * value, (name, each.mean(), value)


def test_interpolation_of_charged_particles():
    """First and last 5 of 30 frames given: GeoTDM prints .171 for linear interpolation; 6 standard errors of ours."""
    x = simulate("charged", 300, frames=30, seed=3).positions
    free = (np.arange(30) >= 5) & (np.arange(30) < 25)
    each = ade(naive_forecasts(x, ~free)["linear interpolation"][:, None, free], x[:, free])[:, 0]
    assert abs(each.mean() - 0.171) < 6 * each.std() / np.sqrt(300)


@pytest.mark.parametrize(("scene", "published"), [("eth", (1.07, 2.28)), ("hotel", (0.31, 0.61))])
def test_constant_velocity_is_the_published_linear_baseline(data_dir: Path, scene: str, published: tuple[float, float]):
    """ADE, FDE in metres over the whole test scene, rounded in the papers."""
    test = pedestrian_set(data_dir / "trajectories" / "eth_ucy.npz", scene)["test"]
    x, free = np.stack([one.positions[:, :1] for one in test]), np.arange(20) >= 8
    found = naive_forecasts(x, ~free)["constant velocity"][:, None, free]
    errors = ade(found, x[:, free]).mean(), fde(found, x[:, free]).mean()
    assert errors == pytest.approx(published, abs=0.012)


@pytest.mark.parametrize(
    ("molecule", "points"),
    [
        ("ethanol", [(0.227, 0.262), (0.216, 0.215), (1.122, 2.093)]),
        ("malonaldehyde", [(0.202, 0.214), (0.182, 0.152), (0.890, 1.653)]),
    ],
)
def test_reference_points_of_molecules(data_dir: Path, molecule: str, points: list[tuple[float, float]]):
    """The data set's own figures on its last 20 %, 10 -> 20 frames; other window starts: 4 % apart at most."""
    with np.load(data_dir / "trajectories" / f"{molecule}_xtb_500K.npz") as stored:
        part = stored["R"][len(stored["R"]) * 4 // 5 :].astype(float)
    windows = np.stack([part[i : i + 30] for i in np.linspace(0, len(part) - 30, 500).astype(int)])
    free = np.arange(30) >= 10
    found = naive_forecasts(windows, ~free)
    for name, expected in zip(("last frame", "mean of observed frames", "constant velocity"), points, strict=True):
        one = found[name][:, None, free]
        errors = ade(one, windows[:, free]).mean(), fde(one, windows[:, free]).mean()
        assert errors == pytest.approx(expected, rel=0.04), name


# -- energies --------------------------------------------------------------------------------------------------------
def test_energy_of_a_hand_case():
    """Ten bodies on a line, velocity 1 along y each: 10/2 kinetic; softened pairs at distances 1 .. 9."""
    x = np.zeros((1, 3, 10, 3))
    x[..., 0] = np.arange(10)
    x[..., 1] = 0.1 * np.arange(3)[:, None]
    pairs = sum((10 - k) / np.sqrt(k**2 + 0.01) for k in range(1, 10))
    assert total_energy(x, "gravity")[0] == pytest.approx([5 - pairs])


@pytest.mark.parametrize(("system", "typical"), [("springs", 1e-3), ("charged", 0.2)])
def test_real_trajectories_keep_their_energy_and_shaken_ones_do_not(system: str, typical: float):
    made = simulate(system, 100, frames=30, seed=1)
    assert np.median(energy_drift(made.positions, system, made.couplings)) < typical
    shaken = made.positions + 0.05 * np.random.default_rng(0).normal(size=made.positions.shape)
    assert np.median(energy_drift(shaken, system, made.couplings)) > 3 * typical


def test_energies_need_what_they_need():
    x = np.zeros((1, 5, 5, 3))
    couplings = np.zeros((1, 5, 5))
    for positions, system, pairs, text in (
        (x, "planets", couplings, "expected one of"),
        (x, "springs", None, "couplings"),
        (x[:, :2], "springs", couplings, "3 frames"),
        (x, "gravity", None, "10"),
    ):
        with pytest.raises(UserError, match=text):
            total_energy(positions, system, pairs)
