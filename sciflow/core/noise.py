"""Noise objects: every random number of sampling comes from one of these, bound to a field and a move.

A `Noise` is asked once per field and move for a `Draws`, from which kernels and solvers take normals and uniforms.

`PerSample` is counter-based (Philox-4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
The counter holds (column block, row within the sample, sample index), the key a hash of (seed, field, move, draw): a
number depends on nothing else, so sample i is the same alone, in a batch, padded, or on another rank.
"""

from __future__ import annotations

import functools
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sciflow.core.state import Layout


class Move(NamedTuple):
    """One move of the sampler, known on the host.

    Attributes:
        index: Number of the move in the grid, from 0; -1 is the prior draw.
        t: Clock at the start.
        s: Clock at the end.
        phase: 0 for the move proper, 1, 2, ... for the corrector rounds before it.
    """

    index: int
    t: float
    s: float
    phase: int = 0


PRIOR = Move(-1, 1.0, 1.0)


class Draws(ABC):
    """Random numbers for one field and one move. Every call gives new numbers."""

    @abstractmethod
    def normal(self, like: Tensor, layout: Layout) -> Tensor:
        """Standard normals with the shape, dtype and device of `like`."""

    @abstractmethod
    def uniform(self, like: Tensor, layout: Layout) -> Tensor:
        """Uniforms in (0, 1) with the shape and device of `like` (default float type if `like` is integer)."""

    def upper_normal(self, like: Tensor, layout: Layout) -> Tensor:
        """`normal` for a (B, N, N, ...) field of which only the entries [:, i, j] with i < j are going to be used."""
        return self.normal(like, layout)


class Noise(ABC):
    """A source of `Draws`."""

    @abstractmethod
    def at(self, field: str, move: Move, copy: int = 0) -> Draws:
        """Draws for `field` in `move`; `copy` > 0 gives further independent draws (candidates of a hook)."""


def _float_like(like: Tensor) -> torch.dtype:
    return like.dtype if like.is_floating_point() else torch.get_default_dtype()


class Fresh(Noise, Draws):
    """Independent draws from one explicit generator, in the order in which they are asked for."""

    def __init__(self, seed: int = 0, device: torch.device | str = "cpu") -> None:
        self.generator = torch.Generator(device).manual_seed(seed)

    def at(self, field: str, move: Move, copy: int = 0) -> Draws:
        """Itself: the stream does not depend on the move."""
        return self

    def normal(self, like: Tensor, layout: Layout) -> Tensor:
        """Standard normals from the generator."""
        return torch.randn(like.shape, generator=self.generator, dtype=_float_like(like), device=like.device)

    def uniform(self, like: Tensor, layout: Layout) -> Tensor:
        """Uniforms from the generator, never exactly 0."""
        u = torch.rand(like.shape, generator=self.generator, dtype=_float_like(like), device=like.device)
        return u.clamp_min(torch.finfo(u.dtype).tiny)


class PerSample(Noise):
    """Counter-based noise keyed by (seed, global sample index, field, move).

    Args:
        seed: Any integer.
        samples: (B,) global indices of the samples of this batch, or the index of the first one.
    """

    def __init__(self, seed: int = 0, samples: Tensor | int = 0) -> None:
        self.seed, self.samples = seed, samples
        self.ahead: dict[tuple, tuple[int, Tensor]] = {}  # numbers of the moves to come, see `_PhiloxDraws`

    def at(self, field: str, move: Move, copy: int = 0) -> Draws:
        """Draws keyed by the seed, the field, the move and the copy."""
        return _PhiloxDraws(self, (field, move.phase, copy), move.index)

    def indices(self, layout: Layout, device: torch.device) -> Tensor:
        """(B,) global sample indices of a batch."""
        if isinstance(self.samples, Tensor):
            if len(self.samples) != layout.batch:
                raise ValueError(
                    f"PerSample noise was made for {len(self.samples)} samples, the batch has {layout.batch}"
                )
            return self.samples.to(device)
        return torch.arange(self.samples, self.samples + layout.batch, device=device)


AHEAD = 1 << 16  # numbers per evaluation: small fields get those of several moves at once, large ones of one move


class _PhiloxDraws(Draws):
    """Draws of one move.

    Small dense fields compute the numbers of the next moves with their own: a tensor operation on few numbers costs its
    launch, whatever it computes. The numbers do not depend on what is computed together.
    """

    def __init__(self, noise: PerSample, stream: tuple[str, int, int], move: int) -> None:
        self.noise, self.stream, self.move, self.count = noise, stream, move, 0

    def uniform(self, like: Tensor, layout: Layout) -> Tensor:
        dtype = _float_like(like)
        return self._get(like, layout, _uniforms).clamp_max(1 - torch.finfo(dtype).eps / 2)

    def normal(self, like: Tensor, layout: Layout) -> Tensor:
        return self._get(like, layout, _normals)

    def upper_normal(self, like: Tensor, layout: Layout) -> Tensor:
        # the same numbers as `normal`; blocks of four that lie on or below the diagonal are left out
        return self._get(like, layout, _upper_normals)

    def _get(self, like: Tensor, layout: Layout, numbers: Callable[..., Tensor]) -> Tensor:
        """Numbers of this draw, from those computed ahead if they are there."""
        draw, self.count = self.count, self.count + 1
        name = (*self.stream, draw, numbers, like.shape, like.dtype, like.device)
        first, values = self.noise.ahead.get(name, (self.move + 1, None))
        if values is None or layout.index is not None or not first <= self.move < first + len(values):
            alone = layout.index is not None or draw >= 4  # jump solvers draw for event after event: nothing to keep
            first, moves = self.move, 1 if alone else max(1, AHEAD // max(1, like.numel()))
            key = _key("/".join(map(str, (self.noise.seed, *self.stream, draw))))
            with torch.inference_mode(False), torch.no_grad():  # the numbers may be used in a later run with gradients
                counters = (torch.arange(first, first + moves, device=like.device) + 1) << 8  # the prior is move -1
                values = numbers(key, counters, like, layout, self.noise).to(_float_like(like))
            if moves > 1:
                self.noise.ahead[name] = (first, values)
        return values[self.move - first]


def _key(label: str) -> tuple[int, int]:
    digest = hashlib.blake2b(label.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def _blocks(key: tuple[int, int], moves: Tensor, sample: Tensor, row: Tensor, block: Tensor) -> Tensor:
    """Four uniforms for each counter (block, row, sample, move): (moves, ..., 4).

    The fourth counter word holds the move above 8 bits of the sample index, the third the rest of it.
    """
    moves = moves.reshape(-1, *[1] * max(sample.ndim, row.ndim, block.ndim))
    counters = torch.broadcast_tensors(block, row, sample & _MASK, (sample >> 32) + moves)
    return _open_interval(torch.stack(philox(counters[0], counters[1], counters[2], counters[3], *key), -1))


def _uniforms(key: tuple[int, int], moves: Tensor, like: Tensor, layout: Layout, noise: PerSample) -> Tensor:
    """A uniform for every entry of `like`: (moves, *like.shape)."""
    sample, row, columns = _coordinates(like, layout, noise)
    uniforms = _blocks(key, moves, sample[:, None], row[:, None], torch.arange((columns + 3) // 4, device=like.device))
    return uniforms.reshape(len(moves), len(sample), -1)[:, :, :columns].reshape(len(moves), *like.shape)


def _normals(key: tuple[int, int], moves: Tensor, like: Tensor, layout: Layout, noise: PerSample) -> Tensor:
    """As `_uniforms`. The inverse distribution function acts on each number alone, wherever it lies in memory."""
    return torch.special.ndtri(_uniforms(key, moves, like, layout, noise))


def _upper_normals(key: tuple[int, int], moves: Tensor, like: Tensor, layout: Layout, noise: PerSample) -> Tensor:
    """As `_normals` above the diagonal of (B, N, N, ...); 0 in blocks that hold nothing else."""
    nodes, columns = like.shape[1], math.prod(like.shape[2:])
    row, block = (v.to(like.device) for v in _upper_blocks(nodes, columns))
    sample = noise.indices(layout, like.device)
    normals = torch.special.ndtri(_blocks(key, moves, sample[:, None], row, block)).to(_float_like(like))
    full = normals.new_zeros(len(moves), len(sample), nodes, (columns + 3) // 4, 4)
    full[:, :, row, block] = normals
    return full.reshape(len(moves), len(sample), nodes, -1)[..., :columns].reshape(len(moves), *like.shape)


def _open_interval(words: Tensor) -> Tensor:
    """32-bit words as float64 in (0, 1)."""
    return words.double().add_(0.5).mul_(2.0**-32)


@functools.lru_cache(maxsize=64)
def _upper_blocks(nodes: int, columns: int) -> tuple[Tensor, Tensor]:
    """(row, block) of the blocks of four columns that hold an entry (i, j, ...) with j > i; on the host."""
    channels = columns // nodes
    last = (torch.arange((columns + 3) // 4) * 4 + 3).clamp_max(columns - 1) // channels  # last j of each block
    row, block = (last[None, :] > torch.arange(nodes)[:, None]).nonzero(as_tuple=True)
    return row, block


def _coordinates(like: Tensor, layout: Layout, noise: PerSample) -> tuple[Tensor, Tensor, int]:
    """Sample index and row within the sample of each line of `like`, and the number of columns of a line.

    Padding changes neither: a dense (B, N, ...) field has a line per (sample, n), a ragged one a line per row.
    """
    ids = noise.indices(layout, like.device)
    if layout.index is not None:
        start = torch.searchsorted(layout.index, torch.arange(layout.batch, device=like.device))
        row = torch.arange(like.shape[0], device=like.device) - start[layout.index]
        return ids[layout.index], row, math.prod(like.shape[1:])
    if like.ndim < 3:
        return ids, torch.zeros_like(ids), math.prod(like.shape[1:])
    lines = like.shape[1]
    return (
        ids.repeat_interleave(lines),
        torch.arange(lines, device=like.device).repeat(len(ids)),
        math.prod(like.shape[2:]),
    )


_MASK = 0xFFFFFFFF


def philox(
    c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, k0: int, k1: int, rounds: int = 10
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox-4x32: four 32-bit words (in int64 tensors) for each counter (c0, c1, c2, c3) under the key (k0, k1)."""
    for _ in range(rounds):
        product0, product1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        # in place: half the memory traffic
        high0 = (product0 >> 32).bitwise_and_(_MASK).bitwise_xor_(c3).bitwise_xor_(k1)
        high1 = (product1 >> 32).bitwise_and_(_MASK).bitwise_xor_(c1).bitwise_xor_(k0)
        c0, c1, c2, c3 = high1, product1.bitwise_and_(_MASK), high0, product0.bitwise_and_(_MASK)
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


class BrownianPath(Noise):
    """One Brownian path on a dyadic mesh of [0, 1]: refining the grid keeps the path (strong-order tests).

    Args:
        shape: Shape of the field.
        levels: The mesh has 2**levels intervals; grids must lie on it.
        seed: Seed of the path.
        dtype: Type of the path.
    """

    def __init__(self, shape: Sequence[int], levels: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        self.intervals = 2**levels
        generator = torch.Generator().manual_seed(seed)
        steps = torch.randn((self.intervals, *shape), generator=generator, dtype=dtype) / math.sqrt(self.intervals)
        self.path = torch.cat([torch.zeros(1, *shape, dtype=dtype), steps.cumsum(0)])

    def at(self, field: str, move: Move, copy: int = 0) -> Draws:
        """The increment of the path over the move, scaled to a standard normal."""
        ends = [round(clock * self.intervals) for clock in (move.t, move.s)]
        if any(abs(end - clock * self.intervals) > 1e-6 for end, clock in zip(ends, (move.t, move.s), strict=True)):
            raise ValueError(f"the move {move.t} -> {move.s} does not lie on the mesh of {self.intervals} intervals")
        i, j = ends
        return _Given((self.path[j] - self.path[i]) / math.sqrt(abs(j - i) / self.intervals))


class _Given(Draws):
    """One given array of normals, good for one call."""

    def __init__(self, value: Tensor) -> None:
        self.value: Tensor | None = value

    def normal(self, like: Tensor, layout: Layout) -> Tensor:
        if self.value is None:
            raise ValueError("this noise holds one draw per move; the solver asked for a second one")
        value, self.value = self.value, None
        return value

    def uniform(self, like: Tensor, layout: Layout) -> Tensor:
        raise ValueError("a Brownian path has normals only; the solver asked for uniforms")


class Recorder(Noise):
    """Passes draws of another noise on and keeps them in `log`, to be given to `Replay`."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise
        self.log: dict[tuple[str, int, int, int], list[Tensor]] = {}

    def at(self, field: str, move: Move, copy: int = 0) -> Draws:
        """Recorded draws of the wrapped noise."""
        record = self.log.setdefault((field, move.index, move.phase, copy), [])
        return _Mapped(self.noise.at(field, move, copy), lambda value: record.append(value) or value)


class Replay(Noise):
    """The recorded numbers again, whatever the state: inversion, editing, common random numbers.

    Args:
        log: (field, move index, phase, copy) -> tensors in the order of the draws, as `Recorder` keeps them.
    """

    def __init__(self, log: Mapping[tuple[str, int, int, int], Sequence[Tensor]]) -> None:
        self.log = log

    def at(self, field: str, move: Move, copy: int = 0) -> Draws:
        """The recorded draws of that field and move."""
        key = (field, move.index, move.phase, copy)
        if key not in self.log:
            raise ValueError(
                f"no draw was recorded for field '{field}', move {move.index}, phase {move.phase}, copy {copy}"
            )
        return _Sequence(self.log[key])


class _Sequence(Draws):
    def __init__(self, values: Sequence[Tensor]) -> None:
        self.values = iter(values)

    def normal(self, like: Tensor, layout: Layout) -> Tensor:
        value = next(self.values, None)
        if value is None:
            raise ValueError("more draws are asked for than were recorded for this move")
        return value

    uniform = normal


class Rotated(Noise):
    """A symmetry applied to the normals of another noise: end-to-end equivariance tests.

    Args:
        noise: The noise to transform.
        transforms: Field -> function of the array of normals; other fields pass unchanged.
    """

    def __init__(self, noise: Noise, transforms: Mapping[str, Callable[[Tensor], Tensor]]) -> None:
        self.noise, self.transforms = noise, transforms

    def at(self, field: str, move: Move, copy: int = 0) -> Draws:
        """Transformed draws."""
        draws = self.noise.at(field, move, copy)
        return _Mapped(draws, self.transforms[field]) if field in self.transforms else draws


class _Mapped(Draws):
    def __init__(self, draws: Draws, function: Callable[[Tensor], Tensor]) -> None:
        self.draws, self.function = draws, function

    def normal(self, like: Tensor, layout: Layout) -> Tensor:
        return self.function(self.draws.normal(like, layout))

    def uniform(self, like: Tensor, layout: Layout) -> Tensor:
        return self.function(self.draws.uniform(like, layout))
