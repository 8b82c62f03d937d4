r"""EGTN that also reads and writes vectors as their components in the local axes of `LocalAnchor`.

The conditional law of a molecule is narrow: the anchor leaves 0.01 angstrom of a carbon and 0.4 of a hydroxyl hydrogen.
`EGTN` sees positions only and cannot tell such noise from motion. Components in axes that turn with the molecule are
invariant numbers, so here they are features of every atom and frame: of the standardised residual y = (x - anchor) /
scale, of the anchor and of x itself as seen from the nearest observed frame n, and log scale. The predicted noise or v
has components in the same axes, read off the final features (zero at first).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from sciflow.core.state import Layout, State
from sciflow.domains.trajectories.anchors import Observed
from sciflow.domains.trajectories.local_anchor import LocalAnchor
from sciflow.domains.trajectories.network import EGTN
from sciflow.domains.trajectories.network_layers import Frames, Graph, sinusoids


class LocalEGTN(EGTN):
    """As `EGTN`, with a `LocalAnchor`. The axes stand in the field "axes", (N, T, 9)."""

    anchor: LocalAnchor

    def _make(self, atoms: int, pairs: int) -> None:
        super()._make(atoms, pairs)
        hidden = self.shape[0]
        self.read, self.write = nn.Linear(10, hidden), nn.Linear(hidden, 3)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    def prepare(self, state: State) -> State:
        """Anchor, scale and axes."""
        if "axes" in state.fields:
            return state
        layout = state.layouts["pos"]
        anchor, scale, axes = self.anchor.place(state)
        layouts = {**state.layouts, "pos": replace(layout, anchor=anchor, scale=scale)}
        layouts["axes"] = Layout(layout.batch, layout.index, sizes=layout.sizes)
        return State({**state.fields, "axes": axes.flatten(2)}, layouts, state.cond)

    def forward(self, state: State, signals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As `EGTN`."""
        pos, layout, times = state["pos"], state.layouts["pos"], state.cond["times"]
        sample: Tensor = layout.index  # type: ignore[assignment]
        mask: Tensor = layout.mask  # type: ignore[assignment]
        axes = state["axes"].unflatten(2, (3, 3))
        frames = Frames(sinusoids(times.double() - times[:, :1], self.waves, pos.dtype)[sample])
        graph = Graph.of(layout, state["pairs"], self.bonded)
        h = self._features(state, signals["pos"], sample) + self.read(self._components(state, axes))
        x = pos - self._centre(state)
        for block in self.blocks:
            h, x = block(h, x, graph, frames)
        return {"pos": torch.einsum("itab,ita->itb", axes, self.write(h)) * mask}

    def _components(self, state: State, axes: Tensor) -> Tensor:
        """(N, T, 10) invariant numbers."""
        pos, layout, observed = state["pos"], state.layouts["pos"], Observed.of(state)
        anchor: Tensor = layout.anchor  # type: ignore[assignment]
        scale: Tensor = layout.scale  # type: ignore[assignment]
        near = observed.at(observed.nearest)
        vectors = torch.stack([(pos - anchor) / scale, anchor - near, pos - near], -2)  # (N, T, 3, 3)
        return torch.cat([torch.einsum("itab,itvb->itva", axes, vectors).flatten(2), scale.log()], -1)
