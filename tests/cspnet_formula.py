"""CSPNet by its formulas (crysbfn specification, section 11): every directed edge with all its input, nothing shared.

Takes the weights of a `CSPNet` and follows the published arithmetic: edge inputs [h_i, h_j, lattice, sin, cos] of
2 H + L + 6 K numbers are written out for each of the N^2 directed edges, self loops included. As in the published code
(repository jiaor17/DiffCSP, diffcsp/pl_modules/cspnet.py) each layer evaluates sines and cosines anew.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sciflow.core.state import State
from sciflow.domains.crystals.network import CSPNet
from sciflow.domains.crystals.network_layers import MessageLayer, clock_code


def edges_of(crystal: Tensor) -> tuple[Tensor, Tensor]:
    """All (i, j) of the same crystal, crystal by crystal."""
    first, second, start = [], [], 0
    for count in crystal.bincount().tolist():
        atoms = torch.arange(start, start + count)
        first.append(atoms.repeat_interleave(count))
        second.append(atoms.repeat(count))
        start += count
    return torch.cat(first), torch.cat(second)


def mean_by(index: Tensor, value: Tensor, groups: int) -> Tensor:
    """Mean of the rows of each group."""
    total = value.new_zeros(groups, value.shape[1]).index_add(0, index, value)
    return total / index.bincount(minlength=groups)[:, None]


def reference(net: CSPNet, state: State, signals: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `net(state, signals)` must return."""
    coords, lattice, types = state["coords"], state["lattice"], state["types"]
    crystal = state.layouts["coords"].index
    assert crystal is not None
    i, j = edges_of(crystal)
    angle, confidence = net.coordinates.read(coords)
    if types.is_floating_point():
        given = 2 * types.softmax(-1) - 1
    else:
        given = functional.one_hot(types, net.embedding.in_features)
    clocks = torch.cat([clock_code(signals[name].to(lattice), state.batch) for name in net.evolving], 1)
    h = net.embedding(given.to(lattice)) + net.clock(clocks)[crystal]
    if net.confidence is not None:
        h = h + net.confidence(confidence)
    turn = 2 * torch.pi
    d = angle[j] - angle[i]
    d = d - turn * torch.round(d / turn)
    cell = net.lattice.read(lattice)[crystal]
    for layer in net.layers:
        assert isinstance(layer, MessageLayer)
        x = layer.norm(h)
        phases = (d[:, :, None] * torch.arange(net.frequencies).to(d)).flatten(1)
        waves = torch.cat([phases.sin(), phases.cos()], 1)
        edge = torch.cat([x[i], x[j], cell[i], waves], 1)
        edge = functional.silu(layer.edge_out(functional.silu(layer.edge_in(edge))))
        node = torch.cat([x, mean_by(i, edge, len(h))], 1)
        h = h + functional.silu(layer.node_out(functional.silu(layer.node_in(node))))
    h = net.norm(h)
    pooled = mean_by(crystal, h, state.batch)
    out = {
        "coords": net.coordinates.predict(net.coords_out(h), coords),
        "lattice": net.lattice.predict(net.lattice_out(pooled), lattice),
    }
    if net.types_out is not None:
        out["types"] = net.types_out(h).softmax(-1)
    return out
