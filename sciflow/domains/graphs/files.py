"""Graphs in and out: our npz archives, GraphML, edge lists, JSON, graph6, torch_geometric and dense matrices.

Inside sciflow a graph is a `networkx.Graph`: undirected, simple, nodes 0..n-1 in stored order, node and edge classes in
the attribute ``label``.  The npz format (no pickles) stores the graphs back to back: graph g owns the node range
``node_ptr[g]:node_ptr[g+1]`` and the edge range ``edge_ptr[g]:edge_ptr[g+1]`` of ``edges``, whose two columns are node
numbers local to the graph, first < second, each undirected edge once.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import networkx as nx
import numpy as np

from sciflow.core.errors import UserError, require

if TYPE_CHECKING:
    from torch_geometric.data import Data


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
        if values and all(map(_is_integer, values)):
            arrays[name] = np.array(values, dtype=np.int32)
    for name, value in (info or {}).items():
        arrays[name] = np.asarray(value)
    _atomically(Path(path), lambda temporary: _save_npz(temporary, arrays))


def _save_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with open(path, "wb") as file:  # a file handle keeps NumPy from appending ".npz" to the temporary name
        np.savez_compressed(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]


def _atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose a writable place") from None
    try:
        write(Path(name))
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


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
    counts["empty graphs"] = sum(len(graph) == 0 for graph in raw)
    graphs = [simple_graph(graph, counts) for graph in raw if len(graph)]
    skipped = {reason: number for reason, number in counts.items() if number}
    if not graphs:
        raise UserError(f"{path}: no graph could be read ({skipped or 'the file is empty'})")
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
    if path.suffix == ".npz":
        write_npz(path, graphs, info)
    elif path.suffix in WRITERS:
        _atomically(path, lambda temporary: WRITERS[path.suffix](temporary, graphs))
    elif path.suffix == "":
        _write_folder(path, graphs)
    else:
        raise UserError(f"{path}: unknown ending '{path.suffix}'; expected .npz, {', '.join(WRITERS)} or no ending")


def _write_folder(path: Path, graphs: Sequence[nx.Graph]) -> None:
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise UserError(f"{path} exists and is not an empty folder; choose another name or remove it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose a writable place") from None
    try:
        for i, graph in enumerate(graphs):
            nx.write_graphml(graph, temporary / f"graph_{i:06d}.graphml")
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


# --- torch_geometric ---------------------------------------------------------------------------------------------


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
    stored = {name: rows for name, rows in tables.items() if any(rows) and _all(rows, _is_integer)}
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


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer))


def _all(rows: Sequence[Sequence[Any]], test: Callable[[Any], bool]) -> bool:
    return all(test(value) for row in rows for value in row)


def from_pyg(data: Any) -> list[nx.Graph]:
    """Graphs of a `Data`, a `Batch`, or an iterable of them (a list, a Dataset, a DataLoader).

    Edges count as undirected whichever directions are stored; self loops and repeats are dropped; isolated nodes stay.
    ``x`` becomes the node attribute ``x``; ``node_label`` (or one-hot ``x``), ``edge_label`` (or one-hot ``edge_attr``)
    and a scalar ``y`` become ``label``.  A batch is split by its ``batch`` vector, so hand-made batches work too.

    Raises:
        UserError: The object has no ``edge_index``, or its number of nodes is not known.
    """
    if not hasattr(data, "edge_index"):
        if isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
            return [graph for item in data for graph in from_pyg(item)]
        raise UserError(f"from_pyg: got {type(data).__name__}, expected torch_geometric Data, Batch or a list of them")
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
