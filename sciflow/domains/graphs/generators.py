r"""Synthetic graph sets for users without data: seeded, documented, connected where the originals are.

* `planar`: Delaunay triangulation of uniform points in the unit square (Martinkus et al. 2022, SPECTRE: 64 nodes).
* `sbm`: stochastic block model, 2-5 blocks of 20-40 nodes, edge probability 0.3 inside and 0.005 between (SPECTRE).
* `community_like`: two Erdos-Renyi blocks of floor(n/2) nodes (p = 0.7), n uniform in 12..20, each pair between them
  linked with probability 0.1 / floor(n/2), at least once (Niu et al. 2020, whose block seeds are constants; here every
  graph has its own).
* `grid_like`: m x n lattices, m and n uniform in 10..19 (You et al. 2018).
* `ego_like`: radius-1 ego networks with 4..18 nodes of a Holme-Kim power-law cluster graph (2 000 nodes, or 4 per
  requested graph if that is more; 2 links per new node, triangles with probability 0.6), in place of the Citeseer
  citation network.
"""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import numpy as np

ATTEMPTS = 1000  # redraws until a graph is connected


def planar(count: int = 200, nodes: int = 64, seed: int = 0) -> list[nx.Graph]:
    """Delaunay graphs of `nodes` >= 3 uniform points: planar and connected, at most 3 n - 6 edges."""
    from scipy.spatial import Delaunay

    rng = np.random.default_rng(seed)
    graphs = []
    for _ in range(count):
        corners = Delaunay(rng.random((nodes, 2))).simplices
        edges = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]]])
        graphs.append(_from_edges(nodes, edges))
    return graphs


def block_graph(sizes: list[int], inside: float, between: float, rng: np.random.Generator) -> nx.Graph:
    """One stochastic block model graph: independent edges with probability `inside` a block or `between` two."""
    block = np.repeat(np.arange(len(sizes)), sizes)
    probability = np.where(block[:, None] == block, inside, between)
    return _from_edges(len(block), np.argwhere(np.triu(rng.random(probability.shape) < probability, 1)))


def sbm(count: int = 200, inside: float = 0.3, between: float = 0.005, seed: int = 0) -> list[nx.Graph]:
    """Connected stochastic block models with 2-5 blocks of 20-40 nodes."""
    rng = np.random.default_rng(seed)

    def draw() -> nx.Graph:
        return block_graph(rng.integers(20, 41, rng.integers(2, 6)).tolist(), inside, between, rng)

    return [_connected(draw) for _ in range(count)]


def community_like(count: int = 100, seed: int = 0) -> list[nx.Graph]:
    """Two dense blocks joined by few edges, 12-20 nodes, connected; about 0.05 n edges between them, at least 1."""
    rng = np.random.default_rng(seed)

    def draw() -> nx.Graph:
        size = int(rng.integers(12, 21)) // 2
        graph = block_graph([size, size], 0.7, 0.1 / size, rng)
        if not any((u < size) != (v < size) for u, v in graph.edges()):
            graph.add_edge(0, size)
        return graph

    return [_connected(draw) for _ in range(count)]


def grid_like(count: int = 100, seed: int = 0) -> list[nx.Graph]:
    """Rectangular lattices with both sides in 10..19, rows first."""
    rng = np.random.default_rng(seed)
    return [
        nx.convert_node_labels_to_integers(nx.grid_2d_graph(m, n)) for m, n in rng.integers(10, 20, (count, 2)).tolist()
    ]


def ego_like(count: int = 200, seed: int = 0) -> list[nx.Graph]:
    """Ego networks with 4..18 nodes around distinct centres (nearly half of the nodes qualify)."""
    source = nx.powerlaw_cluster_graph(max(2000, 4 * count), 2, 0.6, seed=seed)
    centres = [node for node in source if 4 <= source.degree(node) + 1 <= 18]
    chosen = np.random.default_rng(seed).permutation(centres)[:count].tolist()
    return [nx.convert_node_labels_to_integers(nx.ego_graph(source, node)) for node in chosen]


GENERATORS: dict[str, Callable[..., list[nx.Graph]]] = {
    "planar": planar,
    "sbm": sbm,
    "community_like": community_like,
    "grid_like": grid_like,
    "ego_like": ego_like,
}


def _from_edges(nodes: int, edges: np.ndarray) -> nx.Graph:
    graph = nx.empty_graph(nodes)
    graph.add_edges_from(edges.tolist())
    return graph


def _connected(draw: Callable[[], nx.Graph]) -> nx.Graph:
    for _ in range(ATTEMPTS):
        graph = draw()
        if nx.is_connected(graph):
            return graph
    raise ValueError(f"no connected graph in {ATTEMPTS} draws; raise the edge probabilities")
