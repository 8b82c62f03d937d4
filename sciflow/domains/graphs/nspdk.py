r"""Neighbourhood subgraph pairwise distance kernel (NSPDK; Costa & De Grave 2010) and its MMD, as EDeN computes it.

Every edge is first turned into a labelled vertex between its ends.  The root hash of a node at radius r condenses the
breadth-first levels 0..2r around it in that expanded graph, a level being the multiset of (label, degree).  For every
ordered pair of nodes (v, u) at distance d = 0..4 and every radius r = 0..4 that both neighbourhoods reach, the graph
gets the feature (unordered pair of root hashes, r, d) and the "half" feature (root hash of u, r, d).  Counts are scaled
to unit L2 norm inside each (r, d) block, then over the whole graph, so the kernel of two graphs is an inner product in
[0, 1] and, the kernel being linear, MMD^2 is the squared distance of the two mean feature vectors.

EDeN folds features into 2^16 buckets with Python's salted string hash; here features keep 64 bits of a fixed hash, so
the result is the same in every process and free of collisions.  Whole chunks of graphs are treated at once (NumPy).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

RADIUS = 4  # EDeN's complexity=4, the published setting
DISTANCE = 4
_BLOCKS = (RADIUS + 1) * (DISTANCE + 1)
_FAR = np.uint8(255)
_ENTRIES_PER_CHUNK = 2_000_000


def mix(value: np.ndarray, other: np.ndarray | int = 0) -> np.ndarray:
    """Fixed 64-bit hash of one or two unsigned integers, elementwise (finaliser of SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):  # arithmetic is modulo 2^64
        z = np.asarray(value, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(29))) + (np.asarray(other, np.uint64) + np.uint64(1)) * np.uint64(0xD1342543DE82EF95)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@dataclass(frozen=True)
class _Packed:
    """Label codes and edges of one graph."""

    nodes: np.ndarray  # (n,) uint64
    edges: np.ndarray  # (m, 2) int64
    edge_codes: np.ndarray  # (m,) uint64


def _pack(graph: nx.Graph, codes: dict[object, int]) -> _Packed:
    def code(label: object) -> int:
        if label not in codes:
            codes[label] = int.from_bytes(hashlib.blake2b(str(label).encode(), digest_size=8).digest(), "little")
        return codes[label]

    index = {node: i for i, node in enumerate(graph)}
    edges = [(index[u], index[v], code(data.get("label", ""))) for u, v, data in graph.edges(data=True) if u != v]
    return _Packed(
        np.array([code(data.get("label", "")) for _, data in graph.nodes(data=True)], np.uint64),
        np.array([edge[:2] for edge in edges], np.int64).reshape(-1, 2),
        np.array([edge[2] for edge in edges], np.uint64),
    )


def _pack_all(*sets: Sequence[nx.Graph]) -> list[_Packed]:
    codes: dict[object, int] = {}
    return [_pack(graph, codes) for graphs in sets for graph in graphs]


def _chunks(packed: Sequence[_Packed]) -> Iterator[np.ndarray]:
    """Graphs of similar size to treat together, so that little is padded and memory stays bounded."""
    sizes = np.array([max(len(p.nodes), 1) * max(len(p.nodes), len(p.edges), 1) for p in packed])
    order = np.argsort(sizes, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * sizes[order[stop]] <= _ENTRIES_PER_CHUNK:
            stop += 1
        yield order[start:stop]
        start = stop


def _distances(adjacency: np.ndarray, real: np.ndarray, limit: int) -> np.ndarray:
    """Hop distances (G, N, N) uint8 up to `limit`, 255 beyond, between real nodes."""
    distance = np.where(np.eye(adjacency.shape[1], dtype=bool) & real[:, :, None], np.uint8(0), _FAR)
    reached = (distance == 0).astype(np.float32)
    for hop in range(1, limit + 1):
        reached = np.minimum(reached + reached @ adjacency, 1)
        distance[(reached > 0) & (distance == _FAR)] = hop
    return distance


def _root_hashes(packed: Sequence[_Packed]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Root hashes (RADIUS + 1, G, N), whether a node's neighbourhood reaches each radius (same shape), distances."""
    count, n = len(packed), max(len(p.nodes) for p in packed)
    m = max(max(len(p.edges) for p in packed), 1)
    node_codes, real = np.zeros((count, n), np.uint64), np.zeros((count, n), bool)
    ends, edge_codes = np.zeros((count, m, 2), np.int64), np.zeros((count, m), np.uint64)
    adjacency = np.zeros((count, n, n), np.float32)
    for g, p in enumerate(packed):
        node_codes[g, : len(p.nodes)], real[g, : len(p.nodes)] = p.nodes, True
        ends[g, : len(p.edges)] = p.edges
        edge_codes[g, : len(p.edges)] = mix(p.edge_codes, 2)  # an edge vertex has degree 2
        adjacency[g, p.edges[:, 0], p.edges[:, 1]] = adjacency[g, p.edges[:, 1], p.edges[:, 0]] = 1
    node_codes = np.where(real, mix(node_codes, adjacency.sum(2).astype(np.uint64)), 0).astype(np.uint64)
    distance = _distances(adjacency, real, max(RADIUS, DISTANCE))
    to_ends = np.take_along_axis(distance[:, :, :, None], ends[:, None, :, :], axis=2).min(3)  # (G, N, M)

    hashes = np.zeros((RADIUS + 1, count, n), np.uint64)
    reaches = np.zeros((RADIUS + 1, count, n), bool)
    running = np.zeros((count, n), np.uint64)
    zero = np.uint64(0)
    for r in range(RADIUS + 1):
        if r:
            running = mix(running, np.where(to_ends == r - 1, edge_codes[:, None, :], zero).sum(2, dtype=np.uint64))
        running = mix(running, np.where(distance == r, node_codes[:, None, :], zero).sum(2, dtype=np.uint64))
        hashes[r], reaches[r] = running, (distance == r).any(2)
    return hashes, reaches, distance


def _counts(packed: Sequence[_Packed]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Unnormalised features of a chunk: row (graph), 64-bit feature, (r, d) block and count of each entry."""
    hashes, reaches, distance = _root_hashes(packed)
    rows, features, blocks, counts = [], [], [], []
    for d in range(DISTANCE + 1):
        g, v, u = np.nonzero(np.triu(distance == d))
        both = (distance == d).astype(np.float32)
        for r in range(RADIUS + 1):
            block = r * (DISTANCE + 1) + d
            ok = reaches[r, g, v] & reaches[r, g, u]
            first, second = hashes[r, g[ok], v[ok]], hashes[r, g[ok], u[ok]]
            pair = mix(np.minimum(first, second), np.maximum(first, second))
            partners = np.einsum("gvu,gv->gu", both, reaches[r].astype(np.float32)) * reaches[r]
            h, w = np.nonzero(partners)
            rows += [g[ok], h]
            features += [mix(pair, 2 * block), mix(hashes[r, h, w], 2 * block + 1)]
            counts += [np.where(v[ok] == u[ok], 1.0, 2.0), partners[h, w].astype(float)]
            blocks += [np.full(len(first) + len(h), block)]
    return tuple(np.concatenate(part) for part in (rows, features, blocks, counts))  # type: ignore[return-value]


def _unit_features(packed: Sequence[_Packed]) -> Iterator[tuple[np.ndarray, np.ndarray, csr_matrix]]:
    """Chunk by chunk: graph numbers (G,), 64-bit features (C,) and the table (G, C) of unit-norm feature values."""
    from scipy.sparse import csr_matrix

    for chunk in _chunks(packed):
        row, feature, block, count = _counts([packed[i] for i in chunk])
        features, first, column = np.unique(feature, return_index=True, return_inverse=True)
        table = csr_matrix((count, (row, column)), (len(chunk), len(features)))
        own_row = np.repeat(np.arange(len(chunk)), np.diff(table.indptr))
        cell = own_row * _BLOCKS + block[first][table.indices]
        squares = np.bincount(cell, table.data**2, len(chunk) * _BLOCKS)
        blocks_of_row = (squares.reshape(-1, _BLOCKS) > 0).sum(1)
        table.data /= np.sqrt(squares[cell] * blocks_of_row[own_row])
        yield chunk, features, table


def nspdk_features(*sets: Sequence[nx.Graph]) -> list[csr_matrix]:
    """Unit-norm NSPDK features of one or more sets of graphs, in one common column space.

    Args:
        *sets: Sequences of graphs; class labels (str or int) in the attribute ``label`` of nodes and edges, "" if
        absent.

    Returns:
        For each set a sparse matrix (number of graphs, number of distinct features); ``a @ b.T`` are kernel values.
        A graph without nodes has a zero row.
    """
    from scipy.sparse import csr_matrix

    packed = _pack_all(*sets)
    rows: list[np.ndarray] = [np.zeros(0, np.int64)]
    columns: list[np.ndarray] = [np.zeros(0, np.uint64)]
    values: list[np.ndarray] = [np.zeros(0)]
    for chunk, features, table in _unit_features(packed):
        rows.append(np.repeat(chunk, np.diff(table.indptr)))
        columns.append(features[table.indices])
        values.append(table.data)
    features, column = np.unique(np.concatenate(columns), return_inverse=True)
    joint = csr_matrix((np.concatenate(values), (np.concatenate(rows), column)), (len(packed), len(features)))
    bounds = np.cumsum([0, *map(len, sets)])
    return [joint[start:stop] for start, stop in zip(bounds[:-1], bounds[1:])]


def nspdk_mmd(generated: Sequence[nx.Graph], reference: Sequence[nx.Graph]) -> float:
    """Biased MMD^2 of the NSPDK kernel between two sets of labelled graphs; nan when a set is empty.

    Only the difference of the two mean feature vectors is kept, so memory does not grow with the number of graphs.
    """
    if not len(generated) or not len(reference):
        return float("nan")
    weight = np.repeat([1 / len(generated), -1 / len(reference)], [len(generated), len(reference)])
    parts = [(f, table.T @ weight[chunk]) for chunk, f, table in _unit_features(_pack_all(generated, reference))]
    _, column = np.unique(np.concatenate([features for features, _ in parts]), return_inverse=True)
    difference = np.bincount(column, np.concatenate([values for _, values in parts]))
    return float(difference @ difference)
