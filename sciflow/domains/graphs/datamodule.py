"""Lightning data modules for generic graphs: a named set or any graph file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from sciflow.domains.base import Samples, ScienceData, StateSamples
from sciflow.domains.graphs.codec import DegreeGraphCodec, GraphCodec, OneHotGraphCodec
from sciflow.domains.graphs.data import graph_dataset


class GraphData(ScienceData):
    """Graphs with one-hot edges (and nodes, where they are labelled).

    Args:
        source: `community_small`, `ego_small`, `enzymes`, `grid`, a path to a graph file or folder, or Python objects:
            a list of networkx graphs or torch_geometric `Data`, a `Dataset`, a `Batch`.
        validation: Share of the training graphs held out for validation.
        test: Share held out for testing, where the set stores no split.
        batch_size: Graphs per batch.
        seed: Of splits and of the order of batches.
    """

    codec_type: ClassVar[type[GraphCodec]] = OneHotGraphCodec

    def __init__(
        self,
        source: str | Path | Sequence[Any] = "community_small",
        validation: float = 0.0,
        test: float = 0.2,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.source, self.validation, self.test = source, validation, test

    def read(self) -> dict[str, Samples]:
        """Read, split, infer the codec from all of the set so that no test graph is too large for it."""
        train, val, test, info = graph_dataset(self.source, self.validation, self.test, self.seed)
        self.codec = self.codec_type.infer([*train, *val, *test])  # type: ignore[attr-defined]
        self.spec = {"domain": "graphs", "data": info}
        splits: dict[str, Samples] = {}
        for name, graphs in (("train", train), ("val", val), ("test", test)):
            if graphs:
                splits[name] = StateSamples(self.codec.to_state(graphs))
        return splits


class GDSSGraphData(GraphData):
    """The published GDSS tensors: one-hot degrees as features, a real-valued adjacency matrix."""

    codec_type: ClassVar[type[GraphCodec]] = DegreeGraphCodec
