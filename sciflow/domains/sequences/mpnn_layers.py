r"""Message passing over a protein backbone, the parts shared by ProteinMPNN and the inverse-folding network.

Ingraham et al., NeurIPS 2019; Dauparas et al., Science 378, 49 (2022). Each residue i has its k nearest residues j in
C-alpha distance. A message is

    m_ij = W3 gelu(W2 gelu(W1 [h_i, e_ij, senders_j])),   h_i <- norm(h_i + sum_j m_ij / 30), then a feed-forward block.

W1 acts on a concatenation, so it is a sum of one matrix per part; W3 is linear, so it can act after the sum over j.
Only W2 is left to be applied to each edge, which makes a layer about six times cheaper than the literal formula.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

MESSAGE_SCALE = 30.0  # the sum over neighbours is divided by this, whatever their number
WIDTH = 128
RADIAL = torch.linspace(2.0, 22.0, 16)  # centres of the radial basis [Angstrom]; the width is (22 - 2)/16
OFFSETS = 32  # relative positions are clipped to -32 .. 32
# atoms N, CA, C, O, CB; the order of pairs (atom of i, atom of j) is that of the released weights
PAIRS = ["CA CA", "N N", "C C", "O O", "CB CB", "CA N", "CA C", "CA O", "CA CB", "N C", "N O", "N CB", "CB C"]
PAIRS += ["CB O", "O C", "N CA", "C CA", "O CA", "CB CA", "C N", "O N", "CB N", "C CB", "O CB", "C O"]
ATOMS = ["N", "CA", "C", "O", "CB"]


def gather(nodes: Tensor, index: Tensor) -> Tensor:
    """Rows of `nodes` (B or 1, M, ...) named by `index` (B or 1, L, k): (B, L, k, ...); negative indices name row 0."""
    index = index.clamp_min(0)
    if len(nodes) > 1:
        index = index + nodes.shape[1] * torch.arange(len(nodes), device=index.device)[:, None, None]
    return nodes.flatten(0, 1).index_select(0, index.flatten()).unflatten(0, index.shape)  # the quickest form


def nearest(coordinates: Tensor, mask: Tensor | None, neighbours: int) -> Tensor:
    """The k = min(neighbours, L) residues next to each residue in C-alpha distance, itself included.

    Args:
        coordinates: (B, L, 4, 3) N, CA, C, O [Angstrom].
        mask: (B, L), 1 on real residues; None: all are real.
        neighbours: k.

    Returns:
        (B, L, k) indices, nearest first; -1 where there are fewer than k real residues.
    """
    alpha = coordinates[:, :, 1]
    distance = ((alpha[:, :, None] - alpha[:, None]) ** 2).sum(-1)
    if mask is not None:
        distance = distance.masked_fill(mask[:, None, :] == 0, torch.inf)
    distance, index = distance.topk(min(neighbours, distance.shape[-1]), -1, largest=False)
    return index.masked_fill(distance.isinf(), -1)


class BackboneGraph(nn.Module):
    """Edge features of a backbone: 25 atom-pair distances in 16 radial functions and the relative position.

    The virtual CB is -0.58273431 a + 0.56802827 b - 0.54067466 c + CA with b = CA - N, c = C - CA, a = b x c.

    Args:
        neighbours: k.
    """

    def __init__(self, neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.offset = nn.Embedding(2 * OFFSETS + 1, 16)
        self.embed = nn.Linear(16 + len(PAIRS) * len(RADIAL), WIDTH, bias=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        first, second = zip(*(pair.split() for pair in PAIRS), strict=True)
        self.first, self.second = [ATOMS.index(a) for a in first], [ATOMS.index(a) for a in second]

    def forward(self, coordinates: Tensor, residue_index: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Edges (B, L, k, 128) and the neighbours (B, L, k) they lead to, -1 for none.

        Args:
            coordinates: (B, L, 4, 3) N, CA, C, O [Angstrom].
            residue_index: (B, L) place in the chain, gaps counted.
            mask: (B, L) of real residues or None.
        """
        index = nearest(coordinates, mask, self.neighbours)
        n, alpha, c, _ = coordinates.unbind(2)
        b, c = alpha - n, c - alpha
        beta = -0.58273431 * torch.cross(b, c, dim=-1) + 0.56802827 * b - 0.54067466 * c + alpha
        atoms = torch.cat([coordinates, beta[:, :, None]], 2)
        step = atoms[:, :, None, self.first] - gather(atoms[:, :, self.second], index)
        distance = ((step**2).sum(-1) + 1e-6).sqrt()  # the floor is part of the released features
        width = (RADIAL[-1] - RADIAL[0]) / len(RADIAL)
        radial = torch.exp(-(((distance[..., None] - RADIAL.to(distance)) / width.to(distance)) ** 2)).flatten(-2)
        offset = residue_index[:, :, None] - gather(residue_index, index)
        place = self.offset(offset.clamp(-OFFSETS, OFFSETS) + OFFSETS)
        return self.out(self.norm(self.embed(torch.cat([place, radial], -1)))), index


class Message(nn.Module):
    """W1 and W2 of the message function, W1 split by what it reads.

    Args:
        parts: Number of vectors that a sender j contributes: 1 (its node), 2 (its token as well).
    """

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.receiver = nn.Linear(WIDTH, WIDTH)
        self.edge = nn.Linear(WIDTH, WIDTH, bias=False)
        self.senders = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(parts))
        self.second = nn.Linear(WIDTH, WIDTH)

    def forward(self, nodes: Tensor, edges: Tensor, senders: Tensor, index: Tensor) -> Tensor:
        """gelu(W2 gelu(W1 [h_i, e_ij, senders_j])): (B, L, k, 128).

        Args:
            nodes: (B, L, 128).
            edges: (B or 1, L, k, 128).
            senders: (B, M, 128), already multiplied by their parts of W1.
            index: (B, L, k) which sender each edge reads.
        """
        hidden = gather(senders, index)
        hidden += self.receiver(nodes)[:, :, None]  # in place: these tensors are the largest there are
        hidden += self.edge(edges)
        return functional.gelu(self.second(functional.gelu(hidden)))


class NodeUpdate(nn.Module):
    """h <- norm(h + W3 sum_j (.) / 30), h <- norm(h + feed-forward(h))."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.third = nn.Linear(WIDTH, WIDTH)
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.norm_message, self.norm_feed = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, nodes: Tensor, hidden: Tensor, index: Tensor) -> Tensor:
        """New nodes (B, L, 128) from `hidden` (B, L, k, 128) of `Message`; edges of negative `index` count nothing.

        Residues of the padding have nodes too, which nobody reads.
        """
        real = (index >= 0).to(hidden)[..., None]
        count = real.sum(2)  # the bias of W3 comes once per edge
        total = (real.mT @ hidden).squeeze(2)
        message = functional.linear(total, self.third.weight) + count * self.third.bias
        nodes = self.norm_message(nodes + self.dropout(message / MESSAGE_SCALE))
        return self.norm_feed(nodes + self.dropout(self.feed_forward(nodes)))


class EncoderLayer(nn.Module):
    """One layer on the structure: nodes from edges, then edges from nodes."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.node_message, self.edge_message = Message(1), Message(1)
        self.update = NodeUpdate(dropout)
        self.third = nn.Linear(WIDTH, WIDTH)
        self.norm_edge, self.dropout = nn.LayerNorm(WIDTH), nn.Dropout(dropout)

    def forward(self, nodes: Tensor, edges: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """New nodes (B, L, 128) and edges (B, L, k, 128)."""
        hidden = self.node_message(nodes, edges, self.node_message.senders[0](nodes), index)
        nodes = self.update(nodes, hidden, index)
        hidden = self.edge_message(nodes, edges, self.edge_message.senders[0](nodes), index)
        return nodes, self.norm_edge(edges + self.dropout(self.third(hidden)))


class BackboneEncoder(nn.Module):
    """Backbone -> nodes and edges that every decoder pass reads.

    Args:
        neighbours: k of the graph.
        dropout: In training.
        recompute: Recompute the layers in the backward pass instead of storing them.
    """

    def __init__(self, neighbours: int, dropout: float = 0.0, recompute: bool = False) -> None:
        super().__init__()
        self.graph = BackboneGraph(neighbours)
        self.layers = nn.ModuleList(EncoderLayer(dropout) for _ in range(3))
        self.recompute = recompute

    def forward(self, coordinates: Tensor, residue_index: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes (B, L, 128), edges (B, L, k, 128), neighbours (B, L, k) with -1 for none."""
        edges, index = self.graph(coordinates, residue_index, mask)
        nodes = edges.new_zeros(*edges.shape[:2], WIDTH)
        for layer in self.layers:
            nodes, edges = run(layer, self.recompute, nodes, edges, index)
        return nodes, edges, index


def run(layer: nn.Module, recompute: bool, *inputs: Tensor):
    """The layer's output, with its inner values recomputed in the backward pass if wished."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)
