"""Symmetries of CSPNet (crysbfn specification, section 12): exact up to rounding, 1e-10 in double, 1e-5 in single."""

from __future__ import annotations

import pytest
import torch
from crystal_toy import SIZES, TURN, network, random_state, signals, turned

from sciflow.core.state import State

PRECISION = pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-10), (torch.float32, 1e-5)])


def close(a, b, bound):
    torch.testing.assert_close(a, b, atol=bound, rtol=bound)


@PRECISION
def test_a_shift_of_the_coordinates_shifts_the_prediction(setting, dtype, bound):
    state, net = random_state(dtype, **setting), network(**setting, dtype=dtype)
    tau = torch.tensor([0.7, 2.9, -1.3], dtype=dtype)
    coords = turned(state["coords"], tau) if setting["planar"] else (state["coords"] + tau / TURN) % 1
    out, moved = (net(s, signals(s)) for s in (state, state.put(coords=coords)))
    close(moved["coords"], turned(out["coords"], tau) if setting["planar"] else out["coords"], bound)
    for name in set(out) - {"coords"}:
        close(moved[name], out[name], bound)


@PRECISION
@pytest.mark.parametrize("determinant", [1, -1])
def test_a_rotation_or_reflection_of_the_lattice_turns_the_predicted_lattice_only(dtype, bound, determinant):
    state, net = random_state(dtype), network(dtype=dtype)
    generator = torch.Generator().manual_seed(5)
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    q = (q * (determinant * torch.linalg.det(q).sign())).to(dtype)
    assert float(torch.linalg.det(q)) == pytest.approx(determinant, abs=1e-5)
    out, turned_out = (net(s, signals(s)) for s in (state, state.put(lattice=state["lattice"] @ q)))
    close(turned_out["lattice"], out["lattice"] @ q, bound)
    close(turned_out["coords"], out["coords"], bound)


def test_the_coordinates_are_not_invariant_under_reflection():
    """x -> -x of the coordinates alone is no symmetry: a network that had it could not tell enantiomers apart."""
    state, net = random_state(planar=False), network(planar=False)
    out, mirrored = (net(s, signals(s))["coords"] for s in (state, state.put(coords=-state["coords"] % 1)))
    assert float((mirrored + out).detach().abs().max()) > 1e-3


@PRECISION
def test_a_permutation_of_atoms_permutes_the_prediction(setting, dtype, bound):
    state, net = random_state(dtype, **setting), network(**setting, dtype=dtype)
    order = torch.tensor([2, 0, 1, 3, 8, 6, 4, 7, 5, 10, 9])  # within the crystals of 3, 1, 5 and 2 atoms
    permuted = state.put(coords=state["coords"][order], types=state["types"][order])
    out, other = net(state, signals(state)), net(permuted, signals(state))
    close(other["coords"], out["coords"][order], bound)
    close(other["lattice"], out["lattice"], bound)
    if "types" in out:
        close(other["types"], out["types"][order], bound)


@PRECISION
def test_a_crystal_does_not_see_its_batch_mates(setting, dtype, bound):
    state, net = random_state(dtype, **setting), network(**setting, dtype=dtype)
    clocks = torch.tensor([0.1, 0.5, 0.9, 0.3], dtype=dtype)
    out, start = net(state, signals(state, clocks)), 0
    for k, size in enumerate(SIZES):
        one: State = state.select([k])
        alone = net(one, signals(one, clocks[k : k + 1]))
        rows = slice(start, start + size)
        close(alone["coords"], out["coords"][rows], bound)
        close(alone["lattice"], out["lattice"][k : k + 1], bound)
        start += size


def test_numbers_of_full_turns_do_not_matter():
    state, net = random_state(planar=False), network(planar=False)
    other = state.put(coords=state["coords"] + torch.randint(-2, 3, (sum(SIZES), 3)))
    close(net(other, signals(other)), net(state, signals(state)), 1e-10)
