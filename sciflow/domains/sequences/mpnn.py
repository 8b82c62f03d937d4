r"""ProteinMPNN as a denoiser of masked diffusion (Dauparas et al., Science 378, 49 (2022)).

ProteinMPNN is order-agnostic: p(x_i | x_known) is trained for every set of known residues. That is what an absorbing
process asks for, so the published weights denoise as they are. One decoder pass gives p(x_i | known) for ALL masked i:

    a known residue sees the known residues before it, with their tokens and decoder states, in this order: first the
    fixed residues (`cond["fixed"]` >= 0), then the others, each group in the order of the chain;
    a masked residue sees all known residues in this way, and no other masked one;
    of what is not seen only the encoder state is read.

The encoder reads the backbone alone and runs once per run. Fixed residues see fixed ones only, so samples that share
them share their decoder states too, and a pass costs as much as there are free residues.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.core.state import State
from sciflow.domains.sequences.codec import FIELD
from sciflow.domains.sequences.mpnn_layers import WIDTH, BackboneEncoder, Message, NodeUpdate, gather

LETTERS = 20
EDGES = {"cpu": 2**12, "cuda": 2**18}  # per block of samples without gradient: fits the caches, bounds memory


class DecoderLayer(nn.Module):
    """One layer on structure and sequence."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.message, self.update = Message(2), NodeUpdate(dropout)

    def forward(
        self, nodes: Tensor, tokens: Tensor, encoded: Tensor, edges: Tensor, index: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """New nodes (B, L, 128), or (B, R, 128) of the given residues.

        Args:
            nodes: (B, L, 128) decoder states.
            tokens: (B, L, 128) embedded sequence.
            encoded: (B or 1, L, 128) encoder states, read of residues that are not visible.
            edges: (B or 1, L or R, k, 128).
            index: (B, L or R, k) neighbour j, j + L if it is visible, -1 for none.
            rows: (R,) residues whose states are wanted; None: all.
        """
        of_node, of_token = self.message.senders
        unseen = of_node(encoded).expand_as(nodes)
        senders = torch.cat([unseen, of_node(nodes) + of_token(tokens)], 1)
        nodes = nodes if rows is None else nodes[:, rows]
        return self.update(nodes, self.message(nodes, edges, senders, index), index)


class BackboneNetwork(nn.Module, Configurable):
    """A network on field "seq" that encodes `cond["backbone"]` once: base of ProteinMPNN and of `InverseFolding`.

    `prepare` puts the encoding into the conditions. If all samples have the same backbone it is computed and kept once,
    with a first size of 1.

    Attributes:
        encoder: Reads the backbone.
    """

    clock_free: ClassVar[bool] = True
    encoder: BackboneEncoder

    def prepare(self, state: State) -> State:
        """The state with `encoded_nodes` (b, L, 128), `encoded_edges` (b, L, k, 128), `neighbours` (b, L, k).

        Raises:
            UserError: The state has no backbone, or one of another length than the sequence.
        """
        nodes, edges, index = self.encoder(*backbone_of(state))
        return state.condition(encoded_nodes=nodes, encoded_edges=edges, neighbours=index)


def backbone_of(state: State) -> tuple[Tensor, Tensor, Tensor | None]:
    """Coordinates (b, L, 4, 3), residue_index (b, L) and mask (b, L); b = 1 if all samples have the same, else B.

    Raises:
        UserError: The state has no backbone, or one of another length than the sequence.
    """
    sequence, layout = state[FIELD], state.layouts[FIELD]
    coordinates: Tensor | None = state.cond.get("backbone")
    if coordinates is None or coordinates.shape[1:] != (sequence.shape[1], 4, 3):
        got = "none" if coordinates is None else tuple(coordinates.shape)
        raise UserError(
            f"cond['backbone']: got {got}, expected (B, {sequence.shape[1]}, 4, 3) N, CA, C, O coordinates; "
            "give a structure (--backbone FILE.pdb)"
        )
    place = state.cond.get("residue_index")
    if place is None:
        place = torch.arange(sequence.shape[1], device=sequence.device).expand(len(coordinates), -1)
    parts = [coordinates, place, *([] if layout.mask is None else [layout.mask])]
    if all(bool((part == part[:1]).all()) for part in parts):
        parts = [part[:1] for part in parts]
    return parts[0], parts[1], None if layout.mask is None else parts[2]


def embed_tokens(x: Tensor, table: Tensor) -> Tensor:
    """Rows of a token table (K + 1, C), the mask last: (B, L, C) for tokens (B, L) int64 or relaxed (B, L, K + 1)."""
    return x.to(table) @ table if x.is_floating_point() else table[x]


class ProteinMPNN(BackboneNetwork):
    """log p(amino acid | known residues, backbone) of all residues at once, in the order ACDEFGHIKLMNPQRSTVWY.

    Args:
        neighbours: k of the graph; a property of the weights.
        temperature: Logits are divided by it. Published designs use 0.1; likelihoods mean something at 1 only.
    """

    def __init__(self, neighbours: int = 48, temperature: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"temperature must be positive, got {temperature}")
        self.temperature = temperature
        self.encoder = BackboneEncoder(neighbours)
        self.tokens = nn.Embedding(LETTERS, WIDTH)
        self.decoder = nn.ModuleList(DecoderLayer(0.0) for _ in range(3))
        self.out = nn.Linear(WIDTH, LETTERS)

    def forward(self, state: State, signals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits (B, L, 20) of field "seq" (B, L) int64 or (B, L, 21); entries of known residues mean nothing."""
        if "encoded_nodes" not in state.cond:
            state = self.prepare(state)
        x, fixed = state[FIELD], state.cond.get("fixed")
        hard = x.argmax(-1) if x.is_floating_point() else x
        encoding = [state.cond[name] for name in ("encoded_nodes", "encoded_edges", "neighbours")]
        order = torch.arange(x.shape[1], device=x.device).expand_as(hard)
        rows, held = None, None
        if fixed is not None:
            order = order + x.shape[1] * (fixed < 0)
            if len(encoding[0]) == 1 and bool(((fixed == fixed[:1]) & ((fixed < 0) | (fixed == hard))).all()):
                rows = (fixed[0] < 0).nonzero()[:, 0]
                held = self.decode(torch.where(fixed < 0, LETTERS, fixed)[:1], order[:1], *encoding)
        block = len(x)
        if not torch.is_grad_enabled():
            width = x.shape[1] if rows is None else len(rows)
            block = max(1, EDGES.get(x.device.type, 2**18) // max(1, width * encoding[2].shape[2]))
        nodes = []
        for part in (slice(i, i + block) for i in range(0, len(x), block)):
            encoded = (v if len(v) == 1 else v[part] for v in encoding)
            nodes.append(self.decode(x[part], order[part], *encoded, rows=rows, held=held)[-1])
        return {FIELD: self.out(torch.cat(nodes)) / self.temperature}

    def decode(
        self,
        x: Tensor,
        order: Tensor,
        encoded: Tensor,
        edges: Tensor,
        neighbours: Tensor,
        rows: Tensor | None = None,
        held: list[Tensor] | None = None,
    ) -> list[Tensor]:
        """Nodes (B, L, 128) after each layer.

        Args:
            x: (B, L) tokens or (B, L, 21) relaxed tokens.
            order: (B, L) known residues see those of lower number.
            encoded: (b, L, 128), with `edges` and `neighbours` from `prepare`.
            edges: (b, L, k, 128).
            neighbours: (b, L, k).
            rows: (R,) residues to compute; None: all.
            held: What this method returned for the other residues, (1, L, 128) per layer.
        """
        index = visible_index((x.argmax(-1) if x.is_floating_point() else x) != LETTERS, neighbours, order)
        if rows is not None:
            index, edges = index[:, rows], edges[:, rows]
        table = functional.pad(self.tokens.weight, (0, 0, 0, 1))  # masked tokens are never visible
        tokens, nodes = embed_tokens(x, table), [encoded.expand(len(x), -1, -1)]
        for number, layer in enumerate(self.decoder):
            new = layer(nodes[-1], tokens, encoded, edges, index, rows)
            if rows is not None and held is not None:
                new = held[number].expand(len(x), -1, -1).index_copy(1, rows, new)
            nodes.append(new)
        return nodes[1:]


def visible_index(known: Tensor, neighbours: Tensor, order: Tensor) -> Tensor:
    """Neighbour j of each residue, as j + L if its token is visible: (B, L, k); -1 stays.

    Args:
        known: (B, L) bool.
        neighbours: (B or 1, L, k).
        order: (B, L) known residues see those of lower number.
    """
    visible = gather(known, neighbours) & ((gather(order, neighbours) < order[..., None]) | ~known[..., None])
    return neighbours + known.shape[1] * (visible & (neighbours >= 0))
