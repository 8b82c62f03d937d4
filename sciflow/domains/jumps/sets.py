"""Evaluation systems as data sets: flashing ratchet, ion channels, alanine dipeptide, villin headpiece HP35.

`jump_set(name)` gives the paths; the files come from `sciflow.data` (`SCIFLOW_DATA`). Section 8 of the specification.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sciflow.core.errors import UserError
from sciflow.data import resolve
from sciflow.domains.jumps.archives import stored_arrays
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.labelling import lump
from sciflow.domains.jumps.systems import RATCHET_NAMES, flashing_ratchet

FOLDED = 9  # contact states 9..12 of HP35 are the folded side of its two-state lumping
CHANNEL_HZ = 20_000.0  # sampling of the IP3 receptor's recording (from memory of its source, says the data folder)


def ratchet(potential: int) -> Paths:
    """10 000 paths of the flashing ratchet from its stationary law, 100 points on [0, 2.5], r = b = 1, no noise."""
    stored = stored_arrays(resolve(f"dfr_V{potential}"), "states", "t_end", "n_grid")
    times = np.linspace(0, float(stored["t_end"]), int(stored["n_grid"]))
    return Paths.of(times, stored["states"], names=RATCHET_NAMES)


def ip3_receptor() -> Paths:
    """Current [pA] of one type-2 IP3 receptor, 3 s; open is about -40 pA."""
    current = stored_arrays(resolve("ip3r2"), "current_pA")["current_pA"]
    return Paths.of([np.arange(len(current)) / CHANNEL_HZ], signal=[current], unit="s", starts=[False])


def porin() -> Paths:
    """Current through a bacterial porin, arbitrary units; time in samples of the file (its rate is not known)."""
    current = stored_arrays(resolve("porb"), "current")["current"]
    return Paths.of([np.arange(len(current))], signal=[current], unit="samples", starts=[False])


def alanine_dipeptide() -> Paths:
    """Three conformations of alanine dipeptide, 10 ns every 0.5 ps, as one trajectory.

    alpha-R where -120 < psi < 30 degrees, else extended where phi < -110, else PII; the few frames with phi > 0 are
    left out and leave gaps (section 8c).
    """
    stored = stored_arrays(resolve("ala2"), "phi_psi", "dt_fs")
    phi, psi = np.degrees(stored["phi_psi"].astype(np.float64)).T
    times = np.arange(len(phi)) * float(stored["dt_fs"]) / 1000
    states = np.where((psi > -120) & (psi < 30), 0, np.where(phi < -110, 1, 2))
    kept = phi <= 0
    names = ("alpha-R", "extended", "PII")
    return Paths.of([times[kept]], [states[kept]], unit="ps", names=names, starts=[False])


def headpiece(labels: str = "contact") -> Paths:
    """Twelve macrostates of one folding trajectory of HP35, 305 microseconds every 0.2 ns, ordered by contacts.

    Args:
        labels: "contact" or "dihedral", the two published sets of labels.
    """
    stored = stored_arrays(resolve("hp35"), labels, "dt_ns")
    states = stored[labels].astype(np.int64) - 1
    times = np.arange(len(states)) * float(stored["dt_ns"])
    return Paths.of([times], [states], unit="ns", names=[str(s + 1) for s in range(12)], starts=[False])


def folding() -> Paths:
    """HP35 in two states: contact states 1-8 (unfolded side) and 9-12 (folded side)."""
    groups = [int(s + 1 >= FOLDED) for s in range(12)]
    return lump(headpiece(), groups, ("unfolded", "folded"))


SETS: dict[str, Callable[[], Paths]] = {
    **{f"dfr_V{v}": (lambda v=v: ratchet(v)) for v in range(4)},
    "ip3r2": ip3_receptor,
    "porb": porin,
    "alanine_dipeptide": alanine_dipeptide,
    "hp35": headpiece,
    "hp35_dihedral": lambda: headpiece("dihedral"),
    "hp35_two_state": folding,
}


def jump_set(name: str) -> Paths:
    """The paths of a named set.

    Raises:
        UserError: Unknown name, or its file is not on this machine.
    """
    if name not in SETS:
        raise UserError(f"jump set: got '{name}', expected one of {', '.join(SETS)}")
    return SETS[name]()


def true_rates(name: str) -> np.ndarray | None:
    """(S, S) rates that made a synthetic set, None for real data."""
    return flashing_ratchet(float(name.removeprefix("dfr_V"))) if name.startswith("dfr_V") else None
