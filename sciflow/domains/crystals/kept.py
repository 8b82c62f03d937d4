"""Results of slow calls on structures, kept on disk one by one: an interrupted run goes on where it was.

One SQLite file per kind of result in the user cache, key -> JSON; several processes may use it at once. Failures are
not kept: another run may do better.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Any

import numpy as np

from sciflow.data import cache_root
from sciflow.domains.crystals.pool import Failed, each


def kept_each(
    function: Callable[[Any], Any],
    structures: Sequence[Any],
    kind: str,
    settings: str,
    seconds: float,
    workers: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
    prepare: Callable[[], Any] = tuple,
) -> list[Any]:
    """As `pool.each`, but what was computed before comes from the cache.

    Args:
        function: Of one pymatgen structure; a function of a module that returns plain JSON.
        structures: pymatgen structures or None, for which the result is `Failed`.
        kind: Name of the file in the cache.
        settings: Everything else that the results depend on: versions of libraries, options.
        seconds: Time limit of one call.
        workers: Processes.
        progress: Called with the share of the missing results that are there.
        prepare: As in `pool.each`; not called where nothing is missing.
    """
    keys = [None if one is None else checksum(one, settings) for one in structures]
    with closing(_open(kind)) as table:
        known = {key: json.loads(row[0]) for key in set(keys) - {None} if (row := _row(table, key)) is not None}
        missing = [i for i, key in enumerate(keys) if key is not None and key not in known]
        missing = list({keys[i]: i for i in reversed(missing)}.values())[::-1]  # equal structures once

        def store(place: int, result: Any) -> None:
            key = keys[missing[place]]
            if not isinstance(result, Failed):
                with suppress(sqlite3.Error), table:  # a cache that cannot be written costs time, nothing else
                    table.execute("INSERT OR REPLACE INTO results VALUES (?, ?)", (key, json.dumps(result)))
            progress((place + 1) / len(missing))

        found = each(function, [structures[i] for i in missing], seconds, workers, store, prepare)
        known |= {keys[i]: result for i, result in zip(missing, found)}
    return [Failed("no structure") if key is None else known[key] for key in keys]


def checksum(structure: Any, settings: str) -> str:
    """Of a structure, to 1e-4 angstrom and 1e-5 of the cell edges, and of settings."""
    digest = hashlib.sha256(settings.encode() + b"\0")
    numbers = np.array([site.specie.Z for site in structure], np.int16)
    digest.update(numbers.tobytes() + (np.round(structure.lattice.matrix, 4) + 0.0).tobytes())  # + 0.0: no -0.0
    digest.update((np.round(structure.frac_coords, 5) + 0.0).tobytes())
    return digest.hexdigest()[:32]


def _open(kind: str) -> sqlite3.Connection:
    """The table in the cache; in memory, for this run only, where the cache cannot be written."""
    path = cache_root() / "crystals" / f"{kind}.sqlite"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table = sqlite3.connect(path, timeout=60)
        table.execute("CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        table.execute("SELECT value FROM results WHERE key = ''")  # a file of something else fails here
        table.commit()
    except (OSError, sqlite3.Error):
        table = sqlite3.connect(":memory:")
        table.execute("CREATE TABLE results (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    return table


def _row(table: sqlite3.Connection, key: str | None) -> tuple[str] | None:
    return table.execute("SELECT value FROM results WHERE key = ?", (key,)).fetchone()
