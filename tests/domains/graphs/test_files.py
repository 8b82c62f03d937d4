"""Graphs through files, dense matrices and torch_geometric, and back."""

from __future__ import annotations

import json

import networkx as nx
import numpy as np
import pytest

from sciflow.core.errors import UserError
from sciflow.domains.graphs.files import (
    from_networkx,
    read_graphs,
    read_npz,
    simple_graph,
    to_networkx,
    write_graphs,
)


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


@pytest.mark.golden
@pytest.mark.parametrize(
    "name, number, edges, nodes", [("community_small", 100, 3515, (12, 20)), ("ENZYMES", 587, 37142, (10, 125))]
)
def test_real_archive(data_dir, tmp_path, name, number, edges, nodes):
    """Counts of the README beside the data; a rewritten archive holds the same arrays."""
    content = read_npz(data_dir / "graphs" / f"{name}.npz")
    sizes = [len(graph) for graph in content.graphs]
    assert len(content.graphs) == number and (min(sizes), max(sizes)) == nodes
    assert sum(graph.number_of_edges() for graph in content.graphs) == edges
    assert len(content.info["test_idx"]) == number // 5 and content.info["max_node_num"] == nodes[1]
    write_graphs(tmp_path / "copy.npz", content.graphs, content.info)
    with np.load(data_dir / "graphs" / f"{name}.npz") as old, np.load(tmp_path / "copy.npz") as new:
        assert set(old.files) - set(new.files) == {"node_id"}
        for key in new.files:
            np.testing.assert_array_equal(old[key], new[key])


@pytest.mark.parametrize("name", ["set.npz", "set.json"])
def test_labelled_graphs_survive(tmp_path, graphs, name):
    write_graphs(tmp_path / name, graphs)
    again = read_graphs(tmp_path / name)
    assert all(map(same, again.graphs, graphs)) and again.skipped == {}
    assert [path.name for path in tmp_path.iterdir()] == [name]  # no temporary file is left


@pytest.mark.parametrize("name", ["set.g6", "folder"])
def test_plain_graphs_survive(tmp_path, graphs, name):
    write_graphs(tmp_path / name, graphs)
    again = read_graphs(tmp_path / name).graphs
    assert [len(graph) for graph in again] == [7, 4, 3]
    assert all(np.array_equal(from_networkx(a), from_networkx(b)) for a, b in zip(again, graphs))


def test_folder_with_broken_and_foreign_files(tmp_path):
    nx.write_graphml(nx.cycle_graph(5), tmp_path / "a.graphml")
    (tmp_path / "b.edgelist").write_text("# comment\nx y\ny z\nz z\ny x\n")
    (tmp_path / "c.graphml").write_text("<graphml><gra")
    (tmp_path / "d.json").write_text(json.dumps({"graphs": [nx.node_link_data(nx.Graph(), edges="edges")]}))
    (tmp_path / "notes.md").write_text("not a graph")
    content = read_graphs(tmp_path)
    assert [(len(g), g.number_of_edges()) for g in content.graphs] == [(5, 5), (3, 2)]
    assert content.skipped == {"unreadable files (ParseError)": 1, "empty graphs": 1, "self loops dropped": 1}


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.npz", "text", "not a readable npz"),
        ("a.json", "{", "cannot be read as json"),
        ("a.json", "[]", "no graph could be read"),
        ("a.graphml", "", "cannot be read as graphml"),
        ("a.csv", "1,2", "unknown ending '.csv'"),
    ],
)
def test_unreadable_files_are_one_clear_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_graphs(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_damaged_archives_are_refused(tmp_path, graphs):
    write_graphs(tmp_path / "a.npz", graphs)
    with np.load(tmp_path / "a.npz") as archive:
        arrays = dict(archive)
    np.savez(tmp_path / "b.npz", **{**arrays, "edges": arrays["edges"][:-1]})
    with pytest.raises(UserError, match="do not fit together"):
        read_graphs(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", **{**arrays, "edges": arrays["edges"] + 5})
    with pytest.raises(UserError, match="an edge names node"):
        read_graphs(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", x=np.zeros(3))
    with pytest.raises(UserError, match="missing node_ptr, edge_ptr, edges"):
        read_graphs(tmp_path / "d.npz")
    np.savez(tmp_path / "e.npz", node_ptr=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="not a readable npz"):
        read_graphs(tmp_path / "e.npz")  # a pickle inside is never executed


def test_places_that_cannot_be_written(tmp_path, graphs):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_graphs(tmp_path / "file" / "a.npz", graphs)
    with pytest.raises(UserError, match="not an empty folder"):
        write_graphs(tmp_path / "file", graphs)
    with pytest.raises(UserError, match="one graph per file, got 3"):
        write_graphs(tmp_path / "a.graphml", graphs)
    assert not (tmp_path / "a.graphml").exists()
    with pytest.raises(UserError, match="unknown ending"):
        write_graphs(tmp_path / "a.csv", graphs)
    with pytest.raises(UserError, match="no such file"):
        read_graphs(tmp_path / "missing.npz")


def test_dense_matrices():
    graph = nx.gnp_random_graph(9, 0.4, seed=1)
    np.testing.assert_array_equal(from_networkx(graph), nx.to_numpy_array(graph))
    assert same(to_networkx(from_networkx(graph)), graph)
    assert list(to_networkx(np.array([[5, 0, 0], [2, 0, 0], [0, 0, 0]])).edges) == [(0, 1)]  # one triangle, a loop
    with pytest.raises(UserError, match="expected a square matrix"):
        to_networkx(np.zeros((2, 3)))


def test_simple_graph_merges_and_counts():
    from collections import Counter

    graph = nx.MultiDiGraph([("a", "b"), ("b", "a"), ("a", "b"), ("c", "c")])
    counts: Counter[str] = Counter()
    simple = simple_graph(graph, counts)
    assert list(simple) == [0, 1, 2] and list(simple.edges) == [(0, 1)]
    assert counts == {"self loops dropped": 1, "parallel edges merged": 2}
