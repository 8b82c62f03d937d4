r"""The exact protein problem: four sites of GB1 (V39 D40 G41 V54), ProteinMPNN's conditionals as a table.

All 34,481 partial states of four sites with 20 letters are tabulated, hence everything about the masked process is a
finite sum: the law of sequences when sites are unmasked one by one in random order, and for a reward r the soft value

    exp(V(x)/alpha) = mean over masked i of sum_v p_i(v | x) exp(V(x with i <- v)/alpha),   V = r on complete sequences,

with V(all masked) = alpha log Z (svdd.md section 9, drakes.md section 12). The sequence law comes by running the same
recursion forward. The network works for any small number of sites and letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.core.kernels import one_hot
from sciflow.core.state import Layout, State
from sciflow.domains.sequences.codec import FIELD

SITES = ("39", "40", "41", "54")
WILD_TYPE = "VDGV"


class TabularConditionals(nn.Module, Configurable):
    """log p(x_i | known sites) looked up in a table with one entry for each state of the other sites.

    The parameter `table` (n, (K + 1)^(n - 1), K) holds, for site i, the logits given the other sites. Their states (K:
    masked) are the digits of the second index, first site highest. Relaxed tokens x (B, n, K + 1) are read at their
    most probable state h and expanded to first order,

        f_i(x) = f_i(h) + sum_{j != i, v} (x_jv - h_jv) f_i(h with j <- v),

    so that value and gradient at one-hot states are those of the multilinear extension.

    Args:
        sites: Number n of sites, >= 1.
        letters: Number K of letters.
    """

    clock_free: ClassVar[bool] = True

    def __init__(self, sites: int = 4, letters: int = 20) -> None:
        super().__init__()
        self.sites, self.letters = sites, letters
        self.table = nn.Parameter(torch.zeros(sites, (letters + 1) ** (sites - 1), letters))
        self.register_buffer("power", _digit_weights(sites, letters + 1), persistent=False)
        self.power: Tensor

    def forward(self, state: State, signals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits (B, n, K) for field "seq" (B, n) int64 or (B, n, K + 1)."""
        x = state[FIELD]
        if x.shape[1] != self.sites:
            raise UserError(f"got sequences of {x.shape[1]} letters, this table is for {self.sites} sites")
        hard = x.argmax(-1) if x.is_floating_point() else x
        codes, site = hard @ self.power.T, torch.arange(self.sites, device=x.device)  # (B, n)
        logits = self.table[site, codes]
        if not x.is_floating_point():
            return {FIELD: logits}
        states = torch.arange(self.letters + 1, device=x.device)
        change = (states - hard[..., None])[:, None] * self.power[..., None]  # (B, i, j, K + 1): of the code of i
        near = self.table[site[:, None, None], codes[..., None, None] + change]  # f_i(h with j <- v)
        deviation = x - one_hot(hard, self.letters + 1).to(x)
        others = 1 - torch.eye(self.sites, device=x.device, dtype=x.dtype)
        return {FIELD: logits + torch.einsum("bjv,ij,bijvk->bik", deviation, others, near.to(x))}

    def conditionals(self) -> list[Tensor]:
        """p_i(v | others) in float64, for each site i a tensor (K + 1, ..., K + 1, K, K + 1, ...) with v on axis i."""
        probs = self.table.double().softmax(-1)
        shape = [self.letters + 1] * (self.sites - 1) + [self.letters]
        return [probs[i].reshape(shape).movedim(-1, i) for i in range(self.sites)]


def _digit_weights(sites: int, base: int) -> Tensor:
    """Weight of site j's state in the index of site i's table: (n, n), zero for j = i."""
    power = torch.zeros(sites, sites, dtype=torch.long)
    for i in range(sites):
        power[i, [j for j in range(sites) if j != i]] = base ** torch.arange(sites - 2, -1, -1)
    return power


def sequence_law(network: TabularConditionals) -> Tensor:
    """Law (K, ..., K) of complete sequences, float64, when one random site is unmasked at a time. Differentiable."""
    n, k = network.sites, network.letters
    conditionals = network.conditionals()
    mass = torch.zeros([k + 1] * n, dtype=torch.float64)
    mass[(k,) * n] = 1  # support of `mass`: states with `masked` masked sites
    for masked in range(n, 0, -1):
        reached = torch.zeros_like(mass)
        for i, p in enumerate(conditionals):
            reached = reached + _pad_mask(mass.narrow(i, k, 1) * p / masked, i)
        mass = reached
    return mass[(slice(k),) * n]


def soft_values(network: TabularConditionals, reward: Tensor, alpha: float) -> Tensor:
    """V on all partial states (K + 1, ..., K + 1), float64; digit K: masked.

    Args:
        network: The prior.
        reward: (K, ..., K) reward of complete sequences.
        alpha: Temperature, > 0, in units of the reward.
    """
    n, k = network.sites, network.letters
    conditionals = [p.detach() for p in network.conditionals()]
    top = reward.double().max()
    total = level = _pad_mask_all(((reward.double() - top) / alpha).exp(), n)  # support: no site masked
    for masked in range(1, n + 1):
        above = torch.zeros_like(level)
        for i, p in enumerate(conditionals):
            above.select(i, k).add_((p * level.narrow(i, 0, k)).sum(i) / masked)
        level = above  # support: `masked` masked sites
        total = total + level
    return top + alpha * total.log()


def _pad_mask(x: Tensor, axis: int) -> Tensor:
    return torch.cat([x, torch.zeros_like(x.narrow(axis, 0, 1))], axis)


def _pad_mask_all(x: Tensor, axes: int) -> Tensor:
    for axis in range(axes):
        x = _pad_mask(x, axis)
    return x


def read_table(path: Path) -> Tensor:
    """The table (4, 9261, 20) of gb1_mpnn_denoiser.npz: float16 log-probabilities, renormalised over 20 letters.

    Raises:
        UserError: Not that file.
    """
    table = torch.full((4, 21, 21, 21, 20), torch.nan)
    try:
        with np.load(path) as stored:
            for name in stored.files:
                if not name.startswith("logp_known_"):
                    continue
                known = [int(c) for c in name.removeprefix("logp_known_").replace("none", "")]
                masked = [i for i in range(4) if i not in known]
                for column, i in enumerate(masked):
                    index = tuple(slice(20) if j in known else 20 for j in range(4) if j != i)
                    values = torch.from_numpy(stored[name].astype(np.float64)).select(len(known), column)
                    table[(i, *index)] = values.log_softmax(-1).float()
    except (OSError, ValueError, RuntimeError, IndexError) as error:
        raise UserError(f"{path}: no table of GB1 conditionals ({error}); expected gb1_mpnn_denoiser.npz") from None
    if bool(table.isnan().any()):
        raise UserError(f"{path}: lacks some of the 15 tables logp_known_..., expected gb1_mpnn_denoiser.npz")
    return table.reshape(4, 21**3, 20)


def rebuild_table(network: nn.Module, template: State, sites: list[int], block: int = 512) -> Tensor:
    """The table (n, 21^(n - 1), 20) from a denoiser on a backbone, all other residues at their native letters.

    Args:
        network: `ProteinMPNN`.
        template: ONE sample with its backbone, and native tokens in field "seq".
        sites: Indices of the n sites, ascending.
        block: States per network call.
    """
    n, table = len(sites), torch.zeros(len(sites), 21 ** (len(sites) - 1), 20)
    states = torch.cartesian_prod(*[torch.arange(21)] * n)
    states = states[(states == 20).any(1)]  # 34,481 for four sites
    power, fixed = _digit_weights(n, 21), template[FIELD].clone()
    fixed[:, sites] = -1
    with torch.inference_mode():
        prepared = network.prepare(template)  # type: ignore[operator]
        for part in states.split(block):
            tokens = template[FIELD].repeat(len(part), 1)
            tokens[:, sites] = part
            cond = {**prepared.cond, "fixed": fixed.expand(len(part), -1)}
            batch = State({FIELD: tokens}, {FIELD: Layout(len(part))}, cond)
            logits = network(batch, {})[FIELD][:, sites].log_softmax(-1)
            row, site = (part == 20).nonzero(as_tuple=True)
            table[site, (part @ power.T)[row, site]] = logits[row, site]
    return table
