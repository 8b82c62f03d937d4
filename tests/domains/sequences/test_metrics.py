"""Metrics of sequences: k-mers by Counter, diversity by all pairs, edit distance by the textbook, floors, bad input."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import spearmanr

from sciflow.core.errors import UserError
from sciflow.domains.sequences.alphabets import DNA, PROTEIN
from sciflow.domains.sequences.metrics import (
    diversity,
    evaluate_sequences,
    gc_content,
    kmer_counts,
    kmer_likeness,
    motif_correlation,
    sequence_recovery,
)
from sciflow.domains.sequences.motifs import Motif
from sciflow.domains.sequences.novelty import close_to


def random_sequences(number: int, low: int, high: int, letters: str = "ACGT", seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    return ["".join(generator.choice(list(letters), generator.integers(low, high + 1))) for _ in range(number)]


@pytest.mark.parametrize(("k", "alphabet"), [(3, DNA), (6, DNA), (2, PROTEIN)])
def test_kmers_by_counter(k, alphabet):
    one, other = (random_sequences(30, 2, 40, alphabet.letters, seed) for seed in (0, 1))
    words = ["".join(word) for word in product(alphabet.letters, repeat=k)]
    counts = [
        np.array([Counter(s[i : i + k] for s in part for i in range(len(s) - k + 1))[word] for word in words])
        if len(words) < 1000
        else count(part, k, words)
        for part in (one, other)
    ]
    np.testing.assert_array_equal(kmer_counts(one, k, alphabet), counts[0])
    pearson, divergence = kmer_likeness(one, other, k, alphabet)
    assert pearson == pytest.approx(np.corrcoef(*counts)[0, 1])
    assert divergence == pytest.approx(jensenshannon(counts[0] + 1, counts[1] + 1) ** 2)


def count(sequences: list[str], k: int, words: list[str]) -> np.ndarray:
    counter = Counter(s[i : i + k] for s in sequences for i in range(len(s) - k + 1))
    return np.array([counter[word] for word in words])


def test_kmers_without_windows():
    assert kmer_counts(["AC"], 3, DNA).sum() == 0
    assert math.isnan(kmer_likeness(["AC"], ["ACGT"], 3, DNA)[0])


@pytest.mark.parametrize("low", [12, 5])
def test_diversity_by_all_pairs(low):
    sequences = random_sequences(20, low, 12)
    padded = [one.ljust(max(map(len, sequences)), "-") for one in sequences]
    length = len(padded[0])
    expected = np.mean([sum(a != b for a, b in zip(x, y, strict=True)) / length for x, y in combinations(padded, 2)])
    assert diversity(sequences, DNA) == pytest.approx(expected)
    assert diversity(["ACGT"] * 3, DNA) == 0 and math.isnan(diversity(["ACGT"], DNA))


def edit_distance(one: str, other: str) -> int:
    previous = list(range(len(other) + 1))
    for i, x in enumerate(one, 1):
        current = [i]
        for j, y in enumerate(other, 1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (x != y)))
        previous = current
    return previous[-1]


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_closeness_is_the_edit_distance(share):
    """Short words of two letters (many near misses), and noisy copies with all three kinds of edits."""
    sequences, train = random_sequences(25, 3, 24, "AC", 1), random_sequences(25, 1, 26, "AC", 2)
    generator = np.random.default_rng(3)
    for one in random_sequences(14, 30, 40, "ACGT", 4):
        copy = list(one)
        for _ in range(int(generator.integers(1, 2 * share * len(one)))):
            place = int(generator.integers(len(copy)))
            copy[place] = ["", "A", copy[place] + "G"][generator.integers(3)]
        sequences, train = [*sequences, "".join(copy)], [*train, one]
    expected = [any(edit_distance(a, b) <= int(share * len(a)) for b in train) for a in sequences]
    assert 3 < sum(expected) < len(expected) - 3
    assert close_to(sequences, train, DNA, share).tolist() == expected
    assert close_to([], train, DNA).shape == (0,) and not close_to(sequences, [], DNA).any()


def test_word_counts_leave_out_no_close_protein():
    """The filter by words of two letters, on noisy copies at the limit; half of them are within it."""
    train = random_sequences(20, 20, 60, PROTEIN.letters, 5)
    generator = np.random.default_rng(6)
    sequences = []
    for one in train:
        copy = list(one)
        for place in generator.permutation(len(copy))[: int(0.1 * len(one)) + int(generator.integers(2))]:
            copy[place] = "A" if copy[place] != "A" else "W"
        sequences.append("".join(copy))
    expected = [any(edit_distance(a, b) <= int(0.1 * len(a)) for b in train) for a in sequences]
    assert 3 < sum(expected) < len(expected) - 3
    assert close_to(sequences, train, PROTEIN).tolist() == expected


def test_motif_correlation():
    hits, reference = np.array([0, 7, 30, 2, 12, 90]), np.array([4, 9, 20, 4, 40, 70])
    assert motif_correlation(hits, reference) == pytest.approx(
        spearmanr(hits[[1, 2, 4, 5]], reference[[1, 2, 4, 5]])[0]
    )
    assert math.isnan(motif_correlation(hits[:2], reference[:2]))


def test_content_and_recovery():
    assert gc_content(["GGCC", "AtgT", "A"]).tolist() == [1, 0.25, 0]
    assert sequence_recovery(["VDGV", "VAAV"], "VDGV").tolist() == [1, 0.5]
    assert sequence_recovery(["VDGV", "VAAV"], "VDGV", [1, 3]).tolist() == [1, 0.5]
    with pytest.raises(UserError, match="length 3, expected length 4"):
        sequence_recovery(["VDG"], "VDGV")


def test_figures_tell_real_from_random(data_dir):
    """Real promoters score at their floors; shuffled ones keep the GC content but not the words; copies are found."""
    with np.load(data_dir / "sequences" / "dm3_promoter200.npz") as stored:
        letters = np.stack([(stored["packed"] >> s) & 3 for s in (0, 2, 4, 6)], -1).reshape(-1, 200)
    letters = letters[np.random.default_rng(0).permutation(len(letters))[:600], :60]
    real = [one or "" for one in DNA.decode(letters)]
    shuffled = [one or "" for one in DNA.decode(np.random.default_rng(1).permuted(letters[:150], axis=1))]
    motif = [Motif(str(i), "", np.eye(4)[list(word)] * 20) for i, word in enumerate(product(range(4), repeat=7))][::80]
    figures = {}
    for name, samples in (("real", real[:150]), ("shuffled", shuffled), ("copies", real[450:] * 2)):
        figures[name] = evaluate_sequences(samples, real[150:450], train=real[300:], motifs=motif)["metrics"]
    for figure in ("kmer3_pearson", "kmer6_pearson", "motif_spearman"):
        good, bad = (figures[name][figure]["value"] for name in ("real", "shuffled"))
        assert good > figures["real"][figure]["floor"] - 0.1, figure
        assert bad < good - 0.05, figure
    assert figures["real"]["kmer6_js"]["value"] < figures["shuffled"]["kmer6_js"]["value"]
    gc = [figures[name]["gc_content"] for name in ("real", "shuffled")]
    assert gc[0]["value"] == pytest.approx(gc[1]["value"]) and gc[0]["better"] == "as floor"
    assert figures["shuffled"]["novelty"]["value"] == 1 and figures["copies"]["novelty"]["value"] == 0
    assert figures["copies"]["uniqueness"]["value"] == pytest.approx(0.5, abs=0.01)
    assert figures["real"]["novelty"]["value"] > 0.9 and figures["real"]["diversity"]["value"] > 0.7


def test_table_and_unfinished_samples():
    report = evaluate_sequences(["ACGT", None, "ACGT", "GGGG", "ACN"], ["ACGT", "AAAA"])
    assert (report["samples"], report["sequences"]) == (5, 3)
    assert report["metrics"]["validity"]["value"] == pytest.approx(0.6)
    assert report["metrics"]["uniqueness"] == report["metrics"]["uniqueness"] | {"value": pytest.approx(2 / 3), "n": 3}
    columns = [[row[name] for row in report["table"]] for name in ("valid", "unique", "novel", "gc")]
    assert columns == [
        [True, False, True, True, False],
        [True, None, False, True, None],
        [False, None, False, True, None],
        [0.5, None, 0.5, 1.0, None],
    ]
    protein = evaluate_sequences(["VDGV", "FWAA"], ["VDGV"], "protein")
    assert "gc" not in protein["table"][0] and protein["metrics"]["kmer1_pearson"]["floor"] is None
    assert evaluate_sequences([None], ["ACGT"])["metrics"]["validity"]["value"] == 0
    with pytest.raises(UserError, match="got 0 samples and 1 reference"):
        evaluate_sequences([], ["ACGT"])
