"""`sciflow infer jumps`: files it writes, options, refusals, and the real data of the specification."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sciflow.domains.jumps.systems import two_state
from sciflow.jumps import simulate

KEYS = ["rates", "stderr", "initial", "stationary", "timescales", "mfpt", "noise_rate", "loglik", "warnings"]
TRUTH = two_state(0.8, 0.4)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """400 paths of a switch, 21 points each, as CSV."""
    paths = simulate(TRUTH, 400, times=np.linspace(0, 5, 21), seed=3)
    rows = [f"{k},{t:.6g},{x}" for k in range(400) for t, x in zip(paths.times[k], paths.states[k], strict=True)]
    path = tmp_path_factory.mktemp("jumps") / "switch.csv"
    path.write_text("path,time_ms,state\n" + "\n".join(rows) + "\n")
    return path


def test_json_and_report(command, table, tmp_path):
    """Rates within 4.42 of their standard errors (false alarm 1e-5 each); the seed is fixed."""
    out, report = tmp_path / "rates.json", tmp_path / "report.html"
    code, printed, _ = command("infer", "jumps", table, "--method", "em", "--seed", 5, "--out", out, "--report", report)
    assert code == 0 and "time scale 1 [ms]" in printed and f"wrote {report}" in printed
    found = json.loads(out.read_text())
    assert set(KEYS) <= set(found)
    assert found["unit"] == "ms" and found["method"] == "em"
    assert found["settings"]["seed"] == 5 and found["settings"]["data"] == str(table)
    rates, errors = np.array(found["rates"]), np.array(found["stderr"])
    assert (np.abs(rates - TRUTH) < 4.42 * errors).all() and (errors < 0.1).all()
    page = report.read_text()
    assert page.count("data:image/png;base64") >= 7
    for title in (
        "Warnings",
        "States and rates",
        "Mean first-passage times",
        "Is it a chain?",
        "Dwell times",
        "Hellinger",
    ):
        assert title in page


@pytest.mark.parametrize("method", ["hmm_em", "mle", pytest.param("gibbs", marks=pytest.mark.slow)])
def test_methods(command, table, tmp_path, method):
    code, _, err = command("infer", "jumps", table, "--method", method, "--out", tmp_path / "rates.json")
    found = json.loads((tmp_path / "rates.json").read_text())
    assert code == 0, err
    if method != "mle":  # a grid read as jumps misses those in between
        np.testing.assert_allclose(found["rates"], TRUTH, atol=0.2)
    assert (found["noise_rate"] is not None) == (method == "hmm_em")


def test_signal_is_labelled_or_modelled(command, tmp_path):
    """Levels 0 and 4 with deviation 1; 2000 paths-steps: rates to 4.42 standard errors (about .03 each)."""
    paths = simulate(TRUTH, 200, times=np.linspace(0, 5, 21), seed=4)
    signal = 4 * paths.states + np.random.default_rng(0).standard_normal(paths.states.shape)
    np.savez(tmp_path / "trace.npz", times=paths.times, current=signal)
    given = ("--unit", "ms", "--states", 2, "--out", tmp_path / "rates.json")
    code, _, err = command("infer", "jumps", tmp_path / "trace.npz", "--method", "hmm_em", *given)
    assert code == 0, err
    found = json.loads((tmp_path / "rates.json").read_text())
    np.testing.assert_allclose(found["means"], [0, 4], atol=0.15)  # 1400 values or more each: error .03
    np.testing.assert_allclose(found["rates"], TRUTH, atol=0.2)
    assert command("infer", "jumps", tmp_path / "trace.npz", "--method", "em", "--label", "kmeans", *given)[0] == 0


@pytest.mark.slow
def test_times_of_its_own_for_every_path(command, tmp_path):
    """Irregular times, paths of one observation, every lag different: default method, page without lag tests."""
    noise, rows = np.random.default_rng(0), []
    for k in range(60):
        times = np.sort(20 * noise.random(noise.integers(1, 15)))
        states = simulate(TRUTH, 1, times=times, seed=k).states[0]
        rows += [f"{k},{t:.4f},{'AB'[x]}" for t, x in zip(times, states, strict=True)]
    (tmp_path / "irregular.csv").write_text("path,time [s],state\n" + "\n".join(rows))
    for method in ("fim+em", "hmm_em"):
        words = (tmp_path / "irregular.csv", "--method", method, "--out", tmp_path / "rates.json")
        code, _, err = command("infer", "jumps", *words, "--report", tmp_path / "report.html")
        assert code == 0, err
        found = json.loads((tmp_path / "rates.json").read_text())
        assert found["names"] == ["A", "B"] and any("single observations" in one for one in found["warnings"])
        np.testing.assert_allclose(found["rates"], TRUTH, atol=0.5)  # 400 labels a time scale apart: error about .1
        assert "Not tested" in (tmp_path / "report.html").read_text()


def test_warnings_are_printed(command, tmp_path):
    path = tmp_path / "one.csv"
    path.write_text("time,state\n" + "".join(f"{t},0\n" for t in range(9)))
    code, printed, _ = command(
        "infer", "jumps", path, "--states", 2, "--method", "em", "--out", tmp_path / "rates.json"
    )
    assert code == 0 and "warning: one-state data" in printed
    assert any("one-state data" in w for w in json.loads((tmp_path / "rates.json").read_text())["warnings"])


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("time,state\n0,0\n1,1\n", ("--method", "guess"), "--method: got 'guess'"),
        ("time,state\n0,0\n1,1\n", ("--prior", "strong"), "--prior: got 'strong'"),
        ("time,state\n0,0\n1,1\n", ("--label", "eye"), "--label: got 'eye'"),
        ("time,state\n0,0\n1,1\n", ("--column", "time"), "expected ROLE=NAME"),
        ("time,state\n0,0\n1,1\n", ("--column", "time=a", "--column", "time=b"), "got time twice, as a and b"),
        ("time,state\n0,0\n1,1\n", ("--seed", "-1"), "--seed: got -1, expected 0 to 4294967295"),
        ("time,state\n0,0\n1,1\n", ("--method", "mle", "--cutoff", "1"), "got jumps, which no filter has smoothed"),
        ("time,state\n0,0\n1,1\n", ("--method", "em", "--lag", "7"), "longer than every path"),
        ("time_ms,state\n0,0\n1,1\n", ("--unit", "s"), "mixed time units"),
        ("time,state\n0,0\n1,5\n", ("--states", "2"), "labels outside range"),
        ("time,state\n1,0\n0,1\n", (), "times that do not decrease"),
        ("time,state\n0,1\n1,1\n", ("--method", "em"), "one-state data"),
        ("time,signal\n0,0.1\n1,1.5\n", (), "give their number, e.g. --states 2"),
        ("time,signal\n0,\n1,\n", ("--states", "2"), "all are NaN or empty"),
        ("time,signal\n0,1\n1,1\n2,1\n", ("--states", "2"), "1 distinct values"),
    ],
)
def test_refusals(refused, tmp_path, text, words, expected):
    path = tmp_path / "paths.csv"
    path.write_text(text)
    assert expected in refused("infer", "jumps", path, *words, "--out", tmp_path / "rates.json")
    assert not (tmp_path / "rates.json").exists()


def test_unknown_data(refused):
    assert "neither a file nor one of the sets dfr_V0" in refused("infer", "jumps", "nothing")
    assert "times of hp35 are in ns" in refused("infer", "jumps", "hp35", "--unit", "ps")


@pytest.mark.parametrize(
    ("data", "words", "expected"),
    [
        ("alanine_dipeptide", ("--states", 2), "labels outside range"),
        ("alanine_dipeptide", ("--states", 2, "--method", "em", "--lag", 10), "labels outside range"),
        ("alanine_dipeptide", ("--spacing", 7), "--spacing: got 7.0, but the set alanine_dipeptide has its own times"),
        ("alanine_dipeptide", ("--column", "time=x"), "--column: got ['time=x']"),
        ("dfr_V1", ("--unit", "s"), "times of dfr_V1 have no unit"),
    ],
)
def test_sets_take_no_options_of_files(refused, data_dir, tmp_path, data, words, expected):
    assert expected in refused("infer", "jumps", data, *words, "--out", tmp_path / "rates.json")


def test_damaged_archive(refused, tmp_path):
    np.savez(tmp_path / "a.npz", times=np.arange(9.0), states=np.arange(9) % 2)
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:300])
    said = refused("infer", "jumps", tmp_path / "a.npz", "--out", tmp_path / "rates.json")
    assert f"{tmp_path / 'a.npz'}: not a readable NumPy file" in said


def test_data_are_not_overwritten(refused, table, tmp_path):
    before = table.read_text()
    assert "got one file twice" in refused("infer", "jumps", table, "--out", table)
    page = ("--out", tmp_path / "a", "--report", tmp_path / "a")
    assert "got one file twice" in refused("infer", "jumps", table, *page)
    assert table.read_text() == before


def inferred(command, folder: Path, *words: object) -> dict:
    code, _, err = command("infer", "jumps", *words, "--out", folder / "rates.json", "--report", folder / "report.html")
    assert code == 0, err
    assert (folder / "report.html").stat().st_size > 100_000
    return json.loads((folder / "rates.json").read_text())


@pytest.mark.slow
@pytest.mark.golden
@pytest.mark.parametrize(("lag", "nanoseconds"), [(0.2, 210), (10, 460), (50, 840), (100, 1040)])
def test_folding_time_scale(command, tmp_path, data_dir, lag, nanoseconds):
    """Section 8d: relaxation of HP35 in two states at four lags, within 10 %."""
    found = inferred(command, tmp_path, "hp35_two_state", "--method", "em", "--lag", lag)
    assert found["timescales"][0] == pytest.approx(nanoseconds, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("data", "lag", "scale"), [("hp35_two_state", 10, 460), ("alanine_dipeptide", 10, 22.1)])
def test_default_method_far_from_the_training_of_the_network(command, tmp_path, data_dir, data, lag, scale):
    """Few jumps per window: the network is off by factors, which the data show; the fit must not follow it."""
    found = inferred(command, tmp_path, data, "--lag", lag)
    assert found["timescales"][0] == pytest.approx(scale, rel=0.1)
    assert any(sentence.startswith("network left out") for sentence in found["warnings"])


@pytest.mark.slow
@pytest.mark.golden
@pytest.mark.parametrize(("lag", "picoseconds"), [(0.5, 5.1), (2.5, 14.2), (10, 22.1), (25, 24.2), (50, 25.2)])
def test_alanine_slow_time_scale(command, tmp_path, data_dir, lag, picoseconds):
    """Section 8c: the slow time scale at five lags, within 10 % (the fast one: tests/domains/jumps/test_em.py)."""
    found = inferred(command, tmp_path, "alanine_dipeptide", "--method", "em", "--lag", lag)
    assert found["timescales"][0] == pytest.approx(picoseconds, rel=0.1)


@pytest.mark.slow
@pytest.mark.golden
def test_receptor(command, tmp_path, data_dir):
    """7 openings in 3 s, open .115 % of the time (data folder): rates 7 / T of each state, within 25 % (prior)."""
    words = ("ip3r2", "--method", "em", "--label", "amplitude", "--states", 2)
    found = inferred(command, tmp_path, *words)
    np.testing.assert_allclose(found["stationary"], [0.00115, 0.99885], rtol=0.1)
    np.testing.assert_allclose([found["rates"][0][1], found["rates"][1][0]], [7 / 0.00345, 7 / 2.99655], rtol=0.25)
    modelled = inferred(command, tmp_path, "ip3r2", "--method", "hmm_em", "--states", 2)
    assert 2e-4 < modelled["timescales"][0] < 1e-3  # of the two idealisations within a factor of two


@pytest.mark.slow
def test_porin(command, tmp_path, data_dir):
    """Two levels without overlap: labels and Gaussian emissions agree on the time scale within 10 %."""
    words = ("porb", "--states", 2)
    labelled = inferred(command, tmp_path, *words, "--method", "em")
    modelled = inferred(command, tmp_path, *words, "--method", "hmm_em")
    assert modelled["timescales"][0] == pytest.approx(labelled["timescales"][0], rel=0.1)
