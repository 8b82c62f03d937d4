"""Files of cells: h5ad (AnnData), npz with one array per time, and the npy files of TIGON."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sciflow.core.errors import UserError
from sciflow.core.files import replacing
from sciflow.domains.cells.data import Cells, numeric_times


def read_h5ad(path: str | Path) -> Any:
    """The AnnData object of a file.

    Raises:
        UserError: No such file, or not an h5ad file.
    """
    import anndata

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected an .h5ad or .npz file or the name of a set")
    try:
        return anndata.read_h5ad(path)
    except Exception as error:  # h5py and anndata raise all kinds for damaged files
        raise UserError(f"{path}: cannot be read as h5ad ({type(error).__name__}: {error})") from None


def write_h5ad(path: str | Path, adata: Any) -> None:
    """Write an AnnData object in one step."""
    with replacing(path) as temporary:
        adata.write_h5ad(temporary)


def read_npz(path: str | Path, duplicates: str = "error") -> Cells:
    """Cells from npz: `X0`, `X1`, ... (cells, d), one array per time, and `times` (K,).

    `heldout_idx` (positions of snapshots), `theta_true` and `sigma` are kept as facts where they exist.

    Raises:
        UserError: Not such a file, or its content cannot be used.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            stored = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path}: cannot be read as npz ({error})") from None
    count = sum(f"X{k}" in stored for k in range(len(stored)))
    if count < 2 or "times" not in stored:
        raise UserError(
            f"{path}: got the arrays {', '.join(stored) or 'none'}, expected X0, X1, ... (cells, d), one per time, and "
            "times"
        )
    facts: dict[str, Any] = {}
    times = numeric_times(stored["times"], f"{path.name}: times")
    if "heldout_idx" in stored:
        facts["heldout"] = times[stored["heldout_idx"].astype(int)].tolist()
    for name in ("theta_true", "sigma"):
        if name in stored:
            facts[name] = stored[name].astype(float).tolist()
    return from_arrays([stored[f"X{k}"] for k in range(count)], times, path.name, duplicates, facts)


def from_arrays(
    arrays: Any, times: Any, source: str, duplicates: str = "error", facts: dict[str, Any] | None = None
) -> Cells:
    """Cells from one array (n_k, d) per time; rows count through all arrays in the order given.

    Raises:
        UserError: As `Cells.of`; unequal dimensions; another number of times than of arrays.
    """
    clouds = [np.asarray(one) for one in arrays]
    moments = np.arange(len(clouds), dtype=float) if times is None else numeric_times(times, f"{source}: times")
    if len(moments) != len(clouds):
        raise UserError(f"{source}: got {len(clouds)} arrays and {len(moments)} times, expected as many of both")
    if len(clouds) < 2:
        raise UserError(f"{source}: got cells at {len(clouds)} time, expected at least 2 different times")
    if len(set(moments.tolist())) < len(moments):
        raise UserError(f"{source}: times {', '.join(f'{t:g}' for t in moments)}, expected different ones")
    shapes = [one.shape for one in clouds]
    if any(len(shape) != 2 or shape[1] != shapes[0][-1] for shape in shapes):
        raise UserError(f"{source}: got arrays of shapes {shapes}, expected (cells, d) with the same d at all times")
    if empty := [f"{t:g}" for t, shape in zip(moments, shapes, strict=True) if shape[0] < 2]:
        raise UserError(f"{source}: time {', '.join(empty)} has fewer than 2 cells; leave this time out")
    try:
        table = np.concatenate(clouds).astype(np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{source}: the coordinates are not numbers, expected arrays (cells, d)") from None
    return Cells.of(
        table,
        np.repeat(moments, [len(one) for one in clouds]),
        source=source,
        duplicates=duplicates,
        facts=facts,
    )


class _ArraysOnly(pickle.Unpickler):
    """Reads pickled NumPy arrays and refuses to call anything else."""

    ALLOWED = {("_reconstruct", "multiarray"), ("ndarray", "numpy"), ("dtype", "numpy"), ("scalar", "multiarray")}

    def find_class(self, module: str, name: str) -> Any:
        if (name, module.split(".")[-1]) not in self.ALLOWED or not module.startswith("numpy"):
            raise pickle.UnpicklingError(f"{module}.{name} is not an array")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_tigon(path: str | Path) -> list[np.ndarray]:
    """Arrays (cells, d) of an npy file that holds pickled arrays, one per time (the files of TIGON).

    Raises:
        UserError: Not such a file; nothing but arrays is ever unpickled.
    """
    try:
        with open(path, "rb") as stream:
            shape = _object_header(stream)
            table = _ArraysOnly(stream).load()
        return [np.asarray(one, np.float64) for one in np.asarray(table).reshape(shape).ravel()]
    except (OSError, ValueError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: cannot be read as an npy file of arrays ({error})") from None


def _object_header(stream: BinaryIO) -> tuple[int, ...]:
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"npy version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.kind != "O":
        raise ValueError("it holds plain numbers")
    return shape
