"""Alphabets and the codec of sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciflow.core.config import from_config, to_config
from sciflow.core.errors import UserError
from sciflow.core.state import State
from sciflow.domains.sequences.alphabets import ALPHABETS, DNA, PROTEIN, RNA, alphabet_of
from sciflow.domains.sequences.codec import SequenceCodec


def test_letters_and_their_order():
    assert (DNA.letters, RNA.letters, PROTEIN.letters) == ("ACGT", "ACGU", "ACDEFGHIKLMNPQRSTVWY")
    assert [len(one) for one in ALPHABETS.values()] == [4, 4, 20]
    assert DNA.encode(["ACGT"])[0].tolist() == [[0, 1, 2, 3]]
    assert PROTEIN.encode(["ACDY"])[0].tolist() == [[0, 1, 2, 19]]


@pytest.mark.parametrize(("alphabet", "text"), [(DNA, "acguUT"), (RNA, "acgtTU")])
def test_nucleotides_read_t_and_u_and_lower_case(alphabet, text):
    assert alphabet.encode([text])[0].tolist() == [[0, 1, 2, 3, 3, 3]]
    assert alphabet.spell(f" {text}\n") == "ACG" + 3 * alphabet.letters[3]


def test_protein_keeps_t_and_has_no_u():
    assert PROTEIN.spell("tu") == "TU"
    assert (
        PROTEIN.problem("AUT")
        == f"'U' at position 2 is no protein letter (1 foreign letter(s); expected {PROTEIN.letters})"
    )


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [
        (["ACGT", "ACNTN"], r"sequence 1 \(counted from 0\): 'N' at position 3 is no dna letter \(2 foreign"),
        (["AC\u0410T"], "'\u0410' at position 3"),  # a Cyrillic A
        (["A-C"], "'-' at position 2"),
        (["A", ""], "sequence 1 .* empty sequence"),
        ([], "got no sequence"),
    ],
)
def test_letters_outside_are_named_with_their_position(sequences, expected):
    with pytest.raises(UserError, match=expected):
        DNA.encode(sequences)


def test_padded_round_trip():
    sequences = ["ACGTT", "G", "TTA"]
    tokens, lengths = DNA.encode(sequences)
    assert tokens.dtype == torch.int64 and tokens.shape == (3, 5) and lengths == [5, 1, 3]
    assert tokens[1].tolist() == [2, 0, 0, 0, 0]  # padding is token 0
    assert DNA.decode(tokens, lengths) == sequences
    assert DNA.decode(tokens) == ["ACGTT", "GAAAA", "TTAAA"]


def test_what_is_no_letter_decodes_to_nothing():
    rows = np.array([[0, 1, 4], [0, 1, 2], [0, -1, 2], [0, 1, 99]])
    assert DNA.decode(rows) == [None, "ACG", None, None]
    assert DNA.decode(rows, [2, 3, 1, 3]) == ["AC", "ACG", "A", None]  # behind the end anything may stand


def test_unknown_alphabet():
    with pytest.raises(UserError, match="got 'xna', expected one of dna, rna, protein"):
        alphabet_of("xna")


def test_state_of_equal_lengths_has_no_mask():
    state = SequenceCodec("rna").to_state(["ACGU", "UUUU"])
    layout = state.layouts["seq"]
    assert list(state.fields) == ["seq"] and state["seq"].tolist() == [[0, 1, 2, 3], [3, 3, 3, 3]]
    assert layout.mask is None and layout.sizes == (4, 4) and layout.batch == 2


def test_state_of_ragged_lengths_is_masked():
    codec = SequenceCodec("dna")
    state = codec.to_state(["AC", "GGTT"])
    assert state.layouts["seq"].mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert state.layouts["seq"].sizes == (2, 4)
    assert codec.to_objects(state) == ["AC", "GGTT"]
    alone = codec.to_objects(state.select([0]))
    assert alone == ["AC"]
    relaxed = State({"seq": torch.nn.functional.one_hot(state["seq"], 5).float()}, state.layouts)
    assert codec.to_objects(relaxed) == ["AC", "GGTT"]


def test_masks_decode_to_nothing():
    codec = SequenceCodec("dna")
    state = codec.to_state(["AC", "GT"])
    state = state.put(seq=torch.tensor([[0, 4], [2, 3]]))
    assert codec.to_objects(state) == [None, "GT"]


def test_template_has_the_layout_of_data():
    codec = SequenceCodec("protein")
    template, data = codec.template([3, 1]), codec.to_state(["ACD", "Y"])
    assert template["seq"].shape == data["seq"].shape and template["seq"].dtype == data["seq"].dtype
    assert torch.equal(template.layouts["seq"].mask, data.layouts["seq"].mask)
    assert template.layouts["seq"].sizes == data.layouts["seq"].sizes


def test_one_length_is_demanded():
    codec = SequenceCodec("dna", 4)
    assert codec.to_state(["ACGT"])["seq"].shape == (1, 4)
    with pytest.raises(UserError, match="length 3, expected 4"):
        codec.to_state(["ACGT", "ACG"])
    with pytest.raises(UserError, match="length 5, expected 4"):
        codec.template([4, 5])
    with pytest.raises(UserError, match="expected at least one length"):
        codec.template([])
    with pytest.raises(UserError, match="length: got 0"):
        SequenceCodec("dna", 0)


def test_checkpoint_rebuilds_the_codec():
    codec = from_config(to_config(SequenceCodec("protein", 7)))
    assert (codec.alphabet, codec.length) == (PROTEIN, 7)
