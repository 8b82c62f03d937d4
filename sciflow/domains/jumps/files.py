"""Readers of paths: tables (CSV, TSV, data frames, AnnData observations), NumPy archives, raw signals.

A table has one row per observation: `path` (may be missing: one path), `time`, and `state` or `signal` (or both).
States may be numbers or words. What is repaired is said in `Paths.warnings`, each sentence with its name in front.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.core.errors import UserError
from sciflow.domains.jumps.archives import archive_table, even_times, raw_role
from sciflow.domains.jumps.data import Paths

ROLES = {  # role -> names of columns, in order of preference; units after an underscore or in brackets are split off
    "path": ("path", "trajectory", "traj", "trace", "trial", "cell", "id"),
    "time": ("time", "t", "times"),
    "state": ("state", "states", "label", "macrostate", "cluster"),
    "signal": ("signal", "current", "value", "intensity", "x"),
}
UNITS = ("fs", "ps", "ns", "us", "ms", "s", "min", "h", "d")
WORDS = {"sec": "s", "second": "s", "seconds": "s", "minutes": "min", "hours": "h", "hour": "h", "µs": "us", "μs": "us"}
TABLES = (".csv", ".tsv", ".txt", ".dat", ".csv.gz", ".tsv.gz", ".txt.gz", ".dat.gz")
BROKEN = (OSError, EOFError, ValueError, zlib.error)  # what damaged text, gzip files and tables raise
LARGEST = 2**53  # whole numbers beyond are not exact in float64
OUTSIDE = "labels outside range"


def read_paths(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    unit: str = "",
    spacing: float | None = None,
    states: int | None = None,
    complete: bool = False,
) -> Paths:
    """Paths from a file or a table in memory.

    Args:
        source: File (.csv .tsv .txt .dat, also .gz, .npz, .npy, .h5ad), data frame, or an object with `obs` (AnnData).
            Archives hold `times` (shared or per path) or `spacing` (`dt`), and `states` or `signal`, with `lengths`
            for padded paths. A table or archive of plain numbers is one raw signal and needs `spacing`.
        columns: Role (path, time, state, signal) -> name of the column or array, where the names are others.
        unit: Unit of time; "" takes what the column says (`time_ps`, `time [ps]`).
        spacing: Time between the values of a raw signal.
        states: S; None: the labels that occur.
        complete: Rows are jumps (time of entry, state), the last row of a path is the end of its observation.

    Raises:
        UserError: Nothing readable, missing or doubled columns, labels outside range, decreasing times, no values,
            units that contradict each other.
    """
    options: dict[str, Any] = {"unit": unit, "states": states, "complete": complete}
    frame = source.obs if hasattr(source, "obs") else source
    if not hasattr(frame, "columns"):
        if not isinstance(source, str | Path):
            raise UserError(
                f"read_paths: got {type(source).__name__}, expected a file name, a data frame or AnnData; for lists "
                "and arrays: Paths.of(times, states)"
            )
        path = Path(source)
        name = path.name.lower()
        if not path.is_file():
            raise UserError(f"{path}: no such file; expected a table, an archive or a raw signal")
        if name.endswith((".npz", ".npy")):
            return table_paths(archive_table(path, columns or {}, spacing), **options)
        if not name.endswith((*TABLES, ".h5ad")):
            raise UserError(f"{path}: unknown ending; expected {', '.join([*TABLES, '.npz', '.npy', '.h5ad'])}")
        frame = _observations(path) if name.endswith(".h5ad") else _text_table(path)
        if isinstance(frame, np.ndarray):
            if columns:
                raise UserError(f"{path}: got --column, but the one column of a raw signal has no name; leave it out")
            times = even_times(path, len(frame), None if spacing is None else np.asarray(spacing))
            return table_paths({"time": times, raw_role(frame): frame}, **options)
    if spacing is not None:
        raise UserError(
            f"got a spacing of {spacing:g}, but a table has times in a column (the spacing is for raw signals and "
            "archives); leave --spacing out"
        )
    names = _once([str(name).strip() for name in frame.columns], "table")
    table = {name: frame[column].to_numpy() for name, column in zip(names, frame.columns, strict=True)}
    return table_paths(table, columns=columns, **options)


def table_paths(
    table: Mapping[str, np.ndarray],
    *,
    columns: Mapping[str, str] | None = None,
    unit: str = "",
    states: int | None = None,
    complete: bool = False,
) -> Paths:
    """Paths of a table with one row per observation; rows of different paths may be mixed, those of one path not.

    Args:
        table: Column name -> (rows,) values.
        columns: As `read_paths`.
        unit: As `read_paths`.
        states: As `read_paths`.
        complete: As `read_paths`.

    Raises:
        UserError: As `read_paths`.
    """
    chosen, found_unit = _columns(list(table), columns or {})
    warnings: list[str] = []
    values = {role: np.asarray(table[name]) for role, name in chosen.items()}
    kept = np.ones(len(values["time"]), bool)
    for role in ("time", "signal"):
        if role in values:
            values[role] = _numbers(values[role], chosen[role])
            kept &= np.isfinite(values[role])
    for role in ("path", "state"):
        if role in values:
            kept &= ~_missing(values[role])
    if not kept.size:
        raise UserError("no values: the table has a header and no rows; expected one row per observation")
    if not kept.any():
        raise UserError(f"no values: every row lacks one of {', '.join(chosen.values())} (all are NaN or empty)")
    if not kept.all():
        lacking = f"{(~kept).sum()} of {len(kept)} rows lack one of {', '.join(chosen.values())} and are left out"
        warnings.append(f"missing values: {lacking}")
    values = {role: column[kept] for role, column in values.items()}
    if "state" in values:
        values["state"], names, notes = numbered(values["state"], states)
        warnings += notes
    else:
        names = ()
    order, heads = _grouped(values.get("path"), len(values["time"]))
    parts = {role: np.split(column[order], heads) for role, column in values.items() if role != "path"}
    paths = Paths.of(
        parts["time"],
        parts.get("state"),
        signal=parts.get("signal"),
        unit=_agreed(unit, found_unit),
        names=names,
        complete=complete,
    )
    return paths.warned(*warnings)


def numbered(labels: np.ndarray, states: int | None = None) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """Labels as 0..S-1, the names of the states, and warnings.

    Whole numbers and words are numbered in ascending order. With `states`, numbers are kept as 0..S-1 or 1..S.

    Args:
        labels: (n,) numbers or words.
        states: S; None: as many as occur.

    Raises:
        UserError: Labels outside range: below 0, or more than `states`, or not whole numbers.
    """
    if labels.dtype.kind in "iufb":
        return _numbered_integers(labels, states)
    if labels.dtype.kind not in "OSU":
        raise UserError(f"state: got values of type {labels.dtype}; expected whole numbers or words")
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")
    words = [str(one).strip() for one in labels.tolist()]
    names = tuple(sorted(set(words), key=_natural))
    if states is not None and len(names) > states:
        raise UserError(f"{OUTSIDE}: got {len(names)} labels ({', '.join(names[:20])}); expected {states} states")
    index = {name: k for k, name in enumerate(names)}
    names += tuple(f"unseen {k + 1}" for k in range((states or 0) - len(names)))
    return np.array([index[word] for word in words], np.int64), names, []


def _numbered_integers(labels: np.ndarray, states: int | None) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    odd = labels[(labels != np.round(labels)) | (np.abs(labels.astype(np.float64)) > LARGEST)]
    if odd.size:
        raise UserError(f"state: got {odd[0]}; expected labels (a signal is a column of its own)")
    labels = labels.astype(np.int64)
    present = np.unique(labels)
    low, high = int(present[0]), int(present[-1])
    if low < 0:
        raise UserError(f"{OUTSIDE}: got {low}; expected labels from 0 (-1 often means unassigned: drop those rows)")
    if states is not None:
        first = 0 if high < states else 1
        if low < first or high >= first + states:
            raise UserError(f"{OUTSIDE}: got labels {low} to {high}; expected 0 to {states - 1} ({states} states)")
        return labels - first, tuple(str(first + k) for k in range(states)), []
    absent = [str(k) for k in range(low, min(high, low + 10_000)) if k not in set(present.tolist())]
    notes = [f"label gaps: {', '.join(absent[:20])} do not occur and are not states here"] if absent else []
    return np.searchsorted(present, labels).astype(np.int64), tuple(map(str, present.tolist())), notes


def _natural(word: str) -> list[Any]:
    """Sorting key: s2 before s10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", word)]


def _split_unit(name: str) -> tuple[str, str]:
    """Name and unit of `time_ps`, `time [ps]`, `time (ps)`, `Time/ps`; unit "" if there is none."""
    match = re.fullmatch(r"\s*(.*?)\s*[_\s\[(/]+([a-zA-Zµμ]+)[\])]?\s*", name)
    unit = WORDS.get(match[2].lower(), match[2]) if match else ""
    return (match[1].lower(), unit) if match and unit in UNITS else (name.strip().lower(), "")


def _columns(names: Sequence[str], given: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Column of each role, and the unit that the time column names."""
    for role, name in given.items():
        if role not in ROLES or name not in names:
            raise UserError(
                f"column {role}={name}: expected {', '.join(ROLES)}; there are the columns {', '.join(names)}"
            )
    split = {name: _split_unit(name) for name in names}
    times = [name for name in names if split[name][0] in ROLES["time"]]
    if "time" not in given and len(times) > 1:
        raise UserError(f"mixed time units: got the time columns {', '.join(times)}; name one: --column time=NAME")
    chosen = dict(given)
    for role, aliases in ROLES.items():
        if role not in chosen:
            fits = [name for alias in aliases for name in names if alias in (split[name][0], name.strip().lower())]
            fits += [name for name in names if role == "signal" and split[name][0].startswith("current_")]
            if fits:
                chosen[role] = fits[0]
    if "time" not in chosen or not {"state", "signal"} & set(chosen):
        raise UserError(
            f"table: got the columns {', '.join(names)}; expected path, time and state or signal, or their names as "
            "--column time=NAME"
        )
    return chosen, split[chosen["time"]][1]


def _agreed(unit: str, found: str) -> str:
    if unit and found and WORDS.get(unit, unit) != found:
        raise UserError(f"mixed time units: the time column says {found}, --unit says {unit}; convert or leave one out")
    return unit or found


def _numbers(column: np.ndarray, name: str) -> np.ndarray:
    if column.dtype.kind in "mM":
        raise UserError(f"column {name}: got dates; expected numbers, e.g. seconds since the first")
    try:
        return np.asarray([np.nan if one is None or one == "" else one for one in column.tolist()], np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"column {name}: not all values are numbers ({error})") from None


def _missing(column: np.ndarray) -> np.ndarray:
    if column.dtype.kind in "iub":
        return np.zeros(len(column), bool)
    if column.dtype.kind == "f":
        return ~np.isfinite(column)
    return np.array(
        [one is None or one != one or str(one).strip() in ("", "nan", "NaN") for one in column.tolist()], bool
    )


def _grouped(path: np.ndarray | None, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Order that brings the rows of each path together (in order of appearance), and where paths begin."""
    if path is None:
        return np.arange(rows), np.array([], int)
    _, first, number = np.unique(path.astype(str), return_index=True, return_inverse=True)
    order = np.argsort(first[number.reshape(-1)], kind="stable")
    return order, np.flatnonzero(np.diff(number.reshape(-1)[order])) + 1


def _observations(path: Path) -> Any:
    """`obs` of an .h5ad file."""
    import anndata

    try:
        return anndata.read_h5ad(path, backed="r").obs
    except Exception as error:  # h5py and anndata raise all kinds for damaged files
        raise UserError(
            f"{path}: not a readable .h5ad file ({' '.join(str(error).split())}); copy it again if it is damaged"
        ) from None


def _once(names: Sequence[str], source: object) -> Sequence[str]:
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise UserError(f"{source}: column {', '.join(doubled)} occurs twice; expected one name for each")
    return names


def _text_table(path: Path) -> Any:
    """Data frame of a text table with a header, or the numbers (n,) of a file without."""
    import pandas

    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as stream:
            lines = [line for line in stream.readlines(1 << 14) if line.strip() and not line.startswith("#")]
    except BROKEN as error:
        raise UserError(f"{path}: not a text table ({error})") from None
    if not lines:
        raise UserError(f"{path}: is empty; expected a table with the columns path, time and state or signal")
    delimiter = _delimiter(lines)
    header = any(not _is_number(cell) for cell in lines[0].split(delimiter))
    if header:
        _once([cell.strip() for cell in lines[0].split(delimiter)], path)  # pandas renames doubles
    try:
        frame = pandas.read_csv(
            path,
            sep=delimiter or r"\s+",
            comment="#",
            header=0 if header else None,
            skipinitialspace=True,
            low_memory=False,  # one type per column, not per chunk: 1 and 1.0 would be two states
        )
    except BROKEN as error:
        raise UserError(f"{path}: not a table ({' '.join(str(error).split())})") from None
    if not isinstance(frame.index, pandas.RangeIndex):  # pandas takes surplus cells on the left as row names
        raise UserError(f"{path}: rows have more cells than the first line; expected one name for each column")
    if header:
        return frame
    if frame.shape[1] > 1:
        raise UserError(
            f"{path}: {frame.shape[1]} columns without names; expected a first line such as path,time,state or one "
            "column (a raw signal)"
        )
    return frame[0].to_numpy()


def _delimiter(lines: list[str]) -> str | None:
    """What divides the cells: the mark that all lines have equally often, None for white space."""
    for mark in ",;\t|":
        counts = {line.count(mark) for line in lines[:20]}
        if len(counts) == 1 and counts != {0}:
            return mark
    return next((mark for mark in ",;\t|" if mark in lines[0]), None)  # some rows are too short or too long


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
