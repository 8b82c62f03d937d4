"""Motifs: score laws by enumeration, occupancy and hits by hand, JASPAR against pyjaspar, files, TATA promoters."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch

from sciflow.core.errors import UserError
from sciflow.domains.sequences import motifs as module
from sciflow.domains.sequences.alphabets import DNA
from sciflow.domains.sequences.motifs import (
    RESOLUTION,
    Motif,
    MotifReward,
    MotifScanner,
    jaspar_motifs,
    load_motif,
    read_motifs,
    score_law,
    score_threshold,
)

TOY = Motif("T1", "toy", np.array([[8, 1, 0, 1], [0, 2, 7, 1], [1, 1, 1, 7.0]]))
TURN = str.maketrans("ACGT", "TGCA")


def score(motif: Motif, window: str) -> float:
    """Log-odds by the formula, letter by letter."""
    total = 0.0
    for row, letter in zip(motif.counts, window, strict=True):
        total += math.log((row["ACGT".index(letter)] + 0.25) / (row.sum() + 1) / 0.25)
    return total


def both_strands(motif: Motif, sequence: str) -> list[float]:
    width = len(motif.counts)
    windows = [sequence[i : i + width] for i in range(len(sequence) - width + 1)]
    return [score(motif, w) for one in windows for w in (one, one[::-1].translate(TURN))]


def test_occupancy_by_hand():
    sequences = ["AGTACGGTACGT", "TTTTTT", "ACT"]
    expected = []
    for sequence in sequences:
        odds = [math.exp(s) for s in both_strands(TOY, sequence)]
        free = math.prod(1 / (1 + one / len(odds)) for one in odds)
        expected.append(1 - free)
    reward = MotifReward(TOY)
    assert reward(sequences) == pytest.approx(expected, rel=1e-5)
    assert reward([one[::-1].translate(TURN) for one in sequences]) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match="length 2, expected at least 3, the width of the motif"):
        reward(["AC"])


def test_gradient_points_to_the_motif():
    """Ascent on the relaxed occupancy from uniform letters ends at the consensus (or its reverse complement)."""
    reward = MotifReward(TOY)
    logits = (0.01 * torch.randn(4, 3, 4)).requires_grad_()
    for _ in range(60):
        (gradient,) = torch.autograd.grad(reward.score(logits.softmax(-1)).sum(), logits)
        logits = (logits + 2 * gradient).detach().requires_grad_()
    found = {"".join("ACGT"[i] for i in row) for row in logits.argmax(-1).tolist()}
    assert found <= {"AGT", "ACT"}  # AGT and its reverse complement ACT


def test_law_of_the_score_by_enumeration():
    scores = np.rint(TOY.log_odds() / RESOLUTION)
    law, lowest = score_law(scores)
    totals = [sum(scores[i, letter] for i, letter in enumerate(word)) for word in itertools.product(range(4), repeat=3)]
    expected = np.zeros_like(law)
    np.add.at(expected, np.array(totals, int) - lowest, 1 / 64)
    np.testing.assert_allclose(law, expected, atol=1e-15)
    for p in (0.5, 0.1, 1 / 64, 0.01):
        limit = score_threshold(scores, p)
        reached = [total for total in totals if total >= limit]
        assert len(reached) / 64 <= p
        if p < 1 / 64:
            assert limit == math.inf
        else:  # the next lower score would be too many
            below = max(total for total in totals if total < limit)
            assert sum(total >= below for total in totals) / 64 > p


def test_hits_by_hand():
    wide = Motif("T2", "wide", np.array([[9, 0, 1, 0], [0, 9, 0, 1], [9, 0, 0, 1], [1, 0, 9, 0], [0, 9, 1, 0.0]]))
    tail = Motif("T3", "tail", np.array([[9, 0, 0, 1.0]] * 4))  # AAAA, what padding looks like
    scanner = MotifScanner([TOY, wide, tail], p_value=0.02)
    generator = np.random.default_rng(0)
    sequences = ["".join(generator.choice(list("ACGT"), n)) for n in (40, 7, 3, 25, 61)]
    tokens, lengths = DNA.encode(sequences)
    expected = []
    for motif, limit in zip((TOY, wide, tail), scanner.thresholds, strict=True):
        expected.append(sum(value >= limit for one in sequences for value in rounded_scores(motif, one)))
    assert scanner.hits(tokens, lengths).tolist() == expected
    assert min(expected) > 0


def rounded_scores(motif: Motif, sequence: str) -> list[float]:
    """Rounded log-odds of all windows of both strands, letter by letter."""
    table, width = np.rint(motif.log_odds() / RESOLUTION), len(motif.counts)
    windows = [sequence[i : i + width] for i in range(len(sequence) - width + 1)]
    turned = [one[::-1].translate(TURN) for one in windows]
    return [sum(table[i, "ACGT".index(letter)] for i, letter in enumerate(one)) for one in windows + turned]


def test_hits_in_random_sequence_come_at_the_p_value(data_dir):
    """200 x 200 uniform letters, 60 wide motifs at p = 1e-3: the mean rate is at most p and near it.

    About 60 x 75,000 windows at p near 1e-3 give 4,500 hits. Windows overlap and motifs resemble each other, so the
    variance is allowed to be 25 x Poisson: 4.42 x 5 x sqrt(4500) / 4500 = 0.33, false-alarm rate below 1e-5.
    """
    motifs = [motif for motif in jaspar_motifs() if len(motif.counts) >= 12][:60]
    tokens = torch.randint(4, (200, 200), generator=torch.Generator().manual_seed(0))
    scanner = MotifScanner(motifs, p_value=1e-3)
    windows = np.array([200 * 2 * (201 - len(motif.counts)) for motif in motifs])
    ratio = scanner.hits(tokens, [200] * 200).sum() / (windows.sum() * 1e-3)
    assert 0.67 < ratio < 1.33


@pytest.mark.golden  # shared/data/sequences/README.md: 2.4 times the occupancy of shuffles (there 0.60 against 0.25)
def test_tbp_prefers_tata_promoters(data_dir):
    with np.load(data_dir / "sequences" / "epd_tata_promoters300.npz") as stored:
        packed, length = stored["human"], int(stored["length"])
    letters = np.stack([(packed >> s) & 3 for s in (0, 2, 4, 6)], -1).reshape(len(packed), -1)[:, length - 200 : length]
    shuffled = np.random.default_rng(0).permuted(letters, axis=1)
    reward = MotifReward(load_motif("MA0108.3"))
    real, null = (reward(torch.from_numpy(one.astype(np.int64))).mean() for one in (letters, shuffled))
    assert real == pytest.approx(0.57, abs=0.005) and null == pytest.approx(0.24, abs=0.01)
    assert real / null == pytest.approx(2.4, abs=0.1)


@pytest.mark.slow  # reads 879 matrices through SQLite
def test_jaspar_equals_pyjaspar(data_dir, monkeypatch):
    pytest.importorskip("pyjaspar")
    stored = {motif.identifier: motif for motif in jaspar_motifs()}
    assert len(stored) == 879
    monkeypatch.setattr(module, "resolve", missing)
    fetched = jaspar_motifs()  # without the file: from the package
    assert {motif.identifier for motif in fetched} == set(stored) and len(fetched) == len(stored)
    for motif in fetched:
        assert motif.name == stored[motif.identifier].name
        np.testing.assert_allclose(motif.counts, stored[motif.identifier].counts, rtol=1e-6)
    tbp = load_motif("MA0108.3")
    assert tbp.name == "TBP" and len(tbp.counts) == 7


def missing(name: str) -> None:
    raise UserError(f"data set '{name}' is not on this machine")


MEME = """MEME version 4

ALPHABET= ACGT

MOTIF M1 first
letter-probability matrix: alength= 4 w= 2 nsites= 10 E= 0
0.5 0.5 0 0
0 0.1 0.9 0

MOTIF M2
letter-probability matrix: alength= 4 w= 3 nsites= 20 E= 0
1 0 0 0
0 1 0 0
0 0 0.25 0.75
"""
TRANSFAC = """ID  any_old_name
AC  M00001
P0      A      C      G      T
01      5      5      0      0      M
02      0      1      9      0      G
//
"""
JASPAR = ">M1 first\nA [5 0]\nC [5 1]\nG [0 9]\nT [0 0]\n"


@pytest.mark.parametrize(("text", "name"), [(MEME, "M1"), (TRANSFAC, "M00001"), (JASPAR, "first")])
def test_motif_files(tmp_path, text, name):
    pytest.importorskip("Bio")
    path = tmp_path / "own.meme"
    path.write_text(text)
    motif = load_motif(f"{path}#{name}")
    np.testing.assert_allclose(motif.counts, [[5, 5, 0, 0], [0, 1, 9, 0]], atol=1e-6)


def test_bad_motif_files(tmp_path, data_dir):
    pytest.importorskip("Bio")
    path = tmp_path / "own.meme"
    path.write_text(MEME)
    assert len(read_motifs(path)) == 2
    with pytest.raises(UserError, match=r"no motif 'M3' in .*own.meme; there are 2: M1"):
        load_motif(f"{path}#M3")
    with pytest.raises(UserError, match="several motifs"):
        load_motif(str(path))
    path.write_text("no motif here")
    with pytest.raises(UserError, match="own.meme"):
        load_motif(str(path))
    with pytest.raises(UserError, match="cannot read .*absent.meme: FileNotFoundError"):
        load_motif(str(tmp_path / "absent.meme"))
    assert load_motif("TBP").identifier == "MA0108.3"
    with pytest.raises(UserError, match="several motifs 'CTCF'.*MA0139.2"):
        load_motif("CTCF")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one line is enough
        with pytest.raises(UserError, match="MA9999.1"):
            load_motif("MA9999.1")
