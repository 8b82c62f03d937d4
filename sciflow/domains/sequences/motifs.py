r"""Motifs: position frequency matrices, their occupancy of a sequence (a differentiable reward), and hits at a p-value.

Log-odds in nats against a uniform background: :math:`w_{jk} = \log(4 (n_{jk} + 1/4) / (n_j + 1))`, score s = sum of w
over a window. The background mean of exp(s) is 1 at every window of every motif.

* Occupancy (`MotifReward`): window i is bound with odds exp(s_i) / N, N = windows on both strands (so that random
  sequence carries one expected binding event's worth of odds); occupancy = 1 - prod_i (1 - sigmoid(s_i - log N)), 0..1.
* Hits (`MotifScanner`): windows with P(score >= s) <= p under the background. The law of the score is exact, by dynamic
  programming on scores rounded to 0.01 nats (Staden, CABIOS 5, 89, 1989).
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sciflow.core.errors import UserError, require
from sciflow.data import resolve
from sciflow.domains.sequences.alphabets import DNA
from sciflow.domains.sequences.reward_base import DifferentiableReward

UNIFORM = "Background letter frequencies\nA 0.25 C 0.25 G 0.25 T 0.25\n"
RESOLUTION = 0.01  # nats, of rounded scores
COLLECTIONS = {  # data set: release and group in pyjaspar
    "jaspar2024_vertebrates": ("JASPAR2024", {"tax_group": ["vertebrates"]}),
    "jaspar2026_human": ("JASPAR2026", {"species": ["9606"]}),
}


@dataclass(frozen=True, eq=False)
class Motif:
    """A position frequency matrix.

    Attributes:
        identifier: E.g. ``MA0108.3``.
        name: E.g. ``TBP``.
        counts: (width, 4) counts of A C G T.
    """

    identifier: str
    name: str
    counts: np.ndarray

    def log_odds(self) -> np.ndarray:
        """(width, 4) nats, with one pseudo-count per position."""
        return np.log((self.counts + 0.25) / (self.counts.sum(1, keepdims=True) + 1) * 4)


class MotifReward(DifferentiableReward):
    """Occupancy of a sequence by a motif on both strands, 0..1 (see the module).

    Relaxed tokens give the occupancy at the mean score of each window.

    Args:
        motif: The motif.
    """

    weight: Tensor

    def __init__(self, motif: Motif) -> None:
        super().__init__(f"motif:{motif.identifier}", ("dna",))
        self.motif = motif
        self.register_buffer("weight", _filters(motif.log_odds()).float())

    def check(self, alphabet: str, length: int | None = None) -> None:
        """Also refuses sequences shorter than the motif."""
        super().check(alphabet, length)
        if length is not None and length < len(self.motif.counts):
            expected = f"at least {len(self.motif.counts)}, the width of the motif"
            raise UserError(f"reward '{self.name}': got sequences of length {length}, expected {expected}")

    def score(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Occupancy (B,)."""
        x, mask = self.checked(x, mask)
        width = self.weight.shape[-1]
        if x.shape[1] < width:
            self.check(self.alphabet, x.shape[1])
        scores = functional.conv1d(x.transpose(1, 2), self.weight.to(x.dtype))  # (B, 2, windows)
        inside = mask[:, None, width - 1 :]
        sites = 2 * inside.sum((1, 2), keepdim=True)
        free = functional.softplus(scores - sites.log()) * inside  # -log(1 - sigmoid)
        return -torch.expm1(-free.sum((1, 2)))


def _filters(log_odds: np.ndarray) -> Tensor:
    """Filters (2, 4, width) of both strands."""
    forward = torch.from_numpy(log_odds.T.copy())
    return torch.stack([forward, forward.flip(0, 1)])  # A C G T turned round is T G C A


class MotifScanner:
    """Counts the hits of many motifs, both strands. A motif too short to reach the p-value has none.

    Args:
        motifs: The motifs.
        p_value: Of one window on one strand under uniform background.
    """

    def __init__(self, motifs: Sequence[Motif], p_value: float = 1e-4) -> None:
        if not motifs or not 0 < p_value < 1:
            raise UserError(f"motif scan: got {len(motifs)} motifs and p-value {p_value}, expected some and 0 < p < 1")
        self.motifs = tuple(motifs)
        rounded = [np.rint(motif.log_odds() / RESOLUTION) for motif in motifs]
        self.thresholds = np.array([score_threshold(scores, p_value) for scores in rounded])
        self.groups = {}  # width -> (numbers of the motifs, filters (2 n, 4, width), thresholds (n, 1))
        for width in sorted({len(scores) for scores in rounded}):
            numbers = [i for i, scores in enumerate(rounded) if len(scores) == width]
            filters = torch.cat([_filters(rounded[i]) for i in numbers]).float()  # integers below 2^24 are exact
            self.groups[width] = (numbers, filters, torch.from_numpy(self.thresholds[numbers]).float())

    def hits(self, tokens: Tensor, lengths: Sequence[int]) -> np.ndarray:
        """Hits (motifs,) in all sequences together.

        Args:
            tokens: (N, L), padded.
            lengths: (N,).
        """
        total = np.zeros(len(self.motifs), dtype=np.int64)
        inside = torch.arange(tokens.shape[1]) < torch.as_tensor(lengths)[:, None]
        for rows, valid in zip(tokens.split(64), inside.split(64), strict=True):
            x = functional.one_hot(rows, 4).float().transpose(1, 2)
            for width, (numbers, filters, thresholds) in self.groups.items():
                if width > tokens.shape[1]:
                    continue
                scores = functional.conv1d(x, filters).unflatten(1, (-1, 2))  # (N, motifs, strands, windows)
                found = (scores >= thresholds[:, None, None]) & valid[:, None, None, width - 1 :]
                total[numbers] += found.sum((0, 2, 3)).numpy()
        return total


def score_threshold(scores: np.ndarray, p_value: float) -> float:
    """Smallest integer score s with P(score >= s) <= p_value for uniform letters; inf if there is none.

    Args:
        scores: (width, 4) integers.
        p_value: In 0..1.
    """
    law, lowest = score_law(scores)
    tail = law[::-1].cumsum()[::-1]  # P(score >= lowest + i)
    allowed = np.flatnonzero((tail <= p_value) & (law > 0))
    return float(lowest + allowed[0]) if len(allowed) else math.inf


def score_law(scores: np.ndarray) -> tuple[np.ndarray, int]:
    """Exact law of the summed score of uniform letters: probabilities of lowest, lowest + 1, ..., and lowest."""
    lowest = scores.min(1).astype(int)
    shifts = scores.astype(int) - lowest[:, None]
    law = np.zeros(int(shifts.max(1).sum()) + 1)
    law[0], end = 1.0, 1
    for row in shifts:
        new = np.zeros_like(law)
        for shift in row:
            new[shift : shift + end] += law[:end] / 4
        law, end = new, end + int(row.max())
    return law, int(lowest.sum())


def load_motif(rest: str) -> Motif:
    """A motif by JASPAR identifier or unique name, or ``FILE#NAME`` of a MEME, TRANSFAC or JASPAR file.

    Raises:
        UserError: Not found, not unique, or the file cannot be read; the message says what there is.
    """
    path, _, wanted = rest.partition("#")
    if "#" in rest or Path(path).suffix.lower() in (".meme", ".txt", ".transfac", ".jaspar", ".pfm", ".xml"):
        return _choose(read_motifs(path), wanted, path)
    for collection in COLLECTIONS:
        try:
            motifs = jaspar_motifs(collection)
        except UserError:  # not on this machine
            continue
        if any(rest in (motif.identifier, motif.name) for motif in motifs):
            return _choose(motifs, rest, collection)
    return _from_pyjaspar(rest)


def _choose(motifs: Sequence[Motif], wanted: str, place: str) -> Motif:
    found = [m for m in motifs if m.identifier == wanted] or [m for m in motifs if m.name == wanted or not wanted]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{m.identifier} ({m.name})" for m in (found or motifs)[:10])
    problem = "several motifs" if found else "no motif"
    raise UserError(f"motif: {problem} '{wanted}' in {place}; there are {len(found or motifs)}: {listed}")


def jaspar_motifs(collection: str = "jaspar2024_vertebrates") -> list[Motif]:
    """All motifs of a JASPAR CORE collection (CC BY 4.0), from the data set, else from pyjaspar.

    Raises:
        UserError: Unknown collection, or neither is on this machine.
    """
    if collection not in COLLECTIONS:
        raise UserError(f"motifs: got collection '{collection}', expected one of {', '.join(COLLECTIONS)}")
    release, group = COLLECTIONS[collection]
    try:
        path = resolve(collection)
    except UserError:
        library = require("pyjaspar", "motifs")
        motifs = library.jaspardb(release=release).fetch_motifs(collection="CORE", **group)
        return [_from_biopython(motif) for motif in motifs]
    with np.load(path) as stored:
        parts = np.split(stored["counts"].astype(np.float64), stored["offsets"][1:-1])
        return [
            Motif(*entry) for entry in zip(stored["matrix_id"].tolist(), stored["name"].tolist(), parts, strict=True)
        ]


def _from_pyjaspar(identifier: str) -> Motif:
    try:
        library = require("pyjaspar", "motifs")
    except UserError as error:
        raise UserError(f"motif '{identifier}' is in none of {', '.join(COLLECTIONS)}, and {error}") from None
    with warnings.catch_warnings():  # its warning says what the error says
        warnings.simplefilter("ignore")
        found = library.jaspardb().fetch_motif_by_id(identifier)
    if found is None:
        raise UserError(f"motif: got '{identifier}', expected a JASPAR identifier such as MA0108.3, or FILE#NAME")
    return _from_biopython(found)


def _from_biopython(motif: Any) -> Motif:
    counts = np.array([motif.counts[letter] for letter in DNA.letters], dtype=np.float64).T
    entries: Any = motif if hasattr(motif, "get") else {}  # TRANSFAC motifs keep their identifiers as entries
    identifier = getattr(motif, "matrix_id", None) or entries.get("AC") or entries.get("ID") or motif.name
    name = getattr(motif, "alt_id", None) or motif.name or entries.get("ID") or identifier
    return Motif(str(identifier), str(name), counts)


def read_motifs(path: str | Path) -> list[Motif]:
    """Motifs of a MEME (minimal text or XML), TRANSFAC or JASPAR file, by its first characters.

    Raises:
        UserError: Biopython is missing, or the file is none of these.
    """
    library = require("Bio.motifs", "motifs")
    try:
        text = Path(path).read_text().lstrip()
        kinds = {"MEME": "minimal", "<": "meme", ">": "jaspar"}
        kind = next((kind for start, kind in kinds.items() if text.startswith(start)), "transfac")
        if kind == "minimal" and "Background letter" not in text:  # optional in the format, but not in Biopython
            text = text.replace("MOTIF ", f"{UNIFORM}\nMOTIF ", 1)
        found = list(library.parse(io.StringIO(text), kind, strict=False))
        motifs = [_from_biopython(motif) for motif in found]
    except Exception as error:  # whatever the parsers of Biopython raise
        raise UserError(f"motif: cannot read {path}: {type(error).__name__}: {error}") from error
    if not motifs:
        raise UserError(f"motif: got no motif in {path}, expected a MEME, TRANSFAC or JASPAR file")
    return motifs
