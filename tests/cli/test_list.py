"""`sciflow list` and `sciflow --help`: complete, quick, and without importing torch or a scientific library."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

from sciflow.cli.list import BASES, PACKAGE, components, listing


@pytest.mark.parametrize("kind", BASES)
def test_every_listed_component_is_a_documented_class_of_that_kind(kind):
    base_module = {"processes": "process", "solvers": "solver", "guidance": "hooks", "objectives": "objective"}[kind]
    base = getattr(importlib.import_module(f"sciflow.core.{base_module}"), BASES[kind])
    found = listing(kind)
    assert found
    for path, text in found.items():
        module, name = path.rsplit(".", 1)
        assert issubclass(getattr(importlib.import_module(module), name), base)
        assert text


def test_list_agrees_with_the_solvers_that_errors_name():
    from sciflow.core.solver import known_solvers

    shipped = {
        f"{cls.__module__}.{cls.__name__}" for cls in known_solvers() if cls.__module__.startswith("sciflow.solvers.")
    }
    assert {name for name in shipped if not name.rsplit(".", 1)[1].startswith("_")} <= set(listing("solvers"))


def test_indirect_and_private_classes(tmp_path):
    (tmp_path / "a.py").write_text('class Second(First):\n    """Derived from b."""\n')
    (tmp_path / "b.py").write_text(
        'class First(OneEvaluation):\n    """One."""\n\nclass _Hidden(Solver):\n    pass\n\nclass Other:\n    pass\n'
    )
    found = components(tmp_path, "Solver")
    assert {name.rsplit(".", 1)[1]: text for name, text in found.items()} == {
        "First": "One.",
        "Second": "Derived from b.",
    }


def test_all_kinds_are_printed(command):
    code, printed, _ = command("list")
    assert code == 0
    for word in ("models:", "datasets:", "qm9", "sciflow.solvers.ancestral.Ancestral", "sciflow.guidance.svdd.SVDD"):
        assert word in printed


def test_rewards_are_all_that_the_domains_resolve_by_name():
    from sciflow.domains.crystals.rewards import ENERGIES, PROPERTIES
    from sciflow.domains.molecules.rewards import NAMED as molecules
    from sciflow.domains.sequences.rewards import KINDS, NAMED

    listed = {name for entry in listing("rewards") for name in entry.split(", ")}
    assert {*NAMED, *molecules, *ENERGIES, *PROPERTIES, "module:function"} <= listed
    assert {f"{name}=TARGET" for name in PROPERTIES} <= listed
    assert {name.split(":")[0] for name in listed if ":" in name} == {*KINDS, "similarity", "module"}


def test_unknown_kind(refused):
    assert "expected one of models, datasets, rewards, processes" in refused("list", "sovlers")


def test_list_needs_neither_torch_nor_scientific_libraries():
    code = (
        "import json, sys; from sciflow.cli.main import main; main(['list']); "
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not loaded & {"torch", "numpy", "rdkit", "lightning", "networkx", "scipy", "rich"}
