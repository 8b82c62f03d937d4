"""A small population whose genes are known."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def genes_adata() -> anndata.AnnData:
    """75 cells x 6 genes of rank two, labels "day 0" to "day 2", principal components as scanpy leaves them."""
    random = np.random.default_rng(1)
    scores = np.concatenate([random.normal(0, 0.3, (25, 2)) + np.array([2.0, 1.0]) * day for day in range(3)])
    table = 5 + scores @ random.normal(size=(2, 6))
    mean = table.mean(axis=0)
    loadings = np.linalg.svd(table - mean, full_matrices=False)[2][:2].T
    days = pd.Categorical([f"day {day}" for day in range(3) for _ in range(25)])
    adata = anndata.AnnData(table, obs=pd.DataFrame({"day": days}, index=pd.Index([f"c{i}" for i in range(75)])))
    adata.var_names = [f"g{i}" for i in range(6)]
    adata.obsm["X_pca"], adata.varm["PCs"] = (table - mean) @ loadings, loadings
    adata.obs["kind"] = np.where(adata.obsm["X_pca"][:, 1] > np.median(adata.obsm["X_pca"][50:, 1]), "up", "down")
    return adata
