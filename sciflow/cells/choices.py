"""References and engines by name, configuration or as objects; drifts of users are tried once."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch

from sciflow.core.config import from_config
from sciflow.core.errors import UserError
from sciflow.networks import references
from sciflow.training.schrodinger.engine import Engine
from sciflow.training.schrodinger.snapshots import Snapshots

REFERENCES: dict[str, Callable[[int], references.Reference]] = {
    "brownian": lambda dim: references.Brownian(),
    "ou": references.OU,
    "lotka_volterra": lambda dim: references.LotkaVolterra(),
    "repressilator": lambda dim: references.Repressilator(),
    "vortex": lambda dim: references.Vortex(),
    "lamb_oseen": lambda dim: references.LambOseen(),
    "spring": lambda dim: references.Spring(),
    "gradient_field": references.GradientField,
}
ENGINES = {
    "kernel_bridge": "sciflow.training.schrodinger.kernel_bridge.KernelBridge",
    "gp_ipf": "sciflow.training.schrodinger.gp_ipf.GaussianProcessIPF",
    "bridge_matching": "sciflow.training.schrodinger.bridge_matching.BridgeMatching",
}


def reference_of(reference: Any, dimension: int) -> references.Reference:
    """A reference by name, as module:function or as its configuration; itself; or a Python drift made one.

    Raises:
        UserError: Unknown name.
    """
    if isinstance(reference, Mapping):
        reference = from_config(reference)
    if isinstance(reference, references.Reference):
        return reference
    if isinstance(reference, str) and ":" in reference:
        module, _, name = reference.partition(":")
        try:
            return reference_of(getattr(importlib.import_module(module), name), dimension)
        except (ImportError, AttributeError) as error:
            raise UserError(f"reference: got '{reference}', expected module:function on the path ({error})") from None
    if isinstance(reference, str):
        if reference not in REFERENCES:
            raise UserError(f"reference: got '{reference}', expected {', '.join(REFERENCES)} or module:function")
        return REFERENCES[reference](dimension)
    if callable(reference):
        return references.Callable(reference)  # type: ignore[arg-type]
    raise UserError(f"reference: got {type(reference).__name__}, expected a name, a Reference or a function f(x, t)")


def engine_of(engine: str | Engine | Mapping[str, Any]) -> Engine:
    """An engine by name or configuration, or itself.

    Raises:
        UserError: Unknown name.
    """
    if isinstance(engine, Mapping):
        engine = from_config(engine)
    if isinstance(engine, Engine):
        return engine
    if engine not in ENGINES:
        raise UserError(f"engine: got '{engine}', expected one of {', '.join(ENGINES)}")
    return from_config({"class_path": ENGINES[engine], "init_args": {}})


def check_drift(family: references.Callable, snapshots: Snapshots) -> None:
    """Ask a user's drift for velocities and derivatives of a few cells, as the engines do.

    Raises:
        UserError: It fails, or does not return one velocity per cell.
    """
    cells = torch.from_numpy(snapshots.points[0])
    x = cells.repeat(2, 1)[: cells.shape[1] + 1]  # as many cells as coordinates would hide wrong shapes
    first = float(snapshots.times[0])
    expected = (
        f"expected f(x, t) of torch operations: x (cells, {x.shape[1]}), t a number or one per cell (cells,); returns "
        "velocities like x, float64"
    )
    for t in (first, torch.full((len(x),), first, dtype=x.dtype)):
        try:
            found = family(x, t)
        except Exception as error:  # any code of the user
            raise UserError(f"reference: the drift fails ({type(error).__name__}: {error}); {expected}") from None
        if not isinstance(found, torch.Tensor) or found.shape != x.shape or found.dtype != x.dtype:
            tensor = isinstance(found, torch.Tensor)
            got = f"{found.dtype} {tuple(found.shape)}" if tensor else type(found).__name__
            raise UserError(f"reference: the drift of x {tuple(x.shape)} is {got}; {expected}")
    try:
        family.jacobian(x, first)
    except Exception as error:
        raise UserError(
            f"reference: the drift has no derivative ({type(error).__name__}: {error}); {expected}"
        ) from None
