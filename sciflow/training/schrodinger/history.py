"""What the alternation keeps between rounds, and its file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sciflow.core.config import Configurable, to_config
from sciflow.core.errors import UserError
from sciflow.core.files import replacing
from sciflow.networks.references import Reference
from sciflow.training.schrodinger.engine import Problem

FILE = "rounds.safetensors"
NUMBERED = ("thetas", "mapped", "effective")  # lists of tensors


@dataclass(eq=False)
class History:
    """All rounds so far.

    Attributes:
        thetas: (p,) theta of each Q-step.
        mapped: (p,) what the theta-step made of each but the last.
        objectives: J of each Q-step.
        effective: (K - 1,) effective shares of each Q-step, or empty.
        seconds: CPU seconds of each round.
        before: What the last Q-step started from.
        warm: What it left for the next.
    """

    thetas: list[Tensor] = field(default_factory=list)
    mapped: list[Tensor] = field(default_factory=list)
    objectives: list[float] = field(default_factory=list)
    effective: list[Tensor] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    before: dict[str, Tensor] = field(default_factory=dict)
    warm: dict[str, Tensor] = field(default_factory=dict)

    def settled(self, tolerance: float) -> bool:
        """Theta moved by less than the tolerance, relative to |theta| + 1e-3, in the last two rounds."""
        if len(self.thetas) < 3:
            return False
        a, b, c = self.thetas[-3:]
        return all(float(((new - old) / (new.abs() + 1e-3)).abs().max()) < tolerance for old, new in ((a, b), (b, c)))


def fingerprint(problem: Problem, reference: Reference, parts: Sequence[Configurable | None]) -> str:
    """A digest of everything that the rounds depend on; a reference counts by its drift at the data."""
    snapshots = problem.snapshots
    digest = hashlib.sha256(json.dumps([to_config(parts), problem.sigma, problem.dt, problem.seed]).encode())
    digest.update(type(reference).__qualname__.encode() + snapshots.times.tobytes())
    for points, weights, time in zip(snapshots.points, snapshots.weights, snapshots.times.tolist(), strict=True):
        with torch.no_grad():
            drift = reference(torch.from_numpy(points), time)
        for value in (points, weights, drift.numpy()):
            digest.update(value.tobytes())
    for value in reference.parameters():
        digest.update(value.detach().numpy().tobytes())
    return digest.hexdigest()


def save(folder: str | Path | None, digest: str, history: History) -> None:
    """Write all rounds in one step; nothing without a folder."""
    if folder is None:
        return
    tensors = {
        "objectives": torch.tensor(history.objectives, dtype=torch.float64),
        "seconds": torch.tensor(history.seconds, dtype=torch.float64),
        **{f"{name}.{i}": v for name in NUMBERED for i, v in enumerate(getattr(history, name))},
        **{f"{name}.{key}": v for name in ("before", "warm") for key, v in getattr(history, name).items()},
    }
    with replacing(Path(folder) / FILE) as path:
        save_file({name: v.detach().clone().contiguous() for name, v in tensors.items()}, path, {"problem": digest})


def load(folder: str | Path | None, digest: str) -> History | None:
    """The rounds of an earlier fit of the same problem; None if there are none.

    Raises:
        UserError: The file cannot be read, or belongs to another problem.
    """
    if folder is None or not (path := Path(folder) / FILE).exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            found = (file.metadata() or {}).get("problem")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it to start anew") from None
    if found != digest:
        raise UserError(
            f"{path}: holds rounds of other data or settings; remove it to start anew, or choose another folder "
            "(CLI: --out)"
        )

    def numbered(name: str) -> list[Tensor]:
        return [tensors[f"{name}.{i}"] for i in range(sum(key.startswith(f"{name}.") for key in tensors))]

    def named(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}."): v for key, v in tensors.items() if key.startswith(f"{name}.")}

    objectives, seconds = (tensors[name].tolist() for name in ("objectives", "seconds"))
    thetas, mapped, effective = map(numbered, NUMBERED)
    return History(thetas, mapped, objectives, effective, seconds, named("before"), named("warm"))
