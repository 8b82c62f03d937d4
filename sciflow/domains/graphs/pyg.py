"""torch_geometric graphs as networkx graphs and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from sciflow.core.errors import UserError, require
from sciflow.domains.graphs.files import is_integer, simple_graph, to_networkx

if TYPE_CHECKING:
    from torch_geometric.data import Data


def to_pyg(graphs: Iterable[nx.Graph]) -> list[Data]:
    """`torch_geometric.data.Data` per graph: both directions of every edge, `num_nodes` always set.

    Node attribute ``x`` (vector) becomes ``x`` (n, F); integer ``label`` of nodes, edges and graphs become
    ``node_label`` (n,), ``edge_label`` (2E,) and ``y`` (1,).  An attribute is passed on only if every node (edge,
    graph) of the whole list has it, because torch_geometric batches only graphs with the same attributes.
    """
    import torch

    data_class = require("torch_geometric.data", "graphs").Data
    graphs = [simple_graph(graph) for graph in graphs]
    features = [[values.get("x") for _, values in graph.nodes(data=True)] for graph in graphs]
    tables = {
        "node_label": [[values.get("label") for _, values in graph.nodes(data=True)] for graph in graphs],
        "edge_label": [[values.get("label") for _, _, values in graph.edges(data=True)] * 2 for graph in graphs],
        "y": [[graph.graph.get("label")] for graph in graphs],
    }
    stored = {name: rows for name, rows in tables.items() if any(rows) and _all(rows, is_integer)}
    out = []
    for g, graph in enumerate(graphs):
        one_way = torch.tensor(list(graph.edges()), dtype=torch.long).reshape(-1, 2).T
        data = data_class(edge_index=torch.cat([one_way, one_way.flip(0)], 1), num_nodes=len(graph))
        if _all(features, lambda v: v is not None):
            data.x = torch.tensor(np.array(features[g]), dtype=torch.get_default_dtype())
        for name, rows in stored.items():
            data[name] = torch.tensor(rows[g], dtype=torch.long)
        out.append(data)
    return out


def _all(rows: Sequence[Sequence[Any]], test: Callable[[Any], bool]) -> bool:
    return all(test(value) for row in rows for value in row)


def from_objects(objects: Any) -> list[nx.Graph | None]:
    """Graphs of Python objects: networkx graphs, dense matrices, None, whatever `from_pyg` takes, or a list of them."""
    if objects is None or isinstance(objects, nx.Graph):
        return [objects]
    if isinstance(objects, np.ndarray):
        return [to_networkx(objects)]
    if isinstance(objects, (list, tuple)):
        return [graph for item in objects for graph in from_objects(item)]
    return [*from_pyg(objects)]


def from_pyg(data: Any) -> list[nx.Graph]:
    """Graphs of a `Data`, a `Batch`, or an iterable of them (a list, a Dataset, a DataLoader).

    Edges count as undirected whichever directions are stored; self loops and repeats are dropped; isolated nodes stay.
    ``x`` becomes the node attribute ``x``; ``node_label`` (or one-hot ``x``), ``edge_label`` (or one-hot ``edge_attr``)
    and a scalar ``y`` become ``label``.  A batch is split by its ``batch`` vector, so hand-made batches work too.

    Raises:
        UserError: Another kind of object, one without ``edge_index``, or its number of nodes is not known.
    """
    data_class = require("torch_geometric.data", "graphs").Data
    if isinstance(data, data_class):  # first: a Dataset forwards `edge_index`, and a Data can be iterated over as well
        return _split(data)
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
        return [graph for item in data for graph in from_pyg(item)]
    raise UserError(
        f"from_pyg: got {type(data).__name__}, expected networkx or torch_geometric graphs, or lists of them"
    )


def _split(data: Any) -> list[nx.Graph]:
    if data.edge_index is None or data.num_nodes is None:
        raise UserError("from_pyg: edge_index or num_nodes is missing; set data.num_nodes (and an empty edge_index)")
    edges = data.edge_index.detach().cpu().numpy()
    nodes = int(data.num_nodes)
    batch = getattr(data, "batch", None)
    owner = np.zeros(nodes, np.int64) if batch is None else batch.detach().cpu().numpy()
    number = int(getattr(data, "num_graphs", None) or (owner.max(initial=0) + 1))
    local = np.arange(nodes) - np.searchsorted(owner, np.arange(number))[owner]
    node_labels = _labels(data, "node_label", "x")
    edge_labels = _labels(data, "edge_label", "edge_attr")
    x = None if getattr(data, "x", None) is None else data.x.detach().cpu().numpy().reshape(nodes, -1)
    y = getattr(data, "y", None)
    out = []
    for g in range(number):
        mine = np.flatnonzero(owner == g)
        graph = nx.empty_graph(len(mine))
        if x is not None:
            nx.set_node_attributes(graph, dict(enumerate(x[mine].tolist())), "x")
        if node_labels is not None:
            nx.set_node_attributes(graph, dict(enumerate(node_labels[mine].tolist())), "label")
        own_edges = np.flatnonzero((owner[edges[0]] == g) & (edges[0] != edges[1]))
        pairs = local[edges[:, own_edges]].T.tolist()
        if edge_labels is None:
            graph.add_edges_from(pairs)
        else:
            labels = edge_labels[own_edges].tolist()
            graph.add_edges_from((i, j, {"label": label}) for (i, j), label in zip(pairs, labels))
        if y is not None and y.numel() == number and not y.is_floating_point():
            graph.graph["label"] = int(y.reshape(-1)[g])
        out.append(graph)
    return out


def _labels(data: Any, integer: str, one_hot: str) -> np.ndarray | None:
    """Integer labels stored as such, or the argmax of a feature matrix whose rows are one-hot; else None."""
    if getattr(data, integer, None) is not None:
        return getattr(data, integer).detach().cpu().numpy()
    features = getattr(data, one_hot, None)
    if features is None:
        return None
    features = features.detach().cpu().numpy()
    if (
        features.ndim != 2
        or features.shape[1] < 2
        or not (np.isin(features, (0, 1)).all() and (features.sum(1) == 1).all())
    ):
        return None
    return features.argmax(1)
