"""Folding rewards: golden energies of ViennaRNA, the ensemble defect by base-pair probabilities, bad structures."""

from __future__ import annotations

import numpy as np
import pytest

from sciflow.core.errors import UserError
from sciflow.domains.sequences.folding import check_structure
from sciflow.domains.sequences.rewards import load_reward

TRNA = "GCGGAUUUAGCUCAGUUGGGAGAGCGCCAGACUGAAGAUCUGGAGGUCCUGUGUUCGAUCCACAGAAUUCGCACCA"  # yeast tRNA-Phe
HAIRPIN, FOLD = "GGGGAAAACCCC", "((((....))))"


@pytest.fixture
def rna():
    return pytest.importorskip("RNA", reason="ViennaRNA is not installed: pip install 'sciflow[rna]'")


@pytest.mark.golden  # ViennaRNA 2.7.2, shared/data/sequences/README.md
def test_yeast_trna(rna):
    assert load_reward("fold:mfe", "rna")([TRNA]) == pytest.approx([22.40], abs=5e-3)
    assert load_reward("fold:ensemble", "rna")([TRNA]) == pytest.approx([24.13], abs=5e-3)
    assert load_reward("fold:mfe", "dna")([TRNA.replace("U", "T")]) == pytest.approx([22.40], abs=5e-3)


def test_target_is_one_minus_the_defect_by_pair_probabilities(rna):
    reward = load_reward(f"fold:target={FOLD}", "rna")
    sequences = [HAIRPIN, "GCGCAAAAGCGC", "AAAAAAAAAAAA"]
    expected = []
    for sequence in sequences:
        compound = rna.fold_compound(sequence)
        compound.pf()
        pairs = np.array(compound.bpp())[1:, 1:]
        pairs = pairs + pairs.T
        partner = {0: 11, 1: 10, 2: 9, 3: 8} | {11: 0, 10: 1, 9: 2, 8: 3}
        right = [pairs[i, partner[i]] if i in partner else 1 - pairs[i].sum() for i in range(12)]
        expected.append(np.mean(right))
    assert reward(sequences) == pytest.approx(expected, abs=1e-4)
    assert expected[0] > 0.9 > expected[2]
    assert not reward.differentiable and reward.length == 12
    with pytest.raises(UserError, match="length 4, expected 12"):
        reward(["ACGU"])


def test_structures():
    check_structure("((..))..()")
    for broken in ("((.)", ")(", "((x))", "(]"):
        with pytest.raises(UserError, match="expected balanced brackets"):
            check_structure(broken)


def test_without_the_library(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "RNA", None)
    with pytest.raises(UserError, match=r"pip install 'sciflow\[rna\]'"):
        load_reward("fold:mfe", "rna")
