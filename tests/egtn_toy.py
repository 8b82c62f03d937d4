"""Random trajectory states for tests and benchmarks of networks, without a codec."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sciflow.core.state import Layout, State
from sciflow.domains.trajectories.anchors import Anchor, ConstantVelocity, LearnedAnchor
from sciflow.domains.trajectories.network import EGTN, ClockCode


def walks(
    sizes: Sequence[int],
    frames: int,
    seen: Tensor | None,
    *,
    dims: int = 3,
    atoms: int = 3,
    pairs: int = 2,
    bonds: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> State:
    """A batch of random walks.

    Args:
        sizes: Atoms of each sample.
        frames: Number T of frames.
        seen: (T,) or (B, T), 1 on observed frames; None: unconditional.
        dims: D.
        atoms: Atom features.
        pairs: Pair features.
        bonds: Share of the pairs whose features are not zero.
        seed: Of the numbers.
        dtype: Of the numbers.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    batch, count = len(sizes), sum(sizes)
    index = torch.arange(batch).repeat_interleave(torch.tensor(list(sizes)))
    pos = normal(count, 1, dims) + 0.2 * normal(count, frames, dims).cumsum(1)
    given = torch.zeros(batch, frames, dtype=dtype) if seen is None else seen.to(dtype).expand(batch, frames)
    number = torch.tensor([n * (n - 1) // 2 for n in sizes])
    links = normal(int(number.sum()), pairs) * (torch.rand(int(number.sum()), 1, generator=generator) < bonds)
    plain = Layout(batch, index, sizes=tuple(sizes))
    mask = None if seen is None else (1 - given)[index][:, :, None]
    layouts = {
        "pos": Layout(batch, index, mask, tuple(sizes)),
        "observed": plain,
        "atoms": plain,
        "pairs": Layout(batch, torch.arange(batch).repeat_interleave(number)),
    }
    fields = {"pos": pos, "observed": pos * given[index][:, :, None], "atoms": normal(count, atoms), "pairs": links}
    times = torch.arange(frames, dtype=torch.float64).expand(batch, frames).clone()
    return State(fields, layouts, {"times": times, "seen": given, "centre": torch.zeros(batch, dims)})


def network(
    anchor: Anchor | None = None, kind: type[EGTN] = EGTN, dtype: torch.dtype = torch.float64, **options
) -> EGTN:
    """A small network with random weights, not at rest."""
    torch.manual_seed(1)
    settings = {"hidden": 16, "layers": 2, "waves": 8, "zero_init": False, "clock": ClockCode(8), **options}
    return kind(3, 2, anchor, **settings).to(dtype)


def learned() -> LearnedAnchor:
    """A learned anchor away from its start, where it moves nothing."""
    torch.manual_seed(2)
    anchor = LearnedAnchor(3, 2, ConstantVelocity(), hidden=16, layers=2, waves=8, zero_init=False)
    torch.nn.init.normal_(anchor.weights.outer.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    return anchor


def moved(state: State, function: Callable[[Tensor], Tensor]) -> State:
    """All positions of all frames changed; places of unobserved frames in "observed" stay 0."""
    seen = state.cond["seen"][state.layouts["pos"].index][:, :, None]
    return state.put(pos=function(state["pos"]), observed=function(state["observed"]) * seen)


def rotation(dims: int, seed: int = 0, determinant: int = 1) -> Tensor:
    """A random rotation, or reflection."""
    q, _ = torch.linalg.qr(torch.randn(dims, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    q[:, 0] *= determinant * torch.linalg.det(q).sign()
    return q
