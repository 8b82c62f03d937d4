"""Base of rewards of sequences: what a reward takes, returns, remembers and refuses.

A reward maps finished sequences to numbers, higher is better: ``reward(["ACGT", ...])`` or ``reward(tokens)`` gives a
float64 array (N,). One that is differentiable also has ``score(x, mask)`` for relaxed tokens; on one-hot tokens both
agree. Nucleic letters T and U are the same token, so a reward may serve DNA and RNA.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from sciflow.core.errors import UserError
from sciflow.domains.sequences.alphabets import alphabet_of

DEFAULT_FLOOR = -1000.0
ROWS = 4096  # sequences scored at a time
REMEMBERED = 1_000_000  # sequences in the memory of a slow reward
SequenceFunction = Callable[[list[str]], Any]


class SequenceReward(ABC):
    """A reward of finished sequences.

    Attributes:
        differentiable: Whether there is a `score` with gradients.
        not_finite: Number of rewards so far that came out as NaN or infinite and were set to the floor.

    Args:
        name: For tables and messages.
        alphabets: Names of the alphabets it takes, its own first.
        lengths: The lengths it takes; None: any.
        floor: Reward of a sequence whose value is NaN or infinite.
    """

    differentiable: ClassVar[bool] = False

    def __init__(
        self, name: str, alphabets: Sequence[str], lengths: Sequence[int] | None = None, floor: float = DEFAULT_FLOOR
    ) -> None:
        super().__init__()
        self.name, self.alphabets, self.floor = name, tuple(alphabets), float(floor)
        self.letters = alphabet_of(self.alphabet).letters
        self.lengths = None if lengths is None else tuple(lengths)
        self.not_finite = 0

    @property
    def alphabet(self) -> str:
        """Its own alphabet."""
        return self.alphabets[0]

    @property
    def length(self) -> int | None:
        """The length it takes (the first where there are several); None: any."""
        return None if self.lengths is None else self.lengths[0]

    def check(self, alphabet: str, length: int | None = None) -> None:
        """Whether it fits the sequences of a model.

        Raises:
            UserError: Another alphabet or another length.
        """
        if alphabet not in self.alphabets:
            raise UserError(
                f"reward '{self.name}' is for {' or '.join(self.alphabets)}, but the sequences are {alphabet}; "
                "choose a reward or a model of the same alphabet"
            )
        if self.lengths is not None and length is not None and length not in self.lengths:
            expected = " or ".join(map(str, self.lengths))
            raise UserError(f"reward '{self.name}': got sequences of length {length}, expected {expected}")

    @abstractmethod
    def values(self, tokens: Tensor, sizes: Tensor) -> np.ndarray:
        """Rewards (N,) of checked tokens (N, L), padded with 0, and lengths (N,)."""

    def __call__(
        self, sequences: Sequence[str | None] | Tensor, lengths: Sequence[int] | Tensor | None = None
    ) -> np.ndarray:
        """Rewards (N,), float64, all finite.

        Args:
            sequences: Strings, or tokens (N, L) of 0..K-1. None (an unfinished sequence) gets the floor.
            lengths: Lengths (N,) of the token rows; None: all L.

        Raises:
            UserError: A letter or token outside the alphabet, a wrong length, or the reward itself failed.
        """
        if isinstance(sequences, Tensor):
            return (
                self._finite(self.values(*self._checked_tokens(sequences, lengths))) if len(sequences) else np.zeros(0)
            )
        if isinstance(sequences, str) or not all(one is None or isinstance(one, str) for one in sequences):
            got = type(sequences).__name__
            raise UserError(f"reward '{self.name}': got {got}, expected a list of strings or tokens (N, L)")
        present = np.array([one is not None for one in sequences], dtype=bool)
        rewards = np.full(len(sequences), self.floor)
        if present.any():
            tokens, sizes = alphabet_of(self.alphabet).encode([one for one in sequences if one is not None])
            rewards[present] = self(tokens, sizes)
        return rewards

    def _checked_tokens(self, tokens: Tensor, lengths: Any) -> tuple[Tensor, Tensor]:
        tokens = tokens.detach().cpu().long()
        full = torch.full((len(tokens),), tokens.shape[-1])
        sizes = full if lengths is None else torch.as_tensor(lengths).cpu().long()
        if tokens.ndim != 2 or sizes.shape != full.shape or bool((sizes > full).any()):
            raise UserError(
                f"reward '{self.name}': got tokens {tuple(tokens.shape)} and lengths {tuple(sizes.shape)}, expected "
                "(N, L) and (N,) with lengths up to L"
            )
        valid = torch.arange(tokens.shape[1]) < sizes[:, None]
        wrong = valid & ((tokens < 0) | (tokens >= len(self.letters)))
        if bool(wrong.any()):
            raise UserError(
                f"reward '{self.name}': got token {int(tokens[wrong][0])} in sequence "
                f"{int(wrong.any(1).nonzero()[0])}, expected finished {self.alphabet} tokens 0..{len(self.letters) - 1}"
            )
        for size in sizes.unique().tolist():
            self.check(self.alphabet, size)
        return tokens * valid, sizes

    def _finite(self, values: np.ndarray) -> np.ndarray:
        """The values with NaN and infinities counted and set to the floor."""
        bad = ~np.isfinite(values)
        self.not_finite += int(bad.sum())
        return np.where(bad, self.floor, values)


class DifferentiableReward(SequenceReward, nn.Module):
    """A reward with a gradient: subclasses write `score`. Its numbers come without memory, it is fast enough."""

    differentiable = True

    @abstractmethod
    def score(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rewards (B,) of one-hot or relaxed tokens.

        Args:
            x: (B, L, K) probabilities.
            mask: (B, L) 1 for sequence, 0 for padding behind it; None: no padding.

        Raises:
            UserError: Wrong number of letters or a length the reward does not take.
        """

    def lookup(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Rewards (B,) of finished tokens (B, L); the default scores their one-hot form."""
        return self.score(nn.functional.one_hot(tokens, len(self.letters)).float(), mask)

    def values(self, tokens: Tensor, sizes: Tensor) -> np.ndarray:
        """Rewards (N,), see the base class."""
        mask = (torch.arange(tokens.shape[1]) < sizes[:, None]).float()
        device = next((value.device for value in [*self.parameters(), *self.buffers()]), tokens.device)
        with torch.no_grad():
            parts = zip(tokens.split(ROWS), mask.split(ROWS), strict=True)
            values = torch.cat([self.lookup(rows.to(device), inside.to(device)) for rows, inside in parts])
        return values.double().cpu().numpy()

    def checked(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """x and a mask, their shapes checked; the reward follows x to its device."""
        if x.ndim != 3 or x.shape[-1] != len(self.letters):
            expected = f"(B, L, {len(self.letters)})"
            raise UserError(f"reward '{self.name}': got relaxed tokens {tuple(x.shape)}, expected {expected}")
        if any(value.device != x.device for value in [*self.parameters(), *self.buffers()]):
            self.to(x.device)
        mask = x.new_ones(x.shape[:2]) if mask is None else mask.to(x)
        for size in mask.sum(1).long().unique().tolist() if self.lengths is not None else ():
            self.check(self.alphabet, size)
        return x, mask


class FunctionReward(SequenceReward):
    """A plain function of strings; each distinct sequence is asked for once.

    Args:
        name: See the base class.
        function: Distinct sequences, upper case, own alphabet -> (N,) numbers.
        alphabets: See the base class.
        lengths: See the base class.
        floor: See the base class.
    """

    def __init__(
        self,
        name: str,
        function: SequenceFunction,
        alphabets: Sequence[str],
        lengths: Sequence[int] | None = None,
        floor: float = DEFAULT_FLOOR,
    ) -> None:
        super().__init__(name, alphabets, lengths, floor)
        self.function = function
        self._known: dict[str, float] = {}

    def values(self, tokens: Tensor, sizes: Tensor) -> np.ndarray:
        """Rewards (N,), see the base class."""
        strings = alphabet_of(self.alphabet).decode(tokens, sizes.tolist())
        if len(self._known) > REMEMBERED:
            self._known.clear()
        new = [one for one in dict.fromkeys(strings) if one is not None and one not in self._known]
        if new:
            self._known.update(zip(new, self._ask(new).tolist(), strict=True))
        return np.array([self._known[str(one)] for one in strings], dtype=np.float64)

    def _ask(self, sequences: list[str]) -> np.ndarray:
        try:
            values = self.function(list(sequences))
        except UserError:
            raise
        except Exception as error:
            culprit = self._culprit(sequences)
            raise UserError(f"reward '{self.name}' failed on {culprit}: {type(error).__name__}: {error}") from error
        try:
            values = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise UserError(f"reward '{self.name}': got {type(values).__name__}, expected numbers ({error})") from None
        if values.shape != (len(sequences),):
            raise UserError(
                f"reward '{self.name}': got shape {values.shape} for {len(sequences)} sequences, expected "
                f"({len(sequences)},): one number per sequence"
            )
        return values

    def _culprit(self, sequences: list[str]) -> str:
        """The first sequence on which the function fails alone."""
        for sequence in sequences:
            try:
                self.function([sequence])
            except Exception:
                return sequence
        return f"{len(sequences)} sequences together, the first of them {sequences[0]}"


class ModuleReward(DifferentiableReward):
    """A torch module (B, L, K) -> (B,). It is frozen, and called once per length, without padding.

    Args:
        name: See the base class.
        module: The module; attributes `length` (int) and `floor` are honoured.
        alphabets: See the base class.
    """

    def __init__(self, name: str, module: nn.Module, alphabets: Sequence[str]) -> None:
        length, floor = getattr(module, "length", None), getattr(module, "floor", DEFAULT_FLOOR)
        super().__init__(name, alphabets, None if length is None else (int(length),), floor)
        self.module = module.eval().requires_grad_(False)

    def score(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rewards (B,), see the base class."""
        x, mask = self.checked(x, mask)
        sizes = mask.sum(1).long()
        values = x.new_zeros(len(x))
        for size in sizes.unique().tolist():
            rows = (sizes == size).nonzero()[:, 0]
            values = values.index_put((rows,), self._call(x[rows, :size]))
        return values

    def _call(self, x: Tensor) -> Tensor:
        try:
            values = self.module(x)
        except Exception as error:
            best = "".join(self.letters[i] for i in x[0].argmax(-1).tolist())
            raise UserError(
                f"reward '{self.name}' failed on {len(x)} sequences, the first of them {best}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(values, Tensor) or values.shape != (len(x),):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise UserError(f"reward '{self.name}': got {got} for {len(x)} sequences, expected a tensor ({len(x)},)")
        return values.to(x.dtype)
