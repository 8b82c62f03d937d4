"""Toy A: three tokens at three positions, all 64 partly masked states tabulated (drakes.md, section 12).

log p_pre(x) = 0.9 [x0=x1] + 0.7 [x1=x2] - 0.5 [x0=2] + 0.3 x2 - log Z,  r(x) = [x0=2] + [x1=0] + [x2=1] - 0.5 [x0=x2],
p*(x) prop. to p_pre(x) exp(r(x)/ALPHA), soft value V(x_t) = ALPHA log E_pre[exp(r/ALPHA) | x_t].

A *table* (S, L, V) holds p(x0_i = v | partial state), S = (V + 1)^L states in the order of `codes`; the exact denoiser
of a law p is its table of posterior marginals. Everything below `TOY` works for any V and L; all numbers are float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from oracles import RATES
from torch import Tensor

from sciflow.core.process import Prediction
from sciflow.core.state import Layout, State
from sciflow.processes.jump import Chain, Jump
from sciflow.processes.masked import Masked
from sciflow.processes.uniform_tokens import UniformTokens

F64 = torch.float64
FIELD = "seq"

# the discrete processes of tests/core/test_matrix.py and test_matrix_discrete.py
DISCRETE = {
    "Masked": Masked(3, kind="data"),
    "UniformTokens": UniformTokens(3, kind="data"),
    "Jump": Jump(3),
    "Chain": Chain(RATES.tolist()),
}


def states(symbols: int, length: int) -> Tensor:
    """All sequences in lexicographic order: (symbols**length, length) int64."""
    return torch.cartesian_prod(*[torch.arange(symbols)] * length).reshape(-1, length)


def codes(x: Tensor, symbols: int = 4) -> Tensor:
    """Number of each sequence (B, L) in `states`: (B,). 4 symbols: partial states; 3: clean ones."""
    powers = symbols ** torch.arange(x.shape[-1] - 1, -1, -1)
    return (x * powers).sum(-1)


def match(tokens: int, length: int) -> Tensor:
    """1 where a partial state agrees with a clean one: ((tokens+1)**length, tokens**length)."""
    partial, clean = states(tokens + 1, length)[:, None], states(tokens, length)[None]
    return ((partial == clean) | (partial == tokens)).all(-1).to(F64)


def posterior_table(law: Tensor, tokens: int, length: int) -> Tensor:
    """The exact denoiser of a law over clean sequences: (S, L, V); visible tokens are one-hot."""
    weights = match(tokens, length) * law
    one_hot = torch.nn.functional.one_hot(states(tokens, length), tokens).to(F64)
    return torch.einsum("sc,civ->siv", weights / weights.sum(1, keepdim=True), one_hot)


def factor_matrix(factors: Tensor) -> Tensor:
    """Transition matrix of independent positions with laws factors (S, L, V+1): (S, S)."""
    matrix = factors[:, 0]
    for i in range(1, factors.shape[1]):
        matrix = torch.einsum("sa,sb->sab", matrix, factors[:, i]).reshape(len(factors), -1)
    return matrix


def move_factors(table: Tensor, unmask: Tensor) -> Tensor:
    """Laws of the positions if each masked one is drawn with probability `unmask` (broadcast to (S, L))."""
    _, length, tokens = table.shape
    partial = states(tokens + 1, length)
    u = torch.as_tensor(unmask, dtype=F64).expand(partial.shape)[..., None]
    fresh = torch.cat([u * table, 1 - u], -1)
    held = torch.nn.functional.one_hot(partial, tokens + 1).to(F64)
    return torch.where((partial == tokens)[..., None], fresh, held)


def ancestral_matrix(table: Tensor, t: float, s: float) -> Tensor:
    """One ancestral move with alpha = 1 - t: every masked position is drawn with probability (t - s)/t."""
    return factor_matrix(move_factors(table, torch.tensor((t - s) / t, dtype=F64)))


def event_matrix(table: Tensor, count: int = 1) -> Tensor:
    """`count` of the masked positions (all if there are fewer), chosen uniformly, are drawn at once: (S, S)."""
    _, length, tokens = table.shape
    masked = states(tokens + 1, length) == tokens
    total, ways = torch.zeros(len(table), len(table), dtype=F64), torch.zeros(len(table), dtype=F64)
    for chosen in itertools.product([False, True], repeat=length):
        subset = torch.tensor(chosen)
        fits = (subset <= masked).all(1) & (subset.sum() == masked.sum(1).clamp_max(count))
        total += fits[:, None] * factor_matrix(move_factors(table, subset.to(F64)))
        ways += fits
    return total / ways[:, None]


def start_law(table: Tensor) -> Tensor:
    """All masked: (S,)."""
    law = torch.zeros(len(table), dtype=F64)
    law[-1] = 1
    return law


def clean_part(law: Tensor, tokens: int, length: int) -> Tensor:
    """Probabilities of the clean sequences within a law over partial states."""
    return law[codes(states(tokens, length), tokens + 1)]


def any_order_law(table: Tensor, count: int = 1) -> Tensor:
    """Law of the sequences when `count` positions per move are drawn from the table in uniformly random order."""
    _, length, tokens = table.shape
    law, move = start_law(table), event_matrix(table, count)
    for _ in range(-(-length // count)):
        law = law @ move
    return clean_part(law, tokens, length)


def ancestral_law(table: Tensor, moves: int) -> Tensor:
    """Law of the sequences after `moves` equal ancestral moves from t = 1 to 0."""
    _, length, tokens = table.shape
    law = start_law(table)
    for k in range(moves, 0, -1):
        law = law @ ancestral_matrix(table, k / moves, (k - 1) / moves)
    return clean_part(law, tokens, length)


class TableDenoiser:
    """A tabulated denoiser of one field of a masked process: (state, clocks) -> {field: Prediction of kind data}.

    int (B, L) fields look their row up. Float (B, L, V+1) fields give the MULTILINEAR extension, the mean of the rows
    under independent positions with these probabilities: exact at one-hot vectors, differentiable everywhere. The table
    may require gradients.

    Args:
        table: (S, L, V) probabilities.
        process: A masked process; `Masked(V, "data")` by default.
        field: Name of the field.
    """

    def __init__(self, table: Tensor, process: Masked | None = None, field: str = FIELD) -> None:
        self.table, self.tokens, self.field = table, table.shape[-1], field
        self.process = process if process is not None else Masked(self.tokens, "data")

    def data(self, x: Tensor) -> Tensor:
        """Probabilities (B, L, V)."""
        if not x.is_floating_point():
            return self.table[codes(x, self.tokens + 1)]
        weights = x[:, 0]
        for i in range(1, x.shape[1]):
            weights = (weights[:, :, None] * x[:, i][:, None, :]).reshape(len(x), -1)
        return torch.einsum("bs,siv->biv", weights.to(self.table), self.table)

    def __call__(self, state: State, clocks: Mapping[str, Tensor]) -> dict[str, Prediction]:
        x, layout = state[self.field], state.layouts[self.field]
        return {self.field: Prediction(self.data(x), "data", self.process, x, clocks[self.field], layout)}


def masked_state(batch: int, tokens: int, length: int, field: str = FIELD) -> State:
    """A fully masked batch."""
    return State({field: torch.full((batch, length), tokens)}, {field: Layout(batch)})


# ---------------------------------------------------------------- TOY

TOKENS = LENGTH = MASK = 3  # V, L and the mask id
ALPHA = 0.5
CLEAN, PARTIAL = states(3, 3), states(4, 3)  # (27, 3), (64, 3)
_CLEAN = CLEAN.tolist()
LOG_PRE = torch.tensor(
    [0.9 * (a == b) + 0.7 * (b == c) - 0.5 * (a == 2) + 0.3 * c for a, b, c in _CLEAN], dtype=F64
).log_softmax(0)  # (27,)
REWARD = torch.tensor([(a == 2) + (b == 0) + (c == 1) - 0.5 * (a == c) for a, b, c in _CLEAN], dtype=F64)
P_PRE = LOG_PRE.exp()
P_STAR = (LOG_PRE + REWARD / ALPHA).softmax(0)
SOFT_VALUE = ALPHA * ((match(3, 3) @ (P_PRE * (REWARD / ALPHA).exp())) / (match(3, 3) @ P_PRE)).log()  # (64,)
DENOISER = posterior_table(P_PRE, 3, 3)  # (64, 3, 3), exact for p_pre
TILTED = posterior_table(P_STAR, 3, 3)  # exact for p*
SMOOTHED = 0.7 * DENOISER + 0.1  # the imperfect denoiser of item 3; one-hot rows of visible tokens are not used
oracle = TableDenoiser(DENOISER)


def reward(x: Tensor) -> Tensor:
    """r of clean sequences: int (B, 3), or float (B, 3, 3 or 4) one-hot, multilinear: (B,)."""
    if not x.is_floating_point():
        return REWARD[codes(x, 3)]
    weights = torch.einsum("bi,bj,bk->bijk", x[:, 0, :3], x[:, 1, :3], x[:, 2, :3])
    return weights.reshape(len(x), -1).to(F64) @ REWARD


# golden values of drakes.md, section 12 (items 1, 3, 4, 5)
GOLDEN_MEANS = {"E_pre r": 0.708858, "E_star r": 2.082331, "a log Z": 1.372310, "KL(p*||p)": 1.420042}
GOLDEN_PRE = [0.076635, 0.051370, 0.069342, 0.015472, 0.042058, 0.028192]  # first six, lexicographic
GOLDEN_STAR = [0.013389, 0.180265, 0.032932, 0.000366, 0.019974, 0.001812]
GOLDEN_SMOOTHED = {"E NELBO": 3.112677, "E NLL": 3.112528, "entropy": 3.093767}
GOLDEN_TV = {1: 0.221007, 2: 0.108185, 4: 0.053590, 8: 0.026699, 16: 0.013334, 64: 0.003331}  # ancestral, by moves
GOLDEN_PATH_KL = {4: 1.361879, 16: 1.405833, 64: 1.416511, 256: 1.419160}  # optimal denoiser, by moves


# ---------------------------------------------------------------- uniform noise, any joint law of L tokens


class UniformOracle:
    """Exact p(x0_i | x_t) of a `UniformTokens` process for a joint law over clean sequences, by enumeration.

    Args:
        law: (K**L,) probabilities in the order of `states(K, L)`.
        process: The process (kind "data").
        length: L.
        field: Name of the field.
    """

    def __init__(self, law: Tensor, process: Any, length: int, field: str = FIELD) -> None:
        self.law, self.process, self.length, self.field = law, process, length, field
        self.clean = states(process.tokens, length)

    def evidence(self, x: Tensor, t: Tensor) -> Tensor:
        """q(x_t | x0) for every clean x0: (B, K**L)."""
        lost = self.process.survival.lost(t).expand(len(x)).to(F64)[:, None, None]
        same = (x[:, None] == self.clean[None]).to(F64)
        return ((1 - lost) * same + lost / self.process.tokens).prod(-1)

    def __call__(self, state: State, clocks: Mapping[str, Tensor]) -> dict[str, Prediction]:
        x, t = state[self.field], clocks[self.field]
        weights = self.evidence(x, t) * self.law
        weights = weights / weights.sum(1, keepdim=True)
        one_hot = torch.nn.functional.one_hot(self.clean, self.process.tokens).to(F64)
        value = torch.einsum("bc,civ->biv", weights, one_hot)
        return {self.field: Prediction(value, "data", self.process, x, t, state.layouts[self.field])}
