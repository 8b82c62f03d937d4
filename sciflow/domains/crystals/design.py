"""Crystal structures of a given composition: sampled, relaxed, merged and ranked; parts of them may be known.

Known parts (lattice, sites, species) are kept by in-painting: after every move to clock s they are replaced by a draw
from their own noising law at s, so that the network sees them at the noise level it expects; at s = 0 by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.hooks import Hook, Transition
from sciflow.core.noise import PRIOR
from sciflow.core.state import Layout, State
from sciflow.domains.crystals.arrays import SYMBOLS, from_parameters, parameters
from sciflow.domains.crystals.codec import COORDS, LATTICE, TYPES, CrystalCodec, composition
from sciflow.domains.crystals.hull import PartialHull, energy_above_hull, formation_energy
from sciflow.domains.crystals.matching import Tolerances, distinct
from sciflow.domains.crystals.relax import Relaxed, relax
from sciflow.domains.crystals.rewards import Reward
from sciflow.domains.crystals.validity import structurally_valid
from sciflow.domains.designing import Designs, Guide, Progress, Runner, Task, Way, check_numbers, designs_and_baselines

SYMMETRY = 0.1  # angstrom; tolerance of the space groups of generated structures
SAME = Tolerances(0.1, 3.0, 0.1)  # structures this close are one; tilted perovskites stay apart from cubic ones


@dataclass(frozen=True)
class CrystalDesign:
    """A design run.

    Attributes:
        formula: What was asked for.
        table: One row per distinct structure, best first: rank, sample, formula, spacegroup, spacegroup_number, energy,
            formation_energy, above_partial_hull (eV per atom), copies (samples that are this structure), converged,
            volume (cubic angstrom per atom), density, a, b, c, alpha, beta, gamma, reward.
        structures: In the order of the table.
        counts: samples, unusable (no structure, or overlapping atoms), not_relaxed (no energy: left out), distinct,
            other_spacegroup (left out).
        baselines: Mean and best reward of the designs and of plain sampling at equal budget, if there was a reward.
        notes: What the figures rest on.
    """

    formula: str
    table: list[dict[str, Any]]
    structures: list[Any]
    counts: dict[str, int]
    baselines: dict[str, dict[str, float]]
    notes: list[str]


class Keep(Hook):
    """In-painting: the known parts of every crystal of the batch; all crystals have the same parts.

    Args:
        processes: Field -> process, as of the model.
        known: State of ONE crystal with the known values.
        masks: Field -> (rows,) bool, which rows of that crystal are known.
    """

    def __init__(self, processes: Mapping[str, Any], known: State, masks: Mapping[str, Tensor]) -> None:
        self.known, self.masks = known, {name: mask for name, mask in masks.items() if name in processes}
        self.processes = {name: processes[name] for name in self.masks}

    def after(self, state: State, kernels: Any, transition: Transition) -> State:
        """The state with the known parts put back."""
        kept = {}
        for name, process in self.processes.items():
            x, layout = state[name], state.layouts[name]
            clean = process.encode(self.known[name].to(x.device)).repeat(state.batch, *[1] * (x.ndim - 1))
            mask = self.masks[name].to(x.device).repeat(state.batch).reshape(-1, *[1] * (x.ndim - 1))
            if transition.move.s > 0:
                clock = torch.tensor(transition.move.s, dtype=torch.float64)
                draws = transition.noise.at(f"{name}/keep", transition.move)
                clean = process.marginal(clean, clock, layout, self._end(name, clean, layout, transition)).sample(draws)
            kept[name] = torch.where(mask, clean.to(x), x)
        return state.put(**kept)

    def _end(self, name: str, clean: Tensor, layout: Layout, transition: Transition) -> Tensor | None:
        """The prior end of a process that needs one, the same at every move."""
        process = self.processes[name]
        if not process.joins_ends:
            return None
        draws = transition.noise.at(f"{name}/keep", PRIOR)
        return process.space.project(process.space.noise(clean, layout, draws), layout)


@dataclass(frozen=True)
class Known:
    """What is known of the cell beforehand.

    Attributes:
        lattice: (3, 3) rows in angstrom or (6,) lengths and angles; None: free.
        sites: ((symbol, fractional coordinates (3,)), ...): atoms of the formula at known places.
    """

    lattice: Any = None
    sites: Sequence[tuple[str, Sequence[float]]] = ()


def design_crystals(
    model: Any,
    formula: str,
    num: int,
    *,
    z: int = 1,
    spacegroup: int | str | None = None,
    relaxation: str | None = "chgnet",
    known: Known | None = None,
    reward: Reward | None = None,
    guide: Guide | None = None,
    candidates: int = 8,
    seed: int = 0,
    steps: int | None = None,
    batch_size: int = 256,
    relax_steps: int = 200,
    relax_seconds: float = 60.0,
    progress: Progress = lambda stage, done: None,
) -> CrystalDesign:
    """Structures of one composition, the most stable first.

    Args:
        model: `sciflow.Model` of crystals, for given or for generated species (those are then kept at the formula).
        formula: E.g. "SrTiO3".
        num: Number of samples.
        z: Formula units per cell.
        spacegroup: Only structures of this space group (number or symbol), judged after relaxation.
        relaxation: "chgnet", or None: structures as sampled, ranked by the reward if there is one.
        known: Lattice and sites that are given.
        reward: See `rewards`; with it the table has the samples' rewards, before relaxation.
        guide: Makes the guidance from a reward of states, e.g. ``lambda r: SVDD(PosteriorMean(r), 8, 0.1)``; with a
            reward and no guide: best of `candidates` samples each.
        candidates: Samples per design without `guide`.
        seed: Sample i depends on (seed, i) only.
        steps: Moves of the sampler; None: the model's default.
        batch_size: Crystals at a time.
        relax_steps: Most optimiser steps of one structure.
        relax_seconds: Most wall time of the relaxation of one structure.
        progress: Called with (stage, share done).

    Raises:
        UserError: Not a crystal model, a bad formula or space group, unknown relaxation, or known parts that do not
            fit the formula.
    """
    check_numbers(num=num, z=z, candidates=candidates, batch_size=batch_size)
    codec = model.codec
    if not isinstance(codec, CrystalCodec):
        raise UserError(f"design crystal: got a model for '{model.spec.get('domain', 'unknown')}', expected crystals")
    if relaxation not in ("chgnet", None):
        raise UserError(f"relaxation: got '{relaxation}', expected chgnet or none")
    wanted = None if spacegroup is None else spacegroup_number(spacegroup)
    given, masks = _given(codec, composition(formula, z), known or Known())
    designs, baselines = _samples(
        model, given, masks, num, reward, guide, candidates, seed, steps, batch_size, progress
    )
    pool, unusable = _candidates(designs)
    structures = _relaxed([one.record.structure for one in pool], relaxation, relax_steps, relax_seconds, progress)
    pool = [replace(one, record=record) for one, record in zip(pool, structures, strict=True)]
    table, kept, counts, notes = _ranked(pool, wanted, reward is not None)
    return CrystalDesign(formula, table, kept, {"samples": num, "unusable": unusable, **counts}, baselines, notes)


def _given(codec: CrystalCodec, symbols: list[str], known: Known) -> tuple[State, dict[str, Tensor]]:
    """One crystal with the known values and, per field, which rows are known. Known sites come first."""
    left = list(symbols)
    for symbol, _ in known.sites:
        if symbol not in left:
            raise UserError(f"known sites: got {symbol}, expected atoms of the cell {' '.join(sorted(symbols))}")
        left.remove(symbol)
    ordered = [symbol for symbol, _ in known.sites] + left
    state = codec.template_of([np.array([SYMBOLS.index(symbol) for symbol in ordered])])
    rows = torch.arange(len(ordered)) < len(known.sites)
    masks = {COORDS: rows, LATTICE: torch.tensor([known.lattice is not None]), TYPES: torch.ones(len(ordered)) > 0}
    if known.sites:
        places = torch.tensor([list(place) for _, place in known.sites]).to(state[COORDS])
        state = state.put(coords=torch.cat([places.remainder(1.0), state[COORDS][len(places) :]]))
    if known.lattice is not None:
        cell = np.asarray(known.lattice, dtype=float)
        if cell.shape not in ((3, 3), (6,)) or not np.isfinite(cell).all():
            raise UserError(f"known lattice: got shape {cell.shape}, expected (3, 3) rows in angstrom or 6 parameters")
        cell = from_parameters(cell if cell.ndim == 1 else parameters(cell))
        state = state.put(lattice=torch.from_numpy(cell / codec.lattice_scale).to(state[LATTICE])[None])
    else:  # any regular matrix; it is masked out, but encoders must be able to read it
        state = state.put(lattice=torch.eye(3).to(state[LATTICE])[None])
    return state, {name: mask for name, mask in masks.items() if mask.any()}


def _samples(
    model: Any,
    given: State,
    masks: Mapping[str, Tensor],
    num: int,
    reward: Reward | None,
    guide: Guide | None,
    candidates: int,
    seed: int,
    steps: int | None,
    batch_size: int,
    progress: Progress,
) -> tuple[Designs, dict[str, dict[str, float]]]:
    keep = Keep(model.processes, given, masks)
    hooked = _Hooked(model, [keep] if keep.masks else [])

    def score(structures: list[Any]) -> np.ndarray:
        return np.zeros(len(structures)) if reward is None else np.asarray(reward(structures), dtype=np.float64)

    def value(clean: State) -> Tensor:
        return torch.from_numpy(score(model.codec.to_objects(clean)))

    atoms = len(given[COORDS])
    start = given.put(**{name: torch.zeros_like(given[name]) for name in (COORDS, LATTICE)})
    run = Runner(
        hooked,
        model.sampling.changed(steps),
        Task(model.codec.to_objects, score, value),
        seed,
        batch_size,
        progress,
        template=lambda sizes: start.repeat(len(sizes)),
        size=atoms,
    )
    if reward is None:
        return run.generate("samples", range(num)), {}
    way = None if guide is None else Way(type(guide(value)).__name__.lower(), guide)
    method, chosen, others = designs_and_baselines(run, num, way, candidates)
    table = {name: _summary(one) for name, one in {method: chosen, **others}.items()}
    return chosen, table


class _Hooked:
    """A model whose samples are always made with some hooks."""

    def __init__(self, model: Any, hooks: list[Hook]) -> None:
        self.model, self.hooks, self.denoiser = model, hooks, model.denoiser

    def generate(self, *args: Any, hooks: Sequence[Hook] = (), **options: Any) -> State:
        """As the model; the own hooks act last, so that what they impose holds."""
        return self.model.generate(*args, hooks=[*hooks, *self.hooks], **options)


def _summary(designs: Designs) -> dict[str, float]:
    rewards = designs.rewards[np.isfinite(designs.rewards)]
    figures = {"mean": rewards.mean(), "best": rewards.max()} if len(rewards) else {"mean": np.nan, "best": np.nan}
    return {**{name: float(figure) for name, figure in figures.items()}, "network_rows": designs.network_rows}


@dataclass(frozen=True)
class _Candidate:
    """Samples that are the same structure: the first of them, how many they are, and what relaxation made of it."""

    sample: int
    copies: int
    reward: float
    record: Relaxed


def _candidates(designs: Designs) -> tuple[list[_Candidate], int]:
    """Distinct usable samples, those of the best reward first, and the number of unusable samples."""
    rewards = np.nan_to_num(designs.rewards, nan=-np.inf)
    order = sorted(range(len(rewards)), key=lambda i: (-rewards[i], i))
    structures = [designs.records[i] if structurally_valid(designs.records[i]) else None for i in order]
    first = distinct(structures, SAME)
    return [
        _Candidate(
            int(designs.samples[i]), first.count(place), float(designs.rewards[i]), _unrelaxed(structures[place])
        )
        for place, i in enumerate(order)
        if first[place] == place
    ], first.count(-1)


def _unrelaxed(structure: Any) -> Relaxed:
    return Relaxed(structure, np.nan, np.nan, 0, False, 0.0)


def _relaxed(
    structures: Sequence[Any], relaxation: str | None, steps: int, seconds: float, progress: Progress
) -> list[Relaxed]:
    if relaxation is None:
        return [_unrelaxed(one) for one in structures]
    found = []
    for i, one in enumerate(structures):
        found += relax([one], steps, seconds=seconds)
        progress("relaxation", (i + 1) / len(structures))
    return found


def _ranked(
    pool: list[_Candidate], wanted: int | None, rewarded: bool
) -> tuple[list[dict[str, Any]], list[Any], dict[str, int], list[str]]:
    """Table, structures, counts, notes: merged again after relaxation, by energy (without one in the given order)."""
    with_energy = any(np.isfinite(one.record.energy) for one in pool)
    failed = [one for one in pool if with_energy and not np.isfinite(one.record.energy)]
    order = [one for one in pool if one not in failed]
    if with_energy:
        order.sort(key=lambda one: one.record.energy)
    first = distinct([one.record.structure for one in order], SAME)
    hull, notes = _hull(with_energy)
    rows, structures, other = [], [], 0
    for place, one in enumerate(order):
        if first[place] != place:
            continue
        row = _row(one.record, hull)
        if wanted is not None and row["spacegroup_number"] != wanted:
            other += 1
            continue
        copies = sum(twin.copies for twin, owner in zip(order, first, strict=True) if owner == place)
        row = {"rank": len(rows) + 1, "sample": one.sample, "copies": copies, **row}
        rows.append(row | ({"reward": one.reward} if rewarded else {}))
        structures.append(one.record.structure)
    if other and not rows:
        notes.append(f"none of the {other} distinct structures has space group {wanted}; more samples may help")
    counts = {"not_relaxed": len(failed), "distinct": len(rows) + other, "other_spacegroup": other}
    return rows, structures, counts, notes


def _hull(with_energy: bool) -> tuple[PartialHull | None, list[str]]:
    """The partial hull where its data are, and notes on energies."""
    if not with_energy:
        return None, ["structures as sampled: no relaxation, no energies"]
    notes = ["energies by CHGNet (Materials Project PBE/PBE+U, corrected), eV per atom"]
    try:
        hull = PartialHull.from_archives()
    except UserError as error:
        return None, [*notes, f"no hull: {error}"]
    return hull, [
        *notes,
        "PARTIAL hull: Materials Project phases of the archives only, a lower bound",
    ]


def _row(record: Relaxed, hull: PartialHull | None) -> dict[str, Any]:
    structure = record.structure
    symbol, number = symmetry(structure)
    row = {"formula": structure.composition.reduced_formula, "spacegroup": symbol, "spacegroup_number": number}
    if np.isfinite(record.energy):
        row |= {"energy": record.energy, "formation_energy": formation_energy(structure, record.energy)}
        row["above_partial_hull"] = None if hull is None else energy_above_hull(structure, record.energy, hull)
        row |= {"converged": record.converged, "relax_steps": record.steps}
    edges = dict(zip("abc", structure.lattice.abc)) | dict(zip(("alpha", "beta", "gamma"), structure.lattice.angles))
    size = {"atoms": len(structure), "volume": structure.volume / len(structure), "density": float(structure.density)}
    return {**row, **size, **{name: float(value) for name, value in edges.items()}}


def symmetry(structure: Any, tolerance: float = SYMMETRY) -> tuple[str, int]:
    """Symbol and number of the space group by spglib; ("P1", 1) where it finds none."""
    import warnings

    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = SpacegroupAnalyzer(structure, symprec=tolerance)
            return found.get_space_group_symbol(), int(found.get_space_group_number())
        except Exception:  # spglib finds no cell in badly distorted structures
            return "P1", 1


def spacegroup_number(name: int | str) -> int:
    """1 .. 230 from a number or a symbol such as "Pm-3m".

    Raises:
        UserError: Neither.
    """
    from pymatgen.symmetry.groups import SpaceGroup

    try:
        number = int(name)
    except ValueError:
        try:
            number = SpaceGroup(str(name)).int_number
        except Exception:
            raise UserError(f"space group: got '{name}', expected 1 .. 230 or a symbol such as Pm-3m") from None
    if not 1 <= number <= 230:
        raise UserError(f"space group: got {number}, expected 1 .. 230 or a symbol such as Pm-3m")
    return number
