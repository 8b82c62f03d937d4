"""Readers of paths: tables (CSV, TSV, data frames, AnnData observations), NumPy archives, raw signals.

A table has one row per observation: `path` (may be missing: one path), `time`, and `state` or `signal` (or both).
States may be numbers or words. What is repaired is said in `Paths.warnings`, each sentence with its name in front.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.core.errors import UserError
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
    frame = source.obs if hasattr(source, "obs") else source
    if hasattr(frame, "columns"):
        table = {str(name): np.asarray(frame[name]) for name in frame.columns}
        return table_paths(table, columns=columns, unit=unit, states=states, complete=complete)
    path = Path(source)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a table, an archive or a raw signal")
    name = path.name.lower()
    if name.endswith((".npz", ".npy")):
        return _archive(path, columns or {}, unit, spacing, states, complete)
    if name.endswith(".h5ad"):
        import anndata

        return read_paths(
            anndata.read_h5ad(path, backed="r").obs, columns=columns, unit=unit, states=states, complete=complete
        )
    if not name.endswith(TABLES):
        raise UserError(f"{path}: unknown ending; expected {', '.join([*TABLES, '.npz', '.npy', '.h5ad'])}")
    table = _text_table(path)
    if isinstance(table, np.ndarray):
        return _raw(table, spacing, unit, states, complete)
    if spacing is not None:
        raise UserError(f"{path}: got a spacing of {spacing:g}, but the table has times; leave --spacing out")
    return table_paths(table, columns=columns, unit=unit, states=states, complete=complete)


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
    if "state" in values:
        kept &= ~_missing(values["state"])
    if not kept.size:
        raise UserError("no values: the table has a header and no rows; expected one row per observation")
    if not kept.any():
        raise UserError("no values: every row lacks its time, state or signal (all are NaN or empty)")
    if not kept.all():
        warnings.append(f"missing values: {(~kept).sum()} of {len(kept)} rows have none and are left out")
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
    names = tuple(sorted({str(one) for one in labels.tolist()}, key=_natural))
    if states is not None and len(names) > states:
        raise UserError(f"{OUTSIDE}: got {len(names)} labels ({', '.join(names[:20])}); expected {states} states")
    index = {name: k for k, name in enumerate(names)}
    names += tuple(f"unseen {k + 1}" for k in range((states or 0) - len(names)))
    return np.array([index[str(one)] for one in labels.tolist()], np.int64), names, []


def _numbered_integers(labels: np.ndarray, states: int | None) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    if np.any(labels != np.round(labels)):
        odd = labels[labels != np.round(labels)][0]
        raise UserError(f"state: got {odd}; expected labels (a signal is a column of its own)")
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


def _text_table(path: Path) -> dict[str, np.ndarray] | np.ndarray:
    """Columns of a text table with a header, or the numbers (n,) of a file without."""
    import pandas

    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as stream:
            lines = [line for line in stream.readlines(1 << 14) if line.strip() and not line.startswith("#")]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a text table ({error})") from None
    if not lines:
        raise UserError(f"{path}: is empty; expected a table with the columns path, time and state or signal")
    delimiter = _delimiter(lines)
    header = any(not _is_number(cell) for cell in lines[0].split(delimiter))
    names = [cell.strip() for cell in lines[0].split(delimiter)]
    doubled = sorted({name for name in names if header and names.count(name) > 1})
    if doubled:
        raise UserError(f"{path}: column {', '.join(doubled)} occurs twice; expected one name for each")
    try:
        frame = pandas.read_csv(
            path, sep=delimiter or r"\s+", comment="#", header=0 if header else None, skipinitialspace=True
        )
    except (ValueError, pandas.errors.ParserError) as error:
        raise UserError(f"{path}: not a table ({' '.join(str(error).split())})") from None
    if header:
        return {str(name).strip(): frame[name].to_numpy() for name in frame.columns}
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


def _archive(
    path: Path, columns: Mapping[str, str], unit: str, spacing: float | None, states: int | None, complete: bool
) -> Paths:
    """Paths of .npz (named arrays) or .npy (one array)."""
    try:
        stored = np.load(path, allow_pickle=False)
        arrays = {"signal": stored} if isinstance(stored, np.ndarray) else {name: stored[name] for name in stored}
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a readable NumPy file ({error})") from None

    def named(role: str, *others: str) -> Any:
        names = [columns[role]] if role in columns else [role, *others]
        return next((arrays[name] for name in names if name in arrays), None)

    labels, signal = named("state", "states", "labels"), named("signal", "current", "values")
    if labels is None and signal is None:
        flat = [name for name, array in arrays.items() if array.ndim in (1, 2) and array.dtype.kind in "iuf"]
        if len(flat) != 1:
            raise UserError(f"{path}: got the arrays {', '.join(arrays)}; name one: --column state=NAME or signal=NAME")
        signal = arrays[flat[0]]
    times, step = named("time", "times", "t"), named("spacing", "dt")
    step = spacing if spacing is not None else None if step is None else float(step)
    if times is None and labels is None:
        return _raw(signal, step, unit, states, complete)
    shape = np.atleast_2d(labels if labels is not None else signal).shape
    if times is None and step is None:
        raise UserError(f"{path}: no times; expected an array `times`, or the time between values: --spacing DT")
    grid = np.arange(shape[1]) * step if times is None else np.asarray(times, np.float64)
    grid = np.broadcast_to(grid, shape)
    lengths = np.asarray(arrays.get("lengths", np.full(shape[0], shape[1])), np.int64)
    inside = np.arange(shape[1]) < lengths[:, None]
    table = {"path": np.nonzero(inside)[0], "time": grid[inside]}
    for role, values in (("state", labels), ("signal", signal)):
        if values is not None:
            table[role] = np.broadcast_to(values, shape)[inside]
    return table_paths(table, unit=unit, states=states, complete=complete)


def _raw(values: np.ndarray, spacing: float | None, unit: str, states: int | None, complete: bool) -> Paths:
    """One path (n,) or several (K, n) of evenly spaced values; whole numbers of type int are states."""
    if spacing is None or not spacing > 0:
        raise UserError(f"raw signal: got a spacing of {spacing}; expected the time between two values: --spacing DT")
    values = np.atleast_2d(values)
    times = np.tile(np.arange(values.shape[1]) * spacing, len(values))
    role = "state" if values.dtype.kind in "iu" else "signal"
    table = {"path": np.repeat(np.arange(len(values)), values.shape[1]), "time": times, role: values.ravel()}
    return table_paths(table, unit=unit, states=states, complete=complete)
