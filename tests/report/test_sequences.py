"""The report of a sequence design says in words what its figures say, and draws what it was given."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from sciflow.domains.designing import Designs
from sciflow.domains.sequences.alphabets import DNA
from sciflow.domains.sequences.design import Scored, SequenceDesigns, design_table, summarise
from sciflow.report.sequences import letter_frequencies, logo, remarks, scatter, sequence_sections, sequence_table

SVG = "{http://www.w3.org/2000/svg}"
BASES = "ACGT"


def scored(rewards, heldout=None, distinct=16, loglik=-4.0, rows=100):
    """16 designs of four letters, `distinct` of them different."""
    records = ["".join(BASES[(i % distinct) // 4**k % 4] for k in range(4)) for i in range(16)]
    designs = Designs(records, np.asarray(rewards, float), np.arange(16), rows, 16, 1.0)
    return Scored(designs, None if heldout is None else np.asarray(heldout, float), np.full(16, loglik))


def result(chosen, prior, best, not_finite=0):
    methods = {"svdd": chosen, "unguided": prior, "best_of_4": best}
    floor = -1000.0 if not_finite else None
    summary = {name: summarise(one, DNA, floor, ["ACGT", "CCCC"], None, None) for name, one in methods.items()}
    return SequenceDesigns("svdd", methods, design_table(chosen), summary, DNA, not_finite)


SPREAD = np.linspace(-0.1, 0.1, 16)


def test_reward_hacking_is_said_in_words():
    """Reward 2 against 1, held-out 0.2 against 0.5: said against both; standard error of the difference as computed."""
    found = remarks(
        result(scored(2 + SPREAD, 0.2 + SPREAD), scored(SPREAD, 0.5 + SPREAD), scored(1 + SPREAD, 0.5 + SPREAD))
    )
    assert len(found) == 2
    error = SPREAD.std(ddof=1) / 4 * 2**0.5
    assert found[0].startswith(
        "Reward hacking: against unguided the reward rises by 2 while the held-out reward falls by"
    )
    assert f"by 0.3 (standard error {error:.2g})" in found[0] and "chance" not in found[0]
    assert "against best of 4 the reward rises by 1 " in found[1]


def test_a_fall_within_the_noise_is_called_so():
    noisy = np.linspace(-3, 3, 16)
    found = remarks(result(scored(2 + SPREAD, noisy - 0.1), scored(SPREAD, noisy), scored(SPREAD, noisy)))
    assert all("may be chance" in remark for remark in found) and len(found) == 2


def test_a_heldout_reward_that_rises_too_is_said():
    found = remarks(result(scored(2 + SPREAD, 1 + SPREAD), scored(SPREAD, SPREAD), scored(1 + SPREAD, 0.5 + SPREAD)))
    assert len(found) == 2 and all("and the held-out reward with it" in remark for remark in found)
    assert "rises by 2 and" in found[0] and "with it, by 0.5 " in found[1]


def test_collapse_missing_judge_random_letters_and_nan():
    """4 of 16 distinct; uniform letters have -4 log 4 = -5.5 nats; two designs without a reward."""
    rewards = 2 + SPREAD
    rewards[:2] = -1000.0
    values = result(scored(rewards, distinct=4, loglik=-9.0), scored(SPREAD), scored(SPREAD), not_finite=7)
    words = " ".join(remarks(values))
    assert "NaN or infinite for 7 of the sequences" in words
    assert "No held-out reward was given: the judge is the reward itself" in words
    assert "Only 25 % of the designs are distinct (plain samples: 100 %): the designs have collapsed" in words
    assert "less likely (-9.0 nats) than random letters (-5.5)" in words
    assert values.summary["svdd"]["without_reward"] == 2
    assert values.summary["svdd"]["reward_mean"] == pytest.approx(rewards[2:].mean())
    assert "reward was NaN or infinite, not in the means" in sequence_table(values).text()


def test_best_of_n_that_wins_is_named():
    found = remarks(result(scored(SPREAD, SPREAD), scored(SPREAD - 1, SPREAD), scored(1 + SPREAD, SPREAD)))
    assert len(found) == 1 and "best of 4 reaches a mean reward higher by 1 " in found[0]


def test_figures_of_a_method():
    """Hand-made: quantiles, share of distinct designs, Hamming distance, uniform log-likelihood, cost per design."""
    one = summarise(scored(np.arange(16.0), distinct=2, rows=32), DNA, None, [], None, None)
    assert (one["reward_median"], one["reward_q10"], one["reward_q90"]) == (7.5, 1.5, 13.5)
    assert one["unique"] == 2 / 16 and one["network_rows_per_design"] == 2
    assert one["hamming"] == pytest.approx(0.25 * 8 * 8 * 2 / (16 * 15))  # AAAA and CAAA: one position of four
    assert one["loglik_uniform"] == pytest.approx(-4 * np.log(4)) and one["kmer3_correlation"] is None


def test_logo_stacks_are_information():
    """Position 1 is always A: a full stack of 2 bit; position 2 is even over four letters: nothing is drawn there."""
    sequences = ["AA", "AC", "AG", "AT"]
    letters, shares = letter_frequencies(sequences)
    assert letters == list("ACGT") and shares.tolist() == [[1, 0, 0, 0], [0.25] * 4]
    root = ElementTree.fromstring(logo(sequences, "dna", height=100))
    drawn = list(root.iter(f"{SVG}text"))
    assert [text.text for text in drawn] == ["A"]
    assert "scale(2.80 10.000)" in drawn[0].get("transform")


def test_scatter_places_points_and_leaves_out_nan():
    root = ElementTree.fromstring(scatter({"a": ([0, 5, 10, np.nan], [0, 50, 100, 1])}, "x", "y", (400, 300)))
    points = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(f"{SVG}circle") if c.get("r") == "2.2"]
    assert len(points) == 3
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert "no data" in scatter({"a": ([np.nan], [1])}, "x", "y")


def test_sections_hold_everything():
    values = result(scored(2 + SPREAD, 0.2 + SPREAD), scored(SPREAD, SPREAD), scored(SPREAD, SPREAD))
    sections = sequence_sections(values, "activity", "replicate")
    text = "".join(section.html() for section in sections)
    assert text.count("<svg") == 3 + 3  # two histograms and a scatter, three logos
    assert "held out: replicate" in text and "design_0001" in text and "Reward hacking" not in sections[1].text
