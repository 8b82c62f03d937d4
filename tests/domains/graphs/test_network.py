"""GDSS networks: golden vectors of the official code, an independent module-by-module twin, and the symmetries."""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from gdss_formula import GOLDEN, formula_weights
from torch import Tensor, nn
from torch.nn import functional

from sciflow.core.config import from_config, to_config
from sciflow.core.errors import UserError
from sciflow.core.state import Layout, State
from sciflow.domains.graphs import network_layers
from sciflow.domains.graphs.network import (
    GraphScores,
    ScoreNetworkA,
    ScoreNetworkX,
    ScoreNetworkXGMH,
    convert_official_weights,
    network_from_params,
)

ROOT = Path(__file__).resolve().parents[3]
ATTENTION = dict(num_linears=2, c_init=2, c_hid=4, c_final=2, adim=8, num_heads=4)
GRAPH_SIZES = (5, 9, 2, 12, 9)
NETWORKS = {
    "x": lambda: ScoreNetworkX(max_feat_num=3, depth=2, nhid=8),
    "x_gmh": lambda: ScoreNetworkXGMH(max_feat_num=3, depth=2, nhid=8, **ATTENTION),
    "adj": lambda: ScoreNetworkA(max_feat_num=3, nhid=8, num_layers=3, **ATTENTION),
    "adj_mlp": lambda: ScoreNetworkA(3, nhid=8, num_layers=2, **{**ATTENTION, "num_linears": 3}, conv="MLP"),
}


@pytest.fixture
def golden() -> dict:
    return GOLDEN


@pytest.fixture
def many_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks that cost nothing to launch and hold few entries, and empty caches: small batches are cut up, too."""
    monkeypatch.setattr(network_layers, "LAUNCH", {"cpu": 0})
    monkeypatch.setattr(network_layers, "LARGEST", {"cpu": 100})
    monkeypatch.setattr(network_layers, "SMALLEST", 2)
    caches = (network_layers.plan_blocks, network_layers.pairs_of)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def batch(sizes: tuple[int, ...], nodes: int, features: int = 3, dtype: torch.dtype = torch.float64) -> tuple:
    """Random masked graphs: x, adj, mask."""
    mask = (torch.arange(nodes) < torch.tensor(sizes)[:, None]).to(dtype)[..., None]
    adj = torch.randn(len(sizes), nodes, nodes, dtype=dtype).triu(1)
    x = torch.randn(len(sizes), nodes, features, dtype=dtype)
    return x * mask, (adj + adj.transpose(1, 2)) * mask * mask.transpose(1, 2), mask


@pytest.mark.golden
@pytest.mark.parametrize("with_sizes", [False, True])
@pytest.mark.parametrize("name", ["x", "x_gmh", "x_gmh_mlpconv", "adj", "adj_mlpconv"])
def test_golden_outputs(golden: dict, name: str, with_sizes: bool) -> None:
    """Outputs of the official code on formula weights and inputs, to 2e-5 of the largest entry."""
    case = golden["nets"][name]
    inputs = golden["nets_inputs"]
    x, adj, sizes = torch.tensor(inputs["X"]), torch.tensor(inputs["A"]), tuple(inputs["node_counts"])
    mask = (torch.arange(inputs["N"]) < torch.tensor(sizes)[:, None]).float()[..., None]
    network = network_from_params(case["params"])
    network.load_state_dict(convert_official_weights(formula_weights(case["params"])))
    assert sum(p.numel() for p in network.parameters()) == case["n_params"]
    expected = torch.tensor(case["output"])
    found = network(x, adj, mask, sizes if with_sizes else None)
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


def paper_networks(features: int, depth: int, nhid: int, layers: int, linears: int) -> tuple[nn.Module, nn.Module]:
    attention = dict(nhid=nhid, num_linears=linears, c_init=2, c_hid=8, c_final=4, adim=nhid)
    return ScoreNetworkX(features, depth, nhid), ScoreNetworkA(max_feat_num=features, num_layers=layers, **attention)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("arguments", "count_x", "count_adj"),
    [
        pytest.param((10, 3, 32, 5, 2), 72_434, 134_369, id="community_small"),
        pytest.param((17, 2, 32, 5, 2), 44_093, 135_713, id="ego_small"),
        pytest.param((10, 5, 32, 7, 2), 182_066, 204_113, id="ENZYMES"),
        pytest.param((5, 5, 32, 7, 2), 170_081, 203_153, id="grid"),
        pytest.param((4, 2, 16, 3, 3), 8_564, 23_825, id="QM9"),
        pytest.param((9, 2, 16, 6, 3), 11_429, 62_873, id="ZINC250k"),
    ],
)
def test_parameter_counts(arguments: tuple, count_x: int, count_adj: int) -> None:
    """Counts of the official checkpoints (gdss.md section 5.8)."""
    counts = [sum(p.numel() for p in network.parameters()) for network in paper_networks(*arguments)]
    assert counts == [count_x, count_adj]


@pytest.mark.golden
def test_parameter_count_zinc_v2() -> None:
    """The attention node network of ZINC250k v2 (gdss.md section 5.8)."""
    network = ScoreNetworkXGMH(9, depth=2, nhid=16, num_linears=3, c_init=2, c_hid=8, c_final=4, adim=16)
    assert sum(p.numel() for p in network.parameters()) == 22_721


def twin_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gdss_network_twin", ROOT / "benchmarks/gdss_network.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("many_blocks")
def test_equals_module_by_module_twin() -> None:
    """Random weights at the paper's widths against the benchmark's arithmetic of gdss.md section 5, in float64.

    The attention width differs from the node width, which scales the scores.
    """
    twins, sizes = twin_module(), (9, 14, 12, 9, 3, 14)
    x, adj, mask = batch(sizes, nodes=15, features=10)
    own = ScoreNetworkA(10, nhid=32, num_layers=3, num_linears=2, c_init=2, c_hid=8, c_final=4, adim=16)
    pairs = [
        (twins.TwinScoreNetworkX(10, 3, 32), ScoreNetworkX(10, depth=3, nhid=32)),
        (twins.TwinScoreNetworkA(10, 32, 3, 2, 2, 8, 4, 16), own),
    ]
    for twin, network in pairs:
        network.load_state_dict(convert_official_weights(twin.state_dict()))
        expected = twin.double()(x, adj, mask)
        found = network.double()(x, adj, mask, sizes)
        assert (found - expected).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.usefixtures("many_blocks")
@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_equal_padded_equal_alone(name: str) -> None:
    """A graph's output does not depend on padding, on the blocks, or on the other graphs of the batch."""
    network = NETWORKS[name]().double()
    assert len(network_layers.plan_blocks(GRAPH_SIZES, 5, 14, torch.device("cpu")).blocks) == 5
    x, adj, mask = batch(GRAPH_SIZES, nodes=14)
    padded = network(x, adj, mask)
    assert padded.abs().max() > 1e-3
    torch.testing.assert_close(network(x, adj, mask, GRAPH_SIZES), padded, rtol=0, atol=1e-12)
    for i, n in enumerate(GRAPH_SIZES):
        alone = network(x[i : i + 1, :n], adj[i : i + 1, :n, :n], mask[i : i + 1, :n])
        kept = padded[i : i + 1, :n] if name.startswith("x") else padded[i : i + 1, :n, :n]
        torch.testing.assert_close(alone, kept, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("many_blocks")
@pytest.mark.parametrize("name", NETWORKS)
def test_padding_is_never_read(name: str) -> None:
    """Rubbish outside the mask changes nothing, and the output is exactly zero there."""
    network = NETWORKS[name]().double()
    x, adj, mask = batch(GRAPH_SIZES, nodes=14)
    dirty_adj = adj + 7 * (1 - mask * mask.transpose(1, 2))
    for sizes in (None, GRAPH_SIZES):
        clean, dirty = network(x, adj, mask, sizes), network(x + 9 * (1 - mask), dirty_adj, mask, sizes)
        torch.testing.assert_close(dirty, clean, rtol=0, atol=1e-12)
        outside = 1 - (mask if name.startswith("x") else mask * mask.transpose(1, 2))
        assert (dirty * outside == 0).all()


@pytest.mark.usefixtures("many_blocks")
@pytest.mark.parametrize("with_sizes", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_permutation_equivariance(name: str, with_sizes: bool) -> None:
    """Renumbering the real nodes renumbers the output; float64, 1e-10."""
    network, sizes = NETWORKS[name]().double(), GRAPH_SIZES if with_sizes else None
    x, adj, mask = batch(GRAPH_SIZES, nodes=14)
    order = torch.stack([torch.cat([torch.randperm(n), torch.arange(n, 14)]) for n in GRAPH_SIZES])
    rows = torch.arange(len(order))[:, None]

    def permute(v: Tensor) -> Tensor:
        return v[rows, order] if v.shape[-1] == 3 else v[rows[..., None], order[:, :, None], order[:, None, :]]

    found, expected = network(permute(x), permute(adj), mask, sizes), permute(network(x, adj, mask, sizes))
    assert (expected - network(x, adj, mask, sizes)).abs().max() > 1e-3  # the permutation does something
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_adjacency_output_is_symmetric_with_zero_diagonal() -> None:
    network, (x, adj, mask) = NETWORKS["adj"]().double(), batch(GRAPH_SIZES, nodes=14)
    for sizes in (None, GRAPH_SIZES):
        score = network(x, adj, mask, sizes)
        assert torch.equal(score, score.transpose(1, 2))
        assert (score.diagonal(dim1=1, dim2=2) == 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_smallest_graphs(name: str) -> None:
    """One node, and no node at all, give finite output; N = 1 is a legal padding."""
    network = NETWORKS[name]().double()
    x, adj, mask = batch((1, 0, 4), nodes=4)
    assert network(x, adj, mask, (1, 0, 4)).isfinite().all()
    alone = network(x[:1, :1], adj[:1, :1, :1], mask[:1, :1], (1,))
    torch.testing.assert_close(alone.flatten(), network(x, adj, mask)[0, :1].flatten()[: alone.numel()])


@pytest.mark.usefixtures("many_blocks")
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients(name: str) -> None:
    """Against finite differences in every input and the first weights; blocks and padding agree on all weights.

    The first call runs in inference mode: what it caches must serve the training call. No graph has two nodes: their
    adj^2 is diagonal, so a degree sits exactly on the kink of its clamp at 1.
    """
    torch.manual_seed(3)
    network, sizes = NETWORKS[name]().double(), (4, 3)
    x, adj, mask = batch(sizes, nodes=4)
    with torch.inference_mode():
        network(x, adj, mask, sizes)
    assert network_layers.plan_blocks(sizes, 2, 4, x.device).order is not None

    def output(x: Tensor, adj: Tensor) -> Tensor:
        return network(x, adj + adj.transpose(1, 2), mask, sizes)

    assert torch.autograd.gradcheck(
        output, (x.requires_grad_(), adj.triu(1).requires_grad_()), atol=1e-6, fast_mode=True
    )
    gradients = []
    for known in (None, sizes):
        network.zero_grad()
        network(x, adj, mask, known).square().sum().backward()
        trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
        assert all(p.grad is not None for p in trained.values())  # distributed training needs every gradient
        gradients.append({n: p.grad.clone() for n, p in trained.items() if p.grad is not None})
    for parameter, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][parameter], gradient, rtol=1e-9, atol=1e-12)
    first = next(p for p in network.parameters() if p.requires_grad)
    with torch.no_grad():
        sums = []
        for step in (1e-6, -2e-6):
            first.view(-1)[0] += step
            sums.append(network(x, adj, mask, sizes).square().sum().item())
    slope = gradients[0][next(n for n, p in network.named_parameters() if p is first)].view(-1)[0].item()
    assert (sums[0] - sums[1]) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_unread_weights_are_frozen() -> None:
    """Only the weights of the last layer's discarded output are frozen, and they do not change the result."""
    inputs = batch(GRAPH_SIZES, nodes=14)
    for name, parts in (("adj", ("value", "multi_channel")), ("x_gmh", ("query_key", "mlp"))):
        network = NETWORKS[name]().double()
        frozen = {n for n, p in network.named_parameters() if not p.requires_grad}
        last = f"layers.{len(network.layers) - 1}"
        assert frozen == {
            n for n, _ in network.named_parameters() if n.startswith(tuple(f"{last}.{p}." for p in parts))
        }
        before = network(*inputs)
        with torch.no_grad():
            for n, p in network.named_parameters():
                if n in frozen:
                    p.fill_(17.0)
        assert torch.equal(network(*inputs), before)


def test_elu_equals_torch() -> None:
    x = torch.cat([torch.linspace(-30, 30, 1001), torch.tensor([0.0, -0.0, 1e-9, -1e-9])])
    torch.testing.assert_close(network_layers.elu(x), functional.elu(x), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(network_layers.elu(x.requires_grad_()), functional.elu(x))


def test_block_plan_covers_every_graph_once_at_least_cost() -> None:
    sizes = (9, 30, 9, 11, 64, 33, 9, 70, 8, 70, 31)
    device = torch.device("cpu")
    plan = network_layers.plan_blocks(sizes, len(sizes), 80, device)
    assert plan.order is not None and plan.inverse is not None
    ordered = [sizes[i] for i in plan.order.tolist()]
    assert [start for start, *_ in plan.blocks] == [0, *(stop for _, stop, *_ in plan.blocks[:-1])]
    assert plan.blocks[-1][1] == len(sizes)
    for start, stop, n, padded in plan.blocks:
        assert n == max(ordered[start:stop]) and padded == (min(ordered[start:stop]) < n)
    assert torch.equal(plan.order[plan.inverse], torch.arange(len(sizes)))

    counts, launch = [(9, 3), (11, 7), (16, 1), (17, 12), (40, 2), (41, 1)], 1000

    def cost(cuts: tuple[int, ...]) -> int:
        runs = [counts[a:b] for a, b in itertools.pairwise((0, *cuts))]
        return sum(launch + sum(number for _, number in run) * run[-1][0] ** 2 for run in runs)

    every = [(*c, 6) for k in range(6) for c in itertools.combinations(range(1, 6), k)]
    assert cost(tuple(network_layers.group_sizes(counts, launch))) == min(map(cost, every))


def test_graph_scores_reads_the_state_and_survives_its_config() -> None:
    network = GraphScores(NETWORKS["x"](), NETWORKS["adj"]())
    x, adj, mask = batch(GRAPH_SIZES, nodes=14, dtype=torch.float32)
    layouts = {
        "x": Layout(5, mask=mask, sizes=GRAPH_SIZES),
        "adj": Layout(5, mask=mask * mask.transpose(1, 2), sizes=GRAPH_SIZES),
    }
    state = State({"x": x, "adj": adj}, layouts)
    early, late = (network(state, {"x": t, "adj": t}) for t in (torch.tensor(0.1), torch.rand(5)))
    assert early.keys() == {"x", "adj"}
    assert all(torch.equal(early[f], late[f]) for f in early)  # the clock is not read
    torch.testing.assert_close(early["x"], network.x(x, adj, mask))
    torch.testing.assert_close(early["adj"], network.adj(x, adj, mask), rtol=1e-4, atol=1e-6)
    rebuilt = from_config(json.loads(json.dumps(to_config(network))))
    rebuilt.load_state_dict(network.state_dict())
    assert torch.equal(rebuilt(state, {})["adj"], early["adj"])


def test_official_weights_lose_the_parallel_prefix() -> None:
    params = {"model_type": "ScoreNetworkX", "max_feat_num": 3, "depth": 2, "nhid": 8}
    weights = formula_weights(params)
    prefixed = convert_official_weights({f"module.{name}": v for name, v in weights.items()})
    assert prefixed.keys() == network_from_params(params).state_dict().keys() == weights.keys()


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(UserError, match="ScoreNetworkZ.*expected one of"):
        network_from_params({"model_type": "ScoreNetworkZ"})
    with pytest.raises(UserError, match="missing a required argument: 'depth'"):
        network_from_params({"model_type": "ScoreNetworkX", "max_feat_num": 3, "depht": 2, "nhid": 8})
    with pytest.raises(ValueError, match="multiple of the heads"):
        ScoreNetworkA(3, 8, 3, **{**ATTENTION, "adim": 10})
    x, adj, mask = batch((3, 4), nodes=4)
    with pytest.raises(ValueError, match="expected 2 sizes of at most 4 nodes"):
        NETWORKS["x"]().double()(x, adj, mask, (3, 5))
