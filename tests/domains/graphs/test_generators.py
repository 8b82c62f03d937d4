"""Generated sets have the properties their formulas promise."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from sciflow.domains.graphs.generators import GENERATORS, block_graph, community_like, ego_like, grid_like, planar, sbm
from sciflow.domains.graphs.metrics import is_lattice, is_planar


@pytest.mark.parametrize("name", GENERATORS)
def test_seeded_connected_and_simple(name):
    first, again, other = (GENERATORS[name](count=6, seed=seed) for seed in (1, 1, 2))
    assert len(first) == 6 and all(map(nx.utils.graphs_equal, first, again))
    assert not all(map(nx.utils.graphs_equal, first, other))
    for graph in first:
        assert list(graph) == list(range(len(graph))) and nx.is_connected(graph)
        assert nx.number_of_selfloops(graph) == 0


def test_planar_graphs_are_triangulations():
    for graph in planar(5, nodes=40):
        n, edges = len(graph), graph.number_of_edges()
        assert n == 40 and is_planar(graph)
        # Euler: a triangulated convex polygon with h corners has 3 n - 3 - h edges; h >= 3, and far from all 40
        assert 3 * n - 3 - 20 < edges <= 3 * n - 6


def test_block_graph_densities():
    """Binomial counts; |z| < 5 on two counts: false-alarm rate 1.2e-6."""
    graph = block_graph([150, 100], 0.3, 0.02, np.random.default_rng(0))
    across = sum((u < 150) != (v < 150) for u, v in graph.edges)
    for count, trials, p in (
        (graph.number_of_edges() - across, 150 * 149 // 2 + 100 * 99 // 2, 0.3),
        (across, 15000, 0.02),
    ):
        assert abs(count - trials * p) < 5 * (trials * p * (1 - p)) ** 0.5


def test_sbm_sizes():
    sizes = [len(graph) for graph in sbm(40)]
    assert 40 <= min(sizes) < 80 and 120 < max(sizes) <= 200


def test_communities_have_two_dense_halves_and_few_bridges():
    """P(one bridge) = P(0 or 1 of size^2 links), averaged over sizes; |z| < 4.5: false-alarm rate 6.8e-6."""
    graphs = community_like(600)
    bridges = []
    for graph in graphs:
        half = len(graph) // 2
        assert 12 <= len(graph) <= 20 and len(graph) == 2 * half
        bridges.append(sum((u < half) != (v < half) for u, v in graph.edges))
    assert min(bridges) == 1
    one = []
    for n in range(12, 21):
        size, p = n // 2, 0.1 / (n // 2)
        one.append((1 - p) ** (size**2) + size**2 * p * (1 - p) ** (size**2 - 1))
    share = np.mean(one)
    assert abs(np.mean(np.array(bridges) == 1) - share) < 4.5 * (share * (1 - share) / 600) ** 0.5


def test_lattices():
    graphs = grid_like(5)
    assert all(map(is_lattice, graphs)) and all(100 <= len(graph) <= 361 for graph in graphs)


def test_ego_networks_have_a_hub():
    for graph in ego_like(30):
        assert 4 <= len(graph) <= 18
        assert max(degree for _, degree in graph.degree) == len(graph) - 1
