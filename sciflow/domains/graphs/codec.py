"""Graphs as states and back, in two representations.

* `DegreeGraphCodec`: the published GDSS tensors (Jo, Lee & Hwang, ICML 2022). ``x`` (B, N, F) one-hot node degrees,
  ``adj`` (B, N, N) real-valued 0/1; decoding asks ``adj >= 0.5``, ignores ``x`` and drops isolated nodes.
* `OneHotGraphCodec`: classes for discrete processes. ``adj`` (B, N, N, K) one-hot edge classes (class 0: no edge) and,
  for labelled nodes, ``x`` (B, N, F) one-hot node labels; decoding takes the most probable class.

Real nodes come first, padding is zero, the diagonal of ``adj`` is zero and masked out. Both layouts carry ``sizes``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from sciflow.core.codec import Codec
from sciflow.core.errors import UserError
from sciflow.core.state import Layout, State


def largest(graphs: Sequence[nx.Graph]) -> int:
    """Largest number of nodes.

    Raises:
        UserError: No graphs, or one without nodes.
    """
    sizes = [len(graph) for graph in graphs]
    if not sizes or min(sizes) == 0:
        raise UserError(f"got {len(sizes)} graphs, {sizes.count(0)} of them without nodes; expected graphs with nodes")
    return max(sizes)


class GraphCodec(Codec):
    """What both representations share: sizes, padding, masks and the way back to networkx.

    Args:
        max_nodes: Largest number of nodes.
        drop_isolated: Remove isolated nodes when decoding, as the published protocol does (a graph without edges
            becomes a single node).
    """

    def __init__(self, max_nodes: int, drop_isolated: bool = True) -> None:
        if max_nodes < 1:
            raise UserError(f"max_nodes must be at least 1, got {max_nodes}")
        self.max_nodes = max_nodes
        self.drop_isolated = drop_isolated

    @abstractmethod
    def _tensors(self, edges: Tensor, labels: Tensor, node: Tensor, pair: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Field name -> (tensor, mask), from edge classes (B, N, N), node labels (B, N) and the two 0/1 masks."""

    @abstractmethod
    def _classes(self, state: State) -> tuple[Tensor, Tensor | None]:
        """Edge classes (B, N, N), 0 for no edge, and node labels (B, N) or None, from generated tensors."""

    def template(self, sizes: Sequence[int]) -> State:
        """A state of zeros with the layouts of graphs of the given sizes, padded to the largest of them."""
        self._check_sizes(sizes)
        batch, nodes = len(sizes), max(sizes)
        state = self._state(torch.zeros(batch, nodes, nodes).long(), torch.zeros(batch, nodes).long(), sizes)
        return state.put(**{name: torch.zeros_like(x) for name, x in state.fields.items()})

    def to_state(self, graphs: Sequence[nx.Graph]) -> State:
        """Graphs as a clean state, padded to the largest of them; node order as stored.

        Raises:
            UserError: No graph, an empty one, one with more than max_nodes nodes, or a label that has no class.
        """
        sizes = [len(graph) for graph in graphs]
        self._check_sizes(sizes)
        nodes = max(sizes)
        edges = np.zeros((len(graphs), nodes, nodes), np.int64)
        labels = np.zeros((len(graphs), nodes), np.int64)
        for g, graph in enumerate(graphs):
            index = {node: i for i, node in enumerate(graph)}
            entries = [(index[u], index[v], self._edge_class(data)) for u, v, data in graph.edges(data=True) if u != v]
            if entries:
                i, j, kind = np.array(entries).T
                edges[g, i, j] = edges[g, j, i] = kind
            labels[g, : len(graph)] = [self._node_class(data) for _, data in graph.nodes(data=True)]
        return self._state(torch.from_numpy(edges), torch.from_numpy(labels), sizes)

    def to_objects(self, state: State) -> list[nx.Graph | None]:
        """One graph per sample, by thresholds or the most probable class; the upper triangle of ``adj`` decides.

        A sample with a value that is not finite is no graph: None.
        """
        finite = torch.stack([x.isfinite().flatten(1).all(1) for x in state.fields.values()]).all(0).tolist()
        classes, kinds = self._classes(state)
        edges, labels = classes.cpu().numpy(), None if kinds is None else kinds.cpu().numpy()
        batch, nodes = edges.shape[:2]
        real = np.arange(nodes) < self._sizes(state)[:, None]
        edges = np.triu(edges * (real[:, :, None] & real[:, None, :]), 1)
        if self.drop_isolated:
            real = (edges.any(1) | edges.any(2)) & real
        position = np.cumsum(real, 1) - 1
        sample, i, j = np.nonzero(edges)
        pairs = np.stack([position[sample, i], position[sample, j], edges[sample, i, j]], 1)
        pieces = np.split(pairs, np.searchsorted(sample, np.arange(1, batch)))
        graphs: list[nx.Graph | None] = []
        for g, (piece, number) in enumerate(zip(pieces, real.sum(1).tolist())):
            graph = nx.empty_graph(max(number, 1))
            self._add_edges(graph, piece.tolist())
            if labels is not None and number:
                nx.set_node_attributes(graph, dict(enumerate(labels[g, real[g]].tolist())), "label")
            graphs.append(graph if finite[g] else None)
        return graphs

    def _edge_class(self, data: dict[str, Any]) -> int:
        return 1

    def _node_class(self, data: dict[str, Any]) -> int:
        return 0

    def _add_edges(self, graph: nx.Graph, triples: list[list[int]]) -> None:
        graph.add_edges_from((i, j) for i, j, _ in triples)

    def _check_sizes(self, sizes: Sequence[int]) -> None:
        if not len(sizes) or min(sizes) < 1 or max(sizes) > self.max_nodes:
            got = f"{min(sizes)} to {max(sizes)} nodes" if len(sizes) else "no graph"
            raise UserError(f"graph sizes: got {got}, this model expects graphs of 1 to {self.max_nodes} nodes")

    def _state(self, edges: Tensor, labels: Tensor, sizes: Sequence[int]) -> State:
        sizes = tuple(int(size) for size in sizes)
        node = (torch.arange(edges.shape[1]) < torch.tensor(sizes)[:, None]).float()
        pair = node[:, :, None] * node[:, None, :] * (1 - torch.eye(edges.shape[1]))
        fields = self._tensors(edges, labels, node, pair)
        return State(
            fields={name: x for name, (x, _) in fields.items()},
            layouts={name: Layout(len(sizes), mask=mask, sizes=sizes) for name, (_, mask) in fields.items()},
        )

    def _sizes(self, state: State) -> np.ndarray:
        """(B,) node counts from `sizes`, else from the mask of ``adj``, else all nodes."""
        layout, nodes = state.layouts["adj"], state["adj"].shape[1]
        if layout.sizes is not None:
            return np.array(layout.sizes)
        if layout.mask is None:
            return np.full(layout.batch, nodes)
        pairs = layout.mask.expand(*state["adj"].shape).reshape(layout.batch, nodes, nodes, -1)[..., 0]
        return (pairs.any(1).sum(1)).cpu().numpy()


class DegreeGraphCodec(GraphCodec):
    """The published GDSS tensors.

    Args:
        max_nodes: Largest number of nodes.
        degree_classes: F, number of degree classes 0 .. F-1; larger degrees fall into the last one.
        drop_isolated: Remove isolated nodes when decoding (published protocol).
    """

    def __init__(self, max_nodes: int, degree_classes: int, drop_isolated: bool = True) -> None:
        super().__init__(max_nodes, drop_isolated)
        self.degree_classes = degree_classes

    @classmethod
    def infer(cls, graphs: Sequence[nx.Graph]) -> DegreeGraphCodec:
        """The codec of a set: largest graph, degree classes 0 .. largest degree."""
        return cls(largest(graphs), max(degree for graph in graphs for _, degree in graph.degree()) + 1)

    def _tensors(self, edges: Tensor, labels: Tensor, node: Tensor, pair: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        degree = edges.sum(2).clamp(max=self.degree_classes - 1)
        x = one_hot(degree, self.degree_classes).float() * node[:, :, None]
        return {"x": (x, node[:, :, None]), "adj": (edges.float(), pair)}

    def _classes(self, state: State) -> tuple[Tensor, Tensor | None]:
        return (state["adj"] >= 0.5).long(), None


class OneHotGraphCodec(GraphCodec):
    """One-hot edge classes and, if nodes have labels, one-hot node classes.

    Args:
        max_nodes: Largest number of nodes.
        edge_classes: K, class 0 is "no edge"; with K = 2 edge labels are ignored, with K > 2 the edge attribute
            ``label`` must be an integer in 1 .. K-1.
        node_classes: F, the node attribute ``label`` must be an integer in 0 .. F-1; 0: nodes are unlabelled and there
            is no field ``x``.
        drop_isolated: Remove isolated nodes when decoding.
    """

    def __init__(
        self,
        max_nodes: int,
        edge_classes: int = 2,
        node_classes: int = 0,
        drop_isolated: bool = False,
    ) -> None:
        super().__init__(max_nodes, drop_isolated)
        if edge_classes < 2 or node_classes < 0 or node_classes == 1:
            raise UserError(
                f"got edge_classes={edge_classes}, node_classes={node_classes}; expected edge_classes >= 2 and "
                "node_classes 0 (no labels) or >= 2"
            )
        self.edge_classes, self.node_classes = edge_classes, node_classes

    @classmethod
    def infer(cls, graphs: Sequence[nx.Graph]) -> OneHotGraphCodec:
        """The codec of a set: labels count if every node (edge) has an integer one."""
        nodes: list[Any] = [data.get("label") for graph in graphs for _, data in graph.nodes(data=True)]
        edges: list[Any] = [data.get("label") for graph in graphs for _, _, data in graph.edges(data=True)]
        node_classes = int(max(nodes)) + 1 if _all_integers(nodes) else 0
        edge_classes = int(max(edges)) + 1 if _all_integers(edges) and min(edges) >= 1 else 2
        return cls(largest(graphs), max(edge_classes, 2), 0 if node_classes == 1 else node_classes)

    def _edge_class(self, data: dict[str, Any]) -> int:
        return 1 if self.edge_classes == 2 else _checked(data.get("label"), "edge", 1, self.edge_classes - 1)

    def _node_class(self, data: dict[str, Any]) -> int:
        return _checked(data.get("label"), "node", 0, self.node_classes - 1) if self.node_classes else 0

    def _add_edges(self, graph: nx.Graph, triples: list[list[int]]) -> None:
        if self.edge_classes == 2:
            return super()._add_edges(graph, triples)
        graph.add_edges_from((i, j, {"label": kind}) for i, j, kind in triples)

    def _tensors(self, edges: Tensor, labels: Tensor, node: Tensor, pair: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        pair = pair[..., None]
        fields = {"adj": (one_hot(edges, self.edge_classes).float() * pair, pair)}
        if self.node_classes:
            x = one_hot(labels, self.node_classes).float() * node[:, :, None]
            fields = {"x": (x, node[:, :, None]), **fields}
        return fields

    def _classes(self, state: State) -> tuple[Tensor, Tensor | None]:
        return state["adj"].argmax(-1), state["x"].argmax(-1) if self.node_classes else None


def _all_integers(labels: Sequence[Any]) -> bool:
    return bool(labels) and all(isinstance(label, (int, np.integer)) and label >= 0 for label in labels)


def _checked(label: Any, what: str, low: int, high: int) -> int:
    if not isinstance(label, (int, np.integer)) or not low <= label <= high:
        raise UserError(f"{what} label: got {label!r}, this model expects integers from {low} to {high}")
    return int(label)
