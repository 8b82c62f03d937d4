"""Scores of crystals: ground truth against itself, planted faults, floors of the specification, published validity."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from sciflow.core.errors import UserError
from sciflow.domains.crystals import metrics
from sciflow.domains.crystals.data import load_npz
from sciflow.domains.crystals.fingerprints import fingerprints
from sciflow.domains.crystals.matching import STRICT, displacement, distinct
from sciflow.domains.crystals.metrics import coverage_scores, evaluate_csp, evaluate_de_novo
from sciflow.domains.crystals.pool import Failed, each
from sciflow.domains.crystals.validity import compositionally_valid, structurally_valid

PEROVSKITE = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]


def perovskite(a: float = 3.9, species: str = "Sr Ti O O O") -> Structure:
    return Structure(Lattice.cubic(a), species.split(), PEROVSKITE)


def rock_salt(a: float = 3.4, species: str = "Na Cl") -> Structure:
    return Structure(Lattice.cubic(a), species.split(), [[0, 0, 0], [0.5, 0.5, 0.5]])


def perov(data_dir: Path, count: int, split: str = "test", seed: int = 0) -> list[Structure]:
    crystals, _ = load_npz(data_dir / "crystals" / f"perov_5_{split}.npz")
    return crystals.select(np.random.default_rng(seed).permutation(len(crystals))[:count]).structures()


@pytest.fixture(autouse=True)
def quick_gate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fingerprints of the gate (seconds, and matminer takes ten to import) only in slow tests."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(metrics, "fingerprints", lambda structures, *_: (np.zeros((len(structures), 61)), None))


# -- matching --------------------------------------------------------------------------------------------------------
def test_displacement_has_a_closed_form():
    """One of two equal rock-salt atoms moved along a by d: the best alignment leaves d/2 on each, in (V/N)^(1/3)."""
    moved = rock_salt()
    moved.translate_sites([1], [0.04, 0, 0])
    expected = 0.02 * 3.4 / (3.4**3 / 2) ** (1 / 3)
    assert displacement((moved, rock_salt())) == pytest.approx(expected, abs=1e-6)
    assert displacement((rock_salt(species="K Cl"), rock_salt())) is None
    assert displacement((None, rock_salt())) is None
    assert displacement((moved, rock_salt()), STRICT) is not None


def test_truth_against_itself_and_planted_failures():
    truth = [perovskite(), rock_salt(), rock_salt(species="K Br"), perovskite(4.0, "Ba Ti O O O")]
    report = evaluate_csp(truth, truth, floor=0, metre_samples=5)
    for name in ("match_rate", "match_rate_valid", "strict_match_rate", "metre", "structurally_valid"):
        assert report[name] == 1.0
    for name in ("rmse", "crmse", "strict_rmse"):
        assert report[name] == pytest.approx(0, abs=1e-8)
    wrong = [truth[0], None, rock_salt(9.0, "K Br"), truth[3]]
    wrong[2].translate_sites([1], [0.5, 0.5, 0.45])  # atoms on top of each other: no match
    report = evaluate_csp(wrong, truth, floor=0)
    assert report["match_rate"] == 0.5
    assert report["rmse"] == pytest.approx(0, abs=1e-8)
    assert report["crmse"] == pytest.approx(0.25)  # half of them with stol
    assert report["unusable"] == 1
    assert report["standard_errors"]["match_rate"] == pytest.approx(0.25)


def test_best_of_several_samples_and_any_of_the_set():
    layered = Structure(Lattice.tetragonal(2.6, 9.0), ["Na", "Cl"], [[0, 0, 0], [0, 0, 0.4]])
    truth = [rock_salt(), layered]
    assert displacement((truth[0], truth[1])) is None
    crossed = evaluate_csp([truth[1], truth[0]], truth, floor=0, metre_samples=5)
    assert crossed["match_rate"] == 0
    assert crossed["rmse"] is None
    assert crossed["metre"] == 1.0
    several = evaluate_csp([truth, truth[::-1]], truth, floor=0)
    assert several["match_rate"] == 1.0
    assert several["samples_per_reference"] == 2
    with pytest.raises(UserError, match="one entry for each"):
        evaluate_csp(truth, truth[:1])


def test_each_gate_touches_its_own_rate_only(monkeypatch: pytest.MonkeyPatch):
    """Three perfect predictions: a good one, one of a formula without neutral states, one without a fingerprint."""
    odd = Structure(Lattice.cubic(4), ["Na", "Na", "Na", "O"], [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    truth = [rock_salt(species="Na K"), odd, perovskite()]  # only metals: valid; Na3O: no assignment is neutral
    asked = []

    def prints(structures, *_):
        asked.extend(structures)
        return np.array([[np.nan if len(one) == 5 else 1.0] for one in structures]), None

    monkeypatch.setattr(metrics, "fingerprints", prints)
    wrong = rock_salt(9.0)
    wrong.translate_sites([1], [0.5, 0.5, 0.4])
    report = evaluate_csp([*truth, wrong], [*truth, rock_salt()], floor=0)
    assert report["match_rate"] == 0.75
    assert report["match_rate_valid"] == 0.5
    assert report["match_rate_smact"] == 0.25
    assert report["reference_smact"] == 0.75
    assert len(asked) == 3  # what does not match is not asked
    assert "CrystalNN" in report["gates"]["valid"] and "smact" in report["gates"]["smact"]
    assert report["versions"]["smact"]


def test_distinct():
    moved = rock_salt()
    moved.translate_sites([0, 1], [0.3, 0.1, 0.2])  # the same crystal elsewhere
    assert distinct([rock_salt(), perovskite(), moved, None, rock_salt(3.4, "K Cl")]) == [0, 1, 0, -1, 4]


# -- validity --------------------------------------------------------------------------------------------------------
def test_validity():
    assert structurally_valid(perovskite())
    assert not structurally_valid(None)
    close = rock_salt()
    close.translate_sites([1], [0.5, 0.5, 0.5 + 0.49 / 3.4])
    assert not structurally_valid(close)
    close.translate_sites([1], [0, 0, 0.02 / 3.4])
    assert structurally_valid(close)
    assert not structurally_valid(Structure(Lattice.orthorhombic(0.4, 5, 5), ["C"], [[0, 0, 0]]))  # its own image
    for formula, expected in [("Na Cl", True), ("Na K", True), ("He Ne", False), ("C", True)]:
        one = rock_salt(species=formula) if " " in formula else Structure(Lattice.cubic(3), [formula], [[0, 0, 0]])
        assert compositionally_valid(one) is expected
    assert compositionally_valid(perovskite())


@pytest.mark.golden
@pytest.mark.slow
def test_compositional_validity_of_real_perovskites(data_dir: Path):
    """98.6 % of the Perov-5 test set and 89.6 % of the MP-20 subset, smact 2.2.1 (specification, section 16)."""
    for name, expected in (("perov_5_test", 0.986), ("mp_20_biternary_test", 0.896)):
        crystals, _ = load_npz(data_dir / "crystals" / f"{name}.npz")
        if name.startswith("mp"):
            crystals = crystals.select(range(0, len(crystals), 4))
        found = np.mean([compositionally_valid(one) for one in crystals.structures()])
        # the whole Perov-5 set: rounding only; a quarter of the other: z = 4.5 binomial standard errors (1e-5)
        tolerance = 0.0006 if name.startswith("perov") else 4.5 * np.sqrt(0.896 * 0.104 / len(crystals)) + 0.0005
        assert found == pytest.approx(expected, abs=tolerance)


# -- floors ----------------------------------------------------------------------------------------------------------
@pytest.mark.golden
@pytest.mark.slow
def test_null_floor_of_perov(data_dir: Path):
    """Random coordinates in the true lattice: match 33.7 %, RMSE 0.430; borrowed lattice 35.7 %, 0.443 (300 there).

    Bounds: 4.5 standard errors of the difference of two samples of 300 and 100 (false alarm below 1e-5).
    """
    truth = perov(data_dir, 100)
    report = evaluate_csp(truth, truth, floor=100, seed=1)
    floors = report["floors"]
    for name, rate, rmse in (("random_coordinates", 0.337, 0.430), ("borrowed_lattice", 0.357, 0.443)):
        spread = np.sqrt(rate * (1 - rate) * (1 / 100 + 1 / 300))
        assert floors[name]["match_rate"] == pytest.approx(rate, abs=4.5 * spread)
        assert floors[name]["rmse"] == pytest.approx(rmse, abs=4.5 * 0.05 * np.sqrt(1 / 34 + 1 / 100))
        assert floors[name]["strict_match_rate"] < 0.05
    assert floors["shaken_reference"]["match_rate"] > 0.97
    assert floors["shaken_reference"]["rmse"] < 0.1
    assert report["match_rate"] == 1.0


# -- de novo ---------------------------------------------------------------------------------------------------------
def test_de_novo_against_itself(data_dir: Path):
    crystals = perov(data_dir, 40)
    report = evaluate_de_novo(crystals, crystals, coverage=0)
    assert report["structural_validity"] == 1.0
    shifted = [one.copy().scale_lattice(one.volume * 2) or one for one in crystals]
    worse = evaluate_de_novo([*crystals, None], crystals, crystals, coverage=0)
    assert worse["structural_validity"] == pytest.approx(40 / 41)
    assert worse["floors"]["real_crystals"]["structural_validity"] == 1.0
    doubled = [Structure(Lattice(one.lattice.matrix * 2 ** (1 / 3)), one.species, one.frac_coords) for one in shifted]
    half = evaluate_de_novo(doubled, shifted, coverage=0)
    mean = np.mean([one.density for one in shifted])
    assert half["w1_density"] == pytest.approx(mean / 2, rel=0.02)  # every density halves: W1 is half of the mean


@pytest.mark.slow
def test_coverage_of_itself_and_of_something_else(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("matminer")
    monkeypatch.setenv("SCIFLOW_CACHE", str(tmp_path))
    crystals = perov(data_dir, 4)
    same = coverage_scores(crystals, crystals, (0.2, 4.0))
    assert same["cov_recall"] == same["cov_precision"] == 1.0
    start = time.perf_counter()
    again, _ = fingerprints(crystals)
    assert time.perf_counter() - start < 0.2  # from the cache
    assert again.shape == (4, 61)
    other = Structure(Lattice.hexagonal(2.46, 6.7), ["C"] * 2, [[0, 0, 0.25], [1 / 3, 2 / 3, 0.25]])
    none = coverage_scores([other, None], crystals, (0.2, 4.0))
    assert none["cov_recall"] == none["cov_precision"] == 0.0


# -- pool ------------------------------------------------------------------------------------------------------------
def _slow_or_broken(x: int) -> int:
    if x == 1:
        while True:
            pass
    if x == 2:
        raise ValueError("no")
    return 10 * x


@pytest.mark.parametrize("workers", [1, 2])
def test_time_limit_and_errors(workers: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sciflow.domains.crystals.pool.SMALL", 0)
    found = each(_slow_or_broken, [0, 1, 2, 3], 0.2, workers)
    assert (found[0], found[3]) == (0, 30)
    assert isinstance(found[1], Failed) and "0.2 s" in found[1].reason
    assert isinstance(found[2], Failed) and "no" in found[2].reason


def _slow_import() -> None:
    import time

    time.sleep(0.3)
    PREPARED.append(True)


def _prepared(x: int) -> int:
    return x * len(PREPARED)


PREPARED: list[bool] = []


@pytest.mark.parametrize("workers", [1, 2])
def test_preparation_has_no_time_limit(workers: int, monkeypatch: pytest.MonkeyPatch):
    """Once in each process; an import cut short by the limit spoiled all later calls."""
    monkeypatch.setattr("sciflow.domains.crystals.pool.SMALL", 0)
    PREPARED.clear()
    assert each(_prepared, [1, 2, 3], 0.2, workers, prepare=_slow_import) == [1, 2, 3]


def test_versions_are_recorded():
    assert {"pymatgen", "spglib"} <= set(metrics.versions())
