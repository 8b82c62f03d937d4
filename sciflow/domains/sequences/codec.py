"""Sequences as states and back: one field "seq" of tokens (B, L) int64, padded to the longest sequence of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sciflow.core.codec import Codec
from sciflow.core.errors import UserError
from sciflow.core.state import Layout, State
from sciflow.domains.sequences.alphabets import alphabet_of

FIELD = "seq"


def sequence_state(tokens: Tensor, lengths: Sequence[int]) -> State:
    """The state of padded tokens (B, L) int64, or relaxed tokens (B, L, K + 1); without a mask if nothing is padded."""
    sizes = tuple(int(length) for length in lengths)
    mask = None
    if min(sizes) < tokens.shape[1]:
        mask = (torch.arange(tokens.shape[1]) < torch.tensor(sizes)[:, None]).to(torch.get_default_dtype())
    return State({FIELD: tokens}, {FIELD: Layout(len(sizes), mask=mask, sizes=sizes)})


class SequenceCodec(Codec):
    """Strings over an alphabet <-> tokens.

    Args:
        alphabet: "dna", "rna" or "protein".
        length: The one length of all sequences; None: any.
    """

    def __init__(self, alphabet: str = "dna", length: int | None = None) -> None:
        self.alphabet, self.length = alphabet_of(alphabet), length
        if length is not None and length < 1:
            raise UserError(f"length: got {length}, expected at least 1, or nothing for any length")

    def to_state(self, objects: Sequence[str]) -> State:
        """Strings as clean tokens.

        Raises:
            UserError: No sequence, a letter outside the alphabet, or a length that is not `length`.
        """
        tokens, lengths = self.alphabet.encode(objects)
        self._check(lengths)
        return sequence_state(tokens, lengths)

    def template(self, sizes: Sequence[int]) -> State:
        """Zeros for sequences of the given lengths."""
        self._check(sizes)
        return sequence_state(torch.zeros(len(sizes), max(sizes), dtype=torch.long), sizes)

    def to_objects(self, state: State) -> list[str | None]:
        """Strings; None where a mask is left."""
        x, layout = state[FIELD].detach().cpu(), state.layouts[FIELD]
        tokens = x.argmax(-1) if x.is_floating_point() else x
        return self.alphabet.decode(tokens, layout.sizes)

    def _check(self, lengths: Sequence[int]) -> None:
        if not len(lengths) or min(lengths) < 1:
            raise UserError(f"lengths: got {list(lengths)[:5]}, expected at least one length, all of them positive")
        if self.length is not None and any(length != self.length for length in lengths):
            other = next(length for length in lengths if length != self.length)
            raise UserError(f"got a sequence of length {other}, expected {self.length} letters in every sequence")
