r"""Windows of trajectories in time, and which of their frames are observed.

A run of L frames is cut into three contiguous parts (60/20/20 %), and windows of F frames start at evenly spaced
places of a part, so no two parts share a frame. Runs too short for that are divided whole: the first 60 % of the runs
are for training, the next 20 % for validation, the last 20 % for testing.

A mask law draws which frames of a window are observed, from one row of uniforms per window: the mask of a window
depends on its uniforms only, never on its batch-mates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError

SHARES = (0.6, 0.2, 0.2)
PARTS = ("train", "val", "test")


class Spans(NamedTuple):
    """Stretches of runs: run number, first frame and number of frames, each (n,)."""

    runs: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


def split_in_time(
    lengths: Sequence[int], frames: int, shares: Sequence[float] = SHARES
) -> tuple[dict[str, Spans], str]:
    """Contiguous parts of runs with these numbers of frames, and the rule that was used.

    Args:
        lengths: Frames of each run.
        frames: F of the windows.
        shares: Of training, validation and test; parts with share 0 are empty.

    Raises:
        UserError: Bad shares, or too few frames for one window in each part.
    """
    if len(shares) != 3 or min(shares) < 0 or shares[0] <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise UserError(
            f"shares: got {list(shares)}, expected three of train, val, test that sum to 1, the first above 0"
        )
    counts, edges = np.asarray(lengths), np.cumsum([0.0, *shares])
    cuts = np.rint(counts[:, None] * edges).astype(int)  # (runs, 4)
    pieces = np.diff(cuts, axis=1)
    needed = np.asarray(shares) > 0
    long = (pieces >= frames)[:, needed].all(1)
    if long.any():
        runs = np.flatnonzero(long)
        parts = {name: Spans(runs, cuts[runs, k], pieces[runs, k]) for k, name in enumerate(PARTS) if needed[k]}
        return parts, "contiguous in time, " + "/".join(f"{100 * share:.0f}" for share in shares)
    usable = np.flatnonzero(counts >= frames)
    bounds = np.rint(len(usable) * edges).astype(int)
    groups = {name: usable[bounds[k] : bounds[k + 1]] for k, name in enumerate(PARTS) if needed[k]}
    if any(len(group) == 0 for group in groups.values()):
        least = int(np.ceil(frames / min(share for share in shares if share)))
        raise UserError(
            f"too few frames: got {len(counts)} run(s) of at most {counts.max()} frames, expected at least {least} in "
            f"one run ({frames} in each of train, val and test), or several runs of {frames}; use shorter windows"
        )
    return {name: Spans(group, 0 * group, counts[group]) for name, group in groups.items()}, "whole runs in order"


def window_starts(spans: Spans, frames: int, most: int | None = None, stride: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Run and first frame of each window of `frames` frames that are `stride` frames apart.

    Args:
        spans: Where windows may lie.
        frames: F.
        most: Number of windows, spread evenly over all possible starts (GeoTDM rounds their distance down and so
            leaves the end of a part out, up to half of it); None: all.
        stride: Frames between two frames of a window.
    """
    reach = (frames - 1) * stride + 1
    possible = np.maximum(spans.lengths - reach + 1, 0)
    total = int(possible.sum())
    count = total if most is None else min(most, total)
    chosen = np.arange(count) * total // max(count, 1)
    owner = np.searchsorted(np.cumsum(possible), chosen, side="right")
    before = np.cumsum(possible) - possible
    return spans.runs[owner], spans.starts[owner] + chosen - before[owner]


# -- masks -----------------------------------------------------------------------------------------------------------
class MaskLaw(Configurable, ABC):
    """Law of the observed frames of a window."""

    always: bool = True  # whether every mask observes something
    observes: bool = True  # whether any does

    @abstractmethod
    def masks(self, uniforms: Tensor) -> Tensor:
        """(B, T) bool, true where observed, from uniforms (B, T + 1)."""

    def check(self, frames: int) -> None:
        """Refuse windows that are too short for the law."""
        u = torch.linspace(0.001, 0.999, 8 * (frames + 1)).reshape(8, frames + 1)
        seen = self.masks(u)
        if seen.all(1).any():
            raise UserError(
                f"{type(self).__name__}: got windows of {frames} frames of which all are observed; use longer ones"
            )


class Forecast(MaskLaw):
    """The first frames are observed.

    Args:
        observed: How many.
    """

    def __init__(self, observed: int = 10) -> None:
        if observed < 1:
            raise UserError(
                f"observed: got {observed}, expected at least 1; Unobserved() is the law that observes none"
            )
        self.observed = observed

    def masks(self, uniforms: Tensor) -> Tensor:
        """The same for all."""
        frames = uniforms.shape[1] - 1
        return (torch.arange(frames) < self.observed).expand(len(uniforms), frames)


class Ends(MaskLaw):
    """The first and the last frames are observed.

    Args:
        first: How many at the beginning.
        last: How many at the end.
    """

    def __init__(self, first: int = 5, last: int = 5) -> None:
        if first < 0 or last < 0 or first + last < 1:
            raise UserError(f"got first={first}, last={last}, expected numbers of frames, at least one in all")
        self.first, self.last = first, last

    def masks(self, uniforms: Tensor) -> Tensor:
        """The same for all."""
        frame = torch.arange(uniforms.shape[1] - 1)
        return ((frame < self.first) | (frame >= len(frame) - self.last)).expand(len(uniforms), len(frame))


class KeyFrames(MaskLaw):
    """Some frames at random places are observed; their number is uniform.

    Args:
        least: Smallest number.
        most: Largest number.
    """

    def __init__(self, least: int = 1, most: int = 10) -> None:
        if not 1 <= least <= most:
            raise UserError(f"got least={least}, most={most}, expected 1 <= least <= most")
        self.least, self.most = least, most

    def masks(self, uniforms: Tensor) -> Tensor:
        """The first column gives the number, the others, ranked, the places."""
        number = self.least + (uniforms[:, :1] * (self.most - self.least + 1)).floor().clamp(max=self.most - self.least)
        ranks = uniforms[:, 1:].argsort(1).argsort(1)
        return ranks < number


class Unobserved(MaskLaw):
    """No frame is observed: unconditional."""

    always = observes = False

    def masks(self, uniforms: Tensor) -> Tensor:
        """All false."""
        return torch.zeros(len(uniforms), uniforms.shape[1] - 1, dtype=torch.bool)


class MixedMasks(MaskLaw):
    """Each window has one of several laws.

    Args:
        laws: The laws.
        weights: Their weights; None: equal.
    """

    def __init__(self, laws: list[MaskLaw], weights: list[float] | None = None) -> None:
        weights = weights if weights is not None else [1.0] * len(laws)
        if not laws or len(weights) != len(laws) or min(weights) < 0 or sum(weights) <= 0:
            raise UserError(f"got {len(laws)} laws and weights {weights}, expected as many weights, none negative")
        self.laws, self.weights = list(laws), list(weights)
        used = [law for law, weight in zip(laws, weights, strict=True) if weight > 0]
        self.always, self.observes = all(law.always for law in used), any(law.observes for law in used)

    def masks(self, uniforms: Tensor) -> Tensor:
        """The first column chooses the law; what is left of it is uniform again."""
        edges = torch.tensor([0.0, *self.weights], dtype=uniforms.dtype).cumsum(0)
        edges = edges / edges[-1]
        chosen = torch.searchsorted(edges[1:].contiguous(), uniforms[:, 0].contiguous(), right=True)
        chosen = chosen.clamp(max=len(self.laws) - 1)
        low, high = edges[chosen], edges[chosen + 1]
        rest = ((uniforms[:, 0] - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
        again = torch.cat([rest[:, None], uniforms[:, 1:]], 1)
        options = torch.stack([law.masks(again) for law in self.laws])  # (laws, B, T)
        return options[chosen, torch.arange(len(uniforms))]


def frame_indices(text: str, frames: int) -> np.ndarray:
    """Sorted frame numbers from text such as "0:10", "0:5,25:30" or "0,7,14" (Python slices and numbers).

    Raises:
        UserError: Not such text, or frames outside 0 .. frames - 1.
    """
    chosen: set[int] = set()
    try:
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            if ":" in part:
                bounds = [int(bound) if bound.strip() else None for bound in part.split(":")]
                if (
                    len(bounds) > 3
                    or max((abs(bound) for bound in bounds[:2] if bound is not None), default=0) > frames
                ):
                    raise ValueError
                chosen.update(range(frames)[slice(*bounds)])
            else:
                chosen.add(range(frames)[int(part)])
    except (ValueError, IndexError):
        raise UserError(
            f"mask: got '{text}', expected frames of 0 to {frames - 1} such as 0:10, 0:5,25:30 or 0,7,14"
        ) from None
    return np.array(sorted(chosen), dtype=int)
