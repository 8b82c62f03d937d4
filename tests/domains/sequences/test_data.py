"""Sequence sets: content against facts of their sources, splits, downloads by checksum."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from sciflow import data as registry
from sciflow.core.errors import UserError
from sciflow.data.sequences import FULL_SCALE, SEQUENCE_CARDS
from sciflow.domains.sequences.data import LOADERS, sequence_dataset

SHIPPED = registry.shipped_root() / "fly_promoters" / "fly_promoters.fasta.gz"


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine with the shipped sets only."""
    monkeypatch.delenv("SCIFLOW_DATA", raising=False)
    monkeypatch.setenv("SCIFLOW_CACHE", str(tmp_path / "cache"))


def test_shipped_promoters(bare):
    data = sequence_dataset("fly_promoters")
    assert data.tokens.shape == (17223, 200) and data.tokens.dtype == np.uint8 and data.alphabet.name == "dna"
    assert len({row.tobytes() for row in data.tokens}) == 17223
    assert (data.meta["train"], data.meta["val"], data.meta["test"]) == (13686, 1833, 1704)
    assert set(data.part("train").families) & {"chr2R", "chr4"} == set()
    assert set(data.part("val").families) == {"chr2R", "chr4"} and set(data.part("test").families) == {"chr2R"}
    assert data.part("val").select(data.part("val").families == "chr2R").labels["start"].max() < 1.2e7
    assert "Artistic" in data.meta["licence"]


def test_shipped_promoters_are_those_of_the_data_folder(bare, data_dir):
    shipped, packed = (LOADERS["fly_promoters"](path) for path in (SHIPPED, data_dir / "sequences/dm3_promoter200.npz"))
    assert np.array_equal(shipped.tokens, packed.tokens)
    assert np.array_equal(shipped.split, packed.split) and np.array_equal(shipped.families, packed.families)
    assert all(np.array_equal(shipped.labels[name], packed.labels[name]) for name in ("start", "strand"))


def test_shipped_file_has_the_checksum_of_its_readme():
    assert hashlib.sha256(SHIPPED.read_bytes()).hexdigest() in (SHIPPED.parent / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "shape", "alphabet", "first"),
    [
        ("epd_human", (2929, 300), "dna", "CTCCACTTTTTCTCACGTTT"),
        ("epd_mouse", (3086, 300), "dna", "AAAAAGAAAAATGCTTTTCA"),
        ("utr5_mrl", (3002, 50), "rna", "CCCACCCCGGGCUCUCUCCU"),
        ("aav2_singles", (13946, 735), "protein", "MCADGYLPDWLEDTLSEGIR"),
        ("tfbind8_crx", (65536, 8), "dna", "AAAAAAAA"),
        ("mpsa", (30483, 9), "rna", "GGAGUGAUG"),
        ("gb1_stability", (813, 55), "protein", "AYKLILNGKTLKGETTTEAV"),
    ],
)
def test_named_sets(data_dir, name, shape, alphabet, first):
    data = sequence_dataset(name)
    assert data.tokens.shape == shape and data.alphabet.name == alphabet
    assert data.strings()[0][:20] == first
    assert (data.lengths == shape[1]).all() and data.tokens.max() < len(data.alphabet)
    parts = [data.part(part) for part in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(data) and all(map(len, parts))
    assert all(len(values) == len(data) and values.dtype == np.float32 for values in data.labels.values())
    if data.families is not None:
        families = [set(part.families.tolist()) for part in parts]
        assert not families[0] & families[1] and not families[0] & families[2] and not families[1] & families[2]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("sortseq", (50518, 75)), ("gb1_4site", (149361, 4))])
def test_large_tables(data_dir, name, shape):
    data = sequence_dataset(name)
    assert data.tokens.shape == shape and data.meta["skipped"] == 0
    if name == "gb1_4site":
        best = int(data.labels["fitness"].argmax())
        assert data.strings()[best] == "FWAA" and data.labels["fitness"][best] == pytest.approx(8.762, abs=1e-3)


def test_tata_boxes_stand_where_they_should(data_dir):
    """TATA promoters have TATA 25 to 35 bases before the start (index 249) far more often than elsewhere."""
    for name in ("epd_human", "epd_mouse"):
        found = [text.find("TATAA", 210) for text in sequence_dataset(name).strings()]
        near, elsewhere = (sum(low <= place < low + 16 for place in found) for low in (212, 260))
        assert near > 10 * elsewhere


def test_binding_table_is_complete_and_symmetric(data_dir):
    data = sequence_dataset("tfbind8_six6")
    code = (data.tokens.astype(int) * 4 ** np.arange(7, -1, -1)).sum(1)
    assert sorted(code) == list(range(4**8))
    score = np.empty(4**8, np.float32)
    score[code] = data.labels["e_score"]
    opposite = ((3 - data.tokens[:, ::-1].astype(int)) * 4 ** np.arange(7, -1, -1)).sum(1)
    assert np.array_equal(score[opposite], score[code])


def test_binding_table_in_the_form_of_the_wheel(data_dir, tmp_path):
    path = tmp_path / "X_8mers.txt"
    head = "8-mer\t8-mer\tE-score\tMedian\tZ-score\n"
    path.write_text(head + "AAAAAAAA\tTTTTTTTT\t0.03\t75038.19\t0.9096\nAAAATTTT\tAAAATTTT\t0.1\t1\t2\n")
    data = LOADERS["tfbind8_six6"](path)
    assert data.strings() == ["AAAAAAAA", "TTTTTTTT", "AAAATTTT"]  # a palindrome once
    assert data.labels["e_score"].tolist() == pytest.approx([0.03, 0.03, 0.1])
    assert data.labels["z_score"].tolist() == pytest.approx([0.9096, 0.9096, 2])


def test_ribosome_load_of_one_family(data_dir):
    data = sequence_dataset("utr5_mrl")
    assert len(set(data.families.tolist())) == 945 and data.labels["is_reference"].sum() == 867
    same = data.tokens[data.families == 239]
    assert (same != same[0]).sum(1).max() <= 3  # single-nucleotide variants of one fragment


def test_substitutions_differ_from_the_wild_type_in_one_site(data_dir):
    data = sequence_dataset("aav2_singles")
    wild_type = np.array([np.bincount(column).argmax() for column in data.tokens.T])
    assert ((data.tokens != wild_type).sum(1) == 1).all()
    assert np.array_equal((data.tokens != wild_type).argmax(1), data.families)


def test_own_file_is_split_by_sequence_or_by_family(tmp_path):
    path = tmp_path / "own.fasta"
    sequences = ["".join("ACGT"[i // 4**k % 4] for k in range(4)) for i in range(100)] * 2
    path.write_text("".join(f">{i} cluster={i % 10} y={i}\n{text}\n" for i, text in enumerate(sequences)) + ">bad\nN\n")
    data = sequence_dataset(path, validation=0.1, test=0.2, seed=5)
    parts = [set(data.part(part).strings()) for part in ("train", "val", "test")]
    assert [len(part) for part in parts] == [70, 10, 20] and not parts[0] & parts[2]
    assert (data.meta["read"], data.meta["skipped"], data.meta["train"]) == (200, 1, 140)
    assert data.labels["y"][:3].tolist() == [0, 1, 2] and list(data.labels) == ["cluster", "y"]
    again = sequence_dataset(path, validation=0.1, test=0.2, seed=5)
    assert np.array_equal(again.split, data.split)
    assert not np.array_equal(sequence_dataset(path, validation=0.1, test=0.2, seed=6).split, data.split)
    grouped = sequence_dataset(path, validation=0.1, test=0.2, families="cluster")
    assert [len(set(grouped.part(part).families)) for part in ("train", "val", "test")] == [7, 1, 2]
    with pytest.raises(UserError, match="200 of 200 sequences have no label 'chrom'"):
        sequence_dataset(path, families="chrom")


def test_strings_and_lengths():
    data = sequence_dataset(["ACGT", "AC", "GGTT", "TTTT"], test=0, validation=0)
    assert data.lengths.tolist() == [4, 2, 4, 4] and data.meta["train"] == 4 and data.strings()[1] == "AC"
    assert sequence_dataset(["ACGT", "AC", "GG"], length=2, test=0).tokens.shape == (2, 2)
    with pytest.raises(UserError, match="got sequences of 2 to 4 letters, expected 3"):
        sequence_dataset(["ACGT", "AC"], length=3)


@pytest.mark.parametrize(
    ("source", "options", "expected"),
    [
        ("gosai_mpra", {}, r"has no reader of its own.*github.com/ChenyuWang-Monica/DRAKES.*use 'fly_promoters'"),
        ("gb1_doubles", {}, "run: sciflow data get gb1_doubles"),
        ("nothing.fasta", {}, "no file at nothing.fasta"),
        (["AC", "GT"], {"validation": 0.7, "test": 0.4}, "sum below 1"),
        (["AC", "GT"], {"alphabet": "xna"}, "got 'xna'"),
        (["AC", "NT"], {}, "'N' at position 1"),
    ],
)
def test_refusals(bare, source, options, expected):
    with pytest.raises(UserError, match=expected):
        sequence_dataset(source, **options)


def test_cards_are_complete():
    for card in SEQUENCE_CARDS:
        assert card.title and card.source and card.licence and card.name in registry.DATASETS
        assert card.sha256 or card.carrier or card in FULL_SCALE  # only the open web has unknown checksums
    assert set(LOADERS) <= set(registry.DATASETS)
    for card in FULL_SCALE:
        assert card.sha256 is None and card.page and card.substitute in registry.DATASETS


def test_download_by_address_and_checksum(tmp_path):
    (tmp_path / "source.fasta").write_text(">a\nACGT\n")
    url, target = (tmp_path / "source.fasta").as_uri(), tmp_path / "cache" / "source.fasta"
    digest = hashlib.sha256(b">a\nACGT\n").hexdigest()
    with pytest.raises(UserError, match=f"sha256 {digest}, expected 0000"):
        registry.fetch(url, "0" * 64, target)
    assert not list(target.parent.iterdir())  # nothing of a wrong file stays
    registry.fetch(url, digest.upper(), target)
    assert target.read_text() == ">a\nACGT\n"
    with pytest.raises(UserError, match="download failed"):
        registry.fetch((tmp_path / "missing").as_uri(), digest, target)


def test_set_of_the_open_web_asks_for_a_checksum(bare, tmp_path, monkeypatch):
    (tmp_path / "big.txt").write_text("ACGT\n")
    url, digest = (tmp_path / "big.txt").as_uri(), hashlib.sha256(b"ACGT\n").hexdigest()
    card = registry.DataSet("big", "t", "s", "l", None, None, None, url=url, page="https://x", substitute="epd_human")
    monkeypatch.setitem(registry.DATASETS, "big", card)
    with pytest.raises(UserError, match=r"sciflow data get big --sha256 HEX.*without it use 'epd_human'"):
        registry.resolve("big")
    with pytest.raises(UserError, match="its checksum is not known to us; pass --sha256 HEX after checking https://x"):
        registry.get("big")
    with pytest.raises(UserError, match="nothing kept; without it use 'epd_human'"):
        registry.get("big", "0" * 64)
    assert registry.get("big", digest).read_text() == "ACGT\n" and registry.resolve("big") == registry.get("big")
