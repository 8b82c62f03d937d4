"""Tables of paths from NumPy files (.npz with named arrays, .npy with one) and from raw values without times.

An archive holds `states` or `signal`, (L,) or (K, L), one row per path; `times`, of the same shape or one grid (L,) for
all, or the `spacing` (`dt`) of an even grid; and `lengths` (K,) where paths are padded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sciflow.core.errors import UserError

ARRAYS = {  # role -> names of arrays, in order of preference
    "time": ("time", "times", "t"),
    "state": ("state", "states", "labels"),
    "signal": ("signal", "current", "values"),
    "spacing": ("spacing", "dt"),
    "lengths": ("lengths",),
}


def stored_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Arrays of an .npz file by name (no names: all); that of an .npy file is called `array`.

    Raises:
        UserError: A damaged file, one without such an array, or one with Python objects.
    """
    try:
        with path.open("rb") as stream:  # np.load leaves a damaged file open that it opened itself
            stored = np.load(stream, allow_pickle=False)
            if isinstance(stored, np.ndarray):
                return {"array": stored}
            return {name: np.asarray(stored[name]) for name in names or stored.files}
    except Exception as error:  # damaged bytes fail in the zip, zlib and header parsers, each with its own errors
        raise UserError(
            f"{path}: not a readable NumPy file ({' '.join(str(error).split())}); expected whole arrays of numbers or "
            "words: copy the file again if it is damaged, save lists of unequal paths as padded arrays with `lengths`"
        ) from None


def archive_table(path: Path, columns: Mapping[str, str], spacing: float | None) -> dict[str, np.ndarray]:
    """Rows (path, time, state, signal) of an archive, padding left out.

    Args:
        path: File.
        columns: Role -> name of the array, where the names are others.
        spacing: Time between two values; None: what the file says.

    Raises:
        UserError: As `stored_arrays`; arrays that are missing or do not fit together.
    """
    arrays = stored_arrays(path)
    for role, name in columns.items():
        if role not in ARRAYS or name not in arrays:
            raise UserError(
                f"{path}: column {role}={name}: expected {', '.join(ARRAYS)} (paths are the rows of an array); there "
                f"are the arrays {', '.join(arrays)}"
            )
    names = {role: columns.get(role) or next((n for n in ARRAYS[role] if n in arrays), "") for role in ARRAYS}
    if not names["state"] and not names["signal"]:
        rest = [name for name in arrays if name not in names.values()]
        plain = [name for name in rest if arrays[name].ndim in (1, 2) and arrays[name].dtype.kind in "iuf"]
        if len(plain) != 1:
            got = ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "none"
            raise UserError(
                f"{path}: got the arrays {got}; expected states or a signal, (L,) or (K, L); name one: "
                "--column state=NAME or signal=NAME"
            )
        names[raw_role(arrays[plain[0]])] = plain[0]
    values = {role: np.atleast_2d(arrays[names[role]]) for role in ("state", "signal") if names[role]}
    shapes = {array.shape for array in values.values()}
    shape = shapes.pop()
    if shapes or len(shape) != 2 or not all(shape):
        got = ", ".join(f"{names[role]} {arrays[names[role]].shape}" for role in values)
        raise UserError(f"{path}: got the shapes {got}; expected (L,) or (K, L), not empty, the same for all")
    inside = np.arange(shape[1]) < _lengths(path, arrays.get(names["lengths"]), shape)[:, None]
    if not names["time"]:
        times = even_times(path, shape[1], arrays.get(names["spacing"]) if spacing is None else np.asarray(spacing))
    elif spacing is None:
        times = arrays[names["time"]]
    else:
        raise UserError(f"{path}: got a spacing of {spacing:g}, but there are {names['time']}; leave --spacing out")
    if times.dtype.kind not in "iuf" or times.shape not in (shape, shape[1:]):
        raise UserError(
            f"{path}: got {names['time']} of shape {times.shape} and type {times.dtype}; expected numbers, one for "
            f"each value {shape} or one grid for all {shape[1:]}"
        )
    table = {"path": np.nonzero(inside)[0], "time": np.broadcast_to(times, shape)[inside]}
    return {**table, **{role: array[inside] for role, array in values.items()}}


def _lengths(path: Path, stored: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """(K,) numbers of observations; without `lengths` all of them."""
    if stored is None:
        return np.full(shape[0], shape[1])
    lengths = stored.ravel()
    if lengths.dtype.kind not in "iuf" or lengths.shape != shape[:1]:
        raise UserError(
            f"{path}: got lengths of shape {stored.shape} and type {stored.dtype}; expected {shape[0]} numbers"
        )
    wrong = ~((lengths >= 1) & (lengths <= shape[1]) & (lengths == np.round(lengths)))
    if wrong.any():
        first = int(np.argmax(wrong))
        raise UserError(
            f"{path}: path {first} has a length of {lengths[first]}; expected whole numbers from 1 to {shape[1]}, the "
            "width of the arrays (leave empty paths out)"
        )
    return lengths


def even_times(path: Path, count: int, spacing: np.ndarray | None) -> np.ndarray:
    """(count,) times 0, dt, 2 dt, ...

    Raises:
        UserError: No spacing, or not one positive number.
    """
    if spacing is None:
        raise UserError(f"{path}: no times; expected the time between two values: --spacing DT, or an array `times`")
    if spacing.size != 1 or spacing.dtype.kind not in "iuf" or not 0 < spacing.item() < np.inf:
        raise UserError(
            f"{path}: got a spacing of {spacing}; expected one positive number, the time between two values"
        )
    return np.arange(count) * spacing.item()


def raw_role(values: np.ndarray) -> str:
    """What values without a name are: whole numbers of type int are states, others a signal."""
    return "state" if values.dtype.kind in "iu" else "signal"
