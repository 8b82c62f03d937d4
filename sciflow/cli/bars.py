"""Progress bars by stage, for commands that run several stages one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stage_bars() -> Iterator[Callable[[str, float], None]]:
    """Gives `progress(stage, share done)`; a stage gets its bar when it is first named."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description:10}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    ) as bars:
        tasks: dict[str, Any] = {}

        def progress(stage: str, done: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=1.0)
            bars.update(tasks[stage], completed=done)

        yield progress
