"""sciflow: generative models for scientific data on one process/solver core.

Public names are loaded on first use, so that `import sciflow` costs no more than `import torch`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sciflow.evaluation import evaluate
    from sciflow.model import Model, load

_PUBLIC = {"load": "sciflow.model", "Model": "sciflow.model", "evaluate": "sciflow.evaluation"}
__all__ = ["Model", "__version__", "evaluate", "load"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'sciflow' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
