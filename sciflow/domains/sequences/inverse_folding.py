"""Inverse folding as masked diffusion: the ProteinMPNN trunk without an order (DRAKES, Wang et al., ICLR 2025).

Differences from `ProteinMPNN`: the mask has a row of the token table, every residue sees the tokens (masks too) and
decoder states of all its neighbours, and the graph has 30 neighbours. It is to be trained, with the objectives of any
denoiser of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sciflow.core.state import State
from sciflow.domains.sequences.codec import FIELD
from sciflow.domains.sequences.mpnn import BackboneNetwork, DecoderLayer, embed_tokens
from sciflow.domains.sequences.mpnn_layers import WIDTH, BackboneEncoder, run


class Trunk(BackboneNetwork):
    """Backbone and tokens, masked or not -> node states (B, L, 128).

    Args:
        letters: Number K of letters; the mask has id K.
        neighbours: k of the graph.
        dropout: In training.
        noise: Standard deviation [Angstrom] of the noise on coordinates in training.
        recompute: Recompute layers in the backward pass: less memory, a third more time.
    """

    def __init__(
        self,
        letters: int = 20,
        neighbours: int = 30,
        dropout: float = 0.1,
        noise: float = 0.1,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.noise, self.recompute = noise, recompute
        self.encoder = BackboneEncoder(neighbours, dropout, recompute)
        self.tokens = nn.Embedding(letters + 1, WIDTH)
        self.decoder = nn.ModuleList(DecoderLayer(dropout) for _ in range(3))

    def prepare(self, state: State) -> State:
        """As the base; in training the encoder sees noisy coordinates."""
        if not self.training or not self.noise:
            return super().prepare(state)
        backbone = state.cond["backbone"]
        noisy = super().prepare(state.condition(backbone=backbone + self.noise * torch.randn_like(backbone)))
        return noisy.condition(backbone=backbone)

    def nodes(self, state: State) -> Tensor:
        """Decoder states (B, L, 128); those of the padding mean nothing."""
        if "encoded_nodes" not in state.cond:
            state = self.prepare(state)
        x, encoded = state[FIELD], state.cond["encoded_nodes"]
        index = state.cond["neighbours"].expand(len(x), -1, -1)
        index = torch.where(index < 0, index, index + x.shape[1])  # every neighbour is visible
        tokens, nodes = embed_tokens(x, self.tokens.weight), encoded.expand(len(x), -1, -1)
        for layer in self.decoder:
            nodes = run(layer, self.recompute, nodes, tokens, encoded, state.cond["encoded_edges"], index)
        return nodes


class InverseFolding(Trunk):
    """Logits of the amino acids given the backbone and a partly masked sequence; arguments as `Trunk`."""

    def __init__(
        self,
        letters: int = 20,
        neighbours: int = 30,
        dropout: float = 0.1,
        noise: float = 0.1,
        recompute: bool = False,
    ) -> None:
        super().__init__(letters, neighbours, dropout, noise, recompute)
        self.out = nn.Linear(WIDTH, letters)

    def forward(self, state: State, signals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits (B, L, K) of field "seq" (B, L) int64 or (B, L, K + 1)."""
        return {FIELD: self.out(self.nodes(state))}


class FoldReward(Trunk):
    """A reward of sequence and backbone, e.g. stability: mean of the node states, then Linear-ReLU-Linear.

    Called with a state it returns (B,) numbers, as rewards do; differentiable for relaxed tokens. The backbone is
    encoded at each call, because the state may carry the encoding of the generator. Weights of a trained
    `InverseFolding` are a good start: `load_state_dict(weights, strict=False)`. Arguments as `Trunk`.
    """

    def __init__(
        self,
        letters: int = 20,
        neighbours: int = 30,
        dropout: float = 0.1,
        noise: float = 0.1,
        recompute: bool = False,
    ) -> None:
        super().__init__(letters, neighbours, dropout, noise, recompute)
        self.head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))

    def forward(self, state: State) -> Tensor:
        """Rewards (B,)."""
        nodes, mask = self.nodes(self.prepare(state)), state.layouts[FIELD].mask
        mask = torch.ones_like(nodes[..., 0]) if mask is None else mask
        pooled = (nodes * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.head(pooled)[:, 0]
