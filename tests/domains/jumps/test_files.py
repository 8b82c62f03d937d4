"""Readers: tables in several dialects, archives, raw signals; what they repair, doubt and refuse."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from sciflow.core.errors import UserError
from sciflow.domains.jumps.files import read_paths


def written(folder, text: str, name: str = "paths.csv"):
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


TABLE = "path,time,state\na,0,0\na,1,1\nb,0,1\nb,0.5,0\na,2,1\n"


def test_table_with_mixed_rows(tmp_path):
    paths = read_paths(written(tmp_path, TABLE))
    assert paths.times.tolist() == [[0, 1, 2], [0, 0.5, 0.5]] and paths.states.tolist() == [[0, 1, 1], [1, 0, 0]]
    assert paths.states_count == 2 and not paths.warnings


@pytest.mark.parametrize(
    ("delimiter", "name"), [(";", "a.csv"), ("\t", "a.tsv"), (" ", "a.dat"), ("|", "a.txt"), (",", "a.csv.gz")]
)
def test_dialects(tmp_path, delimiter, name):
    paths = read_paths(written(tmp_path, "# exported\n" + TABLE.replace(",", delimiter), name))
    assert paths.states.tolist() == [[0, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("header", ["time_ps", "time [ps]", "Time (ps)", "t/ps"])
def test_unit_in_the_column_name(tmp_path, header):
    assert read_paths(written(tmp_path, f"{header},state\n0,0\n1,1\n")).unit == "ps"


def test_blanks_around_words_make_no_new_states(tmp_path):
    assert read_paths(written(tmp_path, "time,state\n0,open \n1,shut\n2,open\n")).names == ("open", "shut")


def test_rows_without_a_path_are_left_out(tmp_path):
    paths = read_paths(written(tmp_path, "path,time,state\na,0,0\n,1,1\n,2,0\nb,1,1\n"))
    assert len(paths) == 2 and "missing values: 2 of 4 rows lack one of path, time, state" in paths.warnings[0]


def test_words_as_states_sort_naturally(tmp_path):
    paths = read_paths(written(tmp_path, "time,label\n0,s10\n1,s2\n2,s2\n"))
    assert paths.names == ("s2", "s10") and paths.states.tolist() == [[1, 0, 0]]
    assert read_paths(written(tmp_path, "time,state\n0,open\n1,shut\n"), states=3).names == ("open", "shut", "unseen 1")


def test_labels_from_one_keep_their_names(tmp_path):
    paths = read_paths(written(tmp_path, "time,state\n0,1\n1,3\n2,2\n"), states=3)
    assert paths.names == ("1", "2", "3") and paths.states.tolist() == [[0, 2, 1]]


def test_gaps_in_labels_are_said(tmp_path):
    table = written(tmp_path, "time,state\n0,0\n1,4\n2,0\n")
    assert "label gaps: 1, 2, 3 do not occur" in read_paths(table).warnings[0]
    assert read_paths(table, states=5).states_count == 5


def test_signal_with_missing_values(tmp_path):
    paths = read_paths(written(tmp_path, "trace,time_ms,current_pA\n1,0,0.5\n1,1,\n1,2,-3\n"))
    assert paths.signal.tolist() == [[0.5, -3]] and paths.times.tolist() == [[0, 2]] and paths.unit == "ms"
    assert "missing values: 1 of 3 rows" in paths.warnings[0]


def test_named_columns(tmp_path):
    table = written(tmp_path, "Zeit,Zustand\n0,1\n1,0\n")
    paths = read_paths(table, columns={"time": "Zeit", "state": "Zustand"}, unit="s")
    assert paths.states.tolist() == [[1, 0]] and paths.unit == "s"


def test_archives(tmp_path):
    np.savez(tmp_path / "a.npz", times=np.array([0, 1, 2.0]), states=np.array([[0, 1, 1], [1, 0, 0]]), lengths=[3, 2])
    paths = read_paths(tmp_path / "a.npz")
    assert paths.lengths.tolist() == [3, 2] and paths.states.tolist() == [[0, 1, 1], [1, 0, 0]]
    np.savez(tmp_path / "b.npz", states=np.array([[0, 1, 1]]), dt=0.5)
    assert read_paths(tmp_path / "b.npz").times.tolist() == [[0, 0.5, 1]]
    np.savez(tmp_path / "c.npz", recording=np.array([0.1, 0.2, 5.0]))
    paths = read_paths(tmp_path / "c.npz", spacing=0.05, unit="ms")
    assert paths.signal.tolist() == [[0.1, 0.2, 5.0]] and paths.times.tolist() == [[0, 0.05, 0.1]]
    np.save(tmp_path / "d.npy", np.array([0, 1, 1, 0]))
    assert read_paths(tmp_path / "d.npy", spacing=1.0).states.tolist() == [[0, 1, 1, 0]]


def test_raw_signal_as_text(tmp_path):
    path = written(tmp_path, "0.5\n0.7\n-3\n", "a.txt")
    assert read_paths(path, spacing=2.0).times.tolist() == [[0, 2, 4]]
    with pytest.raises(UserError, match="expected the time between two values"):
        read_paths(path)


def test_tables_in_memory_and_on_disk_as_anndata(tmp_path):
    pandas, anndata = pytest.importorskip("pandas"), pytest.importorskip("anndata")
    obs = pandas.DataFrame({"cell": list("xxy"), "time_h": [0.0, 2.0, 1.0], "state": pandas.Categorical(list("aba"))})
    obs.index = obs.index.astype(str)
    table = anndata.AnnData(np.zeros((3, 1)), obs=obs)
    table.write_h5ad(tmp_path / "a.h5ad")
    for source in (obs, table, tmp_path / "a.h5ad"):
        paths = read_paths(source)
        assert paths.names == ("a", "b") and paths.states.tolist() == [[0, 1], [0, 0]] and paths.unit == "h"


def test_damaged_anndata_is_named(tmp_path):
    pytest.importorskip("anndata")
    (tmp_path / "a.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(UserError, match="a.h5ad: not a readable .h5ad file"):
        read_paths(tmp_path / "a.h5ad")


def test_data_frames_that_are_refused():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"time": [0, 1], "state": [0, 1]})
    with pytest.raises(UserError, match="got a spacing of 3, but a table has times"):
        read_paths(frame, spacing=3.0)
    with pytest.raises(UserError, match="column time occurs twice"):
        read_paths(frame.set_axis(["time", "time"], axis=1))
    for dates in (pandas.to_datetime(["2020-01-01", "2020-01-02"]), pandas.to_timedelta([1, 2], unit="s")):
        with pytest.raises(UserError, match="column time: got dates"):  # they would be nanoseconds
            read_paths(frame.assign(time=dates))


@pytest.mark.parametrize("source", [{"time": [0, 1]}, np.zeros(3), None])
def test_sources_that_are_neither_file_nor_table(source):
    with pytest.raises(UserError, match="expected a file name, a data frame or AnnData"):
        read_paths(source)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_compressed_tables(tmp_path, damage):
    path = written(tmp_path, "time,state\n" + "".join(f"{k},{k % 2}\n" for k in range(9999)), "a.csv.gz")
    content = bytearray(path.read_bytes())
    content[2000] ^= 255
    path.write_bytes(path.read_bytes()[:2000] if damage == "cut" else content)
    with pytest.raises(UserError, match="a.csv.gz: not a"):
        read_paths(path)


def test_jumps_are_taken_as_jumps(tmp_path):
    assert read_paths(written(tmp_path, TABLE), complete=True).complete


@pytest.mark.parametrize(
    ("text", "more", "expected"),
    [
        ("path,time,state\n0,0,0\n0,2,1\n0,1,0\n", {}, "from 2 back to 1"),
        ("time,state\n0,0\n1,7\n", {"states": 3}, "labels outside range: got labels 0 to 7; expected 0 to 2"),
        ("time,state\n0,0\n1,-1\n", {}, "labels outside range: got -1"),
        ("time,state\n0,a\n1,b\n2,c\n", {"states": 2}, "labels outside range: got 3 labels"),
        ("time,state\n0,0.5\n1,1\n", {}, "got 0.5; expected labels"),
        ("time,signal\n0,\n1,nan\n", {}, "every row lacks"),
        ("time,signal\n0,a\n1,b\n", {}, "not all values are numbers"),
        ("time_ms,time_s,state\n0,0,0\n", {}, "mixed time units: got the time columns time_ms, time_s"),
        ("time_ms,state\n0,0\n1,1\n", {"unit": "s"}, "mixed time units: the time column says ms, --unit says s"),
        ("when,what\n0,0\n", {}, "got the columns when, what; expected path, time and state or signal"),
        ("time,state\n0,0\n", {"columns": {"time": "when"}}, "there are the columns time, state"),
        ("time,state\n0,0\n", {"columns": {"when": "time"}}, "expected path, time, state, signal"),
        ("0,1\n1,0\n", {}, "2 columns without names"),
        ("time,state\n0,0,7\n1,1,7\n", {}, "more cells than the first line"),  # pandas would shift the columns
        ("path,time,state\n,0,0\n,1,1\n", {}, "every row lacks one of path, time, state"),
        ("0.5\n2.5\n", {"spacing": 1.0, "columns": {"state": "x"}}, "raw signal has no name"),
        ("0.5\n2.5\n", {"spacing": np.inf}, "expected one positive number"),
        ("", {}, "is empty"),
        ("time,state\n", {}, "every row lacks|no values"),
    ],
)
def test_mistakes(tmp_path, text, more, expected):
    with pytest.raises(UserError, match=expected):
        read_paths(written(tmp_path, text), **more)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.csv", "no such file"), ("a.xlsx", "unknown ending"), ("a.npz", "not a readable NumPy file")],
)
def test_files_that_cannot_be_read(tmp_path, name, expected):
    if name != "a.csv":
        (tmp_path / name).write_text("nothing")
    with pytest.raises(UserError, match=expected):
        read_paths(tmp_path / name)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"states": np.zeros((2, 3), int)}, "no times"),
        ({"a": np.zeros(3), "b": np.zeros(3)}, r"got the arrays a \(3,\), b \(3,\)"),
    ],
)
def test_archives_that_say_too_little(tmp_path, arrays, expected):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=expected):
        read_paths(tmp_path / "a.npz")


def test_short_rows_doubled_columns_no_rows_and_spacing(tmp_path):
    file = tmp_path / "short.csv"
    file.write_text("path,time,state\n0,0,1\n0,1\n0,2,0\n")
    assert read_paths(file).observations == 2
    assert "missing values: 1 of 3" in read_paths(file).warnings[0]
    with pytest.raises(UserError, match="has times"):
        read_paths(file, spacing=2.0)
    for text, expected in (("path,time,state,state\n0,0,1,0\n", "twice"), ("path,time,state\n", "no rows")):
        file.write_text(text)
        with pytest.raises(UserError, match=expected):
            read_paths(file)
