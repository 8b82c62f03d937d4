"""GraphTransformer: symmetries, masks, probabilities, gradients. No statistics: every bound is a rounding bound."""

from __future__ import annotations

import json

import pytest
import torch

from sciflow.core.config import from_config, to_config
from sciflow.core.errors import UserError
from sciflow.core.state import Layout, State
from sciflow.domains.graphs.transformer import GraphTransformer

SIZES = (7, 4, 1)  # one full, one padded, one lone node
SMALL = {"node_width": 16, "edge_width": 8, "heads": 4, "triangles": 3, "layers": 2, "clock_width": 12, "pooled": 3}


def network(node_classes: int = 4, edge_classes: int = 4, seed: int = 0) -> GraphTransformer:
    """A small float64 network whose every parameter is random, so that no path is switched off by its start value."""
    torch.manual_seed(seed)
    net = GraphTransformer(node_classes, edge_classes, **SMALL).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter))
    return net


def graph(padded: int = 7, node_classes: int = 4, edge_classes: int = 4, seed: int = 1) -> State:
    """Noisy graphs of SIZES nodes, padded to `padded`; the same real entries whatever the padding."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 7, max(node_classes, 1), generator=generator, dtype=torch.float64)
    upper = torch.randn(3, 7, 7, edge_classes, generator=generator, dtype=torch.float64)
    upper = upper * torch.ones(7, 7, dtype=torch.float64).triu(1)[..., None]
    grown_x, grown = x.new_zeros(3, padded, x.shape[2]), x.new_zeros(3, padded, padded, edge_classes)
    grown_x[:, :7], grown[:, :7, :7] = x, upper + upper.transpose(1, 2)
    mask = (torch.arange(padded) < torch.tensor(SIZES)[:, None]).double()[..., None]
    pair_mask = (mask * mask.transpose(1, 2))[..., None]
    fields = {"x": grown_x * mask, "adj": grown * pair_mask}
    layouts = {"x": Layout(3, mask=mask, sizes=SIZES), "adj": Layout(3, mask=pair_mask, sizes=SIZES)}
    kept = ("x", "adj") if node_classes else ("adj",)
    return State({name: fields[name] for name in kept}, {name: layouts[name] for name in kept})


def mask_of(state: State, name: str) -> torch.Tensor:
    mask = state.layouts[name].mask
    assert mask is not None
    return mask


def clocks(x: float = 0.3, adj: float = 0.6) -> dict[str, torch.Tensor]:
    return {"x": torch.tensor(x, dtype=torch.float64), "adj": torch.tensor(adj, dtype=torch.float64)}


def test_permuting_the_nodes_permutes_the_prediction():
    net, state = network(), graph()
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    moved = State(
        {"x": state["x"][:, order], "adj": state["adj"][:, order][:, :, order]},
        {
            "x": Layout(3, mask=mask_of(state, "x")[:, order]),
            "adj": Layout(3, mask=mask_of(state, "adj")[:, order][:, :, order]),
        },
    )
    before, after = net(state, clocks()), net(moved, clocks())
    torch.testing.assert_close(after["x"], before["x"][:, order], rtol=0, atol=1e-10)
    torch.testing.assert_close(after["adj"], before["adj"][:, order][:, :, order], rtol=0, atol=1e-10)


def test_padding_and_batch_mates_do_not_change_real_entries():
    net = network()
    tight, wide = net(graph(7), clocks()), net(graph(10), clocks())
    torch.testing.assert_close(wide["x"][:, :7], tight["x"], rtol=0, atol=1e-10)
    torch.testing.assert_close(wide["adj"][:, :7, :7], tight["adj"], rtol=0, atol=1e-10)
    alone = net(graph().select([1]), clocks())
    torch.testing.assert_close(alone["adj"][0], tight["adj"][1], rtol=0, atol=1e-10)


def test_values_in_the_padding_are_ignored():
    net, state = network(), graph()
    noise = torch.randn(3, 7, 7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    outside = 1 - mask_of(state, "adj")
    dirty = state.put(
        x=state["x"] + 50 * (1 - mask_of(state, "x")), adj=state["adj"] + 50 * outside * (noise + noise.transpose(1, 2))
    )
    for name, value in net(state, clocks()).items():
        torch.testing.assert_close(net(dirty, clocks())[name], value, rtol=0, atol=1e-10)


def test_prediction_is_symmetric_masked_and_normalised():
    state = graph()
    out = network()(state, clocks())
    assert torch.equal(out["adj"], out["adj"].transpose(1, 2))
    off_diagonal = 1 - torch.eye(7, dtype=torch.float64)[..., None]
    real_pairs = mask_of(state, "adj") * off_diagonal
    assert out["x"].shape == (3, 7, 4) and out["adj"].shape == (3, 7, 7, 4)
    torch.testing.assert_close(out["x"].sum(-1, keepdim=True), mask_of(state, "x"), rtol=0, atol=1e-12)
    torch.testing.assert_close(out["adj"].sum(-1, keepdim=True), real_pairs, rtol=0, atol=1e-12)
    assert out["x"].min() >= 0 and out["adj"].min() >= 0
    # the classes of two entries differ: the network is not a constant
    assert out["adj"][0, 0, 1].sub(out["adj"][0, 0, 2]).abs().max() > 1e-3


@pytest.mark.parametrize("node_classes", [0, 4])
def test_every_parameter_gets_a_gradient(node_classes: int):
    net, state = network(node_classes), graph(node_classes=node_classes)
    out = net(state, clocks())
    picked = [out["adj"][0, 0, 1, 2], out["adj"][0, 1, 2, 0], out["adj"][1, 0, 3, 1]]
    picked += [out["x"][0, 0, 1], out["x"][1, 2, 3]] if node_classes else []
    torch.stack(picked).clamp_min(torch.finfo(torch.float64).tiny).log().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        assert torch.isfinite(parameter.grad).all(), name


def test_each_clock_matters_and_may_differ_per_sample():
    net, state = network(), graph()
    base = net(state, clocks())["adj"]
    assert (net(state, clocks(x=0.8))["adj"] - base).abs().max() > 1e-4
    assert (net(state, clocks(adj=0.1))["adj"] - base).abs().max() > 1e-4
    per_sample = {
        "x": torch.tensor([0.3, 0.8, 0.3], dtype=torch.float64),
        "adj": torch.full((3,), 0.6, dtype=torch.float64),
    }
    mixed = net(state, per_sample)["adj"]
    torch.testing.assert_close(mixed[0], base[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed[1], net(state, clocks(x=0.8))["adj"][1], rtol=0, atol=1e-12)


def test_nodes_and_pairs_see_each_other():
    """A far node's class and a far edge both reach every prediction: nothing is cut off by the masks."""
    net, state = network(), graph()
    fields = {name: value.clone().requires_grad_() for name, value in state.fields.items()}
    net(State(fields, state.layouts), clocks())["adj"][0, 0, 1, 1].backward()
    node_grad, pair_grad = fields["x"].grad, fields["adj"].grad
    assert node_grad is not None and pair_grad is not None
    assert (node_grad[0].abs().amax(1) > 0).all()
    assert (pair_grad[0].abs().amax(2)[torch.triu_indices(7, 7, 1).unbind()] > 0).all()
    assert node_grad[1:].abs().max() == 0 and pair_grad[1:].abs().max() == 0  # not the other samples


def test_triangles_are_told_from_a_hexagon_by_the_triangle_product():
    """Two triangles and a hexagon: every node has two equal neighbours, so message passing alone sees no difference."""

    def ring(nodes: int) -> torch.Tensor:
        return torch.roll(torch.eye(nodes), 1, 0) + torch.roll(torch.eye(nodes), -1, 0)

    graphs = torch.stack([torch.block_diag(ring(3), ring(3)), ring(6)]).double()
    adj = torch.stack([1 - graphs, graphs], -1) * (1 - torch.eye(6, dtype=torch.float64))[..., None]
    state = State({"adj": adj}, {"adj": Layout(2)})
    net = network(0, 2)
    out = net(state, clocks())["adj"][:, :, :, 1]
    assert (out[0, 0, 1] - out[1, 0, 1]).abs() > 1e-9  # far above the 1e-15 of rounding
    torch.testing.assert_close(out[0, 0, 1], out[0, 3, 4], rtol=0, atol=1e-13)  # all edges of two triangles are equal
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "edge_triangles" in name:
                parameter.zero_()
    blind = net(state, clocks())["adj"][:, :, :, 1]
    assert (blind[0, 0, 1] - blind[1, 0, 1]).abs() < 1e-13


def test_graphs_without_node_classes_take_the_size_from_either_layout():
    net, state = network(0, 2), graph(node_classes=0, edge_classes=2)
    by_size = net(state, {"adj": torch.tensor(0.5)})
    assert set(by_size) == {"adj"}
    by_mask = State(state.fields, {"adj": Layout(3, mask=mask_of(state, "adj"))})
    flat_mask = State(state.fields, {"adj": Layout(3, mask=mask_of(state, "adj")[..., 0])})
    for other in (by_mask, flat_mask):
        torch.testing.assert_close(net(other, {"adj": torch.tensor(0.5)})["adj"], by_size["adj"], rtol=0, atol=1e-12)


def test_it_is_rebuilt_from_its_plain_json_configuration():
    net = network()
    copy = from_config(json.loads(json.dumps(to_config(net)))).double()
    copy.load_state_dict(net.state_dict())
    assert torch.equal(copy(graph(), clocks())["adj"], net(graph(), clocks())["adj"])
    with pytest.raises(UserError, match="divide"):
        GraphTransformer(node_width=10, heads=4)


def test_the_shipped_size_stays_below_two_megabytes():
    """The default molecule network: float32 weights must fit in the 2 MB that the project ships."""
    assert 4 * sum(p.numel() for p in GraphTransformer(8, 4).parameters()) < 2_000_000
