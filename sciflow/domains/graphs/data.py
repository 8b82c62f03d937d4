"""Graph data sets by name or file, with the published split where there is one.

Names and paths resolve as everywhere in sciflow (`sciflow.data.resolve`): SCIFLOW_DATA, the user cache, the sets
shipped with the package; a name of `generators.GENERATORS` (such as ``planar``) is drawn with seed 0.

The official split of community_small, ego_small, ENZYMES and grid takes the first fifth of the file as test set,
without shuffling and without a validation set (GDSS, Jo et al. 2022); it is stored in the archives as
``train_idx``/``test_idx``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from sciflow.core.errors import UserError
from sciflow.data import DATASETS, resolve
from sciflow.domains.graphs.files import GraphFile, read_graphs, simple_graphs
from sciflow.domains.graphs.generators import GENERATORS
from sciflow.domains.graphs.pyg import from_objects

Source = str | Path | Sequence[Any]


def load_graphs(source: Source) -> GraphFile:
    """All graphs of a data set.

    Args:
        source: A path (see `files.read_graphs` for formats), a data set name, a generator's name, or Python objects:
            a list of networkx graphs or torch_geometric `Data`, a `Dataset` or a `Batch` (see `pyg.from_objects`).

    Raises:
        UserError: Nothing of that name; the message lists what there is.
    """
    if not isinstance(source, (str, Path)):
        return simple_graphs(from_objects(source), Counter(), "Python objects")
    if str(source) in GENERATORS:
        return GraphFile(GENERATORS[str(source)](), {}, {})
    name = str(source).lower()  # the published name of one set is ENZYMES
    try:
        return read_graphs(resolve(name if name in DATASETS else source))
    except UserError as error:
        if Path(source).exists() or name in DATASETS:
            raise
        raise UserError(f"{error}; without a file: {', '.join(GENERATORS)}") from None


def graph_dataset(
    source: Source, val_fraction: float = 0.0, test_fraction: float = 0.2, seed: int = 0
) -> tuple[list[nx.Graph], list[nx.Graph], list[nx.Graph], dict[str, Any]]:
    """Train, validation and test graphs and what a model needs to know about them.

    A split stored in the file is used as it is; otherwise a seeded random share `test_fraction` is the test set.  The
    validation set is a seeded random share of what remains (none by default: the official protocol has none).

    Args:
        source: As in `load_graphs`.
        val_fraction: Share of the training graphs to hold out, in [0, 1).
        test_fraction: Share of all graphs to test on when the file stores no split, in [0, 1).
        seed: Seed of the random choices.

    Returns:
        (train, val, test, info); info is plain JSON: ``source``, ``split`` ("stored" or "random"), ``skipped``,
        ``max_nodes`` and ``max_degree`` over all graphs.
    """
    if not (0 <= val_fraction < 1 and 0 <= test_fraction < 1):
        raise UserError(f"shares must lie in [0, 1): got val_fraction={val_fraction}, test_fraction={test_fraction}")
    graphs, skipped, stored = load_graphs(source)
    rng = np.random.default_rng(seed)
    if "train_idx" in stored and "test_idx" in stored:
        split, train, test = "stored", list(stored["train_idx"]), list(stored["test_idx"])
    else:
        order = rng.permutation(len(graphs)).tolist()
        number = round(test_fraction * len(graphs))
        split, train, test = "random", sorted(order[number:]), sorted(order[:number])
    held_out = set(rng.choice(train, round(val_fraction * len(train)), replace=False).tolist())
    val = [i for i in train if i in held_out]
    train = [i for i in train if i not in held_out]
    if not train:
        raise UserError(f"{len(graphs)} graphs leave none to train on; give more graphs or smaller shares")
    info = {
        "source": str(source) if isinstance(source, (str, Path)) else f"{len(graphs)} Python objects",
        "split": split,
        "skipped": skipped,
        "max_nodes": max(len(graph) for graph in graphs),
        "max_degree": max(degree for graph in graphs for _, degree in graph.degree()),
    }
    return [graphs[i] for i in train], [graphs[i] for i in val], [graphs[i] for i in test], info
