"""Sequence files: FASTA, FASTQ, GenBank, EMBL (through Biopython), CSV/TSV with a sequence column, one per line, npz.

All but npz also gzipped. Reading never crashes on a bad entry: what does not fit the alphabet or the demanded length is
skipped, counted and shown in the `ReadReport`. Words ``key=value`` of a FASTA header and the columns of a table come
out as labels, and writing puts them back. Writing is atomic.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from sciflow.core.errors import UserError
from sciflow.core.files import replacing
from sciflow.domains.sequences.alphabets import ALPHABETS, DNA, Alphabet

COLUMNS = ("seq", "sequence", "sequences", "dna", "rna", "protein", "utr", "aa_seq", "variant", "x")  # preferred first
BIOPYTHON = {
    **dict.fromkeys((".fasta", ".fa", ".fna", ".faa", ".fas", ".ffn"), "fasta"),
    **dict.fromkeys((".fastq", ".fq"), "fastq"),
    **dict.fromkeys((".gb", ".gbk", ".genbank"), "genbank"),
    ".embl": "embl",
}
READABLE = (*BIOPYTHON, ".csv", ".tsv", ".txt", ".seq", ".npz")
EXAMPLES_KEPT = 5

Labels = dict[str, str]
Entry = tuple[str, str, Labels]  # (name, sequence, labels)


@dataclass
class ReadReport:
    """What happened while reading.

    Attributes:
        n_read: Sequences that came out.
        n_skipped: Entries that were left out.
        examples: Reasons for the first few of them, ``"file, name: reason"``.
    """

    n_read: int = 0
    n_skipped: int = 0
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        shown = f" (first: {'; '.join(self.examples)})" if self.examples else ""
        return f"{self.n_read} sequences read, {self.n_skipped} skipped{shown}"

    def skip(self, reason: str) -> None:
        """Count an entry that is left out."""
        self.n_skipped += 1
        if len(self.examples) < EXAMPLES_KEPT:
            self.examples.append(reason)


@dataclass(frozen=True)
class SequenceTable:
    """Sequences with their names and labels.

    Attributes:
        sequences: Strings over the alphabet, upper case.
        names: First word of the header, or the position in the file.
        labels: Per sequence, ``key=value`` of the header or the other columns, as text.
    """

    sequences: list[str]
    names: list[str]
    labels: list[Labels]

    def numbers(self) -> dict[str, np.ndarray]:
        """The labels that every sequence has and that are numbers in all of them: name -> (N,) float32."""
        found = {}
        for key in self.labels[0] if self.labels else ():
            try:
                found[key] = np.array([labels[key] for labels in self.labels], np.float32)
            except (KeyError, ValueError):
                continue
        return found


def read_sequences(
    path: str | Path, alphabet: Alphabet = DNA, length: int | None = None
) -> tuple[SequenceTable, ReadReport]:
    """All sequences of a file that fit.

    Args:
        path: A file ending in one of `READABLE`, also with .gz.
        alphabet: Letters that are expected; T and U are one letter, lower case is upper case.
        length: Leave out sequences of another length.

    Raises:
        UserError: No such file, unknown type, no sequence column, broken file, or not one sequence that fits.
    """
    path, report = Path(path), ReadReport()
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected one ending in {' '.join(READABLE)} (also .gz)")
    reader = _reader(path, alphabet)
    try:
        table = _fitting(reader, path.name, alphabet, length, report)
    except (ValueError, EOFError, OSError, KeyError, csv.Error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read as a {_ending(path)} file ({error})") from error
    if not table.sequences:
        raise UserError(
            f"{path}: got no {alphabet.name} sequence ({report}), expected at least one in {alphabet.letters} "
            f"(another of {', '.join(ALPHABETS)}? In training say --data.alphabet)"
        )
    return table, report


def _fitting(
    entries: Iterable[Entry], source: str, alphabet: Alphabet, length: int | None, report: ReadReport
) -> SequenceTable:
    table = SequenceTable([], [], [])
    for name, text, labels in entries:
        sequence = alphabet.spell(text)
        problem = None if sequence and alphabet.accepted.issuperset(sequence) else alphabet.problem(sequence)
        if problem is None and length is not None and len(sequence) != length:
            problem = f"{len(sequence)} letters, expected {length}"
        if problem is not None:
            report.skip(f"{source}, {name}: {problem}")
            continue
        report.n_read += 1
        table.sequences.append(sequence)
        table.names.append(name)
        table.labels.append(labels)
    return table


def _ending(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def _reader(path: Path, alphabet: Alphabet) -> Iterator[Entry]:
    ending = _ending(path)
    if ending in BIOPYTHON:
        return _read_biopython(path, BIOPYTHON[ending])
    if ending in (".csv", ".tsv"):
        return _read_table(path)
    if ending in (".txt", ".seq"):
        return _read_lines(path)
    if ending == ".npz":
        return _read_npz(path, alphabet)
    raise UserError(f"{path}: got file type '{ending}', expected one of {' '.join(READABLE)} (also .gz)")


def _open_text(path: Path) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline=None)
    return open(path, encoding="utf-8-sig")


def _read_biopython(path: Path, kind: str) -> Iterator[Entry]:
    from Bio import SeqIO

    with _open_text(path) as stream:
        if kind == "fasta":  # comments and blank lines before the first entry are allowed here
            lines = iter(stream)
            first = next((line for line in lines if line.startswith(">")), "")
            stream = io.StringIO(first + "".join(lines))
        for position, record in enumerate(SeqIO.parse(stream, kind)):
            words = record.description.split()
            labels = dict(word.split("=", 1) for word in words if "=" in word)
            yield record.id or str(position), str(record.seq), labels


def _read_table(path: Path) -> Iterator[Entry]:
    with _open_text(path) as stream:
        header = stream.readline()
        delimiter = max("\t;,", key=header.count)
        columns = next(csv.reader([header], delimiter=delimiter), [])
        known = {name.strip().lower(): name for name in reversed(columns)}
        column = next((known[name] for name in COLUMNS if name in known), None)
        if column is None:
            raise UserError(f"{path}: got the columns {columns}, expected one named {', '.join(COLUMNS)} (any case)")
        label = next((known[name] for name in ("name", "id", "index") if name in known), None)
        for position, row in enumerate(csv.DictReader(stream, fieldnames=columns, delimiter=delimiter)):
            labels = {key: value or "" for key, value in row.items() if key in columns and key not in (column, label)}
            yield (row[label] or "") if label else str(position), row[column] or "", labels


def _read_lines(path: Path) -> Iterator[Entry]:
    with _open_text(path) as stream:
        lines = [line.strip() for line in stream]
    for position, line in enumerate(line for line in lines if line and not line.startswith("#")):
        yield str(position), line, {}


def _read_npz(path: Path, alphabet: Alphabet) -> Iterator[Entry]:
    """`write_sequences` files: `tokens` (N, L), `lengths` (N,), and one (N,) array of text per label."""
    with np.load(path) as stored:
        if "tokens" not in stored:
            raise UserError(
                f"{path}: got the arrays {sorted(stored)}, expected tokens (N, L) and, if padded, lengths (N,)"
            )
        tokens = stored["tokens"]
        lengths = stored["lengths"] if "lengths" in stored else np.full(len(tokens), tokens.shape[1])
        texts = alphabet.decode(tokens, lengths.tolist())
        others = {key: stored[key] for key in stored if key not in ("tokens", "lengths", "names")}
        names = stored["names"] if "names" in stored else np.arange(len(tokens))
    for i, text in enumerate(texts):
        yield str(names[i]), text or "", {key: str(values[i]) for key, values in others.items()}


def write_sequences(
    path: str | Path,
    sequences: Sequence[str | None],
    headers: Sequence[str | Mapping[str, Any]] | None = None,
    alphabet: Alphabet | None = None,
) -> int:
    """Write sequences by the ending of `path`: .fasta, .fa, .csv, .tsv, .txt (each also .gz), .npz.

    Sequence i keeps its number i as its name unless its header has one; None (a sample that decoded to nothing) is left
    out.

    Args:
        path: Target.
        sequences: Strings.
        headers: Per sequence a text, or labels (FASTA: ``>name key=value``; tables: columns). The label "name" is the
            name. None: only names.
        alphabet: Of .npz files; None: the first of DNA, RNA, protein that holds all letters.

    Returns:
        Number of sequences written.

    Raises:
        UserError: Another ending, or the place cannot be written to.
    """
    path = Path(path)
    if _ending(path) not in WRITERS:
        raise UserError(f"{path}: got file type '{_ending(path)}', expected one of {' '.join(WRITERS)}")
    if headers is not None and len(headers) != len(sequences):
        raise UserError(f"got {len(headers)} headers for {len(sequences)} sequences, expected one each")
    entries: list[tuple[str, str, dict[str, Any]]] = []
    for i, sequence in enumerate(sequences):
        header = {} if headers is None else headers[i]
        labels = {"name": header} if isinstance(header, str) else dict(header)
        if sequence is not None:
            entries.append((str(labels.pop("name", i)), sequence, labels))
    content = WRITERS[_ending(path)](entries) if _ending(path) != ".npz" else _npz_bytes(entries, alphabet)
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix.lower() == ".gz" else content)
    return len(entries)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _fasta_bytes(entries: list[tuple[str, str, dict[str, Any]]]) -> bytes:
    lines = []
    for name, sequence, labels in entries:
        lines.append(" ".join([f">{name}", *(f"{key}={_text(value)}" for key, value in labels.items())]))
        lines.append(sequence)
    return "".join(f"{line}\n" for line in lines).encode()


def _table_bytes(entries: list[tuple[str, str, dict[str, Any]]], delimiter: str) -> bytes:
    columns = dict.fromkeys(["name", "sequence", *(key for *_, labels in entries for key in labels)])
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(columns), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    for name, sequence, labels in entries:
        writer.writerow({**{key: _text(value) for key, value in labels.items()}, "name": name, "sequence": sequence})
    return stream.getvalue().encode()


def _npz_bytes(entries: list[tuple[str, str, dict[str, Any]]], alphabet: Alphabet | None) -> bytes:
    texts = [sequence for _, sequence, _ in entries]
    if alphabet is None:
        letters = set("".join(texts).upper())
        alphabet = next((one for one in ALPHABETS.values() if letters <= set(one.letters)), DNA)
    tokens, lengths = alphabet.encode(texts)
    arrays: dict[str, Any] = {
        "tokens": tokens.numpy().astype(np.uint8),
        "lengths": np.array(lengths),
        "names": np.array([name for name, *_ in entries]),
    }
    for key in dict.fromkeys(key for *_, labels in entries for key in labels):
        arrays[key] = np.array([_text(labels.get(key, "")) for *_, labels in entries])
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


WRITERS: dict[str, Callable[..., bytes]] = {
    ".fasta": _fasta_bytes,
    ".fa": _fasta_bytes,
    ".csv": lambda entries: _table_bytes(entries, ","),
    ".tsv": lambda entries: _table_bytes(entries, "\t"),
    ".txt": lambda entries: "".join(f"{sequence}\n" for _, sequence, _ in entries).encode(),
    ".npz": _npz_bytes,
}
