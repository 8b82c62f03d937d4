"""The ProteinMPNN network with random weights: its layer against the literal formula, visibility, padding, sharing.

The released weights are tested in tests/interop/test_proteinmpnn.py.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sciflow.core.errors import UserError
from sciflow.core.state import Layout, State
from sciflow.domains.sequences import mpnn
from sciflow.domains.sequences.mpnn import DecoderLayer, ProteinMPNN, visible_index
from sciflow.domains.sequences.mpnn_layers import PAIRS, EncoderLayer, nearest
from sciflow.domains.sequences.structure import Backbone, backbone_batch

MASK = 20


def helix(length: int, seed: int = 0) -> torch.Tensor:
    """Coordinates (L, 4, 3) of a noisy helix, 1.5 Angstrom rise and 100 degrees per residue."""
    turn = torch.arange(length)[:, None] * 1.745 + torch.tensor([0.0, 0.45, 1.1, 1.2])
    rise = 1.5 * torch.arange(length)[:, None] + torch.tensor([0.0, 0.9, 2.0, 3.2])
    coordinates = torch.stack([2.3 * turn.cos(), 2.3 * turn.sin(), rise], -1)
    return coordinates + 0.1 * torch.randn(length, 4, 3, generator=torch.Generator().manual_seed(seed))


def batch(*lengths: int) -> State:
    return backbone_batch(
        [
            Backbone(helix(n, n), "ACDEFGHIKLMNPQRSTVWY"[: n % 20] * 1 + "A" * (n - n % 20), list(map(str, range(n))))
            for n in lengths
        ]
    )


@pytest.fixture
def network() -> ProteinMPNN:
    torch.manual_seed(0)
    return ProteinMPNN(neighbours=8).eval()


def logits(network: ProteinMPNN, state: State) -> torch.Tensor:
    with torch.inference_mode():
        return network(network.prepare(state), {})["seq"]


def literal_message(layer, nodes, parts, index, scale=30.0):
    """sum_j W3 gelu(W2 gelu(W1 [h_i, e_ij, parts_j])) / 30 as it is written, residue by residue."""
    message, update = layer.message if isinstance(layer, DecoderLayer) else layer.node_message, layer.update
    blocks = [message.receiver.weight, message.edge.weight, *(s.weight for s in reversed(message.senders))]
    weight, total = torch.cat(blocks, 1), torch.zeros_like(nodes)
    for b, i, slot in (index >= 0).nonzero().tolist():
        x = torch.cat([nodes[b, i], *(part(b, i, slot) for part in parts)])
        hidden = functional.gelu(functional.linear(x, weight, message.receiver.bias))
        total[b, i] += update.third(functional.gelu(message.second(hidden))) / scale
    nodes = update.norm_message(nodes + total)
    return update.norm_feed(nodes + update.feed_forward(nodes))


def test_layers_equal_the_formula_written_out():
    torch.manual_seed(1)
    encoder, decoder = EncoderLayer(0.0), DecoderLayer(0.0)
    nodes, tokens, encoded = (torch.randn(2, 6, 128) for _ in range(3))
    edges, index = torch.randn(2, 6, 4, 128), torch.randint(-1, 6, (2, 6, 4))
    with torch.no_grad():
        got, _ = encoder(nodes, edges, index)
        parts = [lambda b, i, s: edges[b, i, s], lambda b, i, s: nodes[b, index[b, i, s]]]
        torch.testing.assert_close(got, literal_message(encoder, nodes, parts, index), atol=1e-5, rtol=1e-5)

        seen = torch.rand(2, 6, 4) < 0.5
        parts = [
            lambda b, i, s: edges[b, i, s],
            lambda b, i, s: tokens[b, index[b, i, s]] * seen[b, i, s],
            lambda b, i, s: (nodes if seen[b, i, s] else encoded)[b, index[b, i, s]],
        ]
        got = decoder(nodes, tokens, encoded, edges, torch.where(index < 0, index, index + 6 * seen))
        torch.testing.assert_close(got, literal_message(decoder, nodes, parts, index), atol=1e-5, rtol=1e-5)


def test_pairs_are_all_25():
    assert len(set(PAIRS)) == 25


def test_visibility_known_sees_earlier_known_masked_sees_all_known():
    known = torch.tensor([[True, False, True, False, True]])
    index, order = torch.arange(5).expand(1, 5, 5), torch.arange(5)[None]
    seen = visible_index(known, index, order) >= 5
    expected = [[j in (0, 2, 4) and (i in (1, 3) or j < i) for j in range(5)] for i in range(5)]
    assert seen[0].tolist() == expected
    assert visible_index(known, torch.full((1, 5, 2), -1), order).eq(-1).all()


def test_fixed_residues_come_first_and_are_computed_once(network: ProteinMPNN):
    network, state, native = network.double(), batch(10, 10, 10), torch.arange(10)
    state = state.condition(backbone=state.cond["backbone"].double())
    fixed = torch.where(torch.isin(native, torch.tensor([2, 6])), -1, native).repeat(3, 1)
    tokens = fixed.clone()
    tokens[:, [2, 6]] = torch.tensor([[MASK, 4], [7, MASK], [MASK, MASK]])
    state = network.prepare(state.put(seq=tokens).condition(fixed=fixed))
    asked = (tokens == MASK)[..., None]
    with torch.inference_mode():
        quick = network(state, {})["seq"]
        names = ("encoded_nodes", "encoded_edges", "neighbours")
        each = {name: state.cond[name].repeat(3, *[1] * (state.cond[name].ndim - 1)) for name in names}
        literal = network(state.condition(**each), {})["seq"]  # an encoding per sample: every residue is computed
        torch.testing.assert_close(quick * asked, literal * asked, atol=1e-10, rtol=0)
        plain = network(State(state.fields, state.layouts, {k: v for k, v in state.cond.items() if k != "fixed"}), {})
        assert ((plain["seq"] - quick) * asked).abs().max() > 1e-6  # the order matters
        # a state that contradicts its fixed residues (a likelihood that masks them too) is taken as it is
        blank = network(state.put(seq=torch.full_like(tokens, MASK)), {})["seq"]
        alone = network(state.select([0]).put(seq=torch.full((1, 10), MASK)), {})["seq"]
        torch.testing.assert_close(blank, alone.expand(3, -1, -1), atol=1e-10, rtol=0)
        unread = network(
            State({"seq": torch.full((3, 10), MASK)}, state.layouts, {n: state.cond[n] for n in names}), {}
        )
        torch.testing.assert_close(blank, unread["seq"], atol=1e-10, rtol=0)


def test_masked_residues_do_not_see_each_other_and_see_every_known_one(network: ProteinMPNN):
    state = batch(8)  # 8 residues, 8 neighbours: all see all
    tokens = state["seq"].clone()
    tokens[0, [2, 5]] = MASK
    base = logits(network, state.put(seq=tokens))
    other = tokens.clone()
    other[0, 7] = 9
    assert (logits(network, state.put(seq=other)) - base)[0, [2, 5]].abs().amax(-1).min() > 1e-4  # 7 is seen by both
    more = tokens.clone()
    more[0, 3] = MASK  # residue 2 loses one known neighbour ...
    assert (logits(network, state.put(seq=more)) - base)[0, 2].abs().max() > 1e-4
    known = tokens.clone()
    known[0, 5] = 4  # ... and residue 0 (known, before 5) learns nothing from 5
    assert torch.equal(logits(network, state.put(seq=known))[0, 0], base[0, 0])


def test_padding_changes_nothing(network: ProteinMPNN):
    together = batch(6, 15)  # 6 residues: fewer than the 8 neighbours of the padded graph
    tokens = together["seq"].clone()
    tokens[:, 1:4] = MASK
    together = together.put(seq=tokens)
    both = logits(network, together)
    for row, length in enumerate((6, 15)):
        alone = batch(length).put(seq=tokens[row : row + 1, :length])
        torch.testing.assert_close(logits(network, alone)[0], both[row, :length], atol=2e-5, rtol=1e-5)


def test_one_backbone_is_encoded_once_and_blocks_do_not_matter(network: ProteinMPNN, monkeypatch):
    state = batch(12, 12, 12)
    tokens = torch.randint(0, 21, (3, 12))
    prepared = network.prepare(state.put(seq=tokens))
    assert prepared.cond["encoded_edges"].shape == (1, 12, 8, 128)
    shared = logits(network, state.put(seq=tokens))
    moved = state.condition(backbone=state.cond["backbone"] + torch.tensor([0.0, 1.0, 2.0])[:, None, None, None])
    assert network.prepare(moved.put(seq=tokens)).cond["encoded_edges"].shape == (3, 12, 8, 128)
    torch.testing.assert_close(logits(network, moved.put(seq=tokens)), shared, atol=2e-5, rtol=1e-5)
    monkeypatch.setitem(mpnn.EDGES, "cpu", 1)
    torch.testing.assert_close(logits(network, state.put(seq=tokens)), shared, atol=1e-5, rtol=1e-5)


def test_states_keep_a_shared_encoding_when_selected_and_repeated(network: ProteinMPNN):
    state = batch(9, 9)
    state = network.prepare(state.put(seq=torch.randint(0, 21, (2, 9))))
    base = network(state, {})["seq"]
    torch.testing.assert_close(network(state.repeat(2).select([3, 0]), {})["seq"], base[[1, 0]], atol=1e-5, rtol=1e-5)


def test_relaxed_tokens_equal_hard_ones_and_carry_gradient(network: ProteinMPNN):
    state = batch(10, 7)
    tokens = torch.randint(0, 21, (2, 10))
    hard = network(state.put(seq=tokens), {})["seq"]
    relaxed = functional.one_hot(tokens, 21).float().requires_grad_()
    soft = network(state.put(seq=relaxed), {})["seq"]
    torch.testing.assert_close(soft, hard, atol=1e-5, rtol=1e-5)
    masked = tokens == MASK
    (soft.square() * masked[..., None]).sum().backward()
    gradient = relaxed.grad
    assert gradient is not None and bool(gradient[..., :20].abs().sum() > 0)
    assert not gradient[masked].any()  # nobody sees the letter of a masked residue


def test_temperature_divides_logits():
    torch.manual_seed(0)
    one = ProteinMPNN(8)
    cold = ProteinMPNN(8, temperature=0.1)
    cold.load_state_dict(one.state_dict())
    torch.testing.assert_close(logits(cold, batch(8)), 10 * logits(one, batch(8)))
    with pytest.raises(UserError, match="temperature"):
        ProteinMPNN(temperature=0)


def test_rigid_motion_and_gaps_in_numbering(network: ProteinMPNN):
    state = batch(14)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    rotation = rotation * torch.linalg.det(rotation)  # no mirror
    moved = (state.cond["backbone"].double() @ rotation.T + torch.tensor([10.0, -20.0, 5.0])).float()
    assert (logits(network, state.condition(backbone=moved)) - logits(network, state)).abs().max() < 1e-4
    mirrored = state.cond["backbone"] * torch.tensor([1.0, 1.0, -1.0])
    assert (logits(network, state.condition(backbone=mirrored)) - logits(network, state)).abs().max() > 1e-3
    gap = state.cond["residue_index"] + 5 * (torch.arange(14) > 6)
    assert (logits(network, state.condition(residue_index=gap)) - logits(network, state)).abs().max() > 1e-4


def test_nearest_leaves_padding_out():
    coordinates = torch.zeros(1, 5, 4, 3)
    coordinates[0, :, 1, 0] = torch.tensor([0.0, 1.0, 3.0, 0.5, 0.6])
    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]])
    assert nearest(coordinates, mask, 4)[0, :3].tolist() == [[0, 1, 2, -1], [1, 0, 2, -1], [2, 1, 0, -1]]


def test_missing_backbone_is_a_clear_error(network: ProteinMPNN):
    with pytest.raises(UserError, match="backbone"):
        network.prepare(State({"seq": torch.zeros(1, 4, dtype=torch.long)}, {"seq": Layout(1)}))
