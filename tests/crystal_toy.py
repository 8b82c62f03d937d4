"""Random crystals of different sizes as states, and networks whose outputs are not zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciflow.core.state import Layout, State
from sciflow.domains.crystals.network import CSPNet
from sciflow.domains.crystals.network_layers import GramLattice, InvariantLattice, PlanarCoordinates, TorusCoordinates

ELEMENTS = 7
SIZES = (3, 1, 5, 2)
TURN = 2 * math.pi


def ragged(sizes) -> Layout:
    """Layout of crystals with these numbers of atoms."""
    counts = torch.tensor(sizes)
    return Layout(len(counts), torch.arange(len(counts)).repeat_interleave(counts), sizes=tuple(sizes))


def random_state(dtype=torch.float64, sizes=SIZES, seed=0, *, planar=True, gram=True, species=False) -> State:
    """Noisy coords (planar beliefs or fractions), lattice (nine or six numbers), types (indices or logits)."""
    generator = torch.Generator().manual_seed(seed)
    layout, atoms = ragged(sizes), sum(sizes)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    types = normal(atoms, ELEMENTS) if species else torch.randint(ELEMENTS, (atoms,), generator=generator)
    fields = {
        "coords": normal(atoms, 3, 2) * 0.7 if planar else normal(atoms, 3) % 1,
        "lattice": normal(len(sizes), 3, 3) if gram else normal(len(sizes), 6),
        "types": types,
    }
    return State(fields, {"coords": layout, "lattice": Layout(len(sizes)), "types": layout})


def signals(state: State, t: float | Tensor = 0.4) -> dict[str, Tensor]:
    """The same clock for all fields."""
    clock = torch.as_tensor(t, dtype=state["lattice"].dtype)
    return dict.fromkeys(state.fields, clock)


def network(*, planar=True, gram=True, species=False, dtype=torch.float64, **options) -> CSPNet:
    """A small network with random heads (a fresh one predicts zeros)."""
    torch.manual_seed(1)
    sized = {"hidden": 24, "layers": 3, "frequencies": 5, **options}
    net = CSPNet(
        ELEMENTS,
        **sized,
        coordinates=PlanarCoordinates() if planar else TorusCoordinates(),
        lattice=GramLattice() if gram else InvariantLattice(),
        evolving=["coords", "lattice", "types"] if species else ["coords", "lattice"],
    )
    for head in (net.coords_out, net.lattice_out):
        torch.nn.init.normal_(head.weight, std=0.3)
        torch.nn.init.normal_(head.bias, std=0.3)
    return net.to(dtype)


def turned(x: Tensor, tau: Tensor) -> Tensor:
    """Planar vectors (atoms, 3, 2) turned by the angles tau (3,)."""
    cos, sin = tau.cos(), tau.sin()
    return torch.stack([x[..., 0] * cos - x[..., 1] * sin, x[..., 0] * sin + x[..., 1] * cos], -1)
