"""A small graph transformer that predicts the classes of all nodes and all node pairs of a noisy graph.

The network sees a graph whose one-hot node classes `x` and one-hot pair classes `adj` (class 0: no edge) carry Gaussian
noise, and the clocks t of both, and returns the class probabilities of the clean graph: the posterior mean
E[x0 | x_t, adj_t] of the one-hot fields when trained with the cross-entropy, which has the same minimiser as the
squared error. It keeps one feature vector h_i per node and one e_ij = e_ji per *unordered* pair i < j (half the work of
a dense edge tensor, and symmetric by construction). Every block does, with a = norm(h), b = norm(e), clock code c:

    h_i  +=  O sum_j W(b_ij) (.) V a_j                  attention whose weights are read off the edge, head by head
    h_i  +=  MLP(h_i, c)
    e_ij +=  MLP(b_ij, a_i + a_j, sum_k T(b_ik) T(b_kj), c)

Optionally sums over all pairs, sum_ij P(b_ij), are appended to c in every block.

Three choices differ from the dot-product graph transformer (Dwivedi and Bresson 2021, arXiv 2012.09699; Vignac et al.
2023, arXiv 2209.14734). The attention weights are linear in the edge features, without softmax: they may add up (a node
can count its valence), and the edge already knows both its ends. The third input of the edge MLP is a product of
learned edge matrices (Maron et al. 2019, arXiv 1905.11136), the cheapest way to see triangles and longer cycles, which
message passing alone cannot count. The clock enters every MLP. A learned multiple of the noisy input is added to the
logits: at low noise the classes can be read off the input.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.core.state import State

FREQUENCIES = 16  # of the clock code: cos and sin of k pi t / 2, k = 1..16


class Pairs:
    """The unordered pairs i < j of N nodes of a padded batch, with masks.

    Attributes:
        first: (P,) node i of each pair, P = N (N - 1) / 2.
        second: (P,) node j of each pair.
        node_mask: (B, N, 1), 1 on real nodes.
        pair_mask: (B, P, 1), 1 on pairs of real nodes.
        dense_mask: (B, 1, N, N), the same as a symmetric matrix with zero diagonal.
    """

    def __init__(self, node_mask: Tensor) -> None:
        self.size = node_mask.shape[1]
        device = node_mask.device
        self.first, self.second = torch.triu_indices(self.size, self.size, 1, device=device).unbind(0)
        number = torch.zeros(self.size, self.size, dtype=torch.long, device=device)
        number[self.first, self.second] = torch.arange(len(self.first), device=device)
        self._number = (number + number.T).flatten()  # pair of each matrix entry; the diagonal points to pair 0
        self.node_mask = node_mask
        self.pair_mask = self.gather(node_mask) * node_mask.index_select(1, self.second)
        off_diagonal = 1 - torch.eye(self.size, dtype=node_mask.dtype, device=device)
        self.dense_mask = (node_mask * node_mask.transpose(1, 2) * off_diagonal)[:, None]

    def gather(self, h: Tensor) -> Tensor:
        """Node features (B, N, C) at the first node of every pair: (B, P, C)."""
        return h.index_select(1, self.first)

    def both(self, h: Tensor) -> Tensor:
        """Sum of the node features (B, N, C) at the two ends of every pair: (B, P, C)."""
        return self.gather(h) + h.index_select(1, self.second)

    def pack(self, dense: Tensor) -> Tensor:
        """Matrix (B, N, N, C) -> its upper triangle (B, P, C)."""
        return dense.flatten(1, 2).index_select(1, self.first * self.size + self.second)

    def unpack(self, e: Tensor) -> Tensor:
        """Pair features (B, P, C) -> symmetric matrices (B, C, N, N), zero on the diagonal and outside the mask."""
        if self.size < 2:  # a lone node has no pairs to point to
            return e.new_zeros(e.shape[0], e.shape[2], self.size, self.size)
        dense = e.index_select(1, self._number).unflatten(1, (self.size, self.size))
        return dense.permute(0, 3, 1, 2) * self.dense_mask


class Block(nn.Module):
    """One update of the node features, then of the pair features (formulas in the module docstring)."""

    def __init__(
        self, node_width: int, edge_width: int, heads: int, triangles: int, clock_width: int, pooled: int
    ) -> None:
        super().__init__()
        self.heads, self.triangles = heads, triangles
        self.pool = nn.Linear(edge_width, pooled) if pooled else None
        clock_width += pooled
        self.node_norm, self.edge_norm, self.mlp_norm = (nn.LayerNorm(w) for w in (node_width, edge_width, node_width))
        self.matrices = nn.Linear(edge_width, heads + triangles)  # W and T
        self.value, self.mix = nn.Linear(node_width, node_width), nn.Linear(node_width, node_width)
        self.node_up, self.node_down = nn.Linear(node_width, 2 * node_width), nn.Linear(2 * node_width, node_width)
        self.node_clock = nn.Linear(clock_width, 2 * node_width)
        self.edge_up, self.edge_down = nn.Linear(edge_width, 2 * edge_width), nn.Linear(2 * edge_width, edge_width)
        self.edge_ends = nn.Linear(node_width, 2 * edge_width, bias=False)
        self.edge_triangles = nn.Linear(triangles, 2 * edge_width, bias=False)
        self.edge_clock = nn.Linear(clock_width, 2 * edge_width, bias=False)
        with torch.no_grad():  # start close to the identity
            for layer in (self.mix, self.node_down, self.edge_down):
                layer.weight.mul_(0.3)
                layer.bias.zero_()

    def forward(self, h: Tensor, e: Tensor, clock: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """h (B, N, node_width), e (B, P, edge_width), clock (B, 1, clock_width) -> the new h and e."""
        edges = self.edge_norm(e)
        if self.pool is not None:  # sums over all pairs, in units of the number of nodes, stand beside the clock
            counts = (functional.silu(self.pool(edges)) * pairs.pair_mask).sum(1, keepdim=True)
            clock = torch.cat([clock, counts / pairs.node_mask.sum(1, keepdim=True)], 2)
        weights, factors = pairs.unpack(self.matrices(edges)).split((self.heads, self.triangles), 1)
        values = self.value(self.node_norm(h)).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, width)
        h = h + self.mix((weights @ values).transpose(1, 2).flatten(2))
        nodes = self.mlp_norm(h)
        h = h + self.node_down(functional.silu(self.node_up(nodes) + self.node_clock(clock))) * pairs.node_mask
        paths = pairs.pack((factors @ factors).permute(0, 2, 3, 1)) / 2
        ends = pairs.both(self.edge_ends(nodes) + self.edge_clock(clock))
        hidden = self.edge_up(edges) + ends + self.edge_triangles(paths)
        return h, e + self.edge_down(functional.silu(hidden))


class GraphTransformer(nn.Module, Configurable):
    """Class probabilities of the clean nodes and node pairs, from a noisy graph and the clocks.

    Equivariant to a permutation of the nodes; padded nodes and pairs never influence real ones. Memory and work grow
    with N^2 (feature widths) and N^3 (matrix products).

    Args:
        node_classes: F, number of node classes (atom types); 0: the graphs have no field `x`.
        edge_classes: K, number of pair classes, class 0 being "no edge"; None: both numbers are taken from the data
            when training starts (`build`).
        node_width: Features per node.
        edge_width: Features per pair.
        heads: Attention matrices per block; must divide `node_width`.
        triangles: Edge matrices per block that are squared to see paths of two edges.
        layers: Number of blocks.
        clock_width: Features of the clock code.
        pooled: Sums over all pairs that every block shows to all nodes and pairs, so that the graph as a whole can be
            counted (connected parts, rare edges); 0: none.

    Raises:
        UserError: `heads` does not divide `node_width`.
    """

    def __init__(
        self,
        node_classes: int = 0,
        edge_classes: int | None = None,
        node_width: int = 96,
        edge_width: int = 48,
        heads: int = 16,
        triangles: int = 16,
        layers: int = 4,
        clock_width: int = 64,
        pooled: int = 0,
    ) -> None:
        super().__init__()
        if node_width % heads:
            raise UserError(f"got node_width {node_width} and heads {heads}; choose heads that divide node_width")
        self.node_width, self.edge_width, self.clock_width = node_width, edge_width, clock_width
        self.heads, self.triangles, self.layers, self.pooled = heads, triangles, layers, pooled
        if edge_classes is not None:
            self.build({"x": node_classes, "adj": edge_classes} if node_classes else {"adj": edge_classes})

    def build(self, features: dict[str, int]) -> None:
        """Make the layers for data with these numbers of classes: `adj`, and `x` where nodes have classes.

        Raises:
            UserError: The data have no edge classes.
        """
        if "adj" not in features:
            raise UserError(
                "GraphTransformer needs one-hot edge classes and these data have real-valued edges; "
                "use MoleculeData or GraphData instead of GDSSMoleculeData or GDSSGraphData"
            )
        self.node_classes, self.edge_classes = features.get("x", 0), features["adj"]
        self.init_args |= {"node_classes": self.node_classes, "edge_classes": self.edge_classes}
        node_width, edge_width, clock_width = self.node_width, self.edge_width, self.clock_width
        clocks = 2 if self.node_classes else 1
        self.frequency: Tensor
        self.register_buffer("frequency", torch.arange(1, FREQUENCIES + 1) * (math.pi / 2), persistent=False)
        self.clock = nn.Sequential(
            nn.Linear(2 * FREQUENCIES * clocks + 1, clock_width),
            nn.SiLU(),
            nn.Linear(clock_width, clock_width),
            nn.SiLU(),
        )
        self.node_in, self.node_clock = (nn.Linear(w, node_width) for w in (max(self.node_classes, 1), clock_width))
        self.edge_in, self.edge_ends = nn.Linear(self.edge_classes, edge_width), nn.Linear(node_width, edge_width)
        self.blocks = nn.ModuleList(
            Block(node_width, edge_width, self.heads, self.triangles, clock_width, self.pooled)
            for _ in range(self.layers)
        )
        self.node_norm, self.edge_norm = nn.LayerNorm(node_width), nn.LayerNorm(edge_width)
        self.edge_hidden, self.edge_hidden_ends = nn.Linear(edge_width, edge_width), nn.Linear(node_width, edge_width)
        self.edge_out = nn.Linear(edge_width, self.edge_classes)
        self.node_out = nn.Linear(node_width, self.node_classes) if self.node_classes else None
        self.skip = nn.Linear(clock_width, clocks)  # how far the noisy fields themselves are trusted

    def forward(self, state: State, signals: dict[str, Tensor]) -> dict[str, Tensor]:
        """Predict the clean classes.

        Args:
            state: Noisy `adj` (B, N, N, K), symmetric; noisy `x` (B, N, F) unless `node_classes` is 0. The layout of
                `x` (mask (B, N, 1)) or else of `adj` (sizes, or mask (B, N, N[, 1])) says which nodes are real.
            signals: Clock t in [0, 1] of each field, 0-dim or (B,).

        Returns:
            `adj` (B, N, N, K): probabilities, symmetric, exactly zero on the diagonal and where a node is padded;
            `x` (B, N, F) where there are node classes: probabilities, zero on padded nodes. They are softmax outputs:
            a cross-entropy may take log(p.clamp_min(torch.finfo(p.dtype).tiny)).
        """
        adj = state["adj"]
        x = state["x"] if self.node_classes else None
        pairs = Pairs(_node_mask(state).to(adj.dtype))
        fields = ("x", "adj") if self.node_classes else ("adj",)
        clock = self._clock_code([signals[name] for name in fields], pairs.node_mask)
        pair_input = pairs.pack(adj)
        h = self.node_in(pairs.node_mask if x is None else x) + self.node_clock(clock)
        e = self.edge_in(pair_input) + pairs.both(self.edge_ends(h))
        for block in self.blocks:
            h, e = block(h, e, clock, pairs)
        h, e = self.node_norm(h), self.edge_norm(e)
        trust = functional.softplus(self.skip(clock))
        hidden = functional.silu(self.edge_hidden(e) + pairs.both(self.edge_hidden_ends(h)))
        edges = (self.edge_out(hidden) + trust[..., -1:] * pair_input).softmax(-1)
        out = {"adj": pairs.unpack(edges).permute(0, 2, 3, 1)}
        if self.node_out is not None and x is not None:
            out["x"] = (self.node_out(h) + trust[..., :1] * x).softmax(-1) * pairs.node_mask
        return out

    def _clock_code(self, clocks: list[Tensor], node_mask: Tensor) -> Tensor:
        """Clocks (0-dim or (B,)) and the number of nodes as features (B, 1, clock_width)."""
        t = torch.stack([clock.to(node_mask.dtype).expand(node_mask.shape[0]) for clock in clocks], 1)
        angle = (t[:, :, None] * self.frequency.to(node_mask.dtype)).flatten(1)
        nodes = node_mask.sum(1).clamp_min(1).log()
        return self.clock(torch.cat([angle.cos(), angle.sin(), nodes], 1))[:, None]


def _node_mask(state: State) -> Tensor:
    """(B, N, 1) mask of the real nodes, from the layout of `x` or else of `adj`; all nodes when neither has one."""
    adj = state["adj"]
    batch, nodes = adj.shape[:2]
    layout = state.layouts.get("x")
    if layout is not None and layout.mask is not None:
        return layout.mask.expand(batch, nodes, 1)
    layout = state.layouts["adj"]
    if layout.sizes is not None:
        sizes = torch.tensor(layout.sizes, device=adj.device)
        return (torch.arange(nodes, device=adj.device) < sizes[:, None])[..., None]
    if layout.mask is not None:
        return layout.mask.reshape(-1, nodes, nodes).amax(2)[..., None].expand(batch, nodes, 1)
    return adj.new_ones(batch, nodes, 1)
