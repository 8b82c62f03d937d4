"""Graphs -> tensors -> graphs, masks and padding, for both representations."""

from __future__ import annotations

import json

import networkx as nx
import numpy as np
import pytest
import torch

from sciflow.core.config import from_config, to_config
from sciflow.core.errors import UserError
from sciflow.core.state import Layout, State
from sciflow.domains.graphs.codec import DegreeGraphCodec, OneHotGraphCodec, largest


@pytest.fixture
def graphs() -> list[nx.Graph]:
    return [nx.gnp_random_graph(n, 0.6, seed=n) for n in (5, 9, 3, 7)] + [nx.star_graph(8)]


def same(a: nx.Graph, b: nx.Graph) -> bool:
    return nx.utils.graphs_equal(a, b)


def with_labels(graph: nx.Graph, seed: int) -> nx.Graph:
    rng = np.random.default_rng(seed)
    nx.set_node_attributes(graph, {v: int(rng.integers(0, 4)) for v in graph}, "label")
    nx.set_edge_attributes(graph, {e: int(rng.integers(1, 3)) for e in graph.edges}, "label")
    return graph


def test_degree_tensors(graphs):
    codec = DegreeGraphCodec.infer(graphs)
    assert (codec.max_nodes, codec.degree_classes) == (9, 9)
    state = codec.to_state(graphs)
    assert state["x"].shape == (5, 9, 9) and state["adj"].shape == (5, 9, 9) and state["adj"].dtype == torch.float32
    for g, graph in enumerate(graphs):
        n = len(graph)
        np.testing.assert_array_equal(state["adj"][g, :n, :n], nx.to_numpy_array(graph))
        assert state["adj"][g].sum() == 2 * graph.number_of_edges()  # nothing in the padding
        assert state["x"][g].argmax(-1)[:n].tolist() == [d for _, d in graph.degree()]
        assert state["x"][g].sum() == n
    for name in ("x", "adj"):
        assert state.layouts[name].sizes == (5, 9, 3, 7, 9)
    assert state.layouts["x"].mask.shape == (5, 9, 1)
    pairs = state.layouts["adj"].mask.sum((1, 2)).tolist()
    assert pairs == [n * (n - 1) for n in (5, 9, 3, 7, 9)]


def test_degrees_above_the_last_class_fall_into_it():
    state = DegreeGraphCodec(9, 4).to_state([nx.star_graph(8)])
    assert state["x"].argmax(-1).tolist() == [[3] + 8 * [1]]


def test_one_hot_tensors(graphs):
    codec = OneHotGraphCodec.infer(graphs)
    state = codec.to_state(graphs)
    assert list(state.fields) == ["adj"] and state["adj"].shape == (5, 9, 9, 2)
    mask = state.layouts["adj"].mask
    assert mask.shape == (5, 9, 9, 1)
    torch.testing.assert_close(state["adj"].sum(-1, keepdim=True), mask)  # one class per real pair, none elsewhere
    assert torch.equal(state["adj"], state["adj"].transpose(1, 2))


@pytest.mark.parametrize("codec_class", [DegreeGraphCodec, OneHotGraphCodec])
def test_round_trip(graphs, codec_class):
    graphs = [g for g in graphs if min(d for _, d in g.degree()) > 0]
    codec = codec_class.infer(graphs)
    assert len(graphs) >= 3 and all(map(same, codec.to_objects(codec.to_state(graphs)), graphs))


def test_labelled_round_trip(graphs):
    graphs = [with_labels(graph, seed) for seed, graph in enumerate(graphs)]
    codec = OneHotGraphCodec.infer(graphs)
    assert (codec.edge_classes, codec.node_classes) == (3, 4)
    state = codec.to_state(graphs)
    assert list(state.fields) == ["x", "adj"]
    assert all(map(same, codec.to_objects(state), graphs))


def test_noise_below_the_threshold_and_garbage_in_the_padding_change_nothing(graphs):
    graphs = [nx.complete_graph(n) for n in (3, 6, 2)]
    generator = torch.Generator().manual_seed(0)
    codec = DegreeGraphCodec.infer(graphs)
    state = codec.to_state(graphs)
    noise = 0.98 * (torch.rand(state["adj"].shape, generator=generator) - 0.5)
    noise = torch.triu(noise, 1) + torch.triu(noise, 1).transpose(1, 2)
    padding = 7.0 * (1 - state.layouts["adj"].mask)
    noisy = state.put(adj=state["adj"] + noise + padding, x=torch.randn(state["x"].shape, generator=generator))
    assert all(map(same, codec.to_objects(noisy), graphs))
    assert not all(map(same, codec.to_objects(state.put(adj=state["adj"] + 2 * noise)), graphs))  # above: not the same


def test_threshold_is_one_half_inclusive():
    codec = DegreeGraphCodec(3, 3, drop_isolated=False)
    values = torch.tensor([[[0, 0.5, 0.499], [0.5, 0, -3], [0.499, -3, 0]]])
    (graph,) = codec.to_objects(codec.template([3]).put(adj=values))
    assert list(graph.edges) == [(0, 1)] and len(graph) == 3


def test_isolated_nodes_are_dropped_or_kept():
    graph, empty = nx.empty_graph(6), nx.empty_graph(4)
    graph.add_edges_from([(1, 3), (3, 4)])
    dropping, keeping = DegreeGraphCodec(6, 3), DegreeGraphCodec(6, 3, drop_isolated=False)
    state = keeping.to_state([graph, empty])
    dropped, kept = dropping.to_objects(state), keeping.to_objects(state)
    assert sorted(dropped[0].edges) == [(0, 1), (1, 2)] and len(dropped[0]) == 3  # order kept, renumbered
    assert len(dropped[1]) == 1  # a single node if nothing is left
    assert same(kept[0], graph) and same(kept[1], empty)


@pytest.mark.parametrize("codec", [DegreeGraphCodec(9, 4), OneHotGraphCodec(9, node_classes=3)])
def test_template_has_the_layouts_of_real_states(codec):
    graphs = [with_labels(nx.cycle_graph(n), 0) for n in (4, 9, 6)]
    for graph in graphs:
        nx.set_node_attributes(graph, 1, "label")
    template, state = codec.template([4, 9, 6]), codec.to_state(graphs)
    for name, x in state.fields.items():
        assert template[name].shape == x.shape and not template[name].any()
        assert torch.equal(template.layouts[name].mask, state.layouts[name].mask)
        assert template.layouts[name].sizes == (4, 9, 6)


def test_sizes_are_read_from_the_mask_where_the_host_does_not_know_them():
    graphs = [nx.complete_graph(n) for n in (3, 6, 2)]
    for codec in (DegreeGraphCodec.infer(graphs), OneHotGraphCodec.infer(graphs)):
        state = codec.to_state(graphs)
        layouts = {name: Layout(3, mask=layout.mask) for name, layout in state.layouts.items()}
        assert all(map(same, codec.to_objects(State(state.fields, layouts)), graphs))


def test_a_codec_survives_the_checkpoint(graphs):
    for codec in (DegreeGraphCodec.infer(graphs), OneHotGraphCodec.infer(graphs)):
        again = from_config(json.loads(json.dumps(to_config(codec))))
        assert type(again) is type(codec) and vars(again) == vars(codec)


@pytest.mark.parametrize("codec", [DegreeGraphCodec(4, 4), OneHotGraphCodec(4)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_no_graphs(codec, bad):
    graphs = [nx.complete_graph(n) for n in (3, 4, 2)]
    for field in codec.template([4]).fields:
        state = codec.to_state(graphs)
        state[field][1].view(-1)[1] = bad
        first, broken, last = codec.to_objects(state)
        assert broken is None and same(first, graphs[0]) and same(last, graphs[2])


def test_errors_say_what_is_wrong():
    codec = DegreeGraphCodec(4, 3)
    with pytest.raises(UserError, match="5 to 5 nodes.*1 to 4"):
        codec.to_state([nx.path_graph(5)])
    with pytest.raises(UserError, match="no graph"):
        codec.to_state([])
    with pytest.raises(UserError, match="0 to 2 nodes"):
        codec.template([0, 2])
    with pytest.raises(UserError, match="max_nodes must be at least 1"):
        DegreeGraphCodec(0, 3)
    with pytest.raises(UserError, match="node label: got 'C'"):
        graph = nx.path_graph(2)
        nx.set_node_attributes(graph, "C", "label")
        OneHotGraphCodec(4, node_classes=2).to_state([graph])
    with pytest.raises(UserError, match="without nodes"):
        largest([nx.Graph()])
    with pytest.raises(UserError, match="edge_classes=1"):
        OneHotGraphCodec(4, edge_classes=1)
