"""Fixtures of the whole suite: real data, fixed seeds, and hygiene (a test that changes global settings fails)."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

SHARED_DATA = ROOT.parent / "shared" / "data"
if "SCIFLOW_DATA" not in os.environ and SHARED_DATA.is_dir():
    os.environ["SCIFLOW_DATA"] = str(SHARED_DATA)  # data sets by name resolve there too

torch.set_num_threads(1)  # timings and sums do not depend on the number of cores

# name: (read, restore). What a library or a test must not leave changed behind it.
SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch default device": (lambda: str(torch.get_default_device()), torch.set_default_device),
    "torch deterministic algorithms": (
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda old: torch.use_deterministic_algorithms(old[0], warn_only=old[1]),
    ),
    "torch number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "torch matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "cudnn.deterministic": (
        lambda: torch.backends.cudnn.deterministic,
        lambda old: setattr(torch.backends.cudnn, "deterministic", old),
    ),
    "cudnn.benchmark": (
        lambda: torch.backends.cudnn.benchmark,
        lambda old: setattr(torch.backends.cudnn, "benchmark", old),
    ),
    "numpy error handling": (numpy.geterr, lambda old: numpy.seterr(**old)),
    "torch.distributions argument checks": (
        lambda: torch.distributions.Distribution._validate_args,
        torch.distributions.Distribution.set_default_validate_args,
    ),
}


@pytest.fixture(autouse=True)
def hygiene() -> Iterator[None]:
    """Seed the global generators, and fail a test that leaves a global setting changed (after putting it back)."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
    before = {name: read() for name, (read, _) in SETTINGS.items()}
    yield
    now = {name: read() for name, (read, _) in SETTINGS.items()}
    changed = [name for name in SETTINGS if now[name] != before[name]]
    for name in changed:
        SETTINGS[name][1](before[name])
    if changed:
        what = "; ".join(f"{name}: {before[name]} -> {now[name]}" for name in changed)
        pytest.fail(f"test left global settings changed: {what}")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the real data sets: `SCIFLOW_DATA`, else ../shared/data beside the repository."""
    folder = Path(os.environ.get("SCIFLOW_DATA") or SHARED_DATA)
    if not folder.is_dir():
        pytest.skip(f"real data sets not found at {folder}; set SCIFLOW_DATA to the folder that holds them")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` on a machine without an accelerator."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an accelerator, none on this machine"))
