r"""Anchors: where a trajectory is expected to be, given its observed frames (Han et al. 2024, GeoTDM, section 4.2).

The process noises x - anchor (`sciflow.processes.anchored`), so that a random trajectory starts from the anchor. All
but `Origin` turn and move with the observed frames. Masks are arbitrary: "nearest" is the observed frame nearest in
time, the last one for forecasts. At observed frames the network puts the observation in place of the anchor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sciflow.core.config import Configurable
from sciflow.core.state import State
from sciflow.domains.trajectories.network_layers import Block, Frames, Graph, sinusoids


@dataclass(frozen=True, eq=False)
class Observed:
    """The observed frames of a batch.

    Attributes:
        positions: (N, T, D), 0 at other frames.
        times: (B, T) float64 frame times.
        seen: (B, T) bool.
        sample: (N,) sample of each atom.
        order: (B, T, T) for each target frame all frames, the observed ones first, nearest in time first.
    """

    positions: Tensor
    times: Tensor
    seen: Tensor
    sample: Tensor
    order: Tensor

    @staticmethod
    def of(state: State) -> Observed:
        """From the fields and conditions of a trajectory state."""
        times, seen = state.cond["times"].double(), state.cond["seen"] > 0
        distance = (times[:, :, None] - times[:, None, :]).abs().masked_fill(~seen[:, None, :], torch.inf)
        order = distance.argsort(dim=-1, stable=True)
        return Observed(state["observed"], times, seen, state.layouts["pos"].index, order)  # type: ignore[arg-type]

    @property
    def nearest(self) -> Tensor:
        """(B, T) observed frame nearest to each frame."""
        return self.order[..., 0]

    def at(self, frame: Tensor, values: Tensor | None = None) -> Tensor:
        """Positions, or other values (N, S, C), of every atom at the frames (B, T): (N, T, D)."""
        values = self.positions if values is None else values
        return values.gather(1, frame[self.sample][:, :, None].expand(-1, -1, values.shape[-1]))

    def time(self, frame: Tensor) -> Tensor:
        """Times (B, T) of the frames (B, T)."""
        return self.times.gather(1, frame)

    def offset(self) -> Tensor:
        """(B, T) time since the nearest observed frame, negative before it; 0 if nothing is observed."""
        return (self.times - self.time(self.nearest)) * self.seen.any(1, keepdim=True)

    def bracket(self) -> tuple[Tensor, Tensor, Tensor]:
        """Two observed frames (B, T) per frame, on either side of it if there are such, and whether there are."""
        before = (self.times[:, :, None] >= self.times[:, None, :]) & self.seen[:, None, :]
        after = (self.times[:, :, None] <= self.times[:, None, :]) & self.seen[:, None, :]
        gap = (self.times[:, :, None] - self.times[:, None, :]).abs()
        left = gap.masked_fill(~before, torch.inf).argmin(-1)
        right = gap.masked_fill(~after, torch.inf).argmin(-1)
        between = before.any(-1) & after.any(-1)
        second = self.order[..., min(1, self.order.shape[-1] - 1)]
        second = torch.where(self.seen.sum(1, keepdim=True) > 1, second, self.nearest)
        return torch.where(between, left, self.nearest), torch.where(between, right, second), between


class Anchor(nn.Module, Configurable, ABC):
    """An expected trajectory."""

    @abstractmethod
    def anchor(self, state: State) -> Tensor:
        """(N, T, D), of which the frames to be generated are used; `state` has "observed", "times" and "seen"."""

    def predict(self, state: State) -> tuple[Tensor, Tensor | None]:
        """The anchor, and the error (N, T, 1) that it expects of itself; None: it does not say."""
        return self.anchor(state), None


class Origin(Anchor):
    """0: not equivariant under translations, for ablation."""

    def anchor(self, state: State) -> Tensor:
        """Zeros."""
        return torch.zeros_like(state["observed"])


class CentreOfMass(Anchor):
    """The centre of all atoms of a sample, for every frame.

    Args:
        nearest: Of the nearest observed frame (the paper's ablation); otherwise of all observed frames (its code).
    """

    def __init__(self, nearest: bool = False) -> None:
        super().__init__()
        self.nearest = nearest

    def anchor(self, state: State) -> Tensor:
        """The centre, broadcast."""
        observed = Observed.of(state)
        positions, sample = observed.positions, observed.sample
        total = positions.new_zeros(state.batch, *positions.shape[1:]).index_add(0, sample, positions)
        atoms = torch.zeros(state.batch, dtype=total.dtype, device=total.device)
        atoms = atoms.index_add(0, sample, torch.ones_like(sample, dtype=total.dtype))
        centres = total / atoms[:, None, None]  # (B, T, D) of each frame
        if self.nearest:
            centres = centres.gather(1, observed.nearest[:, :, None].expand_as(centres))
        else:
            seen = observed.seen[:, :, None].to(centres)
            centres = ((centres * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp_min(1)).expand_as(
                centres
            )
        return centres[sample]


class LastFrame(Anchor):
    """Every atom where it was in the nearest observed frame."""

    def anchor(self, state: State) -> Tensor:
        """Copies of observed frames."""
        observed = Observed.of(state)
        return observed.at(observed.nearest)


class ConstantVelocity(Anchor):
    """The straight line through two observed frames: those around a frame, else the two nearest ones."""

    def anchor(self, state: State) -> Tensor:
        """Linear interpolation and extrapolation; a single observed frame stands still."""
        observed = Observed.of(state)
        first, second, _ = observed.bracket()
        span = observed.time(second) - observed.time(first)
        part = torch.where(span == 0, 0.0, (observed.times - observed.time(first)) / torch.where(span == 0, 1.0, span))
        start = observed.at(first)
        return start + part.to(start)[observed.sample][:, :, None] * (observed.at(second) - start)


class FrameWeights(nn.Module, Configurable):
    """A free number per generated frame, 1 at first, as released: only trajectories of that length.

    Args:
        frames: Number of generated frames.
    """

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(frames))

    def forward(self, observed: Observed) -> Tensor:
        """(B, T): the n-th number at the n-th generated frame."""
        rank = (~observed.seen).cumsum(1) - 1
        return self.weight[rank.clamp(0, len(self.weight) - 1)]


class TimeWeights(nn.Module, Configurable):
    """A function of the time since the nearest observed frame, 0 at first: any horizon, any frame times.

    Args:
        hidden: Width.
        waves: Number of sinusoids of the time.
    """

    def __init__(self, hidden: int = 64, waves: int = 32) -> None:
        super().__init__()
        self.waves, self.inner, self.outer = waves, nn.Linear(waves, hidden), nn.Linear(hidden, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, observed: Observed) -> Tensor:
        """(B, T)."""
        code = sinusoids(observed.offset(), self.waves, self.inner.weight.dtype)
        return self.outer(functional.silu(self.inner(code)))[..., 0]


class LearnedAnchor(Anchor):
    r"""A light EGTN reads the observed frames s and weighs what it makes of them (GeoTDM, equation 9).

    With its coordinates z_s, the channel means w_s of its features and the nearest observed frame n of frame t,

        anchor_t = sum_s W_ts z_s,  W_ts = gamma_t w_s for s != n and 1 - sum of these for s = n
                 = z_n + gamma_t sum_s w_s (z_s - z_n),

    to which another `base` anchor b adds b_t - x_n: the network then predicts what that one misses.

    Args:
        atoms: Number of atom features; None: taken from the data.
        pairs: Number of pair features; None: taken from the data.
        base: Anchor to be improved.
        weights: gamma.
        hidden: Width H.
        layers: Number of blocks.
        waves: Sinusoids of time differences.
        logit_scale: Factor of attention logits; None: 1/sqrt(H), 1 as released.
        residual: Features are added to, not replaced by, the updates of spatial layers (replaced as released).
        zero_init: The network starts without any motion (not so as released).
        bonded: Messages only along pairs with a feature that is not zero.
    """

    def __init__(
        self,
        atoms: int | None = None,
        pairs: int | None = None,
        base: Anchor | None = None,
        weights: nn.Module | None = None,
        hidden: int = 128,
        layers: int = 2,
        waves: int = 32,
        logit_scale: float | None = None,
        residual: bool = True,
        zero_init: bool = True,
        bonded: bool = False,
    ) -> None:
        super().__init__()
        self.base = base if base is not None else LastFrame()
        self.weights = weights if weights is not None else TimeWeights()
        self.waves, self.bonded = waves, bonded
        self.shape = (hidden, layers, logit_scale, residual, zero_init)
        if atoms is not None and pairs is not None:
            self._make(atoms, pairs)

    def build(self, features: Mapping[str, int]) -> None:
        """Feature counts from the data."""
        if not hasattr(self, "embed"):
            self.init_args |= {"atoms": features["atoms"], "pairs": features["pairs"]}
            self._make(features["atoms"], features["pairs"])

    def _make(self, atoms: int, pairs: int) -> None:
        hidden, layers, logit_scale, residual, zero_init = self.shape
        self.embed = nn.Linear(atoms, hidden)
        self.blocks = nn.ModuleList(
            Block(hidden, pairs, self.waves, logit_scale, residual, zero_init) for _ in range(layers)
        )

    def anchor(self, state: State) -> Tensor:
        """Weights sum to 1: it turns and moves with the observed frames."""
        observed = Observed.of(state)
        seen, sample = observed.seen, observed.sample
        count = seen.sum(1, keepdim=True).clamp_min(1)
        read = (~seen).long().argsort(dim=1, stable=True)[:, : int(count.max())]  # (B, S) observed frames, then padding
        valid = torch.arange(read.shape[1], device=read.device) < count
        frames = frames_of(observed.times, read, valid, sample, self.waves, observed.positions.dtype)
        start = observed.at(read)
        centre = (start * valid[sample][:, :, None]).sum(1, keepdim=True) / count[sample][:, :, None]
        centre = _per_sample_mean(centre, sample, state.batch)[sample]
        atoms = state["atoms"]
        h = self.embed(atoms)[:, None].expand(-1, read.shape[1], -1) if atoms.ndim == 2 else None
        h = self.embed(observed.at(read, atoms)) if h is None else h
        x, graph = start - centre, Graph.of(state.layouts["pos"], state["pairs"], self.bonded)
        for block in self.blocks:
            h, x = block(h, x, graph, frames)
        w = (h.mean(-1) * valid[sample])[:, :, None]
        rank = (seen.cumsum(1) - 1).clamp_min(0).gather(1, observed.nearest)  # place of frame n among the observed
        near, near_start = observed.at(rank, x), observed.at(rank, start - centre)
        pull = (w * x).sum(1, keepdim=True) - w.sum(1, keepdim=True) * near
        gamma = self.weights(observed).to(pull)[sample][:, :, None]
        return self.base.anchor(state) + (near - near_start) + gamma * pull


def frames_of(times: Tensor, frame: Tensor, valid: Tensor, sample: Tensor, waves: int, dtype: torch.dtype) -> Frames:
    """Times of the frames (B, S) for temporal layers; those that are not valid are never looked at."""
    code = sinusoids((times - times[:, :1]).gather(1, frame), waves, dtype)[sample]
    if bool(valid.all()):
        return Frames(code)
    bias = torch.zeros(valid.shape, dtype=dtype, device=valid.device).masked_fill(~valid, -torch.inf)
    return Frames(code, bias[sample][:, None])


def _per_sample_mean(value: Tensor, sample: Tensor, batch: int) -> Tensor:
    """Mean over the atoms of each sample: (N, ...) -> (B, ...)."""
    total = value.new_zeros(batch, *value.shape[1:]).index_add(0, sample, value)
    count = value.new_zeros(batch).index_add(0, sample, value.new_ones(len(sample)))
    return total / count.reshape(-1, *[1] * (value.ndim - 1))


class ResidualScale(nn.Module, Configurable):
    """Running RMS of x - anchor by time since the nearest observed frame, between observed frames and outside.

    It makes y = (x - anchor)/scale of unit variance at every horizon and follows the anchor as that improves. Real
    times are spread over the two next bins of one frame spacing each, and read by linear interpolation. Updated in
    training mode only; the tables are buffers, so that weight averages and checkpoints hold them. Isotropic: one
    number for all atoms and axes, which keeps the symmetries.

    Args:
        bins: Number of bins; later times read the last one in use.
        decay: Of the running sums, per training step.
    """

    square: Tensor
    weight: Tensor

    def __init__(self, bins: int = 64, decay: float = 0.99) -> None:
        super().__init__()
        self.bins, self.decay = bins, decay
        self.register_buffer("square", torch.zeros(2, bins))  # row 0: outside of the observed frames, row 1: between
        self.register_buffer("weight", torch.zeros(2, bins))

    def forward(self, state: State, anchor: Tensor) -> Tensor:
        """Scale (N, T, 1), from data in training mode also the update; `state["pos"]` is then the clean trajectory."""
        observed = Observed.of(state)
        time = observed.offset().abs().clamp_max(self.bins - 1)
        low = time.floor().long().clamp_max(self.bins - 2)
        row = observed.bracket()[2].long() * self.bins
        upper = (time - low).to(self.square)
        if self.training:
            self._update(state, anchor, observed, row + low, upper)
        table = self._table().flatten()
        scale = table[row + low] * (1 - upper) + table[row + low + 1] * upper
        return scale.to(anchor)[observed.sample][:, :, None]

    @torch.no_grad()
    def _update(self, state: State, anchor: Tensor, observed: Observed, low: Tensor, upper: Tensor) -> None:
        square = (state["pos"] - anchor).square().mean(-1).to(self.square)  # (N, T)
        atoms = torch.ones_like(square)
        per_frame = square.new_zeros(state.batch, square.shape[1])
        square, atoms = (per_frame.index_add(0, observed.sample, v) * ~observed.seen for v in (square, atoms))
        self.square *= self.decay
        self.weight *= self.decay
        for part, place in ((1 - upper, low), (upper, low + 1)):
            self.square.view(-1).index_add_(0, place.flatten(), (part * square).flatten())
            self.weight.view(-1).index_add_(0, place.flatten(), (part * atoms).flatten())

    def _table(self) -> Tensor:
        """RMS (2, bins); empty bins read the last filled one before them, or the first one; 1 before any training."""
        filled = self.weight > 0
        rms = (self.square / torch.where(filled, self.weight, 1.0)).sqrt().clamp_min(1e-4)
        place = torch.arange(self.bins, device=rms.device).expand_as(filled)
        last = torch.where(filled, place, -1).cummax(1).values
        first = torch.where(filled, place, self.bins - 1).amin(1, keepdim=True)
        return torch.where(filled.any(1, keepdim=True), rms.gather(1, torch.where(last < 0, first, last)), 1.0)
