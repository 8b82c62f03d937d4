"""Rates zero-shot: the trained network on the paths of one system, or of thousands at once (issue "jumps", method fim).

estimate = infer_rates(paths)                   # the shipped network
estimates = infer_many(list_of_paths)           # one batch, one forward pass per few hundred systems
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sciflow import __version__
from sciflow.core.config import from_config, to_config
from sciflow.core.errors import UserError
from sciflow.core.files import replacing
from sciflow.domains.jumps.batch import PathBatch
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.network import RateLaw
from sciflow.domains.jumps.result import Estimate
from sciflow.domains.jumps.windows import windows

SHIPPED = "jumps-fim"
POINTS = 100  # the longest paths of the training tasks
OBSERVATIONS = 2_000_000  # per forward pass: 100 MB
DRAWS = 1000
FASTEST = 20.0  # rate per longest path: 1.4 % of the training systems have a faster one
MOST_STATES, JUMPS = 8, (0.2, 60.0)  # states, and jumps in the longest path, of the training tasks


def infer_rates(paths: Paths, model: str | Path | nn.Module = SHIPPED) -> Estimate:
    """Rates of one system with uncertainty, without fitting.

    Args:
        paths: Labelled paths, any number. Paths of more than 100 observations are cut into windows.
        model: The shipped network, a file written by `sciflow fit` or `save_network`, or a network.

    Raises:
        UserError: Fully observed jumps, no labels, fewer than two states, or no two observations of a path.
    """
    return infer_many([paths], model)[0]


def infer_many(systems: Sequence[Paths], model: str | Path | nn.Module = SHIPPED) -> list[Estimate]:
    """Rates of many systems, which may differ in all sizes; arguments as `infer_rates`."""
    network = model if isinstance(model, nn.Module) else load_network(model)
    pieces = [_usable(one) for one in systems]
    order = sorted(range(len(pieces)), key=lambda i: (pieces[i].states_count, pieces[i].times.size))
    found: dict[int, Estimate] = {}
    for part in _parts(order, pieces):
        with torch.inference_mode():
            law = network(PathBatch.of([pieces[i] for i in part]))
        found.update(zip(part, _estimates(law, [systems[i] for i in part]), strict=True))
    return [found[i] for i in range(len(systems))]


def _usable(paths: Paths) -> Paths:
    """Windows of the length that the network was trained on."""
    if paths.states is None or paths.states_count < 2:
        raise UserError("fim: got no labels or fewer than two states, expected labelled paths of at least two states")
    if paths.complete:
        raise UserError("fim: got paths with every jump known; their rates have a closed form: use the method mle")
    if not (paths.times[:, -1] > paths.times[:, 0]).any():
        raise UserError("fim: got no path with two observations at different times; rates cannot be inferred")
    return windows(paths, POINTS) if paths.times.shape[1] > POINTS else paths


def _parts(order: Sequence[int], pieces: Sequence[Paths]) -> Iterator[list[int]]:
    """Runs of systems of similar size that fit into one forward pass."""
    part: list[int] = []
    for i in order:
        paths = max([len(pieces[j]) for j in (*part, i)])
        points = max([pieces[j].times.shape[1] for j in (*part, i)])
        if part and (len(part) + 1) * paths * points > OBSERVATIONS:
            yield part
            part = []
        part.append(i)
    if part:
        yield part


def _estimates(law: RateLaw, systems: Sequence[Paths]) -> Iterator[Estimate]:
    draws = law.sample(DRAWS, torch.Generator().manual_seed(0)).numpy()
    mean, deviation = law.mean().double().numpy(), law.deviation().double().numpy()
    initial, flips = law.initial.double().softmax(-1).numpy(), law.flips().tolist()
    for row, paths in enumerate(systems):
        S = paths.states_count
        estimate = Estimate.of(
            mean[row, :S, :S],
            initial[row, :S],
            "fim",
            draws=draws[:, row, :S, :S],
            noise_rate=flips[row],
            warnings=paths.warnings,
            unit=paths.unit,
            names=paths.names,
        )
        stderr = np.where(np.eye(S, dtype=bool), estimate.stderr, deviation[row, :S, :S])
        rates = estimate.rates * float(law.window[row])
        jumps = -float(estimate.stationary() @ rates.diagonal())
        yield replace(estimate, stderr=stderr).warned(*_outside(S, jumps, float(rates.max())))


def _outside(states: int, jumps: float, fastest: float) -> Iterator[str]:
    """Named warnings where the network has to extrapolate."""
    if states > MOST_STATES:
        yield f"fim-states: {states} states, the network was trained on 2 to {MOST_STATES}; its intervals may be off"
    if not JUMPS[0] <= jumps <= JUMPS[1]:
        yield (
            f"fim-window: about {jumps:.3g} jumps in the longest path (of at most {POINTS} observations); the network "
            f"was trained on {JUMPS[0]:g} to {JUMPS[1]:g}, its intervals may be off"
        )
    elif fastest > FASTEST:
        yield (
            f"fim-window: the fastest rate is {fastest:.3g} per longest path (of at most {POINTS} observations); few "
            f"of the systems that the network was trained on had more than {FASTEST:g}, and it expects slower ones"
        )


# ---------------------------------------------------------------- files


def save_network(network: nn.Module, path: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a .safetensors file that `load_network` reads, atomically.

    Args:
        network: A `Configurable` network.
        path: Target.
        dtype: Store weights in this type; they load as float32.
    """
    from safetensors.torch import save_file

    weights = {
        name: value.detach().to(dtype or value.dtype).contiguous() for name, value in network.state_dict().items()
    }
    config = {"sciflow": __version__, "network": to_config(network)}
    with replacing(path) as temporary:
        save_file(weights, temporary, metadata={"sciflow": json.dumps(config)})


@lru_cache(maxsize=4)
def load_network(source: str | Path = SHIPPED) -> nn.Module:
    """The shipped network by name, or one of a .safetensors file or of a checkpoint of `sciflow fit`.

    Raises:
        UserError: No such file, or no network in it.
    """
    from safetensors import safe_open

    shipped = Path(str(files("sciflow"))) / "pretrained" / f"{source}.safetensors"
    path = Path(source) if Path(source).is_file() else shipped
    if not path.is_file():
        raise UserError(f"no network file '{source}' and no shipped network of that name; expected {SHIPPED} or a file")
    weights: dict[str, Tensor]
    if path.suffix == ".ckpt":
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        config, prefix = checkpoint.get("sciflow", {}), "network."
        weights = {n.removeprefix(prefix): v for n, v in checkpoint["state_dict"].items() if n.startswith(prefix)}
    else:
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {}).get("sciflow", "{}"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if "network" not in config or "processes" in config:
        raise UserError(f"'{path}' holds no network for rates; expected a file of `sciflow fit` on experiments/jumps")
    network = from_config(config["network"])
    network.load_state_dict({name: value.float() for name, value in weights.items()})
    return network.eval()
