"""Crystals of LMDB files as OMatG (FERMat-ML/OMatG) writes them: key -> pickled dictionary of one crystal.

The dictionary holds "cell" (3, 3) rows in angstrom, "pos" (n, 3) CARTESIAN coordinates in angstrom, "atomic_numbers"
(n,), and possibly "pbc", "ids" or "identifier" (a name) and numbers (properties). Needs the extra `lmdb`.

A pickle can run any function it names, so these are read by an unpickler that knows few names: containers and numbers
of `builtins`, `OrderedDict`, what rebuilds NumPy arrays and scalars, and what rebuilds torch tensors, whose bytes are
read by `torch.load(weights_only=True)`. An entry with any other name is skipped, and counted.
"""

from __future__ import annotations

import importlib
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.core.errors import UserError, require

CONTAINERS = {"set", "frozenset", "bytearray", "bytes", "complex"}  # lists, dicts, numbers and text need no name
ARRAYS = {"_reconstruct", "scalar", "_frombuffer"}
ADMITTED: dict[str, set[str]] = {  # module -> names
    "builtins": CONTAINERS,
    "__builtin__": CONTAINERS,  # the name in old pickles
    "collections": {"OrderedDict"},
    "_codecs": {"encode"},  # bytes in old pickles
    "numpy": {"ndarray", "dtype"},
    **{f"numpy.{core}.{part}": ARRAYS for core in ("core", "_core") for part in ("multiarray", "numeric")},
    "torch": {"Size", *(f"{kind}{bits}" for kind in ("int", "float") for bits in (8, 16, 32, 64)), "bool", "uint8"},
    "torch._utils": {"_rebuild_tensor", "_rebuild_tensor_v2"},
    "torch.storage": {"_load_from_bytes"},
}
NAMES = ("ids", "identifier", "material_id")


class Unpickler(pickle.Unpickler):
    """Of entries with nothing but containers, numbers, arrays and tensors."""

    def find_class(self, module: str, name: str) -> Any:
        """A function or class that the pickle names.

        Raises:
            pickle.UnpicklingError: It is not admitted.
        """
        if name not in ADMITTED.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} is not admitted in a crystal, only arrays and tensors are")
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _storage
        return getattr(importlib.import_module("builtins" if module == "__builtin__" else module), name)


def _storage(content: bytes) -> Any:
    """In place of torch's function of that name, which would unpickle anything."""
    import torch

    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def read_lmdb(path: Path) -> Iterator[tuple[str, Any, dict[str, float]]]:
    """(name, pymatgen Structure or the reason why there is none, properties) of each entry, in the order of the keys.

    Raises:
        UserError: lmdb is not installed, or the file is not of that format.
    """
    lmdb = require("lmdb", "lmdb")
    try:
        with lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False) as file, file.begin() as view:
            stored = [(bytes(key), bytes(value)) for key, value in view.cursor()]
    except lmdb.Error as error:
        raise UserError(f"{path}: cannot be read as an LMDB file ({error})") from None
    for key, value in sorted(stored, key=lambda one: (len(one[0]), one[0])):  # "10" after "9"
        place = key.decode(errors="replace")
        try:
            content = Unpickler(io.BytesIO(value)).load()
        except Exception as error:  # foreign bytes fail in more ways than can be listed
            yield place, f"not readable: {error or type(error).__name__}", {}
            continue
        yield _entry(place, content)


def _entry(place: str, content: Any) -> tuple[str, Any, dict[str, float]]:
    from pymatgen.core import Lattice, Structure

    missing = [key for key in ("cell", "pos", "atomic_numbers") if not isinstance(content, dict) or key not in content]
    if missing:
        return place, f"no {', '.join(missing)}", {}
    name = str(next((content[key] for key in NAMES if key in content), place))
    try:
        cell, pos = (np.asarray(content[key], dtype=float) for key in ("cell", "pos"))
        numbers = np.asarray(content["atomic_numbers"]).astype(int).tolist()
        if not np.all(np.asarray(content.get("pbc", True), dtype=bool)):
            return name, "not periodic in three directions", {}
        structure = Structure(Lattice(cell), numbers, pos.reshape(-1, 3), coords_are_cartesian=True, to_unit_cell=True)
    except Exception as error:
        return name, str(error) or type(error).__name__, {}
    known = {key: number for key, value in content.items() if (number := _scalar(value)) is not None}
    return name, structure, {key: number for key, number in known.items() if key not in ("pbc", *NAMES)}


def _scalar(value: Any) -> float | None:
    """A number, or an array or tensor of one number."""
    if isinstance(value, (str, bytes)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
