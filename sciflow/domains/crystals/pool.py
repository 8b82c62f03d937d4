"""Slow calls on many structures: in parallel, each with a time limit, none of which can end a whole evaluation."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Any

SMALL = 32  # items; fewer are not worth starting processes for


@dataclass(frozen=True)
class Failed:
    """A call that raised an error or ran out of time."""

    reason: str


def each(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    seconds: float,
    workers: int | None = None,
    done: Callable[[int, Any], None] = lambda place, result: None,
    prepare: Callable[[], Any] = tuple,
) -> list[Any]:
    """`function` of every item, in order; `Failed` where it raised or took longer than `seconds`.

    Args:
        function: A function of a module (processes find it by name).
        items: Its arguments; they travel between processes.
        seconds: Time limit of one call. Compiled code is interrupted when it returns to Python.
        workers: Processes; None: as many as there are cores, at most 8; 1: this process.
        done: Called in this process with (place, result) of each item, in order, as results come in.
        prepare: Called without a limit in each process before its first item: imports, which take long where the disk
            or the machine is busy; one that is cut short leaves modules that fail from then on. A function of a module.
    """
    workers = workers if workers is not None else min(len(os.sched_getaffinity(0)), 8)
    limited = partial(_limited, function, seconds)
    if workers == 1 or len(items) < SMALL:
        if len(items):
            prepare()
        return _collect(map(limited, items), done)
    found: list[Any] = []
    try:
        with ProcessPoolExecutor(workers, initializer=_begin, initargs=(prepare,)) as pool:
            chunk = max(1, min(32, len(items) // (4 * workers)))
            _collect(pool.map(limited, items, chunksize=chunk), done, found)
    except BrokenProcessPool:  # a crash of compiled code; it cannot be known which item it was
        found += [Failed("a process crashed")] * (len(items) - len(found))
    return found


def _collect(results: Iterable[Any], done: Callable[[int, Any], None], found: list[Any] | None = None) -> list[Any]:
    found = [] if found is None else found
    for place, result in enumerate(results):
        found.append(result)
        done(place, result)
    return found


def _limited(function: Callable[[Any], Any], seconds: float, item: Any) -> Any:
    timed = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    old = signal.signal(signal.SIGALRM, _late) if timed else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if timed:
                signal.setitimer(signal.ITIMER_REAL, seconds)
            return function(item)
    except TimeoutError:
        return Failed(f"longer than {seconds:g} s")
    except Exception as error:
        return Failed(f"{type(error).__name__}: {error}"[:200])
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)


def _late(signum: int, frame: Any) -> None:
    raise TimeoutError


def _begin(prepare: Callable[[], Any]) -> None:
    """Workers leave an interrupt of the keyboard to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare()
