r"""Finite Markov chains in continuous time: transition matrices, stationary laws, time scales, hitting times, counts.

Uniformisation and bridges: `sciflow.core.uniformisation`. Recorded paths: `sciflow.core.jump_paths`.

Row convention: F[i, j] >= 0 is the rate of i -> j, F[i, i] = -sum_j F[i, j]; dp/dt = p F and P(D) = exp(F D)
(Norris, Markov Chains, 1997, ch. 2 and 3; section 1 of Berghaus et al. 2024, arXiv 2406.06419). Every function takes
generators (..., S, S) of any batch shape, in float64 by preference, and can be differentiated unless it says otherwise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from sciflow.core.errors import UserError
from sciflow.core.kernels import pick
from sciflow.core.noise import Draws
from sciflow.core.state import Layout

SAME_LAG = 1e-9  # lags that agree to this, relatively, are one lag
MANY_LAGS = 500  # above this number matrices are made in parts and not kept
WIDTH = 4096  # chains that `walk` moves at once: few enough to cost little more than one


def generator(rates: Tensor) -> Tensor:
    """The generator with the given rates (..., S, S) off the diagonal; what stands on it is ignored."""
    off = rates - torch.diag_embed(rates.diagonal(dim1=-2, dim2=-1))
    return off - torch.diag_embed(off.sum(-1))


# ---------------------------------------------------------------- transition matrices


def distinct_lags(lags: Tensor) -> tuple[Tensor, Tensor]:
    """Lags (...) as distinct values (n,), increasing, and the number of each lag's value (...) int64.

    Floating-point grids repeat a lag only approximately: values closer than 1e-9 of their size are one.
    """
    ordered, order = lags.double().flatten().sort()
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered[1:] - ordered[:-1] > SAME_LAG * ordered[1:]
    number = torch.empty_like(order).scatter_(0, order, new.cumsum(0) - 1)
    return ordered[new], number.reshape(lags.shape)


def transition_matrices(F: Tensor, lags: Tensor) -> Tensor:
    """P(D) = exp(F D) for generators (..., S, S) and lags (n,): (..., n, S, S); many lags in parts of 500."""
    parts = [torch.linalg.matrix_exp(F[..., None, :, :] * part[:, None, None]) for part in lags.split(MANY_LAGS)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -3)


def eigen_transition(F: Tensor, lags: Tensor) -> Tensor:
    """P(D) as `transition_matrices`, from eigenvectors U diag(e^(w D)) U^-1; only for generators that have a basis."""
    w, U = torch.linalg.eig(F)
    grown = torch.exp(w[..., None, :] * lags[:, None])  # (..., n, S)
    left = U[..., None, :, :] * grown[..., None, :]
    return torch.linalg.solve(U[..., None, :, :], left, left=False).real


class TransitionCache:
    """Transition matrices of one chain, kept for each distinct lag that was asked for.

    Args:
        F: Generator (S, S).

    Up to 500 lags are kept; a call with more new ones than there is room for computes them (in parts) and forgets them.
    """

    def __init__(self, F: Tensor) -> None:
        self.F = F
        self.lags, self.matrices = F.new_zeros(0, dtype=torch.float64), F.new_zeros(0, *F.shape)

    def __call__(self, lags: Tensor) -> tuple[Tensor, Tensor]:
        """Matrices (n, S, S) of the distinct ones among lags (...), and the number of each lag's matrix (...) int64."""
        distinct, number = distinct_lags(lags)
        if len(self.lags):
            after = torch.searchsorted(self.lags, distinct).clamp_max(len(self.lags) - 1)
            pair = torch.stack([(after - 1).clamp_min(0), after])  # the kept lags next to each
            gap = (self.lags[pair] - distinct).abs()
            near = pair.gather(0, gap.argmin(0)[None])[0]
            known = gap.amin(0) <= SAME_LAG * distinct
        else:
            near, known = torch.zeros_like(distinct, dtype=torch.long), torch.zeros_like(distinct, dtype=torch.bool)
        fresh = distinct[~known]
        if len(fresh) == 0:
            return self.matrices[near], number
        matrices = self.F.new_empty(len(distinct), *self.F.shape)
        matrices[known], matrices[~known] = self.matrices[near[known]], transition_matrices(self.F, fresh)
        if len(self.lags) + len(fresh) <= MANY_LAGS:
            self.lags, order = torch.cat([self.lags, fresh]).sort()
            self.matrices = torch.cat([self.matrices, matrices[~known]])[order]
        return matrices, number


# ---------------------------------------------------------------- laws, time scales, hitting times


def stationary(F: Tensor) -> Tensor:
    """Law pi (..., S) with pi F = 0 and sum pi = 1, by bordered least squares.

    With several closed classes it is one of the stationary laws. Rows of zeros (states that were never seen) must be
    left out by the caller.
    """
    scale = F.detach().abs().amax((-2, -1), keepdim=True).clamp_min(1e-300)  # the last equation weighs as the others
    bordered = torch.cat([F.mT / scale, torch.ones_like(F[..., :1, :])], -2)
    right = torch.zeros_like(bordered[..., :1])
    right[..., -1, :] = 1
    law = torch.linalg.lstsq(bordered, right, driver="gelsd" if F.device.type == "cpu" else None).solution[..., 0]
    law = law.clamp_min(0)
    return law / law.sum(-1, keepdim=True)


def eigenvalues(F: Tensor) -> Tensor:
    """The S - 1 eigenvalues besides the 0 of the stationary law, complex, slowest (largest real part) first."""
    w = torch.linalg.eigvals(F)
    return w.gather(-1, w.real.argsort(-1, descending=True))[..., 1:]


def timescales(F: Tensor) -> Tensor:
    """-1/Re of those eigenvalues (..., S - 1), slowest first; inf for a further 0 (several closed classes)."""
    real = eigenvalues(F).real
    floor = 1e-13 * F.detach().abs().amax((-2, -1))[..., None]
    return torch.where(real < -floor, -1 / real.clamp_max(-1e-300), torch.inf)


def periods(F: Tensor) -> Tensor:
    """2 pi/|Im| of the same eigenvalues (..., S - 1): period of the damped oscillation, inf where there is none."""
    imaginary = eigenvalues(F).imag.abs()
    floor = 1e-10 * F.detach().abs().amax((-2, -1))[..., None]  # a real pair split by rounding does not oscillate
    return torch.where(imaginary > floor, 2 * torch.pi / imaginary.clamp_min(1e-300), torch.inf)


def mean_first_passage(F: Tensor) -> Tensor:
    """tau[i, j] = mean time from i to the first visit of j (..., S, S); 0 on the diagonal.

    For each j, F tau = -1 on the states besides j. Infinite where j is missed with positive probability.
    """
    states = F.shape[-1]
    eye = torch.eye(states, dtype=torch.bool, device=F.device)
    edges = (F > 0) & ~eye
    reach = _reachable(edges)
    until = _reachable(edges[..., None, :, :] & ~eye[:, :, None])  # [j, i, k]: from i to k, if the walk ends at j
    lost = (until & ~reach.mT[..., :, None, :]).any(-1)  # [j, i]: a state from which j cannot be reached any more
    fixed = lost | eye
    system = torch.where(fixed[..., None], eye.to(F), F[..., None, :, :])  # [j, i, k]
    tau = torch.linalg.solve(system, (~fixed).to(F).neg()[..., None])[..., 0]
    return tau.masked_fill(lost, torch.inf).mT


def _reachable(edges: Tensor) -> Tensor:
    """Whether k can be reached from i in any number of steps, 0 included: (..., S, S) bool."""
    paths = (edges | torch.eye(edges.shape[-1], dtype=torch.bool, device=edges.device)).double()
    for _ in range(max(1, (edges.shape[-1] - 1).bit_length())):
        paths = (paths @ paths).clamp_max(1)
    return paths > 0


def entropy_production(F: Tensor, law: Tensor | None = None) -> Tensor:
    """sum_{i != j} p_i F_ij log(p_i F_ij / (p_j F_ji)) (...) in nats per unit time; inf if an edge goes one way only.

    Args:
        F: Generators (..., S, S).
        law: p (..., S); None: the stationary law.
    """
    flow = (stationary(F) if law is None else law)[..., None] * generator(F)
    flow = flow - torch.diag_embed(flow.diagonal(dim1=-2, dim2=-1))
    used = flow > 0
    ratio = torch.where(used, flow, 1).log() - torch.where(used, flow.mT, 1).log()
    return torch.where(used, flow * ratio, 0).sum((-2, -1))


# ---------------------------------------------------------------- counts between observations


def occupation(F: Tensor, weights: Tensor, lags: Tensor) -> Tensor:
    """M(D) = integral over [0, D] of (e^{F s})^T W (e^{F (D - s)})^T ds, for each lag: (n, S, S).

    The upper right block of exp(D [[F^T, W], [0, F^T]]) (Van Loan, 1978). With W = N(D)/P(D) (counts over transition
    probabilities), sum_D M_ii is the expected time in i and F_ij sum_D M_ij the expected number of jumps i -> j, given
    the observations; M is also the gradient of sum N log P with respect to the entries of F.

    Args:
        F: Generator (S, S).
        weights: W (n, S, S).
        lags: (n,).
    """
    states, parts = F.shape[-1], []
    for W, lag in zip(weights.split(MANY_LAGS), lags.split(MANY_LAGS), strict=True):
        corner = F.mT.expand_as(W)
        block = torch.cat([torch.cat([corner, W], -1), torch.cat([torch.zeros_like(W), corner], -1)], -2)
        parts.append(torch.linalg.matrix_exp(block * lag[:, None, None])[..., :states, states:])
    return torch.cat(parts)


# ---------------------------------------------------------------- exact paths on a grid


def grid_paths(F: Tensor, initial: Tensor, times: Tensor, count: int, draws: Draws) -> Tensor:
    """States of `count` paths of each chain at the given times, exactly: (..., count, n) int64.

    Args:
        F: Generators (..., S, S).
        initial: Law (..., S) of the state at the first time.
        times: (n,) not decreasing, shared by all paths, n >= 1.
        count: Number of paths per chain.
        draws: Random numbers, e.g. `Fresh(seed)`; of `PerSample(seed).at(field, PRIOR)` path k of chain c takes
            those of sample c * count + k.

    Raises:
        UserError: Times decrease.
    """
    gaps = times.to(F.device).diff()
    if bool((gaps < 0).any()):
        raise UserError("grid_paths: got decreasing times, expected a grid that runs forward; sort it")
    lags, number = distinct_lags(gaps)
    chains, states = F.shape[:-2].numel(), F.shape[-1]
    steps = transition_matrices(F, lags.to(F)).reshape(-1, states, states)
    u = draws.uniform(F.new_empty(chains * count, len(times)), Layout(chains * count))
    first = initial.reshape(chains, states).repeat_interleave(count, 0).clamp_min(0).cumsum(-1)
    chain = torch.arange(chains, device=F.device).repeat_interleave(count)[:, None]
    x = pick(first, u[:, 0])
    later = walk(steps.clamp_min(0).cumsum(-1), chain * len(lags) + number, x, u[:, 1:])
    return torch.cat([x[:, None], later], 1).reshape(*F.shape[:-2], count, len(times))


def walk(tables: Tensor, number: Tensor, start: Tensor, u: Tensor) -> Tensor:
    """States (B, M) of discrete chains after each of M steps.

    Steps follow each other, yet blocks of them are taken at once: first from all states, which tells where each block
    leads, then from the one state where it begins. One path of M steps costs about sqrt(M) vectorised steps.

    Args:
        tables: Cumulative transition matrices (T, S, S).
        number: (B or 1, M) table of each step.
        start: (B,) states.
        u: (B, M) uniforms.
    """
    (paths, steps), states = u.shape, tables.shape[-1]
    blocks = max(1, min(2 * math.isqrt(steps), WIDTH // max(1, paths * states)))
    length = -(-steps // blocks) if steps else 0
    blank = blocks * length - steps
    u = functional.pad(u, (0, blank), value=0.5).reshape(paths, blocks, length)
    number = functional.pad(number, (0, blank)).reshape(len(number), blocks, length)
    x = start[:, None]
    if blocks > 1:
        ends = torch.arange(states, device=u.device).expand(paths, blocks, states)
        for m in range(length):
            ends = pick(tables[number[..., m, None], ends], u[..., m, None].expand_as(ends))
        begins = [start]
        for block in range(blocks - 1):
            begins.append(ends[:, block].gather(1, begins[-1][:, None])[:, 0])
        x = torch.stack(begins, 1)
    seen = []
    for m in range(length):
        x = pick(tables[number[..., m], x], u[..., m])
        seen.append(x)
    return torch.stack(seen, -1).reshape(paths, blocks * length)[:, :steps] if seen else start.new_zeros(paths, 0)
