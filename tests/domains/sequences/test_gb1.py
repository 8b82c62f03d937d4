"""The tabular problem: golden values of the data README, and a small random table against enumeration by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from sciflow.core.errors import UserError
from sciflow.core.state import Layout, State
from sciflow.domains.sequences.alphabets import PROTEIN
from sciflow.domains.sequences.gb1 import (
    WILD_TYPE,
    TabularConditionals,
    read_table,
    rebuild_table,
    sequence_law,
    soft_values,
)
from sciflow.domains.sequences.mpnn import ProteinMPNN
from sciflow.domains.sequences.structure import Backbone, BackboneCodec

# alpha: (alpha log Z, E* r, KL(p* || p)) of the data README, reward log max(fitness, 0.01), unmeasured = log 0.01
GOLDEN = {
    2.0: (-0.635453, -0.341732, 0.146860),
    1.0: (-0.388470, 0.034128, 0.422598),
    0.5: (-0.046209, 0.514046, 1.120511),
    0.25: (0.364070, 0.966919, 2.411394),
}


def conditionals(network: TabularConditionals, x: torch.Tensor) -> torch.Tensor:
    return network(State({"seq": x}, {"seq": Layout(len(x))}), {})["seq"].log_softmax(-1)


@pytest.fixture(scope="module")
def gb1(data_dir: Path) -> TabularConditionals:
    network = TabularConditionals()
    network.table.data = read_table(data_dir / "sequences" / "gb1_mpnn_denoiser.npz")
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def reward(data_dir: Path) -> torch.Tensor:
    with np.load(data_dir / "sequences" / "gb1_landscapes.npz") as stored:
        fitness = torch.from_numpy(stored["fitness4"]).double()
    return fitness.nan_to_num(0.0).clamp_min(0.01).log()


def test_law_has_the_golden_values(gb1: TabularConditionals, reward: torch.Tensor):
    law = sequence_law(gb1)
    wild = law[tuple(PROTEIN.letters.index(letter) for letter in WILD_TYPE)]
    assert float(law.sum()) == pytest.approx(1, abs=1e-12)
    assert float(torch.special.entr(law).sum()) == pytest.approx(5.688583, abs=2e-6)
    assert float(wild) == pytest.approx(6.610e-3, abs=5e-7)
    assert int((law > wild).sum()) + 1 == 33
    assert float((law * reward).sum()) == pytest.approx(-1.012471, abs=2e-6)


@pytest.mark.parametrize("alpha", GOLDEN)
def test_optimum_has_the_golden_values_by_two_routes(gb1: TabularConditionals, reward: torch.Tensor, alpha: float):
    law, golden = sequence_law(gb1), GOLDEN[alpha]
    tilted = (law.log() + reward / alpha).flatten().softmax(0).reshape(law.shape)
    assert float(soft_values(gb1, reward, alpha)[20, 20, 20, 20]) == pytest.approx(golden[0], abs=2e-6)  # backward
    assert float(alpha * (law * (reward / alpha).exp()).sum().log()) == pytest.approx(golden[0], abs=2e-6)  # forward
    assert float((tilted * reward).sum()) == pytest.approx(golden[1], abs=2e-6)
    assert float((tilted * (tilted / law).log()).sum()) == pytest.approx(golden[2], abs=2e-6)


def test_order_averaged_bound_of_the_wild_type(gb1: TabularConditionals):
    wild = torch.tensor([PROTEIN.letters.index(letter) for letter in WILD_TYPE])
    bounds = []
    for order in itertools.permutations(range(4)):
        x, total = torch.full((1, 4), 20), 0.0
        for site in order:
            total -= float(conditionals(gb1, x)[0, site, wild[site]])
            x[0, site] = wild[site]
        bounds.append(total)
    assert np.mean(bounds) == pytest.approx(5.026455, abs=5e-6)
    assert min(bounds) == pytest.approx(4.841, abs=1e-3) and max(bounds) == pytest.approx(5.197, abs=1e-3)


def test_table_holds_the_stored_conditionals(gb1: TabularConditionals, data_dir: Path):
    with np.load(data_dir / "sequences" / "gb1_mpnn_denoiser.npz") as stored:
        one, none = stored["logp_known_13"][7, 11, 1], stored["logp_known_none"][2]  # sites 1, 3 known; site 2 asked
    x = torch.tensor([[20, 7, 20, 11], [20, 20, 20, 20]])
    got = conditionals(gb1, x)[:, 2]
    for row, raw in enumerate((one, none)):
        expected = torch.from_numpy(raw.astype(np.float64)).log_softmax(-1).float()
        torch.testing.assert_close(got[row], expected, atol=1e-6, rtol=1e-6)


def small(seed: int = 0) -> TabularConditionals:
    network = TabularConditionals(sites=3, letters=2)
    network.table.data = torch.randn(network.table.shape, generator=torch.Generator().manual_seed(seed))
    return network


def test_law_and_values_of_a_small_table_by_enumeration():
    network, reward, alpha = small(), torch.randn(2, 2, 2, dtype=torch.float64), 0.7
    values = soft_values(network, reward, alpha)

    def law_from(state: tuple[int, ...]) -> dict[tuple[int, ...], float]:
        """Law of complete sequences, by recursion over which site is unmasked next and with which letter."""
        masked, law = [i for i in range(3) if state[i] == 2], {}
        if not masked:
            return {state: 1.0}
        p = conditionals(network, torch.tensor([state]))[0].exp().tolist()
        for i, v in itertools.product(masked, range(2)):
            for end, mass in law_from((*state[:i], v, *state[i + 1 :])).items():
                law[end] = law.get(end, 0.0) + mass * p[i][v] / len(masked)
        return law

    for state in itertools.product(range(3), repeat=3):
        law = law_from(state)
        expected = alpha * np.log(sum(mass * np.exp(float(reward[end]) / alpha) for end, mass in law.items()))
        assert float(values[state]) == pytest.approx(expected, abs=1e-6)
    whole = law_from((2, 2, 2))
    law = sequence_law(network).detach()
    assert max(abs(float(law[end]) - mass) for end, mass in whole.items()) < 1e-6


def test_relaxed_tokens_have_the_multilinear_gradient():
    network = small(1).double()
    hard = torch.tensor([[2, 0, 1], [1, 2, 2]])
    x = functional.one_hot(hard, 3).double().requires_grad_()
    state = State({"seq": x}, {"seq": Layout(2)})
    out = network(state, {})["seq"]
    torch.testing.assert_close(out, network(state.put(seq=hard), {})["seq"])
    weights = torch.randn(out.shape, dtype=torch.float64)
    (out * weights).sum().backward()

    def multilinear(x: torch.Tensor) -> torch.Tensor:
        """sum over all states z of prod_j x_{j, z_j} f(z), with site i left out of the product of f_i."""
        total = torch.zeros(2, 3, 2, dtype=torch.float64)
        for z in itertools.product(range(3), repeat=3):
            f = network(state.put(seq=torch.tensor([z, z])), {})["seq"].detach()
            for i in range(3):
                if z[i] == 0:  # f_i does not depend on z_i: count each state of the others once
                    factor = torch.stack([x[:, j, z[j]] for j in range(3) if j != i]).prod(0)
                    total[:, i] += factor[:, None] * f[:, i]
        return total

    again = x.detach().clone().requires_grad_()
    (multilinear(again) * weights).sum().backward()
    assert x.grad is not None and again.grad is not None and float(again.grad.abs().max()) > 0.1
    torch.testing.assert_close(x.grad, again.grad)


def test_law_is_differentiable_in_the_table():
    network = small(2)
    reward = torch.randn(2, 2, 2, dtype=torch.float64)
    (sequence_law(network) * reward).sum().backward()
    gradient = network.table.grad
    assert gradient is not None
    step, where = 1e-3, (1, 4, 0)
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            network.table[where] += sign * step
            ends.append(float((sequence_law(network) * reward).sum()))
            network.table[where] -= sign * step
    assert float(gradient[where]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-4)
    assert abs(float(gradient[where])) > 1e-3


def test_rebuilt_table_holds_what_the_network_says():
    """Two sites of a chain of six residues: 41 partial states against single calls."""
    torch.manual_seed(0)
    network = ProteinMPNN(neighbours=4).eval()
    backbone = Backbone(3 * torch.randn(6, 4, 3), "ACDEFG", list("123456"))
    codec = BackboneCodec.of(backbone, "1,3,4,6")
    table = rebuild_table(network, codec.to_state(["ACDEFG"]), [1, 4], block=7)
    assert table.shape == (2, 21, 20)
    for site, other, state in ((1, 4, 20), (1, 4, 9), (4, 1, 0)):
        tokens = codec.to_state(["ACDEFG"])["seq"]
        tokens[0, site], tokens[0, other] = 20, state
        with torch.no_grad():
            expected = network(codec.template([6]).put(seq=tokens), {})["seq"][0, site].log_softmax(-1)
        torch.testing.assert_close(table[[1, 4].index(site), state], expected, atol=1e-5, rtol=1e-5)


def test_wrong_inputs_are_named(tmp_path: Path):
    with pytest.raises(UserError, match="5 letters, this table is for 3 sites"):
        conditionals(small(), torch.zeros(1, 5, dtype=torch.long))
    np.savez(tmp_path / "other.npz", logp_known_none=np.zeros((4, 20), np.float16))
    with pytest.raises(UserError, match="lacks some"):
        read_table(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(UserError, match="expected gb1_mpnn_denoiser"):
        read_table(tmp_path / "text.npz")


def test_the_stored_plan_samples_the_law(data_dir):
    """Mean log-probability of plain samples is minus the entropy 5.688583; z-test, false alarm 1e-5 at 4.42."""
    from sciflow.interop.gb1 import gb1_model

    model = gb1_model(data_dir)
    law = sequence_law(model.denoiser.network).detach()
    tokens = model.sample_state(4000, seed=1)["seq"]
    logs = law[tuple(tokens.T)].log()
    assert abs(float(logs.mean()) + 5.688583) < 4.42 * float(logs.std()) / 4000**0.5
