"""Which sequences are close to a training set: exact edit distance within a share of the length, without all pairs.

Pigeonhole: at most d edits leave one of d + 1 disjoint pieces untouched, shifted by at most d. So only pairs that share
such a piece are looked at. An edit changes at most q words of q letters, so pairs whose word counts differ by more than
2 q d in all are further apart (Ukkonen, Theor. Comput. Sci. 92, 191, 1992); of unrelated sequences few remain. Those
need the banded dynamic programme (Ukkonen, Inform. Control 64, 100, 1985), O(length x d) each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sciflow.domains.sequences.alphabets import Alphabet

WORD = {4: 4, 20: 2}  # letters of the alphabet: word length q
PAIRS = 4000  # compared at a time
PRUNE = 16  # rows
FAR = np.int32(1 << 20)


def close_to(sequences: Sequence[str], train: Sequence[str], alphabet: Alphabet, share: float = 0.1) -> np.ndarray:
    """(N,) whether a training sequence lies within floor(share x length) insertions, deletions and substitutions.

    Args:
        sequences: N sequences.
        train: The training set.
        alphabet: Of both.
        share: Of the length of the sequence, 0 <= share < 1; 0.1 is 10 %.
    """
    close = np.zeros(len(sequences), dtype=bool)
    if not sequences or not train:
        return close
    known = set(train)
    close[:] = [one in known for one in sequences]
    (query, query_sizes), (target, target_sizes) = alphabet.encode(sequences), alphabet.encode(train)
    queries, targets = query.numpy(), target.numpy()
    sizes, target_lengths = np.array(query_sizes), np.array(target_sizes)
    word = WORD[len(alphabet)]
    words, target_words = (
        _word_counts(tokens, lengths, word, len(alphabet))
        for tokens, lengths in ((queries, sizes), (targets, target_lengths))
    )
    for size in np.unique(sizes[~close]):
        edits = int(share * size)
        rows = np.flatnonzero((sizes == size) & ~close)
        index = _Pieces(targets, target_lengths, int(size) // (edits + 1), len(alphabet))
        found = [index.sharing(queries[row], edits) for row in rows]
        pairs = np.stack([np.repeat(rows, [len(one) for one in found]), np.concatenate(found)], 1)
        for chunk in np.split(pairs, range(PAIRS, len(pairs), PAIRS)):
            one, other = chunk[np.abs(words[chunk[:, 0]] - target_words[chunk[:, 1]]).sum(1) <= 2 * word * edits].T
            distance = edit_distance(queries[one, :size], targets[other], target_lengths[other], edits)
            close[one[distance <= edits]] = True
    return close


def _word_counts(tokens: np.ndarray, lengths: np.ndarray, word: int, letters: int) -> np.ndarray:
    """(N, letters^word) int16 how often each word occurs in a row."""
    kinds = letters**word
    if tokens.shape[1] < word:
        return np.zeros((len(tokens), kinds), dtype=np.int16)
    codes = np.lib.stride_tricks.sliding_window_view(tokens, word, axis=1) @ letters ** np.arange(word)
    inside = np.arange(codes.shape[1]) + word <= lengths[:, None]
    cells = (codes + kinds * np.arange(len(tokens))[:, None])[inside]
    return np.bincount(cells, minlength=len(tokens) * kinds).reshape(-1, kinds).astype(np.int16)


class _Pieces:
    """Every window of the targets, sorted by its letters."""

    def __init__(self, targets: np.ndarray, lengths: np.ndarray, width: int, letters: int) -> None:
        self.width, self.powers = width, letters ** np.arange(width, dtype=np.int64)
        if targets.shape[1] < width:
            targets = np.pad(targets, ((0, 0), (0, width - targets.shape[1])))
        codes = np.lib.stride_tricks.sliding_window_view(targets, width, axis=1) @ self.powers
        rows, starts = np.nonzero(np.arange(codes.shape[1]) + width <= lengths[:, None])
        order = np.argsort(codes[rows, starts])
        self.codes, self.rows, self.starts = codes[rows, starts][order], rows[order], starts[order]

    def sharing(self, query: np.ndarray, edits: int) -> np.ndarray:
        """Targets with one of the first edits + 1 pieces of the query, shifted by at most `edits`."""
        pieces = query[: (edits + 1) * self.width].reshape(edits + 1, self.width) @ self.powers
        low, high = (np.searchsorted(self.codes, pieces, side) for side in ("left", "right"))
        found = []
        for number in np.flatnonzero(high > low):
            hits = slice(low[number], high[number])
            near = np.abs(self.starts[hits] - number * self.width) <= edits
            found.append(self.rows[hits][near])
        return np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)


def edit_distance(one: np.ndarray, other: np.ndarray, lengths: np.ndarray, limit: int) -> np.ndarray:
    """Levenshtein distances (P,) of pairs where they are at most `limit`, more than `limit` elsewhere.

    Args:
        one: (P, n) tokens, all of length n.
        other: (P, m) tokens, padded.
        lengths: (P,) lengths of `other`.
        limit: Half width of the band.
    """
    n, band = one.shape[1], np.arange(-limit, limit + 1, dtype=np.int32)  # band = column - row
    padded = np.pad(other, ((0, 0), (limit + 1, limit + 1 + max(n - other.shape[1], 0))), constant_values=-1)
    distance = np.where(band >= 0, band, FAR) * np.ones((len(one), 1), np.int32)
    pairs = np.arange(len(one))  # still within the limit
    for row in range(1, n + 1):
        letters = padded[:, row : row + 2 * limit + 1]  # letters of the columns row + band
        diagonal = distance + (letters != one[:, row - 1 : row])
        above = np.pad(distance[:, 1:] + 1, ((0, 0), (0, 1)), constant_values=FAR)
        best = np.minimum(diagonal, above)
        best[:, row + band < 0] = FAR
        distance = np.minimum.accumulate(best - band, axis=1) + band  # insertions along the row
        distance[:, row + band < 0] = FAR
        if row % PRUNE == 0:  # the least distance of a row never falls
            alive = distance.min(1) <= limit
            pairs, padded, one, distance = pairs[alive], padded[alive], one[alive], distance[alive]
    result = np.full(len(lengths), limit + 1)
    column = lengths[pairs] - n + limit
    inside = (column >= 0) & (column <= 2 * limit)
    result[pairs[inside]] = distance[inside, column[inside]]
    return result
