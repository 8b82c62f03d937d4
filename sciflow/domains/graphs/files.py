"""Graphs in and out: our npz archives, GraphML, edge lists, JSON, graph6 and dense matrices (`pyg`: torch_geometric).

Inside sciflow a graph is a `networkx.Graph`: undirected, simple, nodes 0..n-1 in stored order, node and edge classes in
the attribute ``label``.  The npz format (no pickles) stores the graphs back to back: graph g owns the node range
``node_ptr[g]:node_ptr[g+1]`` and the edge range ``edge_ptr[g]:edge_ptr[g+1]`` of ``edges``, whose two columns are node
numbers local to the graph, first < second, each undirected edge once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx
import numpy as np

from sciflow.core.errors import UserError
from sciflow.core.files import replacing


class GraphFile(NamedTuple):
    """What a file held.

    Attributes:
        graphs: The graphs, normalised by `simple_graph`.
        skipped: What was left out, reason -> how often (unreadable files, empty graphs, self loops, ...).
        info: Plain values stored beside the graphs, e.g. ``train_idx``, ``test_idx``, ``max_node_num``.
    """

    graphs: list[nx.Graph]
    skipped: dict[str, int]
    info: dict[str, Any]


# --- one graph ---------------------------------------------------------------------------------------------------


def simple_graph(graph: nx.Graph, counts: Counter[str] | None = None) -> nx.Graph:
    """The same graph undirected, without self loops or parallel edges, nodes renamed 0..n-1; attributes are kept.

    Args:
        graph: Any networkx graph.
        counts: Receives how many self loops and parallel (or opposite) edges were dropped.
    """
    index = {node: i for i, node in enumerate(graph)}
    simple = nx.Graph(**graph.graph)
    simple.add_nodes_from((i, graph.nodes[node]) for node, i in index.items())
    simple.add_edges_from((index[u], index[v], data) for u, v, data in graph.edges(data=True) if u != v)
    if counts is not None:
        loops = nx.number_of_selfloops(graph)
        counts["self loops dropped"] += loops
        counts["parallel edges merged"] += graph.number_of_edges() - loops - simple.number_of_edges()
    return simple


def from_networkx(graph: nx.Graph) -> np.ndarray:
    """Dense 0/1 adjacency (n, n) int8, node order as stored, zero diagonal; direction and weights are ignored."""
    index = {node: i for i, node in enumerate(graph)}
    adjacency = np.zeros((len(index), len(index)), dtype=np.int8)
    if graph.number_of_edges():
        i, j = np.array([(index[u], index[v]) for u, v in graph.edges()]).T
        adjacency[i, j] = adjacency[j, i] = 1
        np.fill_diagonal(adjacency, 0)
    return adjacency


def to_networkx(adjacency: np.ndarray) -> nx.Graph:
    """Graph of a square matrix (n, n): an edge wherever an off-diagonal entry of either triangle is not zero."""
    adjacency = np.asarray(adjacency)
    if adjacency.ndim != 2 or adjacency.shape[0] != adjacency.shape[1]:
        raise UserError(f"to_networkx: got an array of shape {adjacency.shape}, expected a square matrix (n, n)")
    return _graph(len(adjacency), np.argwhere(np.triu((adjacency != 0) | (adjacency.T != 0), 1)))


def _graph(nodes: int, edges: np.ndarray) -> nx.Graph:
    graph = nx.Graph()
    graph.add_nodes_from(range(nodes))
    graph.add_edges_from(edges.tolist())
    return graph


# --- npz ---------------------------------------------------------------------------------------------------------


def read_npz(path: str | Path) -> GraphFile:
    """Read the npz format of the module docstring (``node_label`` and ``graph_label`` become ``label`` attributes).

    Raises:
        UserError: The file is not a NumPy archive, lacks an array, or its arrays contradict each other.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:
        raise UserError(f"{path}: not a readable npz archive ({error})") from None
    missing = [name for name in ("node_ptr", "edge_ptr", "edges") if name not in arrays]
    if missing:
        raise UserError(f"{path}: got arrays {sorted(arrays)}, expected a graph archive; missing {', '.join(missing)}")
    node_ptr, edge_ptr, edges = (arrays[name].astype(np.int64) for name in ("node_ptr", "edge_ptr", "edges"))
    if len(node_ptr) != len(edge_ptr) or edge_ptr[-1] != len(edges) or (np.diff(node_ptr) < 0).any():
        raise UserError(f"{path}: node_ptr, edge_ptr and edges do not fit together; the archive is damaged")
    graphs = []
    for g, nodes in enumerate(np.diff(node_ptr)):
        pairs = edges[edge_ptr[g] : edge_ptr[g + 1]]
        if pairs.size and pairs.max() >= nodes:
            raise UserError(f"{path}: graph {g} has {nodes} nodes but an edge names node {pairs.max()}")
        graph = _graph(int(nodes), pairs)
        if "node_label" in arrays:
            labels = arrays["node_label"][node_ptr[g] : node_ptr[g + 1]].tolist()
            nx.set_node_attributes(graph, dict(enumerate(labels)), "label")
        if "edge_label" in arrays:
            labels = arrays["edge_label"][edge_ptr[g] : edge_ptr[g + 1]].tolist()
            nx.set_edge_attributes(graph, dict(zip(map(tuple, pairs.tolist()), labels)), "label")
        if "graph_label" in arrays:
            graph.graph["label"] = int(arrays["graph_label"][g])
        graphs.append(graph)
    known = {"node_ptr", "edge_ptr", "edges", "node_label", "edge_label", "graph_label", "node_id"}
    info = {name: array.tolist() for name, array in arrays.items() if name not in known}
    return GraphFile(graphs, {}, info)


def is_integer(value: Any) -> bool:
    """Whether a label is a Python or NumPy integer."""
    return isinstance(value, (int, np.integer))


def write_npz(path: str | Path, graphs: Sequence[nx.Graph], info: Mapping[str, Any] | None = None) -> None:
    """Write the npz format atomically; ``label`` attributes are stored if every node (edge, graph) has an integer."""
    graphs = [simple_graph(graph) for graph in graphs]
    edges = [np.array(sorted(sorted(e) for e in g.edges()), dtype=np.int32).reshape(-1, 2) for g in graphs]
    arrays: dict[str, np.ndarray] = {
        "node_ptr": np.cumsum([0, *map(len, graphs)], dtype=np.int32),
        "edge_ptr": np.cumsum([0, *map(len, edges)], dtype=np.int32),
        "edges": np.concatenate(edges) if edges else np.zeros((0, 2), np.int32),
    }
    labels = {
        "node_label": [g.nodes[v].get("label") for g in graphs for v in g],
        "edge_label": [g.edges[i, j].get("label") for g, pairs in zip(graphs, edges) for i, j in pairs.tolist()],
        "graph_label": [g.graph.get("label") for g in graphs],
    }
    for name, values in labels.items():
        if values and all(map(is_integer, values)):
            arrays[name] = np.array(values, dtype=np.int32)
    for name, value in (info or {}).items():
        arrays[name] = np.asarray(value)
    with replacing(path) as temporary, open(temporary, "wb") as file:  # NumPy would append ".npz" to another name
        np.savez_compressed(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]


# --- text formats ------------------------------------------------------------------------------------------------


def _read_json(path: Path) -> list[nx.Graph]:
    content = json.loads(path.read_text())
    items = content.get("graphs", [content]) if isinstance(content, dict) else content
    return [nx.node_link_graph(item, edges="links" if "links" in item else "edges") for item in items]


def _write_json(path: Path, graphs: Sequence[nx.Graph]) -> None:
    path.write_text(json.dumps({"graphs": [nx.node_link_data(graph, edges="edges") for graph in graphs]}))


def _read_graph6(path: Path) -> list[nx.Graph]:
    return [nx.from_graph6_bytes(line) for line in path.read_bytes().split()]


def _write_graph6(path: Path, graphs: Sequence[nx.Graph]) -> None:
    path.write_bytes(b"".join(nx.to_graph6_bytes(graph, header=False) for graph in graphs))


def _write_graphml(path: Path, graphs: Sequence[nx.Graph]) -> None:
    if len(graphs) != 1:
        raise UserError(f"GraphML holds one graph per file, got {len(graphs)}; give a folder name without an ending")
    nx.write_graphml(graphs[0], path)


def _read_edge_list(path: Path) -> list[nx.Graph]:
    return [nx.read_edgelist(path, nodetype=str, data=False)]


READERS: dict[str, Callable[[Path], list[nx.Graph]]] = {
    ".json": _read_json,
    ".graphml": lambda path: [nx.read_graphml(path)],
    ".edgelist": _read_edge_list,
    ".txt": _read_edge_list,
    ".g6": _read_graph6,
}
WRITERS: dict[str, Callable[[Path, Sequence[nx.Graph]], None]] = {
    ".json": _write_json,
    ".graphml": _write_graphml,
    ".g6": _write_graph6,
}


def read_graphs(path: str | Path) -> GraphFile:
    """Read graphs from an npz archive, a JSON, GraphML, edge-list or graph6 file, or a folder of such files.

    In a folder, files are read in the order of their names; those that cannot be read are counted and skipped.

    Raises:
        UserError: No such path, unknown ending, a single file that cannot be read, or no graph at all.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"no such file or folder: {path}")
    if path.suffix == ".npz":
        return read_npz(path)
    counts: Counter[str] = Counter()
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in READERS)
        if not files:
            raise UserError(f"{path}: no graph file in this folder; expected files ending in {', '.join(READERS)}")
        raw = [graph for file in files for graph in _read_or_count(file, counts)]
    elif path.suffix in READERS:
        try:
            raw = READERS[path.suffix](path)
        except Exception as error:
            raise UserError(f"{path}: cannot be read as {path.suffix[1:]} ({type(error).__name__}: {error})") from None
    else:
        raise UserError(f"{path}: unknown ending '{path.suffix}'; expected .npz, {', '.join(READERS)} or a folder")
    return simple_graphs(raw, counts, str(path))


def simple_graphs(raw: Sequence[nx.Graph | None], counts: Counter[str], source: str) -> GraphFile:
    """All graphs by `simple_graph`; None and empty ones are left out and counted.

    Raises:
        UserError: Not a single graph is left; `source` says where they come from.
    """
    kept = [graph for graph in raw if graph is not None and len(graph)]
    counts["empty graphs"] = len(raw) - len(kept)
    graphs = [simple_graph(graph, counts) for graph in kept]
    skipped = {reason: number for reason, number in counts.items() if number}
    if not graphs:
        raise UserError(f"{source}: no graph could be read ({skipped or 'it is empty'})")
    return GraphFile(graphs, skipped, {})


def _read_or_count(path: Path, counts: Counter[str]) -> list[nx.Graph]:
    try:
        return READERS[path.suffix](path)
    except Exception as error:
        counts[f"unreadable files ({type(error).__name__})"] += 1
        return []


def write_graphs(path: str | Path, graphs: Sequence[nx.Graph], info: Mapping[str, Any] | None = None) -> None:
    """Write graphs by the ending of `path` (.npz, .json, .graphml, .g6); no ending: a folder of GraphML files.

    Args:
        path: Where to; files are replaced atomically, a folder must not exist yet or be empty.
        graphs: The graphs.
        info: Plain values to store beside them (npz only).

    Raises:
        UserError: Unknown ending, or the place cannot be written.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending == ".npz":
        write_npz(path, graphs, info)
    elif ending in WRITERS:
        with replacing(path) as temporary:
            WRITERS[ending](temporary, graphs)
    elif ending == "":
        _write_folder(path, graphs)
    else:
        raise UserError(f"{path}: unknown ending '{path.suffix}'; expected .npz, {', '.join(WRITERS)} or no ending")


def _write_folder(path: Path, graphs: Sequence[nx.Graph]) -> None:
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise UserError(f"{path} exists and is not an empty folder; choose another name or remove it")
    with replacing(path) as temporary:
        temporary.mkdir()
        for i, graph in enumerate(graphs):
            nx.write_graphml(graph, temporary / f"graph_{i:06d}.graphml")
