"""torch_geometric graphs and other Python objects as networkx graphs, and back."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data, InMemoryDataset
from torch_geometric.loader import DataLoader
from torch_geometric.utils import to_dense_adj

from sciflow.core.errors import UserError
from sciflow.domains.graphs.pyg import from_objects, from_pyg, to_pyg


@pytest.fixture
def graphs() -> list[nx.Graph]:
    """Labelled graphs, one with an isolated last node, one without edges."""
    out = [nx.gnp_random_graph(n, 0.5, seed=n) for n in (6, 4)] + [nx.empty_graph(3)]
    out[0].add_node(6)
    rng = np.random.default_rng(0)
    for g, graph in enumerate(out):
        nx.set_node_attributes(graph, {v: int(rng.integers(0, 4)) for v in graph}, "label")
        nx.set_edge_attributes(graph, {e: int(rng.integers(1, 4)) for e in graph.edges}, "label")
        graph.graph["label"] = g
    return out


def same(a: nx.Graph, b: nx.Graph) -> bool:
    return nx.utils.graphs_equal(a, b) and a.graph.get("label") == b.graph.get("label")


def test_pyg_round_trip(graphs):
    for graph in graphs:
        nx.set_node_attributes(graph, {v: [float(v), 1.0] for v in graph}, "x")
    data = to_pyg(graphs)
    assert [item.num_nodes for item in data] == [7, 4, 3] and all(item.validate() for item in data)
    for item, graph in zip(data, graphs):
        assert item.edge_index.shape == (2, 2 * graph.number_of_edges())  # both directions
        np.testing.assert_array_equal(
            to_dense_adj(item.edge_index, max_num_nodes=len(graph))[0], nx.to_numpy_array(graph, weight=None)
        )
    for again in (from_pyg(data), from_pyg(Batch.from_data_list([data[0], data[2]]))):
        assert all(same(g, graphs[g.graph["label"]]) for g in again)
    assert len(from_pyg(data[1])) == 1
    graphs[0].nodes[3].pop("label")  # an attribute that is not everywhere cannot be batched: it stays behind
    assert "node_label" not in to_pyg(graphs)[1] and "edge_label" in to_pyg(graphs)[1]


def test_pyg_traps():
    one_way = Data(edge_index=torch.tensor([[0, 2, 2, 2], [2, 0, 3, 2]]), num_nodes=6)  # a loop, a single direction
    (graph,) = from_pyg(one_way)
    assert len(graph) == 6 and sorted(graph.edges) == [(0, 2), (2, 3)]
    x = torch.eye(3)[[2, 0, 1, 1, 0]]
    hand_made = Batch(x=x, edge_index=torch.tensor([[0, 1, 3, 4], [1, 0, 4, 3]]), batch=torch.tensor([0, 0, 1, 1, 1]))
    first, second = from_pyg(hand_made)  # not made by from_data_list: torch_geometric itself cannot index it
    assert list(first.edges) == [(0, 1)] and list(second.edges) == [(1, 2)] and len(second) == 3
    assert [second.nodes[v]["label"] for v in second] == [1, 1, 0]  # one-hot features are labels (TUDataset)
    assert second.nodes[2]["x"] == [1.0, 0.0, 0.0]
    with pytest.raises(UserError, match="edge_index or num_nodes is missing"):
        from_pyg(Data(x=torch.zeros(3, 2)))
    with pytest.raises(UserError, match="got str"):
        from_pyg("graphs")
    assert from_pyg([]) == []


class Cycles(InMemoryDataset):
    """Cycles of 3, 4 and 5 nodes; like every such dataset it forwards `edge_index` of all of them as one."""

    def __init__(self) -> None:
        super().__init__()
        self.data, self.slices = self.collate(to_pyg([nx.cycle_graph(n) for n in (3, 4, 5)]))


def test_datasets_and_loaders_are_many_graphs():
    dataset = Cycles()
    assert hasattr(dataset, "edge_index")  # the trap
    for objects in (dataset, DataLoader(dataset, batch_size=2), Batch.from_data_list(list(dataset)), list(dataset)):
        assert [(len(graph), graph.number_of_edges()) for graph in from_pyg(objects)] == [(3, 3), (4, 4), (5, 5)]


def test_objects_of_several_kinds():
    path = nx.path_graph(3)
    mixed = [path, None, *to_pyg([path]), nx.to_numpy_array(path), Cycles()]
    assert [graph and graph.number_of_edges() for graph in from_objects(mixed)] == [2, None, 2, 2, 3, 4, 5]
    assert from_objects(path) == [path]
    with pytest.raises(UserError, match="got int, expected networkx or torch_geometric graphs"):
        from_objects([path, 3])
