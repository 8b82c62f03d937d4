r"""Least-squares prediction of molecules in local axes, in closed form for any mask of observed frames.

Every atom i looks at the molecule in axes of its own in the observed frame n nearest in time: origin x_i, first axis to
a bonded atom p, second one in the plane with an atom q beyond, third one their cross product. In these axes a molecule
that moves little is nearly a linear system, so with f = the local places of i and of the other atoms in all observed
frames (lags s - n) and y = the local place of i in frame t (lag t - n),

    anchor_t = x_i + axes^T (b + W f),   W = (C_ff + ridge)^-1 C_fy,   b = mean y - W mean f,

with covariances C over the training frames as n. Anchors turn and move with the observed frames; mirror images differ.
Equivalent atoms (equal colours in the refined bond graph) share W; what an atom sees is sorted by colour and, within a
colour, by the angle around the first axis, so that atoms may come in any order, and hydrogens that a methyl group has
exchanged by its rotation look alike again. The residual's standard deviation, on folds that W was not fitted to, is the
scale of the process: the network models standardised residuals.

The training frames are kept with the weights of the model: W is solved when a mask, or a set of frame times, is first
met (about a second for ten atoms; masks drawn anew for every window would make training slow). Sources: ridge
regression; colours: Weisfeiler & Leman 1968; axes: as of residues in Jumper et al. 2021.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sciflow.core.errors import UserError
from sciflow.core.state import State
from sciflow.domains.trajectories.anchors import Anchor, Observed

if TYPE_CHECKING:
    from sciflow.domains.trajectories.datamodule import TrajectoryWindows

FOLDS = 4  # contiguous in time
FLOOR = 1e-3  # angstrom: least scale, and unit of features that do not vary
BLOCK = 4_000_000  # numbers in memory at a time
KEPT = 64  # solved predictors of a molecule, the oldest go first


@dataclass(frozen=True, eq=False)
class Sites:
    """What the bond graph of a molecule says about its atoms.

    Attributes:
        kinds: (N,) name of the kind of each atom; equal for equivalent ones, in every molecule and order of atoms.
        classes: (N, N) class of atom j as seen from i: 0 is i itself, then by distance in the graph.
        first: (N, N) whether atom j may be p of atom i; several if they are equivalent.
        second: (N, N, N) whether atom k may be q of atom i with p = j.
    """

    kinds: list[str]
    classes: Tensor
    first: Tensor
    second: Tensor

    @staticmethod
    def of(features: np.ndarray, pairs: np.ndarray) -> Sites:
        """From features (N, F) of atoms and symmetric ones (N, N, E) of pairs, the closest pairs in the first channel.

        Raises:
            UserError: Fewer than three atoms.
        """
        atoms = len(features)
        if atoms < 3:
            raise UserError(f"LocalAnchor: got a molecule of {atoms} atoms, expected at least 3; use LastFrame")
        near = np.where((pairs != 0).any(-1), (pairs != 0).argmax(-1), pairs.shape[-1])
        colours = [[_digest(row.tobytes(), bytes([j == i])) for j, row in enumerate(features)] for i in range(atoms)]
        links = [[row.tobytes() for row in rows] for rows in pairs]
        colours = [_refined(row, links) for row in colours]
        weight, classes = features.sum(1), np.zeros((atoms, atoms), int)
        first, second = np.zeros((atoms, atoms), bool), np.zeros((atoms, atoms, atoms), bool)
        for i, row in enumerate(colours):
            keys = [(int(near[i, j]) if j != i else -1, row[j]) for j in range(atoms)]
            classes[i] = [sorted(set(keys)).index(key) for key in keys]
            rank = [(row.count(row[j]), -weight[j], row[j]) for j in range(atoms)]  # few equivalents, then heavy
            first[i] = _least([(near[i, j], *rank[j]) if j != i else None for j in range(atoms)])
            for p in np.flatnonzero(first[i]):
                second[i, p] = _least(
                    [(near[i, j] + near[p, j], *rank[j]) if j not in (i, p) else None for j in range(atoms)]
                )
        kinds = [colours[i][i].hex() for i in range(atoms)]
        return Sites(kinds, torch.from_numpy(classes), torch.from_numpy(first), torch.from_numpy(second))

    def local(self, frames: Tensor, reference: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Molecules as their atoms see them.

        Args:
            frames: (S, F, N, 3).
            reference: (S, N, 3), the frame in which the axes are taken.
            most: Number K of atoms that each one sees, itself first.

        Returns:
            Local places (S, N, K, F, 3), and axes (S, N, 3, 3), the rows of which are unit vectors.
        """
        rows = torch.arange(len(reference), device=reference.device)[:, None]
        apart = torch.cdist(reference, reference)
        p = apart.masked_fill(~self.first.to(apart.device), torch.inf).argmin(-1)  # (S, N)
        beyond = self.second.to(apart.device)[torch.arange(apart.shape[1], device=apart.device), p]
        q = apart.masked_fill(~beyond, torch.inf).argmin(-1)
        x = _unit(reference[rows, p] - reference)
        y = reference[rows, q] - reference[rows, p]
        y = _unit(y - (y * x).sum(-1, keepdim=True) * x)
        axes = torch.stack([x, y, torch.linalg.cross(x, y)], -2)
        there = torch.einsum("siab,sijb->sija", axes, reference[:, None] - reference[rows, p][:, :, None])
        angle = torch.atan2(there[..., 2], there[..., 1]) / (2 * torch.pi) % 1.0  # 0 where j is eclipsed with q
        order = (self.classes.to(angle) + angle.clamp_max(0.9999)).argsort(-1)[..., :most]
        seen = frames.transpose(1, 2)[rows[:, :, None], order] - reference[:, :, None, None]
        return torch.einsum("siab,sikfb->sikfa", axes, seen), axes


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm(dim=-1, keepdim=True).clamp_min(1e-9)


def _digest(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"|".join(parts), digest_size=8).digest()


def _least(keys: Sequence[tuple | None]) -> list[bool]:
    smallest = min(key for key in keys if key is not None)
    return [key == smallest for key in keys]


def _refined(colours: list[bytes], links: list[list[bytes]]) -> list[bytes]:
    """Colours refined by those of the other atoms and the pairs to them, until no further atoms differ."""
    while True:
        new = [
            _digest(
                own, *sorted(link + other for j, (link, other) in enumerate(zip(row, colours, strict=True)) if j != i)
            )
            for i, (own, row) in enumerate(zip(colours, links, strict=True))
        ]
        if len(set(new)) == len(set(colours)):
            return new
        colours = new


@dataclass(frozen=True, eq=False)
class Solved:
    """The predictor of some lags from others for every kind of atom."""

    weights: dict[str, Tensor]  # kind -> (1 + 3 K F, lags, 3), the first row is b
    scale: dict[str, Tensor]  # kind -> (lags,)


class Molecule(nn.Module):
    """Training frames of one molecule, and what was solved from them.

    Args:
        frames: Number of frames of all runs.
        atoms: N.
        features: F.
        pairs: E.
        runs: Numbers of frames of the runs.
    """

    positions: Tensor
    features: Tensor
    pairs: Tensor

    def __init__(self, frames: int, atoms: int, features: int, pairs: int, runs: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("positions", torch.zeros(frames, atoms, 3))
        self.register_buffer("features", torch.zeros(atoms, features))
        self.register_buffer("pairs", torch.zeros(atoms, atoms, pairs))
        self.runs, self.solved = np.asarray(runs), {}

    def sites(self) -> Sites:
        """Of the molecule as it was in the training data."""
        return Sites.of(self.features.cpu().numpy(), self.pairs.cpu().numpy())

    def solve(self, given: tuple[float, ...], wanted: tuple[float, ...], options: LocalAnchor) -> Solved:
        """The least-squares predictor of the lags `wanted` from the lags `given`; solved once."""
        key = given, wanted
        if key not in self.solved:
            if len(self.solved) == KEPT:
                self.solved.pop(next(iter(self.solved)))
            self.solved[key] = self._solve(np.array(given), np.array(wanted), options)
        return self.solved[key]

    @torch.no_grad()
    def _solve(self, given: np.ndarray, wanted: np.ndarray, options: LocalAnchor) -> Solved:
        sites, lags = self.sites(), np.concatenate([given, wanted])
        seen = min(options.neighbours, self.positions.shape[1])
        places = self._places(lags, options.references)
        kinds, inputs = sorted(set(sites.kinds)), 1 + 3 * seen * len(given)
        size = inputs + 3 * len(wanted)
        gram = torch.zeros(FOLDS, len(kinds), size, size, dtype=torch.float64)
        members = [torch.tensor([name == kind for name in sites.kinds]) for kind in kinds]
        step = max(1, BLOCK // (self.positions.shape[1] * seen * len(lags) * 3))
        for fold, part in enumerate(np.array_split(places, FOLDS)):
            for block in np.array_split(part, -(-len(part) // step)):
                frames = self._at(block, lags)
                local, _ = sites.local(frames, self._at(block, np.zeros(1))[:, 0], seen)  # (S, N, K, lags, 3)
                f, y = local[..., : len(given), :].flatten(2), local[:, :, 0, len(given) :].flatten(2)
                row = torch.cat([torch.ones_like(f[..., :1]), f, y], -1)
                for k, member in enumerate(members):
                    chosen = row[:, member].flatten(0, 1)
                    gram[fold, k] += chosen.T @ chosen
        total, weights, scale = gram.sum(0), {}, {}
        for k, kind in enumerate(kinds):
            fitted = _ridge(total[k], inputs, options.ridge)
            square = sum(
                _residual(gram[i, k], _ridge(total[k] - gram[i, k], inputs, options.ridge)) for i in range(FOLDS)
            )
            mean = square / total[k, 0, 0]  # type: ignore[operator]
            weights[kind] = fitted.reshape(inputs, len(wanted), 3)
            scale[kind] = mean.reshape(len(wanted), 3).mean(1).sqrt().clamp_min(FLOOR)
        return Solved(weights, scale)

    def _places(self, lags: np.ndarray, most: int) -> np.ndarray:
        """Frames that may be n: all lags lie in its run. At most `most` of them, evenly spread."""
        before, after = int(np.ceil(-min(lags.min(), 0))), int(np.ceil(max(lags.max(), 0)))
        starts = np.cumsum(self.runs) - self.runs
        found = np.concatenate(
            [np.arange(s + before, s + n - after) for s, n in zip(starts, self.runs, strict=True)]
        ).astype(int)
        if len(found) < 10 * FOLDS:
            raise UserError(
                f"LocalAnchor: got frames {before} before to {after} after an observed one, but the training runs have "
                f"at most {self.runs.max()}; ask for fewer frames"
            )
        return found[np.linspace(0, len(found) - 1, min(most, len(found))).astype(int)]

    def _at(self, places: np.ndarray, lags: np.ndarray) -> Tensor:
        """Frames at n + lag (S, L, N, 3) float64; between two frames the line."""
        low = np.floor(lags).astype(int)
        share = torch.from_numpy(lags - low)[:, None, None]
        positions = self.positions.double().cpu()
        start = positions[places[:, None] + low]
        if not bool(share.any()):
            return start
        return start + share * (positions[(places[:, None] + low + 1).clip(max=len(positions) - 1)] - start)


def _ridge(gram: Tensor, inputs: int, ridge: float) -> Tensor:
    """(inputs, outputs) coefficients, the first row the constant, from sums of products of [1, f, y]."""
    mean = gram[0] / gram[0, 0]
    covariance = gram / gram[0, 0] - mean[:, None] * mean
    unit = covariance.diagonal()[1:inputs].clamp_min(0).sqrt() + FLOOR
    left = covariance[1:inputs, 1:inputs] / (unit[:, None] * unit) + ridge * torch.eye(inputs - 1, dtype=gram.dtype)
    slope = torch.cholesky_solve(covariance[1:inputs, inputs:] / unit[:, None], torch.linalg.cholesky(left))
    slope = slope / unit[:, None]
    return torch.cat([(mean[inputs:] - mean[1:inputs] @ slope)[None], slope])


def _residual(gram: Tensor, fitted: Tensor) -> Tensor:
    """Sum of squares (outputs,) of y - prediction over the rows behind the sums of products."""
    difference = torch.cat([-fitted, torch.eye(fitted.shape[1], dtype=fitted.dtype)])
    return (difference * (gram @ difference)).sum(0)


class LocalAnchor(Anchor):
    """Least-squares prediction in local axes, and its error as the scale; `fit_to` takes the training frames.

    Runs of one molecule whose atoms come in different orders: those in the order of the first run are used.

    Args:
        neighbours: Atoms that each one sees, itself among them, the nearest in the bond graph.
        references: Training frames that are used as n for one mask.
        ridge: Added to the correlation matrix.
        frames: Most training frames that are kept, of all runs of a molecule.
        molecules: Shapes of what was fitted, see `Molecule`; None: from the data.
    """

    def __init__(
        self,
        neighbours: int = 16,
        references: int = 5000,
        ridge: float = 3e-4,
        frames: int = 20_000,
        molecules: list[dict] | None = None,
    ) -> None:
        super().__init__()
        self.neighbours, self.references, self.ridge, self.frames = neighbours, references, ridge, frames
        self.known = nn.ModuleList(Molecule(**shape) for shape in molecules or [])
        self.topologies: dict[bytes, tuple[Sites, Molecule]] = {}

    def fit_to(self, windows: TrajectoryWindows) -> None:
        """Keep the runs of the training windows, molecule by molecule."""
        found: dict[tuple[str, ...], list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
        for one in windows.segments():
            found.setdefault(tuple(sorted(Sites.of(one[1], one[2]).kinds)), []).append(one)
        shapes, self.known = [], nn.ModuleList()
        self.topologies.clear()
        for parts in found.values():
            same = [part for part in parts if all(np.array_equal(part[k], parts[0][k]) for k in (1, 2))]
            runs = [part[0][: max(1, self.frames // len(same))] for part in same]
            _, features, pairs = same[0]
            shape = {"atoms": len(features), "features": features.shape[1], "pairs": pairs.shape[2]}
            shapes.append({"frames": sum(map(len, runs)), **shape, "runs": [len(run) for run in runs]})
            molecule = Molecule(**shapes[-1])
            molecule.positions.copy_(torch.from_numpy(np.concatenate([run - run[0].mean(0) for run in runs])))
            molecule.features.copy_(torch.from_numpy(features))
            molecule.pairs.copy_(torch.from_numpy(pairs))
            self.known.append(molecule)
        self.init_args |= {"molecules": shapes}

    def anchor(self, state: State) -> Tensor:
        """(N, T, 3)."""
        return self.predict(state)[0]

    def predict(self, state: State) -> tuple[Tensor, Tensor]:
        """Anchor (N, T, 3) and scale (N, T, 1), its expected error."""
        return self.place(state)[:2]

    def place(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Anchor (N, T, 3), scale (N, T, 1), and axes (N, T, 3, 3), the rows of which are unit vectors.

        Raises:
            UserError: Nothing was fitted, or not this molecule.
        """
        observed = Observed.of(state)
        x = observed.positions
        sizes = torch.bincount(observed.sample, minlength=state.batch).tolist()
        times = (observed.times - observed.times[:, :1]).cpu().numpy().round(3)
        seen, nearest = observed.seen.cpu().numpy(), observed.nearest.cpu().numpy()
        groups: dict[bytes, list[int]] = {}
        topologies = self._topologies(state, sizes)
        for b, topology in enumerate(topologies):
            groups.setdefault(b"".join([topology, times[b].tobytes(), seen[b].tobytes()]), []).append(b)
        first = np.cumsum(sizes) - sizes
        anchor, scale = x.clone(), torch.ones_like(x[..., :1])
        axes = x.new_zeros(*x.shape, 3)
        for chosen in groups.values():
            rows = torch.from_numpy(first[chosen][:, None] + np.arange(sizes[chosen[0]])).to(x.device)  # (S, N)
            sites, molecule = self.topologies[topologies[chosen[0]]]
            time, given, near = times[chosen[0]], np.flatnonzero(seen[chosen[0]]), nearest[chosen[0]]
            positions = x[rows].transpose(1, 2)  # (S, T, N, 3)
            for n in np.unique(near):
                local, turn = sites.local(positions[:, given], positions[:, n], self.neighbours)
                axes[rows[..., None], torch.from_numpy(np.flatnonzero(near == n))] = turn[:, :, None]
                wanted = np.flatnonzero((near == n) & ~seen[chosen[0]])
                if not len(wanted):
                    continue
                lags = tuple((time[given] - time[n]).tolist()), tuple((time[wanted] - time[n]).tolist())
                solved = molecule.solve(*lags, self)
                weights = torch.stack([solved.weights[kind] for kind in sites.kinds]).to(x)  # (N, inputs, t, 3)
                error = torch.stack([solved.scale[kind] for kind in sites.kinds]).to(x)  # (N, t)
                y = torch.einsum("sip,ipta->sita", local.flatten(2), weights[:, 1:]) + weights[:, 0]
                place = rows[..., None], torch.from_numpy(wanted)
                anchor[place] = positions[:, n][:, :, None] + torch.einsum("siab,sita->sitb", turn, y)
                scale[place] = error[None, ..., None].expand(len(chosen), -1, -1, -1)
        return anchor, scale, axes

    def _topologies(self, state: State, sizes: Sequence[int]) -> list[bytes]:
        """Name of the bond graph of each sample; its sites and its molecule are looked up once."""
        atoms = np.ascontiguousarray(state["atoms"].detach().cpu().float().numpy())
        pairs = np.ascontiguousarray(state["pairs"].detach().cpu().float().numpy())
        names, row, pair = [], 0, 0
        for size in sizes:
            count = size * (size - 1) // 2
            mine, links = atoms[row : row + size], pairs[pair : pair + count]
            row, pair = row + size, pair + count
            name = _digest(mine.tobytes(), links.tobytes())
            if name not in self.topologies:
                self.topologies[name] = self._known(mine, links)
            names.append(name)
        return names

    def _known(self, features: np.ndarray, links: np.ndarray) -> tuple[Sites, Molecule]:
        pairs = np.zeros((len(features), len(features), links.shape[1]), np.float32)
        i, j = np.triu_indices(len(features), 1)
        pairs[i, j] = pairs[j, i] = links
        sites = Sites.of(features, pairs)
        for molecule in self.known:
            if sorted(molecule.sites().kinds) == sorted(sites.kinds):  # type: ignore[operator, union-attr]
                return sites, molecule  # type: ignore[return-value]
        raise UserError(
            f"LocalAnchor: got a molecule of {len(features)} atoms that is not among the {len(self.known)} it was "
            "fitted to; train on it, or use an anchor that needs no fit (LastFrame)"
        )
