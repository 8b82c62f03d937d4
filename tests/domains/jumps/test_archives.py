"""NumPy files of paths: roles of arrays, padding, and every kind of damage or misfit they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from sciflow.core.errors import UserError
from sciflow.domains.jumps.archives import stored_arrays
from sciflow.domains.jumps.files import read_paths

TIMES = np.arange(6) / 2
STATES = np.array([[0, 1, 1, 0, 0, 1], [1, 1, 0, 0, 1, 1]])


def saved(folder, name: str = "a.npz", **arrays):
    np.savez_compressed(folder / name, **arrays)
    return folder / name


def refused(path, **options) -> str:
    with pytest.raises(UserError) as error:
        read_paths(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_padding_is_left_out(tmp_path):
    """Also where there are no times: a padded signal must not be read as one signal."""
    signal = np.array([[0.5, 1.5, 0.0], [2.5, 0.0, 0.0]])
    paths = read_paths(saved(tmp_path, signal=signal, lengths=[2, 1], dt=0.5))
    assert paths.signal.tolist() == [[0.5, 1.5], [2.5, 2.5]] and paths.lengths.tolist() == [2, 1]
    assert paths.times.tolist() == [[0, 0.5], [0, 0]]
    assert read_paths(saved(tmp_path, times=TIMES, states=STATES, lengths=[6.0, 2.0])).lengths.tolist() == [6, 2]


def test_whole_numbers_named_a_signal_are_one(tmp_path):
    counts = np.array([3, 700, 3], np.int16)
    assert read_paths(saved(tmp_path, current=counts, dt=1.0)).states is None
    assert read_paths(saved(tmp_path, recording=counts, times=[0, 1, 2])).states.tolist() == [[0, 1, 0]]
    paths = read_paths(saved(tmp_path, adc=counts, other=counts, dt=1.0), columns={"signal": "adc"}, spacing=2.0)
    assert paths.states is None and paths.times.tolist() == [[0, 2, 4]]


def test_words_and_bytes_as_states(tmp_path):
    for words in (np.array(["shut", "open"]), np.array([b"shut", b"open"])):
        assert read_paths(saved(tmp_path, times=TIMES, states=words[STATES])).names == ("open", "shut")


@pytest.mark.parametrize("share", [0, 0.5, 0.97])
def test_files_cut_short(tmp_path, share):
    path = saved(tmp_path, times=TIMES, states=STATES)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "a.npz: not a readable NumPy file" in refused(path)


def test_any_flipped_byte_is_refused_or_harmless(tmp_path):
    """The zip directory, the compressed data and the headers of the arrays all fail with errors of their own."""
    path = saved(tmp_path, times=TIMES, states=STATES)
    content, found = path.read_bytes(), 0
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 255]) + content[position + 1 :])
        try:
            read_paths(path)
        except UserError:
            found += 1
    assert found > len(content) / 2


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"states": np.array([[0, 1], [0]], dtype=object), "dt": 1.0}, "Object arrays .* padded arrays with `lengths`"),
        ({"times": TIMES[:-1]}, r"got times of shape \(5,\) .* one grid for all \(6,\)"),
        ({"times": TIMES[:2, None]}, r"got times of shape \(2, 1\)"),
        ({"times": np.array(["a"] * 6)}, "type <U1; expected numbers"),
        ({"times": TIMES.astype("M8[s]")}, "datetime64"),
        ({"times": TIMES, "states": STATES[..., None]}, r"got the shapes states \(2, 6, 1\)"),
        ({"times": TIMES, "states": STATES[:, :0]}, "not empty"),
        ({"times": TIMES, "states": STATES[:0]}, "not empty"),
        ({"times": TIMES, "signal": STATES[0]}, r"states \(2, 6\), signal \(6,\); expected .* the same for all"),
        ({"times": TIMES, "states": STATES * 1j}, "type complex128"),
        ({"times": TIMES, "states": STATES - 1}, "labels outside range: got -1"),
        ({"times": TIMES, "states": STATES / 2}, "got 0.5; expected labels"),
        ({"times": TIMES, "states": STATES * 1e300}, "got 1e[+]300; expected labels"),
        ({"dt": [0.1, 0.2]}, "expected one positive number"),
        ({"dt": 0.0}, "expected one positive number"),
        ({"dt": np.nan}, "expected one positive number"),
        ({"dt": "fast"}, "expected one positive number"),
        ({"dt": 1.0, "lengths": [6]}, r"lengths of shape \(1,\) .* expected 2 numbers"),
        ({"dt": 1.0, "lengths": [6, 40]}, "path 1 has a length of 40; expected whole numbers from 1 to 6"),
        ({"dt": 1.0, "lengths": [0, 6]}, "path 0 has a length of 0"),
        ({"dt": 1.0, "lengths": [6, -3]}, "length of -3"),
        ({"dt": 1.0, "lengths": [6, 1.5]}, "length of 1.5"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, expected):
    path = saved(tmp_path, **{"states": STATES, **arrays})
    with pytest.raises(UserError, match=expected):
        read_paths(path)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"columns": {"state": "foo"}}, "column state=foo: .* there are the arrays times, signal"),
        ({"columns": {"time": "foo"}}, "column time=foo"),
        ({"columns": {"tme": "times"}}, "column tme=times: expected time, state, signal"),
        ({"columns": {"path": "signal"}}, "paths are the rows of an array"),
        ({"spacing": 7.0}, "got a spacing of 7, but there are times; leave --spacing out"),
    ],
)
def test_options_are_not_ignored(tmp_path, options, expected):
    path = saved(tmp_path, times=TIMES, signal=STATES * 1.5)
    with pytest.raises(UserError, match=expected):
        read_paths(path, **options)


@pytest.mark.parametrize("array", [np.zeros((2, 3, 4)), np.array(3.0), np.array([]), np.array(["a"])])
def test_single_arrays_that_are_no_signal(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    assert r"(L,) or (K, L)" in refused(tmp_path / "a.npy", spacing=1.0)


def test_missing_array_is_named(tmp_path):
    with pytest.raises(UserError, match="a.npz: .*other"):
        stored_arrays(saved(tmp_path, states=STATES), "other")
