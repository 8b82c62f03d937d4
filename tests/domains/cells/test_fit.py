"""`sciflow.cells`: fits, what is stored, h5ad and back, interruption, and what follows from a fit."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import torch

from sciflow.core.errors import UserError
from sciflow.domains.cells.adata import dense

pytest.importorskip("ot")
cells = pytest.importorskip("sciflow.cells")

QUICK = {"reference": "ou", "sigma": 0.5, "dt": 0.1, "rounds": 3, "tolerance": 0.0}


def blobs(n: int) -> list[np.ndarray]:
    """Clouds that move along (2, 1) per time unit, at times 0, 1, 2."""
    random = np.random.default_rng(0)
    return [random.normal(0, 0.3, (n, 2)) + np.array([2.0, 1.0]) * time for time in range(3)]


@pytest.fixture
def fit(genes_adata):
    return cells.bridge(genes_adata, time_key="day", holdout=[1], **QUICK)


def test_arrays_and_adata_give_the_same_fit(genes_adata, fit):
    points = [genes_adata.obsm["X_pca"][25 * k : 25 * k + 25] for k in range(3)]
    other = cells.bridge(points, holdout=[1], **QUICK)
    assert other.theta == fit.theta and list(other.theta) == ["rate", "pull.0", "pull.1"]
    assert np.array_equal(other.bridge.objective, fit.bridge.objective) and len(fit.bridge.objective) == 4
    # the objective falls (but for the Monte Carlo error of the theta-step)
    assert fit.bridge.objective[-1] < fit.bridge.objective[0]
    assert np.allclose(fit.bridge.coupling(0).sum(1), 1 / 25, atol=1e-6)


def test_whole_and_numpy_numbers_are_restored():
    fit = cells.bridge(blobs(10), reference="ou", sigma=1, dt=np.float32(0.5), rounds=np.int64(1), seed=np.int64(2))
    assert cells.restore(fit.adata).theta == fit.theta


def test_results_survive_h5ad(fit, tmp_path):
    cells.trajectories(fit, n=7)
    cells.evaluate(fit, n=60)  # keeps the trajectories
    cells.velocity(fit)
    cells.fate(fit, "kind")
    fit.adata.write_h5ad(tmp_path / "fit.h5ad")
    back = anndata.read_h5ad(tmp_path / "fit.h5ad")
    kept = back.uns["sciflow"]
    assert kept["theta"].tolist() == list(fit.theta.values()) and kept["theta_names"].tolist() == list(fit.theta)
    assert kept["params"]["time_key"] == "day" and kept["params"]["reference"] == "OU"
    assert np.array_equal(kept["objective"], fit.bridge.objective)
    assert set(kept["scores"]["w1"]) >= {"bridge", "vanilla bridge", "sampling floor"}
    assert kept["trajectories"]["paths"].shape[0] == 7 and back.obsm["sciflow_fate"].shape == (75, 2)
    assert back.obs["sciflow_time"].tolist() == [0.0] * 25 + [1.0] * 25 + [2.0] * 25
    assert back.obs["sciflow_heldout"].sum() == 25 and list(back.obs["day"].cat.categories)[0] == "day 0"
    again = cells.restore(back)
    assert again.theta == fit.theta
    assert np.array_equal(again.bridge.sample(9, [0.5, 1.5], 3), fit.bridge.sample(9, [0.5, 1.5], 3))
    assert "scores" in back.uns["sciflow"]  # restoring keeps what was derived
    assert np.array_equal(cells.trajectories(back, n=7).paths, kept["trajectories"]["paths"])


def test_coupling_for_cellrank(fit):
    matrix = fit.adata.obsp["sciflow_coupling"]
    assert np.allclose(np.asarray(matrix.sum(1)).ravel(), 1)
    law = fit.bridge.coupling(0)
    expected = law / law.sum(1, keepdims=True)
    assert np.abs(matrix[:25, 50:].toarray() - expected).max() < 1e-5
    assert (matrix[25:].toarray() == np.eye(75)[25:]).all()  # held-out and last cells stay


def test_an_interrupted_fit_goes_on(genes_adata, fit, tmp_path):
    fresh = genes_adata.copy()
    del fresh.uns["sciflow"]  # else it would go on from what the cells hold

    class Stop(Exception):
        pass

    def stop(stage, done):
        if done > 0.5:
            raise Stop

    with pytest.raises(Stop):
        cells.bridge(fresh.copy(), time_key="day", holdout=[1], **QUICK, folder=tmp_path, progress=stop)
    assert (tmp_path / "rounds.safetensors").exists()
    told = []
    again = cells.bridge(
        fresh.copy(), time_key="day", holdout=[1], **QUICK, folder=tmp_path, progress=lambda s, d: told.append(d)
    )
    assert again.theta == fit.theta and np.array_equal(again.bridge.objective, fit.bridge.objective)
    assert told == [1.0, 1.0]  # one round was left
    with pytest.raises(UserError, match="other data or settings"):
        cells.bridge(fresh, time_key="day", **{**QUICK, "sigma": 0.4}, folder=tmp_path)


def test_more_rounds_go_on_from_what_adata_holds(fit):
    first = np.array(fit.bridge.objective)
    told = []
    more = cells.bridge(
        fit.adata, time_key="day", holdout=[1], **{**QUICK, "rounds": 5}, progress=lambda s, d: told.append(d)
    )
    assert np.array_equal(more.bridge.objective[:4], first) and len(more.bridge.objective) == 6
    assert len(told) == 3  # two new rounds and the end


def test_vanilla_reference_has_no_parameters(genes_adata):
    fit = cells.evaluate(cells.bridge(genes_adata, time_key="day", holdout=[1], sigma=0.5, dt=0.1), n=60)
    assert fit.theta == {} and len(fit.bridge.objective) == 1
    assert set(fit.scores.w1) == {
        "bridge",
        "static entropic OT + Brownian bridge",
        "exact OT, linear interpolation",
        "sampling floor",
    }
    # the Brownian bridge of engine B and that of POT are one law: 60 draws of a cloud of width 0.5 differ by about 0.1
    assert abs(fit.scores.w1["bridge"][0] - fit.scores.w1["static entropic OT + Brownian bridge"][0]) < 0.3


def test_paths_pass_through_cells_and_held_out_times_are_free(fit):
    made = cells.trajectories(fit, n=30, times=[0, 0.5, 1, 2])
    starts = {tuple(row) for row in fit.cells.points[0]}
    assert all(tuple(row) in starts for row in made.paths[:, 0])
    assert not any(tuple(row) in {tuple(r) for r in fit.cells.points[1]} for row in made.paths[:, 2])
    with pytest.raises(UserError, match="times"):
        cells.trajectories(fit, times=[0, 5])
    with pytest.raises(UserError, match="n = 0"):
        cells.trajectories(fit, n=0)


def test_velocity_points_where_the_cells_go(fit):
    drift = cells.velocity(fit)
    move = fit.cells.points[2].mean(0) - fit.cells.points[0].mean(0)
    for rows in fit.cells.rows:
        mean = drift[rows].mean(0)
        assert mean @ move / np.linalg.norm(mean) / np.linalg.norm(move) > 0.95
        assert np.linalg.norm(mean) == pytest.approx(np.linalg.norm(move) / 2, rel=0.3)
    genes = fit.adata.layers["sciflow_velocity"]
    assert np.allclose(genes, drift @ fit.adata.varm["PCs"].T, atol=1e-5)
    reference = cells.velocity(fit, of="reference")
    rate, pull = fit.theta["rate"], np.array([fit.theta["pull.0"], fit.theta["pull.1"]])
    assert np.allclose(reference, -rate * fit.adata.obsm["X_pca"] + pull)
    with pytest.raises(UserError, match="'bridge' or 'reference'"):
        cells.velocity(fit, of="both")


def test_too_many_genes_are_not_decoded(fit, monkeypatch):
    monkeypatch.setattr("sciflow.cells.analysis.MOST_DECODED", fit.adata.n_obs * fit.adata.n_vars - 1)
    assert np.isfinite(cells.velocity(fit)).all() and "sciflow_velocity" not in fit.adata.layers


def test_fates_are_products_of_couplings(genes_adata):
    fit = cells.bridge(genes_adata, time_key="day", **QUICK)
    found = cells.fate(fit, "kind")
    up = (genes_adata.obs["kind"].to_numpy()[50:] == "up").astype(float)
    laws = [one / one.sum(1, keepdims=True) for one in (fit.bridge.coupling(0), fit.bridge.coupling(1))]
    column = list(genes_adata.uns["sciflow"]["fates"]).index("up")
    assert np.allclose(found[50:, column], up) and np.allclose(found[25:50, column], laws[1] @ up)
    assert np.allclose(found[:25, column], laws[0] @ laws[1] @ up) and np.allclose(found.sum(1), 1)
    with pytest.raises(UserError, match="no column 'type' in obs; columns of obs: day, kind"):
        cells.fate(fit, "type")
    with pytest.raises(UserError, match="got 3 labels, expected one for each of 25"):
        cells.fate(fit, ["a", "b", "c"])


def test_gene_trends_follow_the_genes(fit):
    trends = cells.gene_trends(fit, ["g1", "g4"], n=50)
    paths = fit.adata.uns["sciflow"]["trajectories"]["paths"]
    table, loadings = fit.adata.X, fit.adata.varm["PCs"]
    expected = table[:, 4].mean() + paths[:, -1] @ loadings[4]
    assert trends.mean[1, -1] == pytest.approx(expected.mean()) and trends.genes == ("g1", "g4")
    assert (trends.low <= trends.mean).all() and (trends.mean <= trends.high).all()
    # rank two: at the last time paths end at cells, so decoded values are the cells' own
    assert np.isin(np.round(expected, 8), np.round(table[50:, 4], 8)).all()


def test_growth_gives_weights(genes_adata):
    genes_adata.obs["rate"] = np.where(genes_adata.obs["kind"] == "up", 1.0, 0.0)
    fit = cells.bridge(genes_adata, time_key="day", growth="rate", **QUICK)
    weight, rate = (fit.adata.obs[f"sciflow_{name}"].to_numpy() for name in ("weight", "growth"))
    up = (genes_adata.obs["kind"] == "up").to_numpy()
    assert np.isfinite(weight).all() and weight[:25].sum() == pytest.approx(1)
    assert np.isfinite(rate[:50]).all() and np.isnan(rate[50:]).all()
    assert rate[:25][up[:25]].mean() > rate[:25][~up[:25]].mean() + 0.9  # as given: 1 against 0
    assert np.allclose(fit.bridge.coupling(0).sum(1), weight[:25], atol=1e-6)
    made = cells.trajectories(fit, n=40)
    assert made.weights.shape == made.paths.shape[:2] and np.allclose(made.weights.sum(0), 1)
    estimated = cells.bridge(genes_adata, time_key="day", growth="estimate", **QUICK)
    assert estimated.growth is not None and estimated.theta != fit.theta
    with pytest.raises(UserError, match="expected 'estimate' or a column of obs"):
        cells.bridge(genes_adata, time_key="day", growth="divisions", **QUICK)
    cells.bridge(genes_adata, time_key="day", **QUICK)  # without growth: nothing of the fits before is left
    assert not {"sciflow_weight", "sciflow_growth"} & set(genes_adata.obs)


def test_references_of_all_kinds():
    points = blobs(n=12)
    given = cells.bridge(points, reference=lambda x, t: torch.ones_like(x), sigma=0.5, dt=0.25, rounds=1)
    assert given.theta == {}
    with pytest.raises(UserError, match="Python function"):
        cells.restore(given.adata)
    assert np.allclose(cells.velocity(given, of="reference"), 1)
    spring = {"class_path": "sciflow.networks.references.Spring", "init_args": {"h": 0.2}}
    assert set(cells.bridge(points, reference=spring, sigma=0.5, dt=0.25, rounds=1).theta) == {"h"}
    with pytest.raises(UserError, match="reference: got 'magic', expected brownian, ou"):
        cells.bridge(points, reference="magic")
    with pytest.raises(UserError, match="module:function"):
        cells.bridge(points, reference="nowhere:drift")
    with pytest.raises(UserError, match="dimension 3"):
        cells.bridge(points, reference="repressilator", sigma=0.5)
    with pytest.raises(UserError, match="engine: got 'magic', expected one of kernel_bridge"):
        cells.bridge(points, engine="magic")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigma": 0.0}, "sigma: got 0, expected a finite number > 0"),
        ({"sigma": -1.0}, "sigma"),
        ({"dt": 0.0}, "dt"),
        ({"rounds": -1}, "rounds"),
        ({"holdout": [7]}, "no snapshot is there; the snapshots are at 0, 1, 2"),
        ({"holdout": [2]}, "first or last"),
        ({"holdout": "published"}, "no published split"),
        ({"holdout": "1,2"}, r"holdout: got '1,2', expected times such as \[2, 4\]"),
        ({"reference": lambda x, t: x[:1]}, r"drift of x \(3, 2\) is torch.float64 \(1, 2\); expected f\(x, t\)"),
        ({"reference": lambda x, t: x * t[:, None]}, "the drift fails"),
        ({"reference": lambda x, t: torch.from_numpy(x.numpy())}, "the drift has no derivative"),
    ],
)
def test_bad_settings_are_named(options, words):
    with pytest.raises(UserError, match=words):
        cells.bridge(blobs(n=10), **{"sigma": 0.5, "dt": 0.2, **options})


def test_bad_data_is_named(genes_adata):
    with pytest.raises(UserError, match="time_key is missing; columns of obs: day, kind"):
        cells.bridge(genes_adata)
    with pytest.raises(UserError, match="got int"):
        cells.bridge(3)
    with pytest.raises(UserError, match=r"no fit in uns\['sciflow'\]"):
        cells.trajectories(genes_adata)


def test_real_cells_in_genes(data_dir):
    """250 cells of reprogramming, 1,479 genes: components by scikit-learn, a bridge, genes decoded from them."""
    from sklearn.decomposition import PCA

    adata = anndata.read_h5ad(data_dir / "singlecell" / "reprogramming_250.h5ad")
    table = dense(adata.X)
    pca = PCA(10, random_state=0).fit(table)
    loadings = np.asarray(pca.components_)
    adata.obsm["X_pca"], adata.varm["PCs"] = pca.transform(table), loadings.T
    fit = cells.evaluate(cells.bridge(adata, time_key="day", holdout=[10.5], dt=0.1), n=100)
    assert fit.cells.times.tolist() == [10, 10.5, 11] and fit.cells.decoder is not None
    gene = adata.var_names[int(np.argmax(np.abs(loadings[0])))]
    trends = cells.gene_trends(fit, [gene], n=60)
    early = pca.inverse_transform(fit.cells.points[0])[:, adata.var_names.get_loc(gene)]
    # the first points of 60 paths are cells, drawn with equal weights: standard error of the mean, 4.42 of them
    assert abs(trends.mean[0, 0] - early.mean()) < 4.42 * early.std() / np.sqrt(60)
    assert fit.scores.w1["bridge"][0] < 3 * fit.scores.w1["sampling floor"][0]


def test_pictures(fit, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    figure = pytest.importorskip("matplotlib.figure").Figure()
    fit.adata.obsm["X_umap"] = fit.adata.obsm["X_pca"] @ [[0.0, 1], [1, 0]]
    for missing in (cells.pl.trajectories, cells.pl.velocity, cells.pl.fate):
        with pytest.raises(UserError, match="call sciflow.cells"):
            missing(fit, ax=figure.add_subplot())
    cells.trajectories(fit, n=5)
    cells.velocity(fit)
    cells.fate(fit, "kind")
    trends = cells.gene_trends(fit, ["g1"], n=5)
    axes = cells.pl.trajectories(fit.adata, ax=figure.add_subplot(), save=tmp_path / "t.png")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    assert len(axes.collections[1].get_segments()) == 5 * (len(trends.times) - 1) and axes.get_xlabel() == "pca1"
    axes = cells.pl.trajectories(fit, basis="umap", ax=figure.add_subplot())
    # the other embedding swaps the axes, so placed points lie near the swapped ones
    first = axes.collections[1].get_segments()[0][0]
    assert np.abs(first - fit.adata.uns["sciflow"]["trajectories"]["paths"][0, 0, ::-1]).max() < 0.5
    assert cells.pl.velocity(fit, basis="umap", ax=figure.add_subplot()).get_xlabel() == "umap1"
    assert cells.pl.fate(fit, "up", ax=figure.add_subplot()).collections[1].get_array().max() <= 1
    assert cells.pl.gene_trends(trends, ax=figure.add_subplot()).get_ylabel() == "expression"
    for call, words in (
        (lambda: cells.pl.fate(fit, "sideways", ax=figure.add_subplot()), "expected one of down, up"),
        (lambda: cells.pl.velocity(fit, dims=(0, 5), ax=figure.add_subplot()), "columns 0 to 1"),
        (lambda: cells.pl.velocity(fit, basis="X_tsne", ax=figure.add_subplot()), "keys of obsm"),
        (lambda: cells.pl.gene_trends(trends, ["g9"], ax=figure.add_subplot()), "expected one of g1"),
    ):
        with pytest.raises(UserError, match=words):
            call()


def test_bootstrap_is_kept_with_the_cells(genes_adata, fit):
    lower = dict(fit.theta_stderr)
    fit = cells.bootstrap(fit, 4, rounds=1)
    kept = fit.adata.uns["sciflow"]["theta_bootstrap"]
    assert kept.shape == (4, 3) and list(fit.theta_stderr.values()) == pytest.approx(kept.std(0, ddof=1))
    assert fit.theta_stderr != lower and min(fit.theta_stderr.values()) > 0
    assert cells.restore(genes_adata).theta_stderr == fit.theta_stderr  # the same problem: it stays
    other = cells.bridge(genes_adata, time_key="day", holdout=[1], **{**QUICK, "sigma": 0.6})
    assert "theta_bootstrap" not in genes_adata.uns["sciflow"] and other.theta_stderr.keys() == lower.keys()
    with pytest.raises(UserError, match="got 1 replicates"):
        cells.bootstrap(other, 1)
