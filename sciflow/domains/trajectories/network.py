r"""EGTN, the equivariant network of GeoTDM (Han et al. 2024, section 4.1), on ragged trajectories of any length.

Symmetries by construction: one rotation, reflection and shift for all frames (differences and distances only, computed
around the centre of the batch's own coordinates), permutations of atoms, shifts of time (differences only). The
prediction is the motion of the coordinates through the layers, in the unit of the process (`layout.scale`).

It sees all frames of a sample, observed ones at their values, generated ones as noised, each at its own time. The
subclass `CrossEGTN` (cross.py) reads the observed frames once instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from sciflow.core.config import Configurable
from sciflow.core.spaces import ZeroCoM
from sciflow.core.state import State
from sciflow.domains.trajectories.anchors import Anchor, ResidualScale
from sciflow.domains.trajectories.network_layers import Block, Frames, Graph, sinusoids


class ClockCode(Configurable):
    """Sinusoids of factor * clock + offset.

    Args:
        size: Number of sinusoids.
        factor: 1000, or the number S of steps of a released model.
        offset: -1 for released models, whose steps count from 0 at clock 1/S.
    """

    def __init__(self, size: int = 32, factor: float = 1000.0, offset: float = 0.0) -> None:
        self.size, self.factor, self.offset = size, factor, offset

    def __call__(self, clock: Tensor) -> Tensor:
        """(...,) -> (..., size)."""
        return sinusoids(self.factor * clock.double() + self.offset, self.size, clock.dtype)


class EGTN(nn.Module, Configurable):
    """Network of the field pos, (N, T, D) in two or three dimensions.

    Released models have `anchor=LearnedAnchor(weights=FrameWeights(T), ...)` or None, `scale=None`, `logit_scale=1`,
    `residual=False`, `zero_init=False`, `flag=False` and `ClockCode(32, S, -1)`.

    Args:
        atoms: Number of atom features; None: taken from the data.
        pairs: Number of pair features; None: taken from the data.
        anchor: Anchor of conditional models; None: unconditional, predictions have zero mean.
        scale: Residual scale; None: the error that the anchor expects of itself if it does, else 1.
        hidden: Width H.
        layers: Number of blocks.
        waves: Sinusoids of time differences.
        clock: Code of the clock.
        logit_scale: Factor of attention logits; None: 1/sqrt(H).
        residual: Features are added to, not replaced by, the updates of spatial layers.
        zero_init: Predicts no motion at first.
        flag: Atoms of observed frames are marked.
        bonded: Messages only along pairs with a feature that is not zero (molecules: bonds up to three apart).
    """

    def __init__(
        self,
        atoms: int | None = None,
        pairs: int | None = None,
        anchor: Anchor | None = None,
        scale: ResidualScale | None = None,
        hidden: int = 128,
        layers: int = 6,
        waves: int = 32,
        clock: ClockCode | None = None,
        logit_scale: float | None = None,
        residual: bool = True,
        zero_init: bool = True,
        flag: bool = True,
        bonded: bool = False,
    ) -> None:
        super().__init__()
        self.anchor, self.scale = anchor, scale
        self.clock = clock if clock is not None else ClockCode()
        self.waves, self.flag, self.bonded = waves, flag, bonded
        self.shape = (hidden, layers, logit_scale, residual, zero_init)
        if atoms is not None and pairs is not None:
            self._make(atoms, pairs)

    def build(self, features: Mapping[str, int]) -> None:
        """Feature counts `atoms` and `pairs` from the data."""
        part = getattr(self.anchor, "build", None)
        if part is not None:
            part(features)
        if not hasattr(self, "embed"):
            self.init_args |= {"atoms": features["atoms"], "pairs": features["pairs"]}
            self._make(features["atoms"], features["pairs"])

    def _make(self, atoms: int, pairs: int) -> None:
        hidden, layers, logit_scale, residual, zero_init = self.shape
        self.embed = nn.Linear(atoms + self.flag + self.clock.size, hidden)
        self.blocks = nn.ModuleList(
            Block(hidden, pairs, self.waves, logit_scale, residual, zero_init) for _ in range(layers)
        )

    def prepare(self, state: State) -> State:
        """The state with anchor and scale in the layout of pos; one that has them stays as it is."""
        layout = state.layouts["pos"]
        if layout.anchor is not None or layout.scale is not None:
            return state
        anchor, scale = torch.zeros_like(state["pos"]), None
        if self.anchor is not None:
            seen = (state.cond["seen"] > 0)[layout.index][:, :, None]
            expected, scale = self.anchor.predict(state)
            anchor = torch.where(seen, state["observed"], expected)
        if self.scale is not None:
            scale = self.scale(state, anchor)
        placed = replace(layout, anchor=None if self.anchor is None else anchor, scale=scale)
        return replace(state, layouts={**state.layouts, "pos": placed})

    def forward(self, state: State, signals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predicted motion of pos (N, T, D), as noise or v: 0 at observed frames.

        Args:
            state: pos (N, T, D), ragged; atoms (N, F) or (N, T, F); pairs (P, E) or (P, 2, E), see `Graph.of`;
                conditions times (B, T) and seen (B, T).
            signals: Clock of pos, () or (B,).
        """
        pos, layout = state["pos"], state.layouts["pos"]
        sample: Tensor = layout.index  # type: ignore[assignment]
        times = state.cond["times"]
        waves = sinusoids(times.double() - times[:, :1], self.waves, pos.dtype)
        graph = Graph.of(layout, state["pairs"], self.bonded)
        h, start = self._features(state, signals["pos"], sample), pos - self._centre(state)
        x, frames = start, Frames(waves[sample])
        for block in self.blocks:
            h, x = block(h, x, graph, frames)
        motion = x - start if layout.scale is None else (x - start) / layout.scale
        return {"pos": ZeroCoM().project(motion, layout) if layout.mask is None else motion * layout.mask}

    def _features(self, state: State, clock: Tensor, sample: Tensor) -> Tensor:
        """Input features (N, T, H): the map of [atom features, flag, clock code], block by block."""
        atoms = state["atoms"]
        blocks = self.embed.weight.split([atoms.shape[-1], int(self.flag), self.clock.size], 1)
        h = nn.functional.linear(atoms, blocks[0], self.embed.bias)
        code = nn.functional.linear(self.clock(clock.to(h)), blocks[2])
        h = (h[:, None] if h.ndim == 2 else h) + (code if code.ndim == 1 else code[sample][:, None])
        if self.flag:
            h = h + state.cond["seen"].to(h)[sample][:, :, None] * blocks[1][:, 0]
        return h.expand(-1, state["pos"].shape[1], -1)

    def _centre(self, state: State) -> Tensor:
        """Mean over frames and atoms of each sample, per atom: (N, 1, D). Far from it digits would be lost."""
        pos = state["pos"].detach()
        sample: Tensor = state.layouts["pos"].index  # type: ignore[assignment]
        frame_mean = pos.mean(1, keepdim=True)
        total = pos.new_zeros(state.batch, *frame_mean.shape[1:]).index_add(0, sample, frame_mean)
        atoms = pos.new_zeros(state.batch).index_add(0, sample, pos.new_ones(len(pos)))
        return (total / atoms[:, None, None])[sample]
