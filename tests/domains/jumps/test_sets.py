"""Real and synthetic sets: sizes and the figures that the specification and the data folder state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciflow.core.errors import UserError
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.em import two_states
from sciflow.domains.jumps.labelling import label
from sciflow.domains.jumps.sets import SETS, jump_set, true_rates
from sciflow.domains.jumps.windows import at_lag

pytestmark = pytest.mark.usefixtures("data_dir")


def shares(paths: Paths) -> np.ndarray:
    return np.bincount(paths.states[paths.mask], minlength=paths.states_count) / paths.observations


@pytest.mark.parametrize(
    ("name", "shape", "states", "unit"),
    [
        ("dfr_V1", (10_000, 100), 6, ""),
        ("ip3r2", (1, 60_000), 0, "s"),
        ("porb", (1, 2_956), 0, "samples"),
        ("alanine_dipeptide", (1, 19_995), 3, "ps"),
        ("hp35", (1, 1_526_041), 12, "ns"),
        ("hp35_dihedral", (1, 1_526_041), 12, "ns"),
        ("hp35_two_state", (1, 1_526_041), 2, "ns"),
    ],
)
def test_sizes(name, shape, states, unit):
    paths = jump_set(name)
    assert (paths.times.shape, paths.states_count, paths.unit) == (shape, states, unit)
    assert name in SETS


def test_ratchet_paths_follow_their_stationary_law():
    """Chi-square of the 10 000 first states, 5 degrees of freedom: 30.9 has a false-alarm rate of 1e-5."""
    paths, rates = jump_set("dfr_V1"), true_rates("dfr_V1")
    law = np.linalg.lstsq(np.vstack([rates.T, np.ones(6)]), np.r_[np.zeros(6), 1], rcond=None)[0]
    counts = np.bincount(paths.states[:, 0], minlength=6)
    assert ((counts - 10_000 * law) ** 2 / (10_000 * law)).sum() < 30.9
    assert paths.times[0, -1] == 2.5 and true_rates("hp35") is None


@pytest.mark.golden
def test_alanine_populations():
    paths = jump_set("alanine_dipeptide")
    np.testing.assert_allclose(shares(paths), [0.424, 0.150, 0.426], atol=6e-4)
    assert abs(int((np.diff(paths.states[0]) != 0).sum()) - 2271) <= 10  # counted with the dropped frames in place


@pytest.mark.golden
def test_receptor_openings():
    """The data folder: open .11 % of the time, 14 crossings of -20 pA."""
    labelled = label(jump_set("ip3r2"), 2, "amplitude")
    assert shares(labelled)[0] == pytest.approx(0.0011, abs=1e-4)
    assert (np.diff(labelled.states[0]) != 0).sum() == 14


@pytest.mark.golden
@pytest.mark.parametrize(
    ("lag", "microseconds"),
    [(0.2, 0.21), *(pytest.param(*one, marks=pytest.mark.slow) for one in [(10, 0.46), (50, 0.84), (100, 1.04)])],
)
def test_folding_time_scales(lag, microseconds):
    """HP35 in two states, closed form: the figures of the specification, in their two digits."""
    seen, _ = at_lag(jump_set("hp35_two_state"), lag)
    counts = np.zeros((2, 2))
    valid = seen.mask[:, 1:]
    np.add.at(counts, (seen.states[:, :-1][valid], seen.states[:, 1:][valid]), 1)
    found = two_states(torch.from_numpy(counts), lag)
    assert 1 / (found.forward + found.backward) / 1000 == pytest.approx(microseconds, abs=0.0051)


@pytest.mark.parametrize("name", ["dfr_V1", "ip3r2", "porb", "alanine_dipeptide", "hp35"])
def test_damaged_file_is_named(monkeypatch, tmp_path, name):
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    monkeypatch.setattr("sciflow.domains.jumps.sets.resolve", lambda _: tmp_path / "cut.npz")
    with pytest.raises(UserError, match="cut.npz: not a readable NumPy file"):
        jump_set(name)


def test_unknown_set():
    with pytest.raises(UserError, match="got 'dfr', expected one of dfr_V0"):
        jump_set("dfr")
