"""CSPNet: the factorised layers against the published arithmetic, pairs, sizes, checkpoints."""

from __future__ import annotations

import pytest
import torch
from crystal_toy import ELEMENTS, network, ragged, random_state, signals
from cspnet_formula import reference

from sciflow.core.config import from_config, to_config
from sciflow.domains.crystals.network import CSPNet
from sciflow.networks.pairs import Pairs


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_equals_the_unfactorised_arithmetic(setting, dtype, bound):
    state, net = random_state(dtype, **setting), network(**setting, dtype=dtype)
    clocks = torch.tensor([0.1, 0.5, 0.9, 1.0], dtype=dtype)
    with torch.no_grad():
        fast, plain = net(state, signals(state, clocks)), reference(net, state, signals(state, clocks))
    assert set(fast) == set(plain) == set(net.evolving)
    for name in fast:
        assert fast[name].dtype == dtype
        torch.testing.assert_close(fast[name], plain[name], atol=bound, rtol=bound)


def test_gradients_equal_those_of_the_unfactorised_arithmetic(setting):
    state, net = random_state(**setting), network(**setting)
    gradients = []
    for function in (lambda s, c: net(s, c), lambda s, c: reference(net, s, c)):
        net.zero_grad()
        torch.stack([(x**2).sum() for x in function(state, signals(state)).values()]).sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(net.parameters()))
    for fast, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-9, rtol=1e-9)


def test_pairs_are_those_of_each_crystal():
    pairs = Pairs.of(ragged((3, 1, 2)))
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2), (4, 5)]
    assert pairs.counts.tolist() == [3, 1, 2]


def test_a_fresh_planar_network_believes_its_input():
    """The heads start at zero: coordinates as believed, of length one."""
    state, net = random_state(gram=False), CSPNet(ELEMENTS, 16, 1, 4).double()
    torch.testing.assert_close(
        net(state, signals(state))["coords"], torch.nn.functional.normalize(state["coords"], dim=-1)
    )


def test_species_input_is_a_lookup_of_certain_beliefs():
    """Logits that are certain give 2 e - 1, an index e: embeddings differ by their map, the species are told apart."""
    state, net = random_state(species=True, gram=False), network(species=True, gram=False)
    first = net(state, signals(state))["coords"]
    other = net(state.put(types=state["types"].roll(1, 1)), signals(state))["coords"]
    assert float((first - other).detach().abs().max()) > 1e-3


def test_build_takes_the_number_of_elements_from_the_data_and_a_checkpoint_keeps_it():
    net = CSPNet(None, 16, 1, 4)
    net.build({"types": ELEMENTS, "coords": 3, "lattice": 3})
    twin = from_config(to_config(net))
    twin.load_state_dict(net.state_dict())
    state = random_state(torch.float32, gram=False)
    torch.testing.assert_close(twin(state, signals(state)), net(state, signals(state)))
