"""`sciflow infer cells`: files, reports, configs, interruption, and every kind of bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("ot")
ROOT = Path(__file__).parents[2]
QUICK = ("--reference", "ou", "--sigma", 0.5, "--dt", 0.1, "--rounds", 2, "--num", 6)


@pytest.fixture
def table() -> anndata.AnnData:
    """20 cells at days 1, 2, 4, rank-two genes, as scanpy leaves them."""
    random = np.random.default_rng(0)
    days = np.repeat([1, 2, 4], 20)
    scores = random.normal(0, 0.3, (60, 2)) + days[:, None] * [2.0, 1.0]
    genes = 5 + scores @ random.normal(size=(2, 4))
    loadings = np.linalg.svd(genes - genes.mean(0), full_matrices=False)[2][:2].T
    obs = pd.DataFrame(
        {"day": pd.Categorical([f"day {d}" for d in days])}, index=pd.Index([f"c{i}" for i in range(60)])
    )
    adata = anndata.AnnData(genes, obs=obs)
    adata.var_names = ["g0", "g1", "g2", "g3"]
    adata.obsm["X_pca"], adata.varm["PCs"] = (genes - genes.mean(0)) @ loadings, loadings
    adata.obs["kind"] = np.where(scores[:, 1] > 4, "up", "down")
    return adata


@pytest.fixture
def data(table, tmp_path) -> Path:
    table.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def words(data, out, *more):
    return ("infer", "cells", data, "--time-key", "day", *QUICK, "--out", out, *more)


def test_everything_is_written(command, data, tmp_path):
    out, page, paths = tmp_path / "o.h5ad", tmp_path / "r.html", tmp_path / "p.npz"
    more = ("--holdout", "2", "--report", page, "--trajectories", paths, "--fates", "kind", "--genes", "g1,g3")
    code, printed, err = command(*words(data, out, *more))
    assert code == 0, err
    assert "bridge, OU" in printed and "sampling floor" in printed and "static entropic OT + Brownian" in printed
    with np.load(paths) as archive:
        found = dict(archive)
    assert found["paths"].shape == (6, len(found["times"]), 2) and found["times"][[0, -1]].tolist() == [1, 4]
    assert found["theta"].shape == found["theta_stderr"].shape == (3,) and (found["theta_stderr"] > 0).all()
    assert found["theta_names"].tolist() == ["rate", "pull.0", "pull.1"] and found["heldout_times"].tolist() == [2]
    assert found["heldout_w1"].shape == found["heldout_w2"].shape == (1,)
    assert 0 < found["heldout_w1"][0] <= found["heldout_w2"][0]
    kept = anndata.read_h5ad(out)
    assert np.array_equal(kept.uns["sciflow"]["theta"], found["theta"]) and "day" in kept.obs
    assert {"sciflow_velocity", "sciflow_fate", "X_pca"} <= set(kept.obsm) and "sciflow_velocity" in kept.layers
    side = json.loads((tmp_path / "o.h5ad.json").read_text())
    assert side["scores"]["w1"]["bridge"] == found["heldout_w1"].tolist() and side["seed"] == 0
    assert len(side["objective"]) == 3 and side["theta"]["rate"] == found["theta"][0]
    text = page.read_text()
    assert text.count("data:image/png") == 5 and "genes along the trajectories" in text and "fate up" in text
    assert not (tmp_path / "o.h5ad.parts").exists()


def test_a_saved_config_repeats_the_run_and_the_command_line_beats_it(command, data, tmp_path):
    first, second, third = (tmp_path / f"{name}.npz" for name in "abc")
    assert command(*words(data, tmp_path / "a.h5ad", "--trajectories", first))[0] == 0
    config = tmp_path / "a.h5ad.yaml"
    again = ("infer", "cells", "--config", config, "--out", tmp_path / "b.h5ad")
    assert command(*again, "--trajectories", second)[0] == 0
    assert command(*again, "--trajectories", third, "--seed", 1)[0] == 0
    paths = [np.load(one)["paths"] for one in (first, second, third)]
    assert np.array_equal(paths[0], paths[1]) and not np.array_equal(paths[0], paths[2])


def test_npz_and_sets_by_name(command, tmp_path, data_dir):
    random = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", X0=random.normal(size=(9, 2)), X1=random.normal(size=(8, 2)) + 1, times=[0, 2])
    code, printed, err = command("infer", "cells", tmp_path / "a.npz", "--rounds", 1, "--out", tmp_path / "a.h5ad")
    assert code == 0, err
    adata = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert adata.obs["time"].tolist() == [0] * 9 + [2] * 8 and adata.obsm["X_cells"].shape == (17, 2)
    code, printed, err = command(
        *("infer", "cells", "lv_published", "--holdout", "published", "--rounds", 1, "--dt", 0.2, "--num", 3),
        *("--out", tmp_path / "b.h5ad"),
    )
    assert code == 0, err
    assert "alpha" in printed and "truth" in printed and "bridge, LotkaVolterra" in printed


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--time-key", "age"), "no time key 'age' in obs; columns of obs: day, kind"),
        (("--basis", "X_umap"), "no basis 'X_umap' in obsm; keys of obsm: X_pca"),
        (("--sigma", "0"), "--sigma: got 0.0, expected a finite number > 0"),
        (("--sigma", "-1"), "--sigma"),
        (("--holdout", "3"), "no snapshot is there; the snapshots are at 1, 2, 4"),
        (("--holdout", "4"), "first or last"),
        (("--holdout", "two"), "--holdout: got 'two'"),
        (("--reference", "magic"), "expected brownian, ou"),
        (("--engine", "magic"), "expected one of kernel_bridge"),
        (("--fates", "type"), "no column 'type' in obs; columns of obs: day, kind"),
        (("--genes", "Sox2"), "genes: Sox2 not found"),
        (("--growth", "births"), "expected 'estimate' or a column of obs"),
        (("--rounds", "-1"), "--rounds"),
        (("--bootstrap", "1"), "--bootstrap: got 1, expected 0 (none) or at least 2"),
        (("--reference", "math:sin"), "reference: the drift fails (TypeError"),
        (("--reference", "torch:outer"), "reference: the drift fails"),
        (("--report", "r.txt"), "ends in .html"),
    ],
)
def test_bad_options_are_named(refused, data, tmp_path, more, expected):
    assert expected in refused(*words(data, tmp_path / "o.h5ad", *more))
    assert not (tmp_path / "o.h5ad").exists()


def spoilt(table, kind):
    if kind == "nan":
        table.obsm["X_pca"][3, 1] = np.nan
    if kind == "duplicate":
        table.obsm["X_pca"][4] = table.obsm["X_pca"][3]
    if kind == "few":
        table = table[:41].copy()
    if kind == "words":
        table.obs["day"] = np.repeat(["early", "middle", "late"], 20)
    if kind == "missing":
        table.obs["day"] = np.where(np.arange(60) < 5, np.nan, np.repeat([1.0, 2, 4], 20))
    return table


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("nan", "obsm['X_pca']: 1 of 60 cells hold NaN or infinity, the first is 'c3'"),
        ("duplicate", "1 cells at time 1 are duplicates (equal coordinates), e.g. 'c3' and 'c4'"),
        ("duplicate", "(CLI: --duplicates drop)"),
        ("few", "time 4 has 1 cell, expected at least 2; cells at each time: 1: 20, 2: 20, 4: 1"),
        ("words", "obs['day']: the time 'early' is not a number"),
        ("missing", "obs['day']: 5 of 60 cells have no time (NaN)"),
    ],
)
def test_bad_cells_are_named(refused, table, tmp_path, kind, expected):
    spoilt(table, kind).write_h5ad(tmp_path / "bad.h5ad")
    assert expected in refused(*words(tmp_path / "bad.h5ad", tmp_path / "o.h5ad"))


def test_missing_words(refused, data, tmp_path):
    assert "DATA is missing" in refused("infer", "cells", "--out", tmp_path / "o.h5ad")
    assert "--out is missing" in refused("infer", "cells", data, "--time-key", "day")
    assert "--time-key is missing; columns of obs: day" in refused("infer", "cells", data, "--out", tmp_path / "o.h5ad")
    absent = refused("infer", "cells", tmp_path / "none.h5ad", "--out", tmp_path / "o.h5ad")
    assert "no such file; expected an .h5ad or .npz file or a set: eb_pca5" in absent
    (tmp_path / "c.yaml").write_text("sigmas: 2\n")
    assert "unknown options sigmas" in refused("infer", "cells", "--config", tmp_path / "c.yaml")


def test_the_data_are_not_overwritten(refused, data):
    before = data.read_bytes()
    assert "--out: got DATA itself" in refused(*words(data, data, "--cells-per-time", 5))
    assert data.read_bytes() == before


@pytest.mark.slow
def test_a_killed_run_goes_on(command, tmp_path, data_dir):
    """SIGKILL once a round is on disk: the next call starts there and ends with the numbers of a whole run."""
    options = ("infer", "cells", "lv_published", "--holdout", "published", "--rounds", "4", "--num", "3")
    out = tmp_path / "a.h5ad"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        [sys.executable, "-m", "sciflow", *options, "--out", str(out)], env=environment, stdout=subprocess.DEVNULL
    )
    kept, limit = Path(f"{out}.parts") / "rounds.safetensors", time.monotonic() + 120
    while not kept.exists() and running.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert kept.exists() and not out.exists(), "the run was over before it could be killed"
    code, printed, err = command(*options, "--out", out)
    assert code == 0 and "resuming" in printed, err
    assert command(*options, "--out", tmp_path / "b.h5ad")[0] == 0
    a, b = (anndata.read_h5ad(one).uns["sciflow"] for one in (out, tmp_path / "b.h5ad"))
    assert np.array_equal(a["theta_history"], b["theta_history"]) and np.array_equal(a["objective"], b["objective"])
    assert np.array_equal(a["trajectories"]["paths"], b["trajectories"]["paths"]) and not kept.exists()
