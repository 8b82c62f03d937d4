"""Alphabets: letters <-> token numbers. A token is the position of its letter; the mask is the number after the last.

DNA and RNA order: A C G T/U; proteins: the 20 amino acids by one-letter code. Lower case is read as upper case, and a
nucleotide alphabet reads T and U as the same letter, because RNA files are mostly written with T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sciflow.core.errors import UserError

PADDING = 0  # token at padded positions; the mask of the layout says where they are


@dataclass(frozen=True)
class Alphabet:
    """An ordered set of letters.

    Attributes:
        name: "dna", "rna" or "protein".
        letters: One character per token, upper case.
    """

    name: str
    letters: str

    def __len__(self) -> int:
        """Number K of letters; K is also the id of the mask."""
        return len(self.letters)

    @cached_property
    def accepted(self) -> frozenset[str]:
        """Every character that is read as a letter."""
        both = set("TU") if len(self) == 4 else set()
        return frozenset(letter for one in both | set(self.letters) for letter in (one, one.lower()))

    @cached_property
    def table(self) -> np.ndarray:
        """(256,) int16: token of each ASCII code, -1 for what is not in the alphabet."""
        table = np.full(256, -1, np.int16)
        for letter in self.accepted:
            table[ord(letter)] = self.letters.index(self.spell(letter))
        return table

    def problem(self, sequence: str) -> str | None:
        """What keeps a sequence out of the alphabet, with its position counted from 1; None if nothing does."""
        foreign = [i for i, letter in enumerate(sequence) if letter not in self.accepted]
        if foreign:
            found = f"'{sequence[foreign[0]]}' at position {foreign[0] + 1} is no {self.name} letter"
            return f"{found} ({len(foreign)} foreign letter(s); expected {self.letters})"
        return None if sequence else "empty sequence"

    def spell(self, text: str) -> str:
        """Upper case, without white space, T and U as in `letters`."""
        plain = "".join(text.split()).upper()
        return plain.translate(str.maketrans("TU", self.letters[3] * 2)) if len(self) == 4 else plain

    def encode(self, sequences: Sequence[str]) -> tuple[Tensor, list[int]]:
        """Sequences as padded tokens (N, longest) int64 and their lengths.

        Raises:
            UserError: No sequence, an empty one, or a letter outside the alphabet (sequence and position are named).
        """
        if not len(sequences):
            raise UserError("got no sequence, expected at least one")
        lengths = [len(sequence) for sequence in sequences]
        found = self.table[_codes("".join(sequences))]
        if min(lengths) == 0 or (found < 0).any():
            number, problem = next((i, text) for i, one in enumerate(sequences) if (text := self.problem(one)))
            raise UserError(f"sequence {number} (counted from 0): {problem}")
        tokens = np.full((len(sequences), max(lengths)), PADDING, np.int64)
        inside = np.arange(max(lengths)) < np.array(lengths)[:, None]
        tokens[inside] = found
        return torch.from_numpy(tokens), lengths

    def decode(self, tokens: Tensor | np.ndarray, lengths: Sequence[int] | None = None) -> list[str | None]:
        """Rows of tokens (N, L) as strings; None where a row holds anything but letters (a mask, for example)."""
        rows = np.asarray(tokens)
        width = rows.shape[1]
        ends = [width] * len(rows) if lengths is None else lengths
        letters = np.frombuffer((self.letters + "?").encode(), np.uint8)
        known = (rows >= 0) & (rows < len(self))
        text = letters[np.where(known, rows, len(self))].tobytes().decode()
        texts = [text[i * width : i * width + end] for i, end in enumerate(ends)]
        return [None if "?" in text else text for text in texts]


def _codes(text: str) -> np.ndarray:
    """One byte per character; those beyond one byte become "?", which is in no alphabet."""
    return np.frombuffer(text.encode("latin-1", "replace"), np.uint8)


DNA = Alphabet("dna", "ACGT")
RNA = Alphabet("rna", "ACGU")
PROTEIN = Alphabet("protein", "ACDEFGHIKLMNPQRSTVWY")
ALPHABETS = {alphabet.name: alphabet for alphabet in (DNA, RNA, PROTEIN)}


def alphabet_of(name: str) -> Alphabet:
    """The alphabet of that name.

    Raises:
        UserError: Unknown name.
    """
    if name not in ALPHABETS:
        raise UserError(f"alphabet: got '{name}', expected one of {', '.join(ALPHABETS)}")
    return ALPHABETS[name]
