r"""Rewards that are tables: measured landscapes of short sequences, exact and differentiable.

The multilinear extension of a table R over n letters, :math:`R(x) = \sum_{a..} x_{1a} x_{2b} ... R_{ab..}`, is the mean
of R under independent letters; on one-hot letters it is the table. It is one matrix product: with the outer products
u of the first and v of the last letters, R(x) = u' R v, R as a square matrix (GB1: 400 x 400, 8-mers: 256 x 256).
"""

from __future__ import annotations

import functools
import gzip
import math
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.data import resolve
from sciflow.domains.sequences.alphabets import DNA
from sciflow.domains.sequences.reward_base import DifferentiableReward

WINDOW = 8  # letters of a protein-binding-microarray table
GB1_SITES = (38, 39, 40, 53)  # residues V39, D40, G41, V54, from 0
GB1_LENGTH = 56
FITNESS_FLOOR = 0.01


def multilinear(table: Tensor, x: Tensor) -> Tensor:
    """Mean of a table under independent letters.

    Args:
        table: K^n values, row-major over the n letters; n even.
        x: (..., n, K) probabilities.

    Returns:
        (...) values.
    """
    n = x.shape[-2]
    halves = [functools.reduce(_outer, part.unbind(-2)) for part in (x[..., : n // 2, :], x[..., n // 2 :, :])]
    square = table.reshape(halves[0].shape[-1], -1).to(x.dtype)
    return ((halves[0] @ square) * halves[1]).sum(-1)


def _outer(first: Tensor, second: Tensor) -> Tensor:
    return (first[..., :, None] * second[..., None, :]).flatten(-2)


def index(tokens: Tensor, letters: int) -> Tensor:
    """Row-major index (...) of tokens (..., n) in a table of `letters`^n."""
    powers = letters ** torch.arange(tokens.shape[-1] - 1, -1, -1, device=tokens.device)
    return (tokens * powers).sum(-1)


class GB1Reward(DifferentiableReward):
    """Measured fitness of protein G domain B1 at four sites (Wu et al., eLife 5, e16965, 2016; wild type VDGV = 1).

    149,361 of 160,000 variants are measured; the rest counts as fitness 0.01, like measured values below it.

    Args:
        name: See the base class.
        logarithm: log(max(F, 0.01)) in nats, else F itself (unmeasured: 0).
    """

    table: Tensor

    def __init__(self, name: str = "gb1", logarithm: bool = True) -> None:
        super().__init__(name, ("protein",), (len(GB1_SITES), GB1_LENGTH))
        with np.load(resolve("gb1_landscapes")) as stored:
            fitness = np.nan_to_num(stored["fitness4"].astype(np.float64))
        self.register_buffer(
            "table", torch.from_numpy(np.log(np.maximum(fitness, FITNESS_FLOOR)) if logarithm else fitness).flatten()
        )

    def lookup(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Exact values of finished tokens."""
        return self.table[index(self._sites(tokens), len(self.letters))]

    def score(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Multilinear extension; of 56 residues it sees the four sites only."""
        x, _ = self.checked(x, mask)
        return multilinear(self.table, self._sites(x))

    @staticmethod
    def _sites(x: Tensor) -> Tensor:
        return x if x.shape[1] == len(GB1_SITES) else x[:, list(GB1_SITES)]


class GB1Stability(DifferentiableReward):
    """Sum of measured single-mutant stability changes of GB1 in kcal/mol, positive is more stable, wild type 0.

    Nisthal et al., PNAS 116, 16367 (2019): 935 mutants of 56 residues; unmeasured ones count as -4, the floor of the
    assay. Additivity is an assumption.
    """

    table: Tensor

    def __init__(self, name: str = "gb1-stability") -> None:
        super().__init__(name, ("protein",), (GB1_LENGTH,))
        with np.load(resolve("gb1_landscapes")) as stored:
            change, wild_type = stored["ddg_single"].astype(np.float64), str(stored["wt_wu"])
        change = np.nan_to_num(change, nan=-4.0)
        change[np.arange(GB1_LENGTH), [self.letters.index(letter) for letter in wild_type]] = 0.0
        self.register_buffer("table", torch.from_numpy(change))

    def score(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Linear in each position."""
        x, _ = self.checked(x, mask)
        return (x * self.table.to(x)).sum((1, 2))


class PBMReward(DifferentiableReward):
    r"""Binding of a transcription factor by protein-binding-microarray E-scores (Barrera et al., Science 351, 2016).

    The E-score of an 8-mer is in -0.5..0.5, above 0.45 it is bound; both strands share it. A longer sequence gets
    :math:`\log \mathrm{mean}_w \exp E_w` over its windows, each window by the multilinear extension.

    Args:
        experiment: E.g. ``SIX6_REF_R1``, or a table of all 8-mers as UniPROBE writes them (see `read_table`).

    Raises:
        UserError: Unknown experiment (the message lists them), or an incomplete table.
    """

    table: Tensor

    def __init__(self, experiment: str) -> None:
        super().__init__(f"pbm:{experiment}", ("dna",))
        path = Path(experiment)
        self.register_buffer("table", torch.from_numpy(read_table(path) if path.is_file() else pbm_table(experiment)))

    def check(self, alphabet: str, length: int | None = None) -> None:
        """Also refuses sequences shorter than a window."""
        super().check(alphabet, length)
        if length is not None and length < WINDOW:
            raise UserError(f"reward '{self.name}': got sequences of length {length}, expected at least {WINDOW}")

    def lookup(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Table values, no arithmetic but the mean."""
        windows = self.table[index(tokens.unfold(1, WINDOW, 1), len(self.letters))]
        return self._mean(windows, mask)

    def score(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Multilinear extension per window, 65,536 multiplications each."""
        x, mask = self.checked(x, mask)
        if x.shape[1] < WINDOW:
            self.check(self.alphabet, x.shape[1])
        return self._mean(multilinear(self.table, x.unfold(1, WINDOW, 1).transpose(-1, -2)), mask)

    @staticmethod
    def _mean(windows: Tensor, mask: Tensor) -> Tensor:
        inside = mask[:, WINDOW - 1 :] > 0
        return windows.masked_fill(~inside, -math.inf).logsumexp(1) - inside.sum(1).to(windows).log()


@functools.cache
def pbm_names() -> tuple[str, ...]:
    """Names of the experiments on this machine."""
    with np.load(resolve("pbm_8mer")) as stored:
        return tuple(stored["names"].tolist())


def pbm_table(experiment: str) -> np.ndarray:
    """E-scores (65536,) of all 8-mers, the first letter most significant (ACGT = 0..3).

    Raises:
        UserError: Unknown experiment; the message lists them.
    """
    names = pbm_names()
    if experiment not in names:
        raise UserError(f"pbm: got experiment '{experiment}', expected one of {', '.join(names)}")
    with np.load(resolve("pbm_8mer")) as stored:
        values = stored["escore_i16"][names.index(experiment)] * float(stored["scale"])
        canonical = stored["canonical_index"].astype(np.int64)
    return _both_strands(canonical, values, experiment)


def _both_strands(numbers: np.ndarray, values: np.ndarray, place: str) -> np.ndarray:
    table = np.full(4**WINDOW, np.nan)
    table[numbers] = table[reverse_complement(numbers)] = values
    if np.isnan(table).any():
        raise UserError(f"pbm: {place} has no value for {int(np.isnan(table).sum())} of the {4**WINDOW} 8-mers")
    return table


def read_table(path: Path) -> np.ndarray:
    """E-scores (65536,) from a text file: 8-mer, its reverse complement, E-score, anything; tabs or commas, a header.

    Raises:
        UserError: A line without an 8-mer and a number, or 8-mers are missing.
    """
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    rows = [re.split(r"[\t,]", line.strip()) for line in text.splitlines() if line.strip()]
    rows = rows[1:] if rows and DNA.problem(rows[0][0]) else rows
    try:
        words, values = [row[0] for row in rows], np.array([float(row[2]) for row in rows])
    except (IndexError, ValueError) as error:
        raise UserError(f"pbm: {path}: {error}; expected columns 8-mer, reverse complement, E-score") from None
    wrong = [word for word in words if len(word) != WINDOW or DNA.problem(word)]
    if wrong or not words:
        raise UserError(f"pbm: {path}: got '{(wrong or [''])[0]}', expected words of {WINDOW} letters ACGT")
    return _both_strands(index(DNA.encode(words)[0], len(DNA)).numpy(), values, str(path))


def reverse_complement(codes: np.ndarray) -> np.ndarray:
    """Base-4 indices of the reverse complements of 8-mers."""
    digits = codes[..., None] // 4 ** np.arange(WINDOW) % 4  # last letter first
    return ((3 - digits) * 4 ** np.arange(WINDOW - 1, -1, -1)).sum(-1)


def replicate(experiment: str) -> str:
    """The replicate array of an experiment, the honest held-out reward: R2 for R1 and R1 for R2.

    Raises:
        UserError: There is none; the message lists the experiments that have one.
    """
    names = pbm_names()
    other = re.sub(r"_R([12])$", lambda found: f"_R{3 - int(found[1])}", experiment)
    if other == experiment or other not in names or experiment not in names:
        paired = [name for name in names if name.endswith("_R1") and f"{name[:-1]}2" in names]
        raise UserError(f"pbm: no replicate of '{experiment}'; there are replicates of {', '.join(paired)}")
    return other
