r"""A learned linear predictor of trajectories: the network's noise then surrounds what vibrations make predictable.

With the nearest observed frame n of frame t and the observed frames s,

    anchor_t = x_n + sum_s c_ts (x_s - x_n),   c_ts = sum_r u_r(atom features) g_r(t - s, t - left, t - right),

where left and right are the observed frames around t (the two nearest ones outside of them). Signed weights of
differences turn and move with the observed frames; they depend on time differences and atom features only, so that any
mask, any horizon and any molecule may be asked for. The weights are learned through the noised trajectory, as those of
`LearnedAnchor`; the last frame (c = 0) is the start.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sciflow.core.state import State
from sciflow.domains.trajectories.anchors import Anchor, Observed
from sciflow.domains.trajectories.network_layers import sinusoids

FASTEST = 3.0  # radians per frame of the fastest sinusoid: vibrations near the frame rate


class LinearAnchor(Anchor):
    """Linear prediction from all observed frames.

    Args:
        atoms: Number of atom features; None: taken from the data.
        rank: Number R of products of atom and time factors.
        hidden: Width of the map of time differences.
        waves: Sinusoids of each time difference.
    """

    def __init__(self, atoms: int | None = None, rank: int = 16, hidden: int = 64, waves: int = 32) -> None:
        super().__init__()
        self.rank, self.waves = rank, waves
        self.time = nn.Sequential(
            nn.Linear(3 * waves, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, rank)
        )
        nn.init.zeros_(self.time[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.time[-1].bias)  # type: ignore[arg-type]
        if atoms is not None:
            self._make(atoms)

    def build(self, features: Mapping[str, int]) -> None:
        """Number of atom features from the data."""
        if not hasattr(self, "atom"):
            self.init_args["atoms"] = features["atoms"]
            self._make(features["atoms"])

    def _make(self, atoms: int) -> None:
        self.atom = nn.Linear(atoms, self.rank)
        nn.init.ones_(self.atom.bias)

    def anchor(self, state: State) -> Tensor:
        """(N, T, D)."""
        observed = Observed.of(state)
        times, sample = observed.times, observed.sample
        left, right, _ = observed.bracket()
        ends = torch.stack([times - observed.time(left), times - observed.time(right)], -1)  # (B, T, 2)
        code = self._code(times[:, :, None] - times[:, None, :], ends)
        factors = self.time(code) * observed.seen[:, None, :, None]  # (B, T, S, R)
        atoms = state["atoms"] if state["atoms"].ndim == 2 else state["atoms"].mean(1)
        weights = torch.einsum("ntsr,nr->nts", factors[sample], self.atom(atoms))
        near = observed.at(observed.nearest)
        origin = near[:, :1]  # digits: differences are taken near the atom, not near the origin
        pull = weights @ (observed.positions - origin) - weights.sum(-1, keepdim=True) * (near - origin)
        return near + pull

    def _code(self, lag: Tensor, ends: Tensor) -> Tensor:
        """Sinusoids (B, T, S, 3 waves) of t - s (B, T, S) and of the distances (B, T, 2) to the frames around t."""
        dtype: torch.dtype = self.time[0].weight.dtype  # type: ignore[assignment]
        own = sinusoids(FASTEST * lag, self.waves, dtype)
        around = sinusoids(FASTEST * ends, self.waves, dtype).flatten(2)[:, :, None]
        return torch.cat([own, around.expand(-1, -1, lag.shape[2], -1)], -1)
