"""The project files agree with each other: one version, every dependency pinned, data with source and licence."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sciflow

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(name): version
    for name, _, version in (line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    if not name.startswith("#")
}


def test_one_version_everywhere():
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    changelog = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation and changelog
    assert sciflow.__version__ == PROJECT["version"] == citation[1] == changelog[1]


def test_every_dependency_is_pinned_within_its_bound():
    extras = [r for group in PROJECT["optional-dependencies"].values() for r in group]
    for requirement in map(Requirement, [*PROJECT["dependencies"], *extras]):
        if requirement.name != "sciflow":
            assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), requirement
    assert PINS["torch"] == "2.13.0"  # no local suffix: the CPU wheel and the wheel of PyPI both satisfy it


def test_console_script_and_types():
    module, _, function = PROJECT["scripts"]["sciflow"].partition(":")
    assert re.search(rf"^def {function}\(", (ROOT / (module.replace(".", "/") + ".py")).read_text(), re.MULTILINE)
    assert (ROOT / "sciflow" / "py.typed").is_file()


def test_make_targets_and_ci():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "test-all", "lint", "types", "docs", "bench", "wheel", "clean"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_source_files_stay_readable():
    long = {str(f): n for f in (ROOT / "sciflow").rglob("*.py") if (n := len(f.read_text().splitlines())) > 400}
    assert not long


def test_shipped_data_names_source_licence_and_checksum():
    for folder in (d for d in (ROOT / "datasets").glob("*") if d.is_dir()):
        readme = (folder / "README.md").read_text().lower()
        assert re.search(r"\b(source|origin|where it comes from)\b", readme), f"{folder}: no source"
        assert re.search(r"\b(licen[cs]e|cc0|cc by|mit|public domain)\b", readme), f"{folder}: no licence"
        assert re.search(r"[0-9a-f]{64}", readme), f"{folder}: no sha256"


def test_documented_pages_exist():
    """Every page of the navigation exists, and every page stands in the navigation."""
    navigation = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert navigation == {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")}


def documented_commands() -> list[str]:
    """Every line `sciflow ...` in the bash blocks of README.md and docs/."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    blocks = [b for p in pages if p.is_file() for b in re.findall(r"```bash\n(.*?)```", p.read_text(), re.DOTALL)]
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    return sorted({m[0] for line in lines if (m := re.search(r"\bsciflow [a-z]+( [^#&|]*)?", line))})


@pytest.mark.parametrize("command", documented_commands())
def test_documented_commands_parse(command: str):
    """The options exist (commands of Lightning are not parsed here, only named)."""
    from sciflow.cli.main import COMMANDS, LIGHTNING

    _, name, *words = shlex.split(command)
    assert name in COMMANDS
    if name not in LIGHTNING:
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(f"sciflow.cli.{name}").add_arguments(parser)
        parser.parse_args(words)
