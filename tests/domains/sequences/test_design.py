"""The parts of a design run: equal budgets, cost, shelves, fixed positions, registered models that are built."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciflow.core.errors import UserError
from sciflow.core.noise import PerSample
from sciflow.core.row_cache import RowCache
from sciflow.domains.designing import Designs, Shelf, best_of, counted_rows, first
from sciflow.domains.sequences.alphabets import DNA
from sciflow.domains.sequences.codec import SequenceCodec
from sciflow.domains.sequences.design import any_order_plan, design_sequences, fixed_positions, prior_likelihood
from sciflow.domains.sequences.gb1 import TabularConditionals, sequence_law
from sciflow.domains.sequences.network import SequenceCNN
from sciflow.model import Model, load
from sciflow.processes.masked import Masked
from sciflow.sampling import SamplingPlan
from sciflow.solvers.any_order import AnyOrder
from tests.stats import FALSE_ALARM, Z_LIMIT, chi_square
from tests.token_toy import DENOISER, LOG_PRE


def model_of(network, letters, length):
    spec = {"name": "toy", "domain": "sequences", "sizes": {str(length): 1}}
    plan = SamplingPlan({"seq": AnyOrder()}, steps=length)
    return Model({"seq": Masked(letters)}, network, plan, SequenceCodec("dna", length), spec)


def test_best_of_keeps_the_best_of_each_group_and_nan_is_the_worst():
    rewards = np.array([1.0, np.nan, 3.0, np.nan, 5.0, 2.0])
    pool = Designs(list("abcdef"), rewards, np.arange(6), 60, 6, 6.0)
    chosen = best_of(pool, 2)  # groups a c e and b d f
    assert chosen.records == ["e", "f"] and chosen.samples.tolist() == [4, 5] and chosen.network_rows == 60
    assert (first(pool, 3).network_rows, first(pool, 3).seconds) == (30, 3.0)


def test_counted_rows_are_those_of_the_row_cache():
    """The cache answers rows before the network sees them; the counter sees what is left, as the cache says too."""
    torch.manual_seed(0)
    model = model_of(SequenceCNN(4, 8, 1), 4, 6)
    cache, plan = RowCache(clock_free=True), any_order_plan(model)
    with counted_rows(model) as rows:
        sampler = plan.sampler(model.processes, [cache])
        noise = PerSample(0, torch.arange(16))
        sampler.run(sampler.prior(model.codec.template([6] * 16), noise), model.denoiser, noise, steps=6)
    assert rows() == cache.evaluated < cache.asked == 6 * 16
    with counted_rows(model) as again:
        model.generate(torch.arange(16), 0, plan=plan)
    assert again() == rows()


def test_plain_designs_follow_the_law_of_the_model():
    """3,000 designs of the exact toy prior against its 27 probabilities; the last token is drawn, not the likeliest."""
    network = toy_network()
    model = model_of(network, 3, 3)
    result = design_sequences(model, None, 3000, batch_size=3000, likelihood=lambda state: torch.zeros(state.batch))
    found = [row["sequence"] for row in result.table]
    numbers = torch.tensor([int(one.translate(str.maketrans("ACG", "012")), 3) for one in found])
    assert chi_square(numbers.bincount(minlength=27), LOG_PRE.exp()) > FALSE_ALARM


def toy_network() -> TabularConditionals:
    """Toy A of drakes.md: exact conditionals, so that the order-averaged likelihood IS the likelihood."""
    network = TabularConditionals(3, 3)
    table = DENOISER.reshape(4, 4, 4, 3, 3)
    for i in range(3):
        index = [slice(None)] * 3
        index[i] = 3  # masked itself
        network.table.data[i] = table[tuple(index)][..., i, :].reshape(16, 3).clamp_min(1e-12).log().float()
    return network


def test_likelihood_of_exact_conditionals_is_the_likelihood():
    """Toy A: log p of all 27 sequences, and given the first token, to the accuracy of float32 tables."""
    model = model_of(toy_network(), 3, 3)
    clean = torch.cartesian_prod(*[torch.arange(3)] * 3)
    state = model.codec.template([3] * 27).put(seq=clean)
    assert torch.allclose(prior_likelihood(model)(state), LOG_PRE, atol=1e-5)
    given = prior_likelihood(model, torch.tensor([2, -1, -1]))(state.select(torch.arange(18, 27)))
    assert torch.allclose(given, LOG_PRE[18:].log_softmax(0), atol=1e-5)


@pytest.mark.parametrize("fixed", [None, torch.tensor([-1, -1, 2, -1, -1, -1, -1, -1])], ids=["all", "given"])
def test_likelihood_of_longer_sequences_is_unbiased(fixed):
    """8 positions are sampled: 24 seeds against the sum over all sets of free positions (z-test per sequence)."""
    torch.manual_seed(0)
    model = model_of(SequenceCNN(4, 8, 1), 4, 8)
    state = model.codec.to_state(["CAGTACGG", "GGGGGGGG", "CAGTACGG"])
    masks = []
    model.denoiser.network.register_forward_pre_hook(lambda network, given: masks.append(given[0].layouts["seq"].mask))
    found = torch.stack([prior_likelihood(model, fixed, seed)(state) for seed in range(24)])
    assert masks and all(mask is None for mask in masks)  # given tokens are shown, not cut off as padding
    assert torch.equal(found[:, 0], found[:, 2]) and not torch.equal(found[:, 0], found[:, 1])
    places = [i for i in range(8) if fixed is None or fixed[i] < 0]
    expected = summed(model, state, places)
    assert ((found.mean(0) - expected).abs() < Z_LIMIT * found.std(0) / 24**0.5).all()


def summed(model, state, places):
    """The definition, all sets at once: mean over sets of n places of the terms, divided by n, summed over n."""
    free = torch.tensor(places)
    bits = torch.cartesian_prod(*[torch.tensor([False, True])] * len(places))[1:]
    masks = torch.zeros(len(bits), 8, dtype=torch.bool).index_copy(1, free, bits)
    size, found = bits.sum(1), []
    for x in state["seq"]:
        shown = model.codec.template([8] * len(masks)).put(seq=torch.where(masks, 4, x))
        logits = model.denoiser.network(shown, {})["seq"].double().log_softmax(-1)
        terms = (logits.gather(-1, x.expand(len(masks), -1)[..., None])[..., 0] * masks).sum(1) / size
        found.append(sum(terms[size == n].mean() for n in range(1, len(places) + 1)))
    return torch.stack(found)


def test_fixed_positions_count_from_one():
    assert fixed_positions(DNA, "CATTAC", [1, 6]).tolist() == [1, -1, -1, -1, -1, 1]
    with pytest.raises(UserError, match="got 7, expected 1 to 6"):
        fixed_positions(DNA, "CATTAC", [7])


def test_shelf_keeps_batches_and_refuses_other_settings(tmp_path):
    shelf = Shelf(tmp_path / "parts", {"seed": 0})
    assert shelf.get("guided", 0) is None and not (tmp_path / "parts").exists()
    shelf.put("best of N", 3, {"rewards": [1.0, float("nan")]})
    again = Shelf(tmp_path / "parts", {"seed": 0})
    stored = again.get("best of N", 3)
    assert stored is not None and stored["rewards"][0] == 1.0 and np.isnan(stored["rewards"][1])
    assert again.finished() == 1
    with pytest.raises(UserError, match="unfinished run with other settings"):
        Shelf(tmp_path / "parts", {"seed": 1})
    (tmp_path / "parts" / "best_of_N-00003.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        again.get("best of N", 3)
    again.close()
    assert not (tmp_path / "parts").exists()


def test_registered_models_are_built_once(tmp_path, monkeypatch):
    """The first use calls the builder and stores its model; the second reads the file, also where the builder fails."""
    from sciflow import pretrained

    monkeypatch.setenv("SCIFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pretrained, "cards", lambda: {"toy": {"builder": "toy_builder:build"}})
    (tmp_path / "toy_builder.py").write_text(
        "import pathlib\nfrom tests.domains.sequences.test_design import model_of, SequenceCNN\n\n"
        "def build():\n    assert not pathlib.Path('built').exists()\n    pathlib.Path('built').touch()\n"
        "    return model_of(SequenceCNN(4, 8, 1), 4, 6)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    one, other = load("toy"), load("toy")
    assert (tmp_path / "built").exists() and list((tmp_path / "cache" / "models").glob("toy-*.safetensors"))
    assert one.sample(3, seed=1) == other.sample(3, seed=1)
    with pytest.raises(UserError, match="no shipped model of that name; shipped models: toy"):
        load("toys")


def test_gb1_by_name_is_the_table(data_dir, tmp_path, monkeypatch):
    """P(VDGV) of the order-averaged law is 6.610e-3 (data README); it survives the cache and the loss of the data."""
    monkeypatch.setenv("SCIFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SCIFLOW_DATA", str(data_dir))
    load("gb1-mpnn")
    monkeypatch.setenv("SCIFLOW_DATA", str(tmp_path))
    model = load("gb1-mpnn")
    wild_type = tuple(model.codec.to_state(["VDGV"])["seq"][0].tolist())
    assert sequence_law(model.denoiser.network)[wild_type].item() == pytest.approx(6.610e-3, abs=1e-6)
