"""The data modules set up on every named set, on files, and on graphs in memory."""

from __future__ import annotations

import json

import networkx as nx
import pytest

from sciflow.core.errors import UserError
from sciflow.domains.graphs.datamodule import GDSSGraphData, GraphData
from sciflow.domains.graphs.files import write_graphs
from sciflow.domains.graphs.pyg import to_pyg
from sciflow.domains.graphs.transformer import GraphTransformer


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [("community_small", 80, 20), ("ego_small", 160, 40), ("ENZYMES", 470, 117), ("grid", 80, 20)],
)
def test_every_named_set_sets_up(data_dir, name, train, test):
    """The largest graph of ego_small and of grid is a test graph: a codec of the training set alone refuses it."""
    data = GraphData(name, batch_size=4)
    data.setup("fit")
    assert [len(data.samples[split]) for split in ("train", "test")] == [train, test]
    assert data.codec.max_nodes == max(size for samples in data.samples.values() for size in samples.sizes)
    assert next(iter(data.test_dataloader())).batch == 4
    assert data.features["adj"] == 2


def test_graphs_in_memory():
    graphs = [nx.cycle_graph(n) for n in range(3, 13)]
    for objects in (graphs, to_pyg(graphs)):
        data = GraphData(objects, test=0.2)
        data.setup("fit")
        assert len(data.samples["train"]) == 8 and len(data.samples["test"]) == 2
        assert data.spec["data"]["source"] == "10 Python objects"
        json.dumps(data.spec)
    with pytest.raises(UserError, match="no graph could be read"):
        GraphData([]).setup("fit")


def test_what_was_left_out_is_said(tmp_path, caplog):
    graph = nx.cycle_graph(5)
    graph.add_edge(2, 2)
    write = [graph, nx.Graph(), nx.path_graph(4), nx.path_graph(3)]
    (tmp_path / "own.json").write_text(json.dumps([nx.node_link_data(one, edges="edges") for one in write]))
    with caplog.at_level("INFO"):
        GraphData(str(tmp_path / "own.json"), test=0.0).setup("fit")
    assert "1 self loops dropped" in caplog.text and "1 empty graphs" in caplog.text
    caplog.clear()
    write_graphs(tmp_path / "clean.json", [nx.path_graph(n) for n in (2, 3, 4)])
    with caplog.at_level("INFO"):
        GraphData(str(tmp_path / "clean.json"), test=0.0).setup("fit")
    assert caplog.text == ""


def test_a_network_of_edge_classes_refuses_real_valued_edges():
    graphs = [nx.cycle_graph(n) for n in (3, 4, 5)]
    published, classes = GDSSGraphData(graphs, test=0.0), GraphData(graphs, test=0.0)
    for data in (published, classes):
        data.setup("fit")
    assert published.features == {"x": 3} and classes.features == {"adj": 2}
    with pytest.raises(UserError, match="use MoleculeData or GraphData"):
        GraphTransformer().build(published.features)
    GraphTransformer().build(classes.features)
