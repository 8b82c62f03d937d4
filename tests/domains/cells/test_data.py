"""Reading cells: times of all kinds, files, AnnData, sets, and every kind of bad input."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest

from sciflow.core.errors import UserError
from sciflow.data import DATASETS
from sciflow.data.cells import CELL_CARDS
from sciflow.domains.cells.adata import from_adata, to_adata
from sciflow.domains.cells.data import Cells, numeric_times
from sciflow.domains.cells.files import from_arrays, read_h5ad, read_npz, read_tigon
from sciflow.domains.cells.sets import _embryoid, _endoderm, read_cells

random = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([0, 2], np.int32), [0, 2]),
        (pd.Series(pd.Categorical([10.5, 2.0])).to_numpy(), [10.5, 2]),
        (["3", "5.5"], [3, 5.5]),
        (["day 3", "day 10"], [3, 10]),
        (["D0", "D10.5"], [0, 10.5]),
        (["day-3", "day-10"], [3, 10]),
        (["12h", "72h"], [12, 72]),
        (["-1", "2"], [-1, 2]),
        (["1e-3", "2"], [1e-3, 2]),
    ],
)
def test_times_that_are_unambiguous(labels, expected):
    assert numeric_times(labels, "obs['day']").tolist() == expected


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["early", "late"], "'early' is not a number"),
        (["Day 00-03", "Day 06-09"], "is not a number"),
        (["12h", "3d"], "different units"),
        (["day 3", "Day 03"], "same number"),
        ([0.0, np.nan], "1 of 2 cells have no time"),
        (["day 1", None, None], "2 of 3 cells have no time"),
        (np.array(["2020-01-01"], "datetime64[D]"), "datetime64"),
        ([True, False], "bool"),
    ],
)
def test_times_that_are_not(labels, words):
    with pytest.raises(UserError, match=words) as error:
        numeric_times(labels, "obs['day']")
    assert "obs['day']" in str(error.value)


def test_arrays_keep_their_rows():
    made = [random.normal(size=(3, 2)), random.normal(size=(4, 2))]
    cells = from_arrays(made, ["day 5", "day 1"], "arrays")
    assert cells.times.tolist() == [1, 5] and cells.rows[0].tolist() == [3, 4, 5, 6]
    assert np.array_equal(cells.points[1], made[0]) and cells.count == 7
    few = cells.subset(2, seed=1)
    assert [len(one) for one in few.points] == [2, 2]
    assert np.array_equal(few.points[0], np.concatenate(made)[few.rows[0]])
    adata = to_adata(cells)
    assert np.array_equal(adata.obsm["X_cells"], np.concatenate(made))
    assert adata.obs["time"].tolist() == [5] * 3 + [1] * 4


def test_duplicates_are_refused_kept_or_dropped():
    table = np.array([[0.0, 1], [2, 3], [0, 1], [5, 6], [0, 1]])
    times = np.array([0.0, 0, 0, 1, 1])  # the last copy is at another time: not a duplicate
    with pytest.raises(UserError, match="1 cells at time 0 are duplicates .*row 0 and row 2"):
        Cells.of(table, times, source="toy")
    dropped = Cells.of(table, times, source="toy", duplicates="drop")
    assert dropped.rows[0].tolist() == [0, 1] and dropped.notes == ("time 0: 1 duplicate cells dropped",)
    assert Cells.of(table, times, source="toy", duplicates="keep").rows[0].tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="error, keep, drop"):
        Cells.of(table, times, source="toy", duplicates="some")


@pytest.mark.parametrize(
    ("table", "times", "words"),
    [
        (np.array([[0.0, np.nan], [1, 2], [3, 4], [5, 6]]), [0, 0, 1, 1], "1 of 4 cells hold NaN or infinity.*row 0"),
        (np.arange(8.0).reshape(4, 2), [0, 0, 0, 1], "time 1 has 1 cell.*0: 3, 1: 1"),
        (np.arange(8.0).reshape(4, 2), [0, 0, 0, 0], "at least 2 different times"),
        (np.arange(4.0), [0, 0, 1, 1], "shape"),
        (np.array([["a", "b"]] * 4), [0, 0, 1, 1], "not numbers"),
    ],
)
def test_cells_that_cannot_be_used(table, times, words):
    with pytest.raises(UserError, match=words):
        Cells.of(table, np.array(times, float), source="toy")


def test_adata_errors_name_the_key_and_what_exists(genes_adata):
    with pytest.raises(UserError, match="no time key 'age' in obs; columns of obs: day, kind"):
        from_adata(genes_adata, "age")
    with pytest.raises(UserError, match="no basis 'X_umap' in obsm; keys of obsm: X_pca"):
        from_adata(genes_adata, "day", "X_umap")
    with pytest.raises(UserError, match=r"obs\['kind'\]: the time 'up' is not a number|'down' is not a number"):
        from_adata(genes_adata, "kind")
    spoilt = genes_adata.copy()
    spoilt.obsm["X_pca"][7, 0] = np.nan
    with pytest.raises(UserError, match=r"obsm\['X_pca'\]: 1 of 75 cells hold NaN.*'c7'"):
        from_adata(spoilt, "day")
    spoilt = genes_adata.copy()
    spoilt.obsm["X_pca"][8] = spoilt.obsm["X_pca"][7]
    with pytest.raises(UserError, match="'c7' and 'c8'"):
        from_adata(spoilt, "day")
    spoilt = genes_adata.copy()
    spoilt.obs_names = ["c0"] * 2 + list(genes_adata.obs_names[2:])
    with pytest.raises(UserError, match="names of cells occur twice, e.g. 'c0'"):
        from_adata(spoilt, "day")


def test_adata_is_read_and_decoded(genes_adata):
    cells = from_adata(genes_adata, "day", "pca")
    assert cells.times.tolist() == [0, 1, 2] and cells.names == ("pca1", "pca2")
    assert np.array_equal(cells.points[1], genes_adata.obsm["X_pca"][25:50])
    assert cells.decoder is not None
    # two components of a table of rank two: decoding is exact
    assert np.allclose(cells.decoder.expression(cells.points[1]), genes_adata.X[25:50], atol=1e-10)
    assert np.allclose(cells.decoder.expression(cells.points[1], ["g4"])[:, 0], genes_adata.X[25:50, 4], atol=1e-10)
    with pytest.raises(UserError, match="genes: Sox2 not found; there are 6 genes: g0"):
        cells.decoder.expression(cells.points[1], ["Sox2"])
    other = genes_adata.copy()
    other.X = other.X**2
    cells = from_adata(other, "day")
    assert cells.decoder is None and "no genes" in cells.notes[0]


def test_npz_and_what_is_not_one(tmp_path):
    np.savez(tmp_path / "a.npz", X0=np.eye(3), X1=np.ones((2, 3)) * [[1], [2]], times=[0, 24], heldout_idx=[1])
    cells = read_npz(tmp_path / "a.npz")
    assert cells.times.tolist() == [0, 24] and cells.facts == {"heldout": [24.0]} and cells.source == "a.npz"
    np.savez(tmp_path / "b.npz", points=np.eye(3))
    with pytest.raises(UserError, match="got the arrays points, expected X0, X1"):
        read_npz(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", X0=np.eye(3), X1=np.ones((1, 3)), times=[0, 1])
    with pytest.raises(UserError, match="time 1 has fewer than 2 cells"):
        read_npz(tmp_path / "c.npz")
    (tmp_path / "d.npz").write_text("nothing")
    with pytest.raises(UserError, match="cannot be read"):
        read_npz(tmp_path / "d.npz")
    (tmp_path / "e.h5ad").write_text("nothing")
    with pytest.raises(UserError, match="cannot be read as h5ad"):
        read_h5ad(tmp_path / "e.h5ad")
    with pytest.raises(UserError, match=r"ending '\.csv'"):
        (tmp_path / "f.csv").write_text("1,2")
        read_cells(tmp_path / "f.csv")


def test_tigon_files_hold_arrays_and_nothing_else(tmp_path):
    table = np.empty((1, 2), object)
    table[0, 0], table[0, 1] = np.eye(3), np.ones((4, 3))
    np.save(tmp_path / "good.npy", table, allow_pickle=True)
    assert [one.shape for one in read_tigon(tmp_path / "good.npy")] == [(3, 3), (4, 3)]

    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    table[0, 0] = Attack()
    np.save(tmp_path / "bad.npy", table, allow_pickle=True)
    with pytest.raises(UserError, match="is not an array"):
        read_tigon(tmp_path / "bad.npy")
    assert not (tmp_path / "made").exists()


def test_full_sets_are_prepared_as_published(tmp_path):
    np.savez(tmp_path / "eb.npz", pcs=random.normal(3, 2, (50, 8)), sample_labels=np.arange(50) % 5)
    cells = _embryoid(tmp_path / "eb.npz")
    joined = np.concatenate(cells.points)
    assert cells.dimension == 5 and np.allclose(joined.mean(0), 0) and np.allclose(joined.std(0), 1)
    hours = ["00", "12", "24", "96"]
    names = [f"H9.{hour}h_{i:03d}" for hour in hours for i in range(12)]
    counts = pd.DataFrame(
        random.poisson(3, (150, 48)), index=pd.Index([f"g{i}" for i in range(150)]), columns=pd.Index(names)
    )
    counts.to_csv(tmp_path / "hesc.csv.gz")
    cells = _endoderm(tmp_path / "hesc.csv.gz")
    assert cells.times.tolist() == [0, 12, 24] and cells.dimension == 5 and cells.count == 36  # 96 h is left out


def test_cards_and_stored_sets(data_dir):
    for card in CELL_CARDS:
        assert DATASETS[card.name] is card and (card.local or card.url)
        if card.local:
            file = data_dir / card.local
            assert hashlib.sha256(file.read_bytes()).hexdigest() == card.sha256, card.name
    cells, adata = read_cells("lv_published")
    assert adata is None and cells.count == 450 and cells.facts["heldout"] == [1, 3, 5, 7]
    cells, _ = read_cells(data_dir / "singlecell" / "eb_pca5.npz")  # by path too: its copies are as published
    assert cells.count == 1500 and cells.notes[0] == "time 0: 19 duplicate cells kept"
    with pytest.raises(UserError, match="keys of obsm: none"):
        read_cells("reprogramming_250", "day")
    with pytest.raises(UserError, match="--time-key is missing; columns of obs: day, cell_type, batch"):
        read_cells("reprogramming_250")
