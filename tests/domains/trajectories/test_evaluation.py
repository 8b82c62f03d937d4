"""`sciflow evaluate --domain trajectories`: files in, figures, tables and pages out; what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciflow.cli.main import main
from sciflow.core.errors import UserError
from sciflow.domains.trajectories.archives import evaluate_file, pieces
from sciflow.domains.trajectories.evaluation import evaluate_forecasts, evaluate_unconditional
from sciflow.domains.trajectories.nbody import simulate
from sciflow.report.evaluation import evaluation_sections, evaluation_table
from sciflow.report.html import page
from sciflow.report.trajectories import design_sections

OBSERVED = np.arange(12) < 5
BONDS = np.array([[0, 1], [1, 2], [2, 3]])
NUMBERS = np.array([6, 6, 6, 8])


def chains(count: int, frames: int = 12, seed: int = 0) -> np.ndarray:
    """Four bonded atoms that shake, (count, frames, 4, 3)."""
    rng = np.random.default_rng(seed)
    shape = np.array([[0.0, 0, 0], [1.5, 0, 0], [2.0, 1.4, 0], [3.4, 1.5, 0.7]])
    return shape + 0.03 * rng.normal(size=(count, frames, 4, 3)).cumsum(1)


def saved(place: Path, positions: np.ndarray, **arrays: Any) -> Path:
    np.savez(place, R=positions, **{"z": NUMBERS, "bonds": BONDS, "dt_fs": 5.0, **arrays})
    return place


def futures(truth: np.ndarray, samples: int, spread: float = 0.05) -> np.ndarray:
    noise = spread * np.random.default_rng(9).normal(size=(len(truth), samples, *truth.shape[1:]))
    return np.where(OBSERVED[:, None, None], truth[:, None], truth[:, None] + noise)


def test_perfect_forecasts(tmp_path: Path):
    truth = chains(8)
    reference = saved(tmp_path / "test.npz", truth)
    report = evaluate_file(saved(tmp_path / "mine.npz", futures(truth, 3, 0.0), observed=OBSERVED), reference)
    assert report["scores"]["aveADE"]["value"] == 0
    assert report["scores"]["minFDE"]["value"] == 0
    assert report["molecule"]["torsion_jsd"] == pytest.approx(0, abs=1e-9)
    assert report["molecule"]["valid_trajectories"] == 1
    assert report["molecule_floor"]["torsion_jsd"] > 0
    assert report["horizon"]["frames"] == list(range(5, 12))
    assert report["baselines"]["last frame"]["ADE"]["value"] > 0.05


def test_only_free_frames_are_scored(tmp_path: Path):
    """Every free coordinate is off by 0.03, 0.04, 0: distance 0.05 at all of them."""
    truth = chains(4)
    shift = np.where(OBSERVED[:, None, None], 0, [0.03, 0.04, 0])
    report = evaluate_forecasts((truth + shift)[:, None], truth, OBSERVED)
    assert report["scores"]["aveADE"]["value"] == pytest.approx(0.05)
    assert report["scores"]["aveFDE"]["value"] == pytest.approx(0.05)
    assert report["horizon"]["model"]["mean"] == pytest.approx([0.05] * 7)


def test_the_form_that_design_writes(tmp_path: Path):
    """K samples of one case against one longer trajectory."""
    truth = chains(1, 40)
    path = saved(tmp_path / "mine.npz", futures(truth[:, :12], 4)[0], observed=OBSERVED)
    report = evaluate_file(path, saved(tmp_path / "test.npz", truth[0]))
    assert (report["cases"], report["samples_per_case"], report["frames"]) == (1, 4, 12)
    one_each = saved(tmp_path / "each.npz", futures(chains(6), 1)[:, 0], observed=OBSERVED)
    report = evaluate_file(one_each, saved(tmp_path / "six.npz", chains(6)))
    assert (report["cases"], report["samples_per_case"]) == (6, 1)


def test_frame_times_of_the_file_are_used(tmp_path: Path):
    """Points at constant velocity, frames at irregular times: that baseline is exact only with the times."""
    times = np.cumsum([0, 1, 1, 3, 1, 2, 1, 1, 5, 1, 1, 2.0])
    truth = chains(3, 1) + times[:, None, None] * np.random.default_rng(0).normal(size=(3, 1, 4, 3))
    reference = saved(tmp_path / "test.npz", truth)
    errors = []
    for more in ({"times": times}, {}):
        path = saved(tmp_path / "mine.npz", futures(truth, 2), observed=OBSERVED, **more)
        errors.append(evaluate_file(path, reference)["baselines"]["constant velocity"]["ADE"]["value"])
    assert errors[0] < 1e-9 < 0.1 < errors[1]


def test_named_nbody_reference_with_physics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    from sciflow.domains.trajectories import sets

    monkeypatch.setattr(sets, "NBODY_COUNTS", (2, 2, 12))
    made = simulate("springs", 10, first=sets.FIRST["test"])
    observed = np.arange(30) < 10
    samples = np.where(observed[:, None, None], made.positions, made.positions + 0.01)[:, None]
    np.savez(tmp_path / "mine.npz", R=samples, observed=observed)
    report = evaluate_file(tmp_path / "mine.npz", "springs")
    assert report["cases"] == 10
    assert report["baselines"]["true simulator, naive velocity"]["ADE"]["value"] < 1e-3
    assert report["scores"]["aveADE"]["value"] == pytest.approx(0.01 * np.sqrt(3), rel=1e-3)
    assert report["energy"]["floor"]["median"] < 1e-3
    table = evaluation_table({"domain": "trajectories", "reference_set": "springs", **report})
    assert ["GeoTDM (published)", 0.003] in [list(row[:2]) for row in table.rows]


def test_free_trajectories_and_their_floor(tmp_path: Path):
    report = evaluate_unconditional(chains(30, seed=1), chains(40), epochs=2, seeds=2)
    assert set(report["scores"]) == set(report["floor"])
    assert report["scores"]["classification_std"] > 0
    path, reference = saved(tmp_path / "mine.npz", chains(30, seed=1)), saved(tmp_path / "test.npz", chains(1, 500)[0])
    report = evaluate_file(path, reference, "marginal")
    assert report["reference"] == 41
    assert set(report["scores"]) == {"bond_marginal", "outside"}
    assert report["molecule"]["bond_jsd"] > 0


def test_pedestrians_score_both_ways_of_twenty():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(5, 12, 1, 2)).cumsum(1)
    samples = np.where(OBSERVED[:, None, None], truth[:, None], truth[:, None] + rng.normal(size=(5, 60, 12, 1, 2)))
    report = evaluate_forecasts(samples, truth, OBSERVED)
    best = {name: part["minADE"]["value"] for name, part in report["diverse"].items()}
    assert set(best) == {"first", "k_means"}
    assert report["scores"]["minADE"]["value"] <= min(best.values())


def test_pieces():
    long = chains(1, 50)[0]
    assert pieces(long, 12).shape == (4, 12, 4, 3)
    np.testing.assert_array_equal(pieces(long, 12)[1], long[12:24])
    with pytest.raises(UserError, match="at least the 60"):
        pieces(long, 60)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"R": futures(chains(4), 2)[:, :, :, :3]}, "same number"),
        ({"R": futures(chains(4)[::-1], 2)}, "same cases in the same order"),
        ({"R": np.full((4, 2, 12, 4, 3), np.nan)}, "NaN"),
        ({"observed": np.ones(12, bool)}, "one free frame"),
        ({"observed": np.ones(5, bool)}, "one entry for each"),
        ({"dt_fs": 10.0}, "10 fs"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], text: str):
    reference = saved(tmp_path / "test.npz", chains(4))
    arrays = {"R": futures(chains(4), 2), "observed": OBSERVED, **change}
    path = saved(tmp_path / "mine.npz", arrays.pop("R"), **arrays)
    with pytest.raises(UserError, match=text):
        evaluate_file(path, reference)


def test_files_that_are_none(tmp_path: Path):
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for name in ("text", "other"):
        with pytest.raises(UserError, match="'R'"):
            evaluate_file(tmp_path / f"{name}.npz", tmp_path / f"{name}.npz")
    path = saved(tmp_path / "free.npz", chains(3))
    with pytest.raises(UserError, match="marks no frame"):
        evaluate_file(path, path, "forecast")


def test_command_writes_figures_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    reference = saved(tmp_path / "test.npz", chains(6))
    path = saved(tmp_path / "mine.npz", futures(chains(6), 3), observed=OBSERVED, nll=np.full(6, -12.5))
    out, html = tmp_path / "m.json", tmp_path / "m.html"
    options = ["--domain", "trajectories", "--reference", str(reference), "--out", str(out), "--report", str(html)]
    main(["evaluate", str(path), *options])
    printed = capsys.readouterr().out
    for text in ("constant velocity", "best of 3", "NLL -12.5", "Torsion JSD"):
        assert text in printed
    report = json.loads(out.read_text())
    assert report["domain"] == "trajectories"
    assert report["protocol"] == "forecast"
    text = html.read_text()
    for needle in ("Error per frame", "Paths", "Molecule", "torsion of atoms 0-1-2-3", "RMSF"):
        assert needle in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")  # self-contained


def test_pages_of_free_trajectories_and_designs():
    report = evaluate_unconditional(
        chains(12, seed=1), chains(12), facts={"z": NUMBERS, "bonds": BONDS}, trained=False, seed=0
    )
    report = {"domain": "trajectories", "reference_set": "ethanol_xtb_500K", **report}
    text = page("t", "s", evaluation_sections(report), {})
    assert "GeoTDM" in text
    assert "comparable in scale only" in text
    samples = futures(chains(1), 5)[0]
    for truth in (None, chains(1)[0]):
        sections = design_sections(samples, OBSERVED, numbers=NUMBERS, bonds=BONDS, truth=truth)
        assert [section.title for section in sections] == ["Paths", "Spread", "Molecule"]
    free = design_sections(samples, np.zeros(12, bool), numbers=NUMBERS, bonds=BONDS)
    assert "generated frames" in free[2].html()
