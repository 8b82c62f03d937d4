"""NSPDK features against EDeN (package `eden-kernel`).

EDeN is asked for 40-bit features, so that its salted string hash makes a collision with probability about 1e-5 per run
(4e3 distinct features: 4e3^2 / 2 / 2^40); then both kernels agree to rounding.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import networkx as nx
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from sciflow.domains.graphs.nspdk import nspdk_features, nspdk_mmd

eden = pytest.importorskip("eden.graph", reason="pip install eden-kernel")


def labelled(graph: nx.Graph, rng: np.random.Generator) -> nx.Graph:
    nx.set_node_attributes(graph, {v: "CNOF"[rng.integers(4)] for v in graph}, "label")
    nx.set_edge_attributes(graph, {e: int(rng.integers(1, 4)) for e in graph.edges}, "label")
    return graph


def random_graphs(count: int, seed: int) -> list[nx.Graph]:
    rng = np.random.default_rng(seed)
    return [labelled(nx.gnp_random_graph(int(rng.integers(1, 14)), 0.25, seed=seed + i), rng) for i in range(count)]


def by_eden(graphs: list[nx.Graph], bits: int) -> csr_matrix:
    table = eden.vectorize([graph.copy() for graph in graphs], complexity=4, discrete=True, nbits=bits)
    used, column = np.unique(table.indices, return_inverse=True)
    return csr_matrix((table.data, column, table.indptr), (len(graphs), len(used)))


def gram(features: csr_matrix) -> np.ndarray:
    return (features @ features.T).toarray()


def test_kernel_values_equal_eden():
    graphs = random_graphs(30, 0)  # connected and not, isolated and single nodes
    assert {nx.is_connected(graph) for graph in graphs} == {True, False}
    graphs += [labelled(nx.empty_graph(1), np.random.default_rng(3))]
    graphs += [
        labelled(nx.path_graph(12), np.random.default_rng(1)),
        labelled(nx.cycle_graph(9), np.random.default_rng(2)),
    ]
    (features,) = nspdk_features(graphs)
    np.testing.assert_allclose(gram(features), gram(by_eden(graphs, 40)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(gram(features).diagonal(), 1, atol=1e-12)


def test_mmd_equals_the_v_statistic_of_eden():
    a, b = random_graphs(25, 100), random_graphs(20, 200)
    kernel = gram(by_eden(a + b, 40))
    expected = kernel[:25, :25].mean() + kernel[25:, 25:].mean() - 2 * kernel[:25, 25:].mean()
    assert nspdk_mmd(a, b) == pytest.approx(expected, abs=1e-12)
    assert nspdk_mmd(a, a) == pytest.approx(0, abs=1e-15)
    kernel = gram(by_eden(a + b, 16))  # the published setting: collisions move the figure in the third digit
    published = kernel[:25, :25].mean() + kernel[25:, 25:].mean() - 2 * kernel[:25, 25:].mean()
    assert nspdk_mmd(a, b) == pytest.approx(published, abs=5e-3)


def test_sets_share_their_columns():
    a, b = random_graphs(6, 1), random_graphs(4, 2)
    first, second = nspdk_features(a, b)
    joint = gram(nspdk_features(a + b)[0])
    np.testing.assert_allclose((first @ second.T).toarray(), joint[:6, 6:], atol=1e-14)


def test_node_order_does_not_matter_but_labels_do():
    rng = np.random.default_rng(3)
    graph = labelled(nx.random_labeled_tree(9, seed=1), rng)
    renamed = nx.relabel_nodes(graph, dict(zip(range(9), rng.permutation(9).tolist())))
    other_edge, other_node = graph.copy(), graph.copy()
    u, v = next(iter(graph.edges))
    other_edge.edges[u, v]["label"] = 4
    other_node.nodes[u]["label"] = "P"
    kernel = gram(nspdk_features([graph, renamed, other_edge, other_node])[0])
    assert kernel[0, 1] == pytest.approx(1, abs=1e-14)
    assert kernel[0, 2] < 0.99 and kernel[0, 3] < 0.99


def test_large_and_small_graphs_in_one_call_do_not_disturb_each_other():
    graphs = random_graphs(5, 7)
    big = labelled(nx.gnp_random_graph(150, 0.02, seed=1), np.random.default_rng(0))
    (alone,), (together,) = nspdk_features(graphs), nspdk_features([big, *graphs])
    np.testing.assert_allclose(gram(together)[1:, 1:], gram(alone), atol=1e-14)


def test_same_value_in_another_process_with_another_hash_seed():
    code = (
        "import networkx as nx; from sciflow.domains.graphs.nspdk import nspdk_mmd\n"
        "a = nx.path_graph(4); nx.set_node_attributes(a, dict(enumerate('CNOC')), 'label')\n"
        "print(repr(nspdk_mmd([a], [nx.cycle_graph(5)])))"
    )
    graph = nx.path_graph(4)
    nx.set_node_attributes(graph, dict(enumerate("CNOC")), "label")
    environment = {**os.environ, "PYTHONHASHSEED": "4321"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == repr(nspdk_mmd([graph], [nx.cycle_graph(5)]))


def test_empty_sets_and_empty_graphs():
    assert np.isnan(nspdk_mmd([], random_graphs(2, 0)))
    (features,) = nspdk_features([nx.Graph(), nx.path_graph(2)])
    np.testing.assert_allclose(features.multiply(features).sum(1), [[0], [1]])


@pytest.mark.slow
def test_ten_thousand_molecule_sized_graphs_take_less_than_a_minute():
    rng = np.random.default_rng(0)
    graphs = [labelled(nx.random_labeled_tree(9, seed=i), rng) for i in range(2000)] * 10
    start = time.perf_counter()
    assert nspdk_mmd(graphs[:10000], graphs[10000:]) == pytest.approx(0, abs=1e-12)
    assert time.perf_counter() - start < 60
