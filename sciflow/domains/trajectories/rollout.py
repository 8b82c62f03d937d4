r"""Futures, interpolations and refinements of one trajectory, batch by batch and block by block.

Long roll-outs are composed: with n observed of T frames, p(x) = prod_k p(block_k | last n frames of block_{k-1}), each
block T - n new frames. A generated part is stored before the next one begins, so memory holds one block of one batch
and a killed run goes on. Positions stay float64 outside the network: far from the origin nothing is lost.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sciflow.core.errors import UserError
from sciflow.core.hooks import Hook, Transition
from sciflow.core.state import State
from sciflow.domains.designing import Progress, Shelf
from sciflow.domains.trajectories.codec import POS, TrajectoryCodec, upper
from sciflow.domains.trajectories.data import Trajectory


@dataclass(frozen=True, eq=False)
class Request:
    """What is to be generated.

    Attributes:
        given: The trajectory that was read: atoms, bonds, unit.
        positions: (T, N, D) float64; frames that are not observed hold the rough trajectory where one is refined.
        observed: (T,) bool.
        times: (T,) in the unit of `given`.
        truth: (frames, N, D) true positions of all frames, blocks included, or None.
        notes: What the user should know.
    """

    given: Trajectory
    positions: np.ndarray
    observed: np.ndarray
    times: np.ndarray
    truth: np.ndarray | None = None
    notes: tuple[str, ...] = ()


class RollOut:
    """Samples of a request.

    Args:
        model: Trajectory model.
        request: What is to be generated.
        num: Number of samples; sample i depends on (seed, i) only.
        blocks: Blocks of each; more than one need the first frames to be observed.
        seed: Seed of the run.
        plan: Sampling plan; None: that of the model.
        hooks: Guidance.
        start: Clock to start from, see `Model.generate`; None: from noise alone.
        batch_size: Samples at a time.
        progress: Called with (stage, share done).
        shelf: Keeps finished parts.
    """

    def __init__(
        self,
        model: Any,
        request: Request,
        num: int = 1,
        *,
        blocks: int = 1,
        seed: int = 0,
        plan: Any = None,
        hooks: Sequence[Hook] = (),
        start: float | None = None,
        batch_size: int = 64,
        progress: Progress = lambda stage, done: None,
        shelf: Shelf | None = None,
    ) -> None:
        self.model, self.request, self.num, self.blocks, self.seed = model, request, num, blocks, seed
        self.plan = plan if plan is not None else model.sampling
        self.hooks, self.start, self.batch_size = tuple(hooks), start, batch_size
        self.progress, self.shelf = progress, shelf
        self.new = int((~request.observed).sum())  # frames per block

    @property
    def frames(self) -> int:
        """Of each sample, all blocks."""
        return len(self.request.observed) + (self.blocks - 1) * self.new

    @property
    def observed(self) -> np.ndarray:
        """(frames,) bool."""
        return np.concatenate([self.request.observed, np.zeros((self.blocks - 1) * self.new, bool)])

    @property
    def times(self) -> np.ndarray:
        """(frames,); further blocks go on at the spacing of the last frames."""
        times = self.request.times
        step = times[-1] - times[-2]
        return np.concatenate([times, times[-1] + step * np.arange(1, (self.blocks - 1) * self.new + 1)])

    def batches(self) -> Iterator[np.ndarray]:
        """Positions (samples, frames, N, D) float64, batch after batch."""
        starts = range(0, self.num, self.batch_size)
        for number, first in enumerate(starts):
            samples = range(first, min(first + self.batch_size, self.num))
            block = np.repeat(self.request.positions[None], len(samples), 0)
            whole = np.zeros((len(samples), self.frames, *block.shape[2:]))
            for k in range(self.blocks):
                done = (number * self.blocks + k) / (len(starts) * self.blocks)
                block[:, ~self.request.observed] = self._part(samples, number, k, block, done)
                if k == 0:
                    whole[:, : block.shape[1]] = block
                else:
                    at = block.shape[1] + (k - 1) * self.new
                    whole[:, at : at + self.new] = block[:, -self.new :]
                seen = block.shape[1] - self.new
                block = np.concatenate([block[:, -seen:], np.zeros_like(block[:, seen:])], 1)
            yield whole

    def _part(self, samples: range, number: int, k: int, block: np.ndarray, done: float) -> np.ndarray:
        """New frames (samples, new, N, D) of a block, from disk if they are there."""
        stage = f"block {k}"
        stored = None if self.shelf is None else self.shelf.get(stage, number)
        if stored is not None:
            return unpacked(stored)
        share = 1 / (-(-self.num // self.batch_size) * self.blocks)
        report = _Moves(lambda part: self.progress("sampling", done + share * part), self.plan.steps)
        state = self.model.generate(
            torch.arange(samples.start, samples.stop),
            block_seed(self.seed, k),
            plan=self.plan,
            hooks=[*self.hooks, report],
            template=template(self.model.codec, self.request, block),
            start=self.start,
        )
        new = positions_of(state, len(samples))[:, ~self.request.observed]
        broken = ~np.isfinite(new).all((1, 2, 3))
        if broken.any():
            raise UserError(
                f"sample {samples.start + int(broken.argmax())} of block {k} is not finite; take more --steps, fewer "
                "blocks or a wider --width of the guidance"
            )
        if self.shelf is not None:
            self.shelf.put(stage, number, packed(new))
        self.progress("sampling", done + share)
        return new


def template(codec: TrajectoryCodec, request: Request, positions: np.ndarray) -> State:
    """State of samples (B, T, N, D) with the frames, times and atoms of a request."""
    samples, _, atoms, dims = positions.shape
    one = request.given
    times = torch.from_numpy(codec.model_times(request.times, one.unit))
    rows = positions.transpose(0, 2, 1, 3).reshape(samples * atoms, -1, dims)
    return codec.assemble(
        torch.from_numpy(np.ascontiguousarray(rows)),
        [atoms] * samples,
        times.expand(samples, -1),
        torch.from_numpy(request.observed).expand(samples, -1),
        torch.from_numpy(one.features).repeat(samples, 1),
        torch.from_numpy(upper(one.pairs)).repeat(samples, 1),
    )


def positions_of(state: State, samples: int) -> np.ndarray:
    """Positions (B, T, N, D) float64 at their true places, of samples with the same number of atoms."""
    inside = state[POS].detach().cpu().double().reshape(samples, -1, *state[POS].shape[1:])  # (B, N, T, D)
    return (inside + state.cond["centre"].cpu().double()[:, None, None]).transpose(1, 2).numpy()


def block_seed(seed: int, block: int) -> int:
    """Seed of a block: that of the run for the first one."""
    if block == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}/block {block}".encode(), digest_size=7).digest(), "little")


def packed(array: np.ndarray) -> dict[str, Any]:
    """A float64 array as plain JSON, every bit of it."""
    return {"shape": list(array.shape), "float64": base64.b64encode(array.astype("<f8").tobytes()).decode()}


def unpacked(content: dict[str, Any]) -> np.ndarray:
    """The inverse of `packed`."""
    return np.frombuffer(base64.b64decode(content["float64"]), "<f8").reshape(content["shape"]).copy()


class _Moves(Hook):
    """Reports the share of the moves that are done."""

    def __init__(self, report: Callable[[float], None], steps: int) -> None:
        self.report, self.steps = report, steps

    def after(self, state: State, kernels: Any, transition: Transition) -> State:
        """Report."""
        self.report((transition.move.index + 1) / self.steps)
        return state
