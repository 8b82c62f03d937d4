r"""How much designed or sampled sequences look like real ones, how varied and how new they are.

* k-mer correlation: Pearson r of the counts of all K^k words in all windows (k = 3 and 6 for nucleotides, 1 and 2 for
  proteins), and the Jensen-Shannon divergence of the frequencies with one pseudo-count per word, nats (0..log 2).
* Motif correlation: Spearman rho of hits per motif at p <= 1e-4, over motifs with at least 5 hits in either set.
* Diversity: mean Hamming distance of two different samples / length, from letter counts per column in O(N L K):
  :math:`1 - \frac1L \sum_l \sum_k c_{lk}(c_{lk}-1) / (n(n-1))`; shorter sequences count as ending in gaps.
* Uniqueness: distinct / valid. Novelty: share of the distinct ones further than 10 % (edit distance / length) from
  every training sequence.

The *floor* of a figure is what real sequences score: as many random reference sequences (at most half of them) in the
place of the samples, against the rest of the reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from sciflow.core.errors import UserError
from sciflow.domains.sequences.alphabets import Alphabet, alphabet_of
from sciflow.domains.sequences.motifs import Motif, MotifScanner
from sciflow.domains.sequences.novelty import close_to

WORDS = {4: (3, 6), 20: (1, 2)}  # letters of the alphabet: word lengths
NOVEL = 0.1  # edit distance / length
MIN_HITS = 5


def evaluate_sequences(
    sequences: Sequence[str | None],
    reference: Sequence[str],
    alphabet: str = "dna",
    *,
    train: Sequence[str] | None = None,
    motifs: Sequence[Motif] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of sequences against a reference set.

    Args:
        sequences: One entry per sample; None for one that did not finish.
        reference: Real sequences of the same kind.
        alphabet: dna, rna or protein.
        train: Training set, for novelty; None: the reference.
        motifs: Matrices to scan with (1.5 s per 640 x 200 nucleotides and 900 motifs); none: no motif correlation.
        seed: Of the random reference sequences behind the floors.

    Returns:
        ``{"samples", "sequences", "metrics", "table"}``: number of samples and of finished ones; per metric
        ``{"value", "standard_error", "floor", "n", "better"}`` (None where not available); one row per sample with
        sequence, valid, length, gc (nucleotides), unique (first of its kind) and novel.

    Raises:
        UserError: No sample, no reference, or letters outside the alphabet.
    """
    if not sequences or not reference:
        raise UserError(
            f"evaluation: got {len(sequences)} samples and {len(reference)} reference sequences, expected at least one "
            "of each"
        )
    letters = alphabet_of(alphabet)
    valid = [one for one in sequences if one is not None and letters.problem(one) is None]
    table = _table(sequences, valid, list(reference if train is None else train), letters)
    shuffled = np.random.default_rng(seed).permutation(len(reference))
    half = min(max(len(valid), 1), len(reference) // 2)
    stand_in, rest = ([reference[int(i)] for i in part] for part in (shuffled[:half], shuffled[half:]))
    metrics = {"validity": _share(len(valid), len(table), 1.0)}
    metrics |= _shares(table, len(valid), stand_in, rest, letters)
    if valid:
        metrics |= _likeness(valid, list(reference), stand_in, rest, letters)
        if motifs:
            metrics["motif_spearman"] = _motifs(MotifScanner(motifs), valid, list(reference), stand_in, rest, letters)
    return {"samples": len(table), "sequences": len(valid), "metrics": metrics, "table": table}


def _table(
    sequences: Sequence[str | None], valid: list[str], train: list[str], letters: Alphabet
) -> list[dict[str, Any]]:
    distinct = list(dict.fromkeys(valid))
    novel = dict(zip(distinct, ~close_to(distinct, train, letters, NOVEL), strict=True))
    seen: set[str] = set()
    table = []
    for one in sequences:
        row: dict[str, Any] = {"sequence": one, "valid": one in novel, "length": len(one or "")}
        row |= {"unique": None, "novel": None} | ({"gc": None} if len(letters) == 4 else {})
        if one is not None and one in novel:
            row |= {"unique": one not in seen, "novel": bool(novel[one])}
            row |= {"gc": float(gc_content([one])[0])} if "gc" in row else {}
            seen.add(one)
        table.append(row)
    return table


def _shares(
    table: list[dict[str, Any]], count: int, stand_in: list[str], rest: list[str], letters: Alphabet
) -> dict[str, dict[str, Any]]:
    distinct = [row for row in table if row["unique"]]
    real = list(dict.fromkeys(stand_in))
    far = float((~close_to(real, rest, letters, NOVEL)).mean()) if real else None
    return {
        "uniqueness": _share(len(distinct), count, len(real) / len(stand_in) if stand_in else None),
        "novelty": _share(sum(row["novel"] for row in distinct), len(distinct), far),
    }


def _likeness(
    valid: list[str], reference: list[str], stand_in: list[str], rest: list[str], letters: Alphabet
) -> dict[str, dict[str, Any]]:
    figures = {"diversity": _figure(diversity(valid, letters), _or_none(diversity, stand_in, letters), len(valid))}
    if len(letters) == 4:
        gc, floor = gc_content(valid), float(gc_content(reference).mean())
        error = float(gc.std(ddof=1) / math.sqrt(len(gc))) if len(gc) > 1 else None
        figures["gc_content"] = _figure(float(gc.mean()), floor, len(valid), "as floor", error)
    for k in WORDS[len(letters)]:
        pearson, divergence = kmer_likeness(valid, reference, k, letters)
        real = kmer_likeness(stand_in, rest, k, letters) if stand_in else (None, None)
        figures[f"kmer{k}_pearson"] = _figure(pearson, real[0], len(valid))
        figures[f"kmer{k}_js"] = _figure(divergence, real[1], len(valid), "lower")
    return figures


def _motifs(scanner: MotifScanner, valid, reference, stand_in, rest, letters: Alphabet) -> dict[str, Any]:
    def hits(sequences: list[str]) -> np.ndarray:
        return scanner.hits(*letters.encode(sequences))

    part, others = (hits(one) if one else np.zeros(len(scanner.motifs)) for one in (stand_in, rest))
    floor = motif_correlation(part, others) if stand_in else None
    return _figure(motif_correlation(hits(valid), part + others), floor, len(valid))


def _or_none(function, sequences: list[str], letters: Alphabet) -> float | None:
    return function(sequences, letters) if sequences else None


def _figure(
    value: float, floor: float | None, n: int, better: str = "higher", error: float | None = None
) -> dict[str, Any]:
    return {"value": value, "standard_error": error, "floor": floor, "n": n, "better": better}


def _share(part: int, whole: int, floor: float | None) -> dict[str, Any]:
    """A share with its binomial standard error; nan of nothing."""
    share = part / whole if whole else math.nan
    return _figure(share, floor, whole, "higher", math.sqrt(share * (1 - share) / whole) if whole else None)


def kmer_counts(sequences: Sequence[str], k: int, letters: Alphabet) -> np.ndarray:
    """Counts (K^k,) of words in all overlapping windows of all sequences; the first letter is most significant."""
    tokens, sizes = letters.encode(sequences)
    if tokens.shape[1] < k:
        return np.zeros(len(letters) ** k)
    codes = (tokens.unfold(1, k, 1) * len(letters) ** torch.arange(k - 1, -1, -1)).sum(-1)
    inside = torch.arange(codes.shape[1]) + k <= torch.tensor(sizes)[:, None]
    return torch.bincount(codes[inside], minlength=len(letters) ** k).double().numpy()


def kmer_likeness(sequences: Sequence[str], reference: Sequence[str], k: int, letters: Alphabet) -> tuple[float, float]:
    """Pearson correlation of word counts (nan where one set has equal counts) and Jensen-Shannon divergence in nats."""
    one, other = (kmer_counts(part, k, letters) for part in (sequences, reference))
    return _pearson(one, other), jensen_shannon(one + 1, other + 1)


def _pearson(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1]) if one.std() > 0 and other.std() > 0 else math.nan


def jensen_shannon(one: np.ndarray, other: np.ndarray) -> float:
    """Jensen-Shannon divergence in nats of two positive vectors, which are normalised first; 0..log 2."""
    one, other = one / one.sum(), other / other.sum()
    middle = (one + other) / 2
    return float((one * np.log(one / middle) + other * np.log(other / middle)).sum() / 2)


def motif_correlation(hits: np.ndarray, reference: np.ndarray) -> float:
    """Spearman correlation of hits per motif, over motifs with at least 5 in either set; nan of fewer than 3 motifs."""
    kept = (hits >= MIN_HITS) | (reference >= MIN_HITS)
    if kept.sum() < 3 or hits[kept].std() == 0 or reference[kept].std() == 0:
        return math.nan
    return float(spearmanr(hits[kept], reference[kept])[0])  # type: ignore[arg-type]


def diversity(sequences: Sequence[str], letters: Alphabet) -> float:
    """Mean Hamming distance of two different samples / length, 0..1; nan of one sample."""
    tokens, sizes = letters.encode(sequences)
    n, length = tokens.shape
    if n < 2:
        return math.nan
    gaps = torch.arange(length) >= torch.tensor(sizes)[:, None]
    columns = tokens.masked_fill(gaps, len(letters)) + torch.arange(length) * (len(letters) + 1)
    counts = torch.bincount(columns.flatten(), minlength=length * (len(letters) + 1)).double()
    return 1 - float((counts * (counts - 1)).sum()) / (n * (n - 1) * length)


def gc_content(sequences: Sequence[str]) -> np.ndarray:
    """(N,) share of G and C."""
    return np.array([sum(one.upper().count(letter) for letter in "GC") / len(one) for one in sequences])


def sequence_recovery(sequences: Sequence[str], native: str, positions: Sequence[int] | None = None) -> np.ndarray:
    """(N,) share of the designed positions that hold the native letter.

    Args:
        sequences: N sequences of the native length.
        native: The native sequence.
        positions: Designed positions, from 0; None: all.

    Raises:
        UserError: A sequence of another length, or no position.
    """
    chosen = list(range(len(native))) if positions is None else list(positions)
    wrong = [one for one in sequences if len(one) != len(native)]
    if wrong or not chosen:
        got = f"a sequence of length {len(wrong[0])}" if wrong else "no position"
        raise UserError(f"recovery: got {got}, expected length {len(native)} and at least one position")
    return np.array([sum(one[i].upper() == native[i].upper() for i in chosen) / len(chosen) for one in sequences])
