"""What there is: models, datasets, rewards, processes, solvers, guidance, objectives; one line each.

    sciflow list
    sciflow list solvers
    sciflow list rewards

The lines are those of the docstrings, read from the source files without importing them: it answers at once, without
any scientific library.
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

from sciflow.core.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
BASES = {"processes": "Process", "solvers": "Solver", "guidance": "Hook", "objectives": "Objective"}
KINDS = ("models", "datasets", "rewards", *BASES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sciflow list`."""
    parser.add_argument("what", nargs="?", default=None, help=f"one of {', '.join(KINDS)}; default: all of them")


def run(arguments: argparse.Namespace) -> None:
    """Print names and first docstring lines."""
    if arguments.what is not None and arguments.what not in KINDS:
        raise UserError(f"list: got '{arguments.what}', expected one of {', '.join(KINDS)}")
    kinds = KINDS if arguments.what is None else (arguments.what,)
    blocks = []
    for kind in kinds:
        found = listing(kind)
        width = max(map(len, found), default=0)
        lines = [f"  {name:{width}}  {text}" for name, text in found.items()] or ["  (none)"]
        blocks.append("\n".join([f"{kind}:", *lines]))
    print("\n\n".join(blocks))


def listing(kind: str) -> dict[str, str]:
    """Name -> one line."""
    if kind == "models":
        from sciflow.pretrained import cards

        return {name: str(card.get("title") or card.get("domain", "")) for name, card in cards().items()}
    if kind == "datasets":
        from sciflow.data import DATASETS

        return {name: card.title for name, card in DATASETS.items()}
    if kind == "rewards":
        return rewards()
    return components(PACKAGE / kind, BASES[kind])


def rewards() -> dict[str, str]:
    """What --reward takes -> which designs it is for, and what it is: the tables of the domains' docstrings."""
    found: dict[str, str] = {}
    for domain, design in (("sequences", "sequence, protein"), ("molecules", "molecule"), ("crystals", "crystal")):
        module = ast.parse((PACKAGE / "domains" / domain / "rewards.py").read_text(encoding="utf-8"))
        for line in (ast.get_docstring(module) or "").splitlines():
            if line.startswith("| ``"):
                name, text, *_ = (cell.strip().replace("``", "") for cell in line.strip("|").split("|"))
                found[name] = "; ".join(filter(None, [found.get(name), f"{design}: {text}"]))
    return found


def components(folder: Path, base: str) -> dict[str, str]:
    """Dotted class path, as YAML takes it, -> first docstring line, of all classes that derive from `base`.

    Args:
        folder: Package of one component per file.
        base: Name of the base class in `sciflow.core`; classes of the core that derive from it count as bases too.
    """
    derived = {base}
    for file in sorted((PACKAGE / "core").glob("*.py")):
        derived |= {cls.name for cls in _classes(file) if _bases(cls) & derived}
    found: dict[str, str] = {}
    files = sorted(folder.glob("*.py"))
    for _ in files:  # a class may derive from one in a file that is read later
        for file in files:
            for cls in _classes(file):
                if _bases(cls) & derived:
                    derived.add(cls.name)
                    if not cls.name.startswith("_"):
                        found[f"sciflow.{folder.name}.{file.stem}.{cls.name}"] = (ast.get_docstring(cls) or "").split(
                            "\n"
                        )[0]
    return dict(sorted(found.items()))


def _classes(file: Path) -> list[ast.ClassDef]:
    return [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]


def _bases(cls: ast.ClassDef) -> set[str]:
    return {ast.unparse(b).split("[")[0].split(".")[-1] for b in cls.bases}
