"""AnnData in and out: coordinates and times of cells, and results under keys that begin with `sciflow`.

| key | content |
|---|---|
| `obs["sciflow_time"]` | time as a number |
| `obs["sciflow_heldout"]` | whether the cell's time was held out |
| `obs["sciflow_weight"]` | weight of the cell in its snapshot (growth; sums to 1 per fitted time, NaN where held out) |
| `obs["sciflow_growth"]` | growth rate per time unit (growth; NaN at the last time and where held out) |
| `obsm["sciflow_velocity"]` | drift at the cell and its time, coordinates of the basis per time unit |
| `layers["sciflow_velocity"]` | the same in genes, where the basis is principal components |
| `obsm["sciflow_fate"]` | probability of each fate, columns `uns["sciflow"]["fates"]` |
| `obsp["sciflow_coupling"]` | probability of being at each cell of the next fitted time, rows sum to 1 (CellRank) |
| `uns["sciflow"]` | `params`, `theta`, `theta_names`, `theta_stderr`, `theta_history`, `objective`, `scores`, `notes`, `rounds` (the state from which a fit goes on), `trajectories` |
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sciflow.core.errors import UserError
from sciflow.domains.cells.data import Cells, Decoder, numeric_times

PREFIX = "sciflow"
SAME = 1e-3  # largest relative difference between stored components and those recomputed from X


def from_adata(
    adata: Any, time_key: str, basis: str = "X_pca", duplicates: str = "error", source: str = "adata"
) -> Cells:
    """Cells of an AnnData object.

    Args:
        adata: With the times in obs and the coordinates in obsm.
        time_key: Column of obs: numbers, categories of numbers, or labels such as "day 3".
        basis: Key of obsm; "pca" finds "X_pca" too.
        duplicates: See `Cells.of`.
        source: Named in errors.

    Raises:
        UserError: A key is missing (the message lists what exists), or the cells cannot be used.
    """
    if time_key not in adata.obs:
        there = ", ".join(map(str, adata.obs)) or "none"
        raise UserError(f"{source}: no time key '{time_key}' in obs; columns of obs: {there}")
    key = basis if basis in adata.obsm else f"X_{basis}"
    if key not in adata.obsm:
        there = ", ".join(adata.obsm) or "none; compute one, e.g. scanpy.pp.pca(adata)"
        raise UserError(f"{source}: no basis '{basis}' in obsm; keys of obsm: {there}")
    if not adata.obs_names.is_unique:
        twice = adata.obs_names[adata.obs_names.duplicated()]
        raise UserError(
            f"{source}: {len(twice)} names of cells occur twice, e.g. '{twice[0]}'; remove duplicate cells, or call "
            "adata.obs_names_make_unique()"
        )
    table = dense(adata.obsm[key])
    names = [f"{key.removeprefix('X_')}{i + 1}" for i in range(table.shape[-1])]
    cells = Cells.of(
        table,
        numeric_times(adata.obs[time_key].to_numpy(), f"obs['{time_key}']"),
        source=f"{source}, obsm['{key}']",
        names=names,
        duplicates=duplicates,
        label=lambda row: f"'{adata.obs_names[row]}'",
    )
    return with_decoder(cells, adata, key)


def dense(values: Any) -> np.ndarray:
    """An array from what AnnData holds: array, sparse matrix or data frame."""
    if hasattr(values, "toarray"):
        values = values.toarray()
    return np.asarray(values)


def with_decoder(cells: Cells, adata: Any, basis: str) -> Cells:
    """The cells with a way back to genes, where the basis is principal components with stored loadings.

    The components are centred at the mean of X (scanpy); the first cells are recomputed to see whether X is indeed
    what they were made of. If not, a note says so and there is no decoder.
    """
    from dataclasses import replace

    if basis != "X_pca" or "PCs" not in adata.varm or adata.X is None:
        return cells
    loadings = dense(adata.varm["PCs"])[:, : cells.dimension].astype(np.float64)
    if loadings.shape[1] < cells.dimension:
        return cells
    mean = np.asarray(adata.X.mean(axis=0), np.float64).ravel()
    few = slice(0, 50)
    again = (dense(adata.X[few]).astype(np.float64) - mean) @ loadings
    stored = dense(adata.obsm[basis])[few]
    if not np.abs(again - stored).max() <= SAME * np.abs(stored).max():
        note = "no genes: X is not what obsm['X_pca'] and varm['PCs'] were computed from"
        return replace(cells, notes=(*cells.notes, note))
    return replace(cells, decoder=Decoder(loadings, mean, tuple(map(str, adata.var_names))))


def per_cell(values: Mapping[float, np.ndarray], cells: Cells, count: int) -> np.ndarray:
    """One table (count, ...) in the order of the source from values of some times; NaN elsewhere.

    Args:
        values: Time -> (n_k, ...) of the cells at that time.
        cells: Knows the rows.
        count: Rows of the source.
    """
    first = np.asarray(next(iter(values.values())))
    table = np.full((count, *first.shape[1:]), np.nan)
    for time, rows in zip(cells.times.tolist(), cells.rows, strict=True):
        if time in values:
            table[rows] = values[time]
    return table


def transitions(plans: Mapping[tuple[float, float], np.ndarray], cells: Cells, count: int, least: float = 1e-6) -> Any:
    """Sparse matrix (count, count): law of the next fitted time's cell for every cell; other rows stay where they are.

    Args:
        plans: (time, next time) -> joint law (n, m).
        cells: Knows the rows.
        count: Rows of the source.
        least: Smaller probabilities are dropped, the rest scaled to 1.
    """
    from scipy import sparse

    rows = dict(zip(cells.times.tolist(), cells.rows, strict=True))
    blocks, moved = [], np.zeros(count, bool)
    for (start, end), plan in plans.items():
        mass = plan.sum(axis=1, keepdims=True)
        law = np.divide(plan, mass, out=np.zeros_like(plan), where=mass > 0)
        law[law < least] = 0
        i, j = np.nonzero(law)
        blocks.append((rows[start][i], rows[end][j], law[i, j]))
        moved[rows[start][np.unique(i)]] = True
    stay = np.flatnonzero(~moved)
    blocks.append((stay, stay, np.ones(len(stay))))
    i, j, values = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    matrix = sparse.csr_matrix((values, (i, j)), shape=(count, count))
    return sparse.diags(1 / np.asarray(matrix.sum(axis=1)).ravel()) @ matrix


def storable(value: Any) -> Any:
    """Plain data that `write_h5ad` takes: lists become arrays, None and unknown objects text, numbers stay."""
    if isinstance(value, Mapping):
        return {str(name): storable(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return np.array([str(one) for one in value], object) if _texts(value) else np.asarray(value, np.float64)
    if isinstance(value, (bool, int, float, str, np.ndarray)):
        return value
    return "" if value is None else str(value)


def _texts(values: Sequence[Any]) -> bool:
    return any(isinstance(one, str) for one in values)


def stored(adata: Any, key: str = PREFIX) -> dict[str, Any]:
    """What a fit has left in uns.

    Raises:
        UserError: Nothing is there.
    """
    if key not in adata.uns:
        there = ", ".join(adata.uns) or "none"
        raise UserError(f"no fit in uns['{key}']; call sciflow.cells.bridge(adata, ...) first; keys of uns: {there}")
    return adata.uns[key]


def to_adata(cells: Cells) -> Any:
    """An AnnData object of cells that came from arrays: times in obs["time"], coordinates in obsm["X_cells"]."""
    import anndata
    import pandas

    order = np.argsort(np.concatenate(cells.rows), kind="stable")
    times = np.repeat(cells.times, [len(one) for one in cells.points])[order]
    names = [str(i) for i in range(cells.count)]
    adata = anndata.AnnData(obs=pandas.DataFrame({"time": times}, index=pandas.Index(names)))
    adata.obsm["X_cells"] = np.concatenate(cells.points)[order]
    return adata
