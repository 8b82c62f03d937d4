"""Every ```python block of README.md and docs/ runs: page by page, in order, in one namespace, in an empty folder.

A block opened with ```python no-run (long training, user files) is only compiled.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if page.is_file()]
BLOCK = re.compile(r"^```python( no-run)?[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[int, bool, str]]:
    """(line of the first statement, whether to run it, source) of each block."""
    return [(text.count("\n", 0, m.start(2)) + 1, not m[1], m[2]) for m in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "__docs__"}
    for line, run, source in blocks(page.read_text()):
        code = compile(
            "\n" * (line - 1) + source, str(page), "exec", dont_inherit=True
        )  # tracebacks show the page's line
        if run:
            exec(code, namespace)


def test_extractor():
    text = "a\n```python\nx = 1\n```\n```bash\ny\n```\n```python no-run\nz\n```\n"
    assert blocks(text) == [(3, True, "x = 1\n"), (9, False, "z\n")]
