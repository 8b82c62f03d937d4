"""Closed-form orbit counts against ORCA (package `orca-graphlets`), node by node, and complete graphs by hand."""

from __future__ import annotations

from math import comb

import networkx as nx
import numpy as np
import pytest

from sciflow.domains.graphs.files import from_networkx, read_npz
from sciflow.domains.graphs.orbits import orbit_counts

orca = pytest.importorskip("orca", reason="pip install orca-graphlets")


def by_orca(adjacency: np.ndarray) -> np.ndarray:
    edges = np.argwhere(np.triu(adjacency, 1)).astype(np.int32)
    return orca.orca_nodes(edges, len(adjacency), 4)


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("nodes", [3, 4, 7, 25, 60])
def test_random_graphs(nodes, density):
    rng = np.random.default_rng(nodes)
    upper = np.triu(rng.random((nodes, nodes)) < density, 1).astype(int)
    upper[0, 1] = 1  # ORCA needs an edge
    np.testing.assert_array_equal(orbit_counts(upper + upper.T), by_orca(upper + upper.T))


@pytest.mark.golden
@pytest.mark.parametrize("name", ["community_small", "ego_small", "ENZYMES", "grid"])
def test_real_graphs(data_dir, name):
    for graph in read_npz(data_dir / "graphs" / f"{name}.npz").graphs[::7]:
        adjacency = from_networkx(graph)
        np.testing.assert_array_equal(orbit_counts(adjacency), by_orca(adjacency))


def test_complete_graph_by_hand():
    expected = np.zeros(15, int)
    expected[[0, 3, 14]] = 8, comb(8, 2), comb(8, 3)  # every subset of nodes is a clique
    np.testing.assert_array_equal(orbit_counts(from_networkx(nx.complete_graph(9))), np.tile(expected, (9, 1)))


def test_no_edges_and_self_loops():
    np.testing.assert_array_equal(orbit_counts(np.zeros((3, 3))), np.zeros((3, 15)))
    path = from_networkx(nx.path_graph(4))
    np.testing.assert_array_equal(orbit_counts(path + np.eye(4)), orbit_counts(path))
    assert orbit_counts(np.zeros((0, 0))).shape == (0, 15)


@pytest.mark.parametrize("bad", [np.ones((2, 3)), np.triu(np.ones((3, 3))), np.full((2, 2), 0.5), np.zeros(4)])
def test_wrong_matrices_are_refused(bad):
    with pytest.raises(ValueError, match="expected a symmetric"):
        orbit_counts(bad)
