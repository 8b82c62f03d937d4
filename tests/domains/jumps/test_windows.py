"""Paths seen otherwise: windows that do not overlap, and known jumps read on a grid."""

from __future__ import annotations

import numpy as np

from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.estimation import Request
from sciflow.domains.jumps.systems import flashing_ratchet
from sciflow.domains.jumps.windows import at_lag, on_grid
from sciflow.jumps import simulate


def test_windows_apart_are_one_of_each_path():
    """60 paths of 5 points at lag 3: two pieces each (the third has one point), of which the first begins at 0."""
    paths = simulate(flashing_ratchet(1.0), 60, times=np.arange(5.0), seed=0)
    pieces, first = at_lag(paths, 3.0)
    assert len(pieces) == 120 and first.sum() == 60
    assert Request(pieces, alone=first).weight == 0.5  # one pair each; two overlapping ones tell as much as one
    apart = Request(pieces, alone=first).apart
    assert len(apart) == 60 and not apart.times[:, 0].any() and apart.starts.all()
    np.testing.assert_array_equal(apart.states, paths.states[:, [0, 3]])
    assert Request(paths).apart is paths


def test_windows_apart_where_points_are_missing():
    """The first path has pairs at lag 3 from the second point on only, the last one has none."""
    paths = Paths.of([[0, 1, 4, 7], [0, 1, 2, 3, 4], [0, 1]], [[0, 1, 0, 1], [0, 0, 0, 1, 1], [0, 1]])
    pieces, first = at_lag(paths, 3.0)
    assert pieces.times[:, 0].tolist() == [1, 0, 1] and first.tolist() == [True, True, False]
    assert at_lag(paths, 1.0)[1].all()


def test_known_jumps_on_a_grid():
    paths = Paths.of([[5, 5.5, 6.1, 7], [1, 1.2]], [[0, 2, 1, 1], [1, 1]], complete=True)
    read = on_grid(paths, 0.5)
    assert not read.complete and read.lengths.tolist() == [5, 1]
    assert read.times[0].tolist() == [0, 0.5, 1, 1.5, 2]
    assert read.states.tolist() == [[0, 2, 2, 1, 1], [1] * 5]
    assert on_grid(paths, 2 / 3).lengths.tolist() == [4, 1]  # 3 * (2 / 3) is the end, whatever rounding says


def test_readings_have_the_law_of_the_chain():
    """2000 stationary paths: shares at the last of 11 times within 4.9 standard errors (1e-6) of the law."""
    law = np.array([0.301192, 0.136542, 0.062267, 0.200298, 0.159135, 0.140567])
    read = on_grid(simulate(flashing_ratchet(1.0), 2000, end=2.5, seed=0), 0.25)
    assert read.states.shape == (2000, 11)
    shares = np.bincount(read.states[:, -1], minlength=6) / 2000
    assert (abs(shares - law) < 4.9 * np.sqrt(law * (1 - law) / 2000)).all()
