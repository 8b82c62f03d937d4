"""The import rules (DESIGN section 5) by AST, and what a bare import loads and costs, in fresh interpreters."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    *("lightning", "pytorch_lightning", "torch_geometric", "e3nn", "ot", "anndata", "pymatgen", "rdkit", "matplotlib"),
    *("pandas", "sklearn", "scipy", "networkx"),
}
METHODS = ("processes", "solvers", "guidance", "objectives", "couplings")
# package -> the other packages of sciflow it may import (itself always); packages not named here may import anything.
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    **{package: {"core"} for package in METHODS},
    "networks": {"core"},
    "metrics": {"core"},
    "data": {"core"},
    "training": {"core", "networks", "model", "sampling", "streaming"},
    "domains": {"core", "networks", "metrics", "data"},
}
# Methods that alternate between paths and models are their own training: they name processes and solvers, and nothing
# of the Lightning side but the learning rates.
ROOMS: dict[str, set[str]] = {
    "training.schrodinger": {
        *("core", "networks", "couplings", "processes", "solvers", "metrics", "training.schedules"),
    },
}
TORCH_ONLY = ("core", *METHODS, "networks")  # at module level these load torch and the standard library, nothing else


def imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[tuple[str, bool]]:
    """Absolute dotted names that a module imports, each with whether the import runs at module level."""
    inside = {
        id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)
    }
    guarded = {
        id(n)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for n in ast.walk(branch)
    }
    for node in ast.walk(tree):
        at_load = id(node) not in inside | guarded
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".") if is_package else module.split(".")[:-1]
            prefix = ".".join(parts[: len(parts) - node.level + 1]) + "." if node.level else ""
            base = (prefix + (node.module or "")).rstrip(".")
            # `from sciflow import cli` names a package in the alias; `from sciflow.core.state import State` does not
            shallow = base in ("sciflow", "sciflow.domains")
            yield from ((f"{base}.{alias.name}" if shallow else base, at_load) for alias in node.names)


def violations(sources: Mapping[str, str]) -> list[str]:
    """Every breach of the rules in {path relative to the repository: source}, as readable sentences."""
    found = []
    for path, source in sources.items():
        dotted = path.removesuffix(".py").replace("/", ".")
        is_package = dotted.endswith(".__init__")
        module = dotted.removesuffix(".__init__")
        here = (module.split(".") + ["", ""])[1:3]  # package, and the room inside `domains`
        for name, at_load in imports(ast.parse(source), module, is_package):
            top, *rest = name.split(".")
            package, room = ([*rest, "", ""])[:2]
            if top != "sciflow":
                third_party = top not in sys.stdlib_module_names and top != "torch"
                if third_party and (here[0] == "core" or (here[0] in TORCH_ONLY and at_load)):
                    found.append(f"{path} loads {name}: {here[0]} may load only torch and the standard library")
            elif package == "cli" and here[0] not in ("cli", "__main__"):
                found.append(f"{path} imports {name}: nothing imports the command line")
            elif package == "__version__" or here[0] not in ALLOWED:
                continue
            elif here[0] == package == "domains":
                if room not in (here[1], "base", "designing") and (here[1], room) != ("molecules", "graphs"):
                    found.append(f"{path} imports {name}: a domain never imports another (but molecules -> graphs)")
            elif own := ROOMS.get(".".join(here)):
                if not {package, f"{package}.{room}"} & {*own, ".".join(here)}:
                    found.append(f"{path} imports {name}: {'.'.join(here)} may import {', '.join(sorted(own))}")
            elif package != here[0] and package not in ALLOWED[here[0]]:
                allowed = ", ".join(sorted({here[0], *ALLOWED[here[0]]}))
                found.append(f"{path} imports {name}: {here[0]} may import {allowed}")
    return found


def test_import_rules():
    files = sorted((ROOT / "sciflow").rglob("*.py"))
    assert files
    assert not violations({str(f.relative_to(ROOT)): f.read_text() for f in files})


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("sciflow/core/state.py", "import numpy"),
        ("sciflow/core/state.py", "def f():\n    import scipy.linalg"),
        ("sciflow/core/state.py", "from sciflow.processes.gaussian import GaussianProcess"),
        ("sciflow/core/state.py", "from ..processes import gaussian"),
        ("sciflow/solvers/heun.py", "from sciflow.processes import gaussian"),
        ("sciflow/solvers/heun.py", "import networkx"),
        ("sciflow/solvers/heun.py", "from sciflow import processes"),
        ("sciflow/networks/layers.py", "from sciflow.domains.graphs import codec"),
        ("sciflow/domains/graphs/codec.py", "from sciflow.domains.molecules import codec"),
        ("sciflow/domains/graphs/codec.py", "from sciflow.domains import molecules"),
        ("sciflow/domains/graphs/__init__.py", "from ..molecules import codec"),
        ("sciflow/domains/graphs/codec.py", "def f():\n    from sciflow.solvers.heun import Heun"),
        ("sciflow/domains/base.py", "from sciflow.domains.graphs import codec"),
        ("sciflow/training/denoising.py", "from sciflow.processes.gaussian import GaussianProcess"),
        ("sciflow/training/schrodinger/result.py", "from sciflow.domains.cells import data"),
        ("sciflow/training/schrodinger/result.py", "from sciflow.training import denoising"),
        ("sciflow/training/schrodinger/result.py", "from sciflow.guidance.svdd import SVDD"),
        ("sciflow/report/page.py", "import sciflow.cli.main"),
    ],
)
def test_planted_breaches_are_found(path: str, source: str):
    assert violations({path: source})


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("sciflow/core/noise.py", "import math, torch\nfrom torch import nn\nfrom sciflow.core.state import State"),
        ("sciflow/couplings/minibatch_ot.py", "def f():\n    import ot"),
        ("sciflow/solvers/adaptive.py", "from sciflow.solvers.heun import Heun\nfrom .euler_ode import EulerODE"),
        ("sciflow/domains/molecules/codec.py", "import rdkit\nfrom sciflow.domains.graphs import codec"),
        ("sciflow/domains/graphs/data.py", "from sciflow.domains.base import SciDataModule"),
        ("sciflow/training/schrodinger/result.py", "from sciflow.processes.drift import Drift"),
        ("sciflow/training/schrodinger/result.py", "from sciflow.training.schrodinger.engine import Engine"),
        ("sciflow/cli/main.py", "from sciflow.cli import sample\nimport sciflow.domains.graphs"),
    ],
)
def test_lawful_imports_pass(path: str, source: str):
    assert not violations({path: source})


def python(*arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run a fresh interpreter in the repository: the finished process and its wall time in seconds."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done, time.perf_counter() - start


@pytest.mark.parametrize("packages", [(), ("core", *METHODS, "networks")], ids=["bare", "methods"])
def test_import_is_light(packages: tuple[str, ...]):
    script = f"""
import importlib.util, json, pkgutil, sys, time
start = time.perf_counter()
import torch
between, loaded = time.perf_counter(), set(sys.modules)
import sciflow
for package in {packages}:
    if importlib.util.find_spec("sciflow." + package) is None:
        continue
    package = importlib.import_module("sciflow." + package)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
seconds = time.perf_counter() - between
print(json.dumps([between - start, seconds, sorted(set(sys.modules) - loaded)]))
"""
    done, _ = python("-c", script)
    assert done.returncode == 0, done.stderr
    of_torch, own, modules = json.loads(done.stdout)
    print(f"import torch {of_torch:.2f} s, sciflow on top {own:.2f} s")
    assert "sciflow" in modules
    assert not {m.split(".")[0] for m in modules} & HEAVY
    assert own < 1.5


def test_help_is_quick():
    done, seconds = python("-X", "importtime", "-m", "sciflow", "--help")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "sample" in done.stdout
    # lines of -X importtime: "import time: self [us] | cumulative [us] | name"
    rows = [line.split("|") for line in done.stderr.splitlines() if line.startswith("import time:")]
    cost = {name.strip(): float(total) / 1e6 for _, total, name in rows[1:]}
    own = seconds - cost.get("torch", 0.0)
    print(f"sciflow --help {seconds:.2f} s, of which torch {cost.get('torch', 0.0):.2f} s")
    assert not {name.split(".")[0] for name in cost} & {"lightning", "pytorch_lightning", "rdkit", "torch_geometric"}
    assert own < 2.0
