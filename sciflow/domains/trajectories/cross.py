"""EGTN with cross-attention: observed frames are read once per run, not at every step (GeoTDM, section 4.2).

The same layers read the observed frames alone, without a clock, and keep keys and values of every temporal layer. The
generated frames attend to these and to each other in one softmax. The released code does not do so (it reads all frames
at every step, as `EGTN`); steps cost T_generated/T as much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sciflow.core.state import Layout, State
from sciflow.domains.trajectories.anchors import frames_of
from sciflow.domains.trajectories.network import EGTN
from sciflow.domains.trajectories.network_layers import Block, Graph, Keys


class CrossEGTN(EGTN):
    """As `EGTN`, for conditional models. What was read stands in the field "context", (N, S, channels)."""

    def prepare(self, state: State) -> State:
        """Anchor and scale, and what the temporal layers see of the observed frames."""
        if "context" in state.fields:
            return state
        state = super().prepare(state)
        seen = state.cond["seen"] > 0
        state = state.condition(read=_places(seen), generated=_places(~seen))
        sample = self._sample(state)
        read = state.cond["read"].clamp_min(0)
        valid = (state.cond["read"] >= 0) | (torch.arange(read.shape[1], device=read.device) == 0)  # never an empty row
        frames = frames_of(state.cond["times"].double(), read, valid, sample, self.waves, state["observed"].dtype)
        graph = Graph.of(state.layouts["pos"], state["pairs"], self.bonded)
        x = _take(state["observed"], read, sample) - self._centre(state)
        h, kept = self._features(state, None, read), []
        blocks: list[Block] = list(self.blocks)  # type: ignore[arg-type]
        for block in blocks:
            h, x = block.spatial(h, x, graph)
            keys = block.temporal.read(h, x, frames)[1]
            kept += [keys.key, keys.value, keys.table[..., self.waves :]]
            h, x = block.temporal(h, x, frames)
        layout = state.layouts["pos"]
        fields = {**state.fields, "context": torch.cat(kept, -1)}
        layouts = {**state.layouts, "context": Layout(layout.batch, layout.index, sizes=layout.sizes)}
        return replace(state, fields=fields, layouts=layouts)

    def forward(self, state: State, signals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As `EGTN`; the layers run over the generated frames only."""
        pos, layout, sample, times = state["pos"], state.layouts["pos"], self._sample(state), state.cond["times"]
        place = state.cond["generated"]
        chosen, valid = place.clamp_min(0), place >= 0
        frames = frames_of(times.double(), chosen, valid, sample, self.waves, pos.dtype)
        graph = Graph.of(layout, state["pairs"], self.bonded)
        start = _take(pos, chosen, sample) - self._centre(state)
        h, x = self._features(state, signals["pos"], chosen), start
        for block, context in zip(self.blocks, self._contexts(state), strict=True):
            h, x = block(h, x, graph, frames, context)
        target = torch.where(valid, place, pos.shape[1])[sample][:, :, None].expand_as(x)  # padding goes behind the end
        motion = torch.zeros_like(torch.cat([pos, pos[:, :1]], 1)).scatter(1, target, x - start)[:, :-1]
        motion = motion if layout.scale is None else motion / layout.scale
        return {"pos": motion if layout.mask is None else motion * layout.mask}

    def _contexts(self, state: State) -> list[Keys]:
        """What was read, layer by layer."""
        read, sample, dims = state.cond["read"], self._sample(state), state["pos"].shape[-1]
        times, kept = state.cond["times"].double(), state["context"]
        frames = frames_of(times, read.clamp_min(0), read >= 0, sample, self.waves, kept.dtype)
        parts = kept.split([self.shape[0], self.shape[0], 1 + dims] * len(self.blocks), -1)
        layers = zip(parts[0::3], parts[1::3], parts[2::3], strict=True)
        return [Keys(k, v, torch.cat([frames.waves, table], -1), frames.bias) for k, v, table in layers]

    def _centre(self, state: State) -> Tensor:
        """Mean of the observed frames and atoms of each sample, per atom: the same in all steps."""
        given, sample = state["observed"], self._sample(state)
        seen = state.cond["seen"].to(given)[sample][:, :, None]
        parts = torch.cat([(given * seen).sum(1), seen.sum(1)], -1)
        total = parts.new_zeros(state.batch, parts.shape[1]).index_add(0, sample, parts)
        return (total[:, :-1] / total[:, -1:].clamp_min(1))[sample][:, None]

    def _features(self, state: State, clock: Tensor | None, frame: Tensor) -> Tensor:  # type: ignore[override]
        """Input features of the chosen frames (N, S, H); no clock, no clock code."""
        sample = self._sample(state)
        like = state["pos"]
        full = super()._features(state, like.new_zeros(()) if clock is None else clock, sample)
        if clock is None:
            code = self.clock(like.new_zeros(()))
            full = full - torch.nn.functional.linear(code, self.embed.weight[:, -self.clock.size :])
        return _take(full, frame, sample)

    def _sample(self, state: State) -> Tensor:
        index: Tensor = state.layouts["pos"].index  # type: ignore[assignment]
        return index


def _places(chosen: Tensor) -> Tensor:
    """(B, T) bool -> (B, S) places of the chosen frames in order, -1 behind them."""
    count = chosen.sum(1, keepdim=True)
    order = (~chosen).long().argsort(dim=1, stable=True)[:, : max(int(count.max()), 1)]
    return torch.where(torch.arange(order.shape[1], device=order.device) < count, order, -1)


def _take(values: Tensor, frame: Tensor, sample: Tensor) -> Tensor:
    """Values (N, T, C) of every atom at the frames (B, S): (N, S, C)."""
    return values.gather(1, frame[sample][:, :, None].expand(-1, -1, values.shape[-1]))
