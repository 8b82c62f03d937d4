"""Sequence files: read, counted skips, errors, and what comes back after writing (Biopython as the second reader)."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from sciflow.core.errors import UserError
from sciflow.domains.sequences.alphabets import DNA, PROTEIN, RNA
from sciflow.domains.sequences.files import READABLE, WRITERS, read_sequences, write_sequences

FASTA = """>one chrom=chr2L reward=1.5 first promoter
ACGT
acg

>two chrom=chrX reward=-2
TTTT
>three chrom=chrX reward=0
ACGNN
>four
"""


def test_fasta_with_labels_and_counted_skips(tmp_path):
    path = tmp_path / "a.fasta"
    path.write_text("; a comment\n\n" + FASTA)
    table, report = read_sequences(path)
    assert table.sequences == ["ACGTACG", "TTTT"] and table.names == ["one", "two"]
    assert table.labels == [{"chrom": "chr2L", "reward": "1.5"}, {"chrom": "chrX", "reward": "-2"}]
    assert {name: values.tolist() for name, values in table.numbers().items()} == {"reward": [1.5, -2]}
    assert (report.n_read, report.n_skipped) == (2, 2)
    assert report.examples[0].startswith("a.fasta, three: 'N' at position 4 is no dna letter (2 foreign")
    assert report.examples[1] == "a.fasta, four: empty sequence"
    assert str(report).startswith("2 sequences read, 2 skipped (first: a.fasta, three")


def test_one_length_skips_the_others(tmp_path):
    path = tmp_path / "a.fa.gz"
    with gzip.open(path, "wt") as stream:
        stream.write(FASTA)
    table, report = read_sequences(path, DNA, length=4)
    assert table.sequences == ["TTTT"] and report.n_skipped == 3
    assert "one: 7 letters, expected 4" in report.examples[0]


def test_rna_files_with_t_and_proteins(tmp_path):
    path = tmp_path / "a.fasta"
    path.write_text(">r\nACGT\n>s\nacgu\n")
    assert read_sequences(path, RNA)[0].sequences == ["ACGU", "ACGU"]
    assert read_sequences(path, DNA)[0].sequences == ["ACGT", "ACGT"]
    table, report = read_sequences(path, PROTEIN)
    assert table.sequences == ["ACGT"] and report.n_skipped == 1  # u is no amino acid here


def test_windows_file_with_byte_order_mark(tmp_path):
    path = tmp_path / "a.fasta"
    path.write_bytes(b"\xef\xbb\xbf" + FASTA.replace("\n", "\r\n").encode())
    assert read_sequences(path)[0].sequences == ["ACGTACG", "TTTT"]


@pytest.mark.parametrize(
    ("name", "text", "sequences", "labels"),
    [
        ("a.csv", "id,Sequence,y\np,ACGT,1\nq,TT,\n", ["ACGT", "TT"], [{"y": "1"}, {"y": ""}]),
        ("a.tsv", "seq\ty\nACGT\t1\n", ["ACGT"], [{"y": "1"}]),
        ("semicolons.csv", "y;utr\n1;ACGT\n", ["ACGT"], [{"y": "1"}]),
        ("mavenn.csv", "set,y,x\ntest,0.5,ACGU\n", ["ACGT"], [{"set": "test", "y": "0.5"}]),
        ("a.txt", "# comment\nACGT\n\n tt \n", ["ACGT", "TT"], [{}, {}]),
        ("a.fastq", "@r\nACGT\n+\nIIII\n", ["ACGT"], [{}]),
    ],
)
def test_other_formats(tmp_path, name, text, sequences, labels):
    (tmp_path / name).write_text(text)
    table, _ = read_sequences(tmp_path / name)
    assert table.sequences == sequences and table.labels == labels


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.fasta", None, "no such file"),
        ("empty.fasta", b"", r"got no dna sequence \(0 sequences read, 0 skipped\)"),
        (
            "empty.fasta",
            b">a\nNNNN\n",
            r"got no dna sequence \(0 sequences read, 1 skipped \(first: empty.fasta, a: 'N'",
        ),
        ("a.pdb", b"ATOM", "got file type '.pdb', expected one of .fasta"),
        ("a.csv", b"name,value\na,1\n", r"got the columns \['name', 'value'\], expected one named seq, sequence"),
        ("a.fasta.gz", b"this is no gzip file", "cannot be read as a .fasta file"),
        ("a.fasta.gz", gzip.compress(b">a\nACGT\n" * 500)[:-20], "cannot be read as a .fasta file"),
        ("a.fasta", b">a\n\xff\xfe\xff\n", "cannot be read as a .fasta file"),
        ("a.fastq", b"@r\nACGT\n+\nII\n", "cannot be read as a .fastq file"),
        ("a.npz", b"no zip", "cannot be read as a .npz file"),
    ],
)
def test_refusals(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=expected):
        read_sequences(tmp_path / name)


def test_npz_without_tokens(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(UserError, match=r"got the arrays \['x'\], expected tokens"):
        read_sequences(tmp_path / "a.npz")


SEQUENCES = ["ACGT", "TTG", "ACG"]
HEADERS = [{"reward": 0.5, "heldout": -1.25e-7, "loglik": -3}, {"name": "mine", "reward": 2.0}, {"reward": 1.0}]


@pytest.mark.parametrize("ending", [*WRITERS, ".fasta.gz", ".csv.gz"])
def test_round_trip(tmp_path, ending):
    path = tmp_path / f"out{ending}"
    assert write_sequences(path, SEQUENCES, HEADERS) == 3
    table, report = read_sequences(path)
    assert table.sequences == SEQUENCES and report.n_skipped == 0
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing else is left
    if ending != ".txt":
        assert table.names == ["0", "mine", "2"]
        assert table.numbers()["reward"].tolist() == [0.5, 2, 1]
        assert [labels.get("heldout") or "" for labels in table.labels] == ["-1.25e-07", "", ""]


def test_written_fasta_is_read_by_biopython(tmp_path):
    from Bio import SeqIO

    write_sequences(tmp_path / "a.fasta", [*SEQUENCES, None], [*HEADERS, "last"])
    records = list(SeqIO.parse(tmp_path / "a.fasta", "fasta"))
    assert [str(record.seq) for record in records] == SEQUENCES
    assert records[0].description == "0 reward=0.5 heldout=-1.25e-07 loglik=-3"
    assert records[1].description == "mine reward=2"


def test_text_headers_and_empty_samples(tmp_path):
    path = tmp_path / "a.fa"
    assert write_sequences(path, ["AC", None, "GT"], ["first one", "second", "third"]) == 2
    assert path.read_text() == ">first one\nAC\n>third\nGT\n"
    assert write_sequences(path, ["AC", None, "GT"]) == 2
    assert path.read_text() == ">0\nAC\n>2\nGT\n"  # numbers of samples stay


def test_writer_refuses(tmp_path):
    with pytest.raises(UserError, match=r"got file type '.doc', expected one of .fasta"):
        write_sequences(tmp_path / "a.doc", ["AC"])
    with pytest.raises(UserError, match="got 1 headers for 2 sequences"):
        write_sequences(tmp_path / "a.fasta", ["AC", "GT"], ["x"])
    (tmp_path / "folder").write_text("a file, not a folder")
    with pytest.raises(UserError, match="cannot be written"):
        write_sequences(tmp_path / "folder" / "a.fasta", ["AC"])
    assert not set(WRITERS) - set(READABLE)
