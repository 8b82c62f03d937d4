"""LMDB files as OMatG writes them, and pickles that must not be run."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sciflow.core import errors
from sciflow.core.errors import UserError
from sciflow.domains.crystals.data import load_crystals
from sciflow.domains.crystals.files import read_structures
from sciflow.domains.crystals.lmdb_files import Unpickler

CELL = torch.tensor([[4.0, 0, 0], [0.5, 5, 0], [0, 0.25, 6]], dtype=torch.float64)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def crystal(i: int, **more: Any) -> dict[str, Any]:
    """A salt whose second atom lies at (0.5, 0.5, i / 100)."""
    fractions = torch.tensor([[0, 0, 0], [0.5, 0.5, i / 100]], dtype=torch.float64)
    return {"cell": CELL, "pos": fractions @ CELL, "atomic_numbers": torch.tensor([11, 17]), **more}


def write(path: Path, entries: list[tuple[str, bytes]], subdir: bool = False) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), subdir=subdir, map_size=1 << 24) as file, file.begin(write=True) as view:
        for key, value in entries:
            view.put(key.encode(), value)
    return path


@pytest.mark.parametrize("subdir", [False, True])
def test_crystals_of_an_lmdb(tmp_path: Path, subdir: bool):
    """Cartesian positions, keys in numerical order, names and numbers kept."""
    entries = [(str(i), pickle.dumps(crystal(40 + i, ids=f"mp-{i}", energy=torch.tensor(-0.5 * i)))) for i in range(12)]
    path = write(tmp_path / "set.lmdb", entries, subdir)
    structures, names, report = read_structures(path)
    assert names == [f"mp-{i}" for i in range(12)]
    assert report.n_skipped == 0
    for i, one in enumerate(structures):
        assert one.formula == "Na1 Cl1"
        assert np.allclose(one.lattice.matrix, CELL.numpy())
        assert np.allclose(one.frac_coords, [[0, 0, 0], [0.5, 0.5, 0.4 + i / 100]])
        assert one.properties["energy"] == -0.5 * i


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_what_is_admitted(protocol: int):
    """Tensors of several types, views, arrays, NumPy scalars and containers come back as they were."""
    kinds = (torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool, torch.float16)
    content = {f"tensor {kind}": torch.arange(6).to(kind).reshape(2, 3)[:, 1:] for kind in kinds}
    content |= {"array": np.eye(3), "integers": np.arange(3), "scalar": np.float64(2.5), "name": "mp-1", "none": None}
    content |= {"ordered": OrderedDict(a=1), "set": {1, 2}, "complex": 1j, "bytes": b"x", "list": [(1, True)]}
    found = Unpickler(io.BytesIO(pickle.dumps(content, protocol))).load()
    assert found.keys() == content.keys()
    for key, value in content.items():
        same = torch.equal(found[key], value) if isinstance(value, torch.Tensor) else np.array_equal(found[key], value)
        assert same and type(found[key]) is type(value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_what_is_not_admitted(tmp_path: Path):
    """Code in a pickle, also inside the bytes of a tensor, is not run; the entries are counted."""
    inner = pickle.dumps(Evil(tmp_path / "inner"))
    smuggled = b"\x80\x02ctorch.storage\n_load_from_bytes\nB" + len(inner).to_bytes(4, "little") + inner + b"\x85R."
    assert pickle.loads(pickle.dumps(Evil(tmp_path / "proof"))) and (tmp_path / "proof").exists()  # it would run
    entries = [("0", pickle.dumps(crystal(50))), ("1", pickle.dumps(crystal(50, evil=Evil(tmp_path / "outer"))))]
    entries += [("2", smuggled), ("3", b"rubbish"), ("4", pickle.dumps({"cell": CELL})), ("5", pickle.dumps(7))]
    entries += [("6", pickle.dumps(crystal(50, pbc=torch.tensor([True, True, False]))))]
    _, names, report = read_structures(write(tmp_path / "set.lmdb", entries))
    assert names == ["0"]
    assert report.n_skipped == 6
    assert "not admitted" in report.examples[0]
    assert not (tmp_path / "outer").exists() and not (tmp_path / "inner").exists()


def test_cached_and_reduced_like_any_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCIFLOW_CACHE", str(tmp_path / "cache"))
    path = write(tmp_path / "set.lmdb", [("0", pickle.dumps(crystal(50)))])
    crystals, counts = load_crystals(path)
    assert (len(crystals), counts["skipped"]) == (1, 0)
    assert len(list((tmp_path / "cache" / "crystals").iterdir())) == 1


def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("lmdb")
    (tmp_path / "bad.lmdb").write_bytes(b"no such format" * 1000)
    with pytest.raises(UserError, match="cannot be read as an LMDB file"):
        read_structures(tmp_path / "bad.lmdb")

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(errors.importlib, "import_module", missing)
    with pytest.raises(UserError, match="'lmdb' is not installed; run: pip install 'sciflow"):
        read_structures(tmp_path / "bad.lmdb")
