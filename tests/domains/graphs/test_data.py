"""Data sets by name or file and their splits."""

from __future__ import annotations

import json

import networkx as nx
import pytest

from sciflow.core.errors import UserError
from sciflow.domains.graphs.data import graph_dataset, load_graphs
from sciflow.domains.graphs.files import write_graphs


@pytest.mark.golden
@pytest.mark.parametrize(
    "name, train, test", [("community_small", 80, 20), ("ENZYMES", 470, 117), ("enzymes", 470, 117)]
)
def test_the_official_split_is_the_first_fifth(data_dir, name, train, test):
    train_graphs, val, test_graphs, info = graph_dataset(name)
    assert (len(train_graphs), len(val), len(test_graphs)) == (train, 0, test)
    everything = load_graphs(name).graphs
    assert all(map(nx.utils.graphs_equal, test_graphs + train_graphs, everything))
    assert info["split"] == "stored" and info["max_nodes"] == max(map(len, everything))
    json.dumps(info)


def test_own_files_are_split_at_random_by_seed(tmp_path):
    graphs = [nx.cycle_graph(n) for n in range(3, 53)]
    write_graphs(tmp_path / "own.json", graphs)
    sizes = [
        [[len(g) for g in part] for part in graph_dataset(tmp_path / "own.json", 0.1, seed=s)[:3]] for s in (0, 0, 1)
    ]
    assert sizes[0] == sizes[1] != sizes[2]
    assert [len(part) for part in sizes[0]] == [36, 4, 10]
    assert sorted(sum(sizes[0], [])) == list(range(3, 53))
    assert sizes[0][2] != list(range(3, 13))  # not the first fifth


def test_generators_are_data_sets():
    train, _, test, info = graph_dataset("community_like")
    assert (len(train), len(test), info["split"]) == (80, 20, "random")


def test_errors_say_what_is_there(tmp_path):
    with pytest.raises(UserError, match="community_small.*without a file: planar, sbm"):
        load_graphs("comunity")
    with pytest.raises(UserError, match="val_fraction=1"):
        graph_dataset("community_like", val_fraction=1)
    (tmp_path / "bad.npz").write_text("no archive")
    with pytest.raises(UserError, match="not a readable npz"):
        load_graphs(tmp_path / "bad.npz")
    write_graphs(tmp_path / "one.json", [nx.path_graph(3)])
    with pytest.raises(UserError, match="1 graphs leave none to train on"):
        graph_dataset(tmp_path / "one.json", test_fraction=0.9)
