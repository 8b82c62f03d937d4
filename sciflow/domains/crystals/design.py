"""Crystal structures sampled, relaxed, merged and ranked: of a composition, of free composition, or partly known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.hooks import Hook
from sciflow.core.state import State
from sciflow.domains.crystals.codec import CrystalCodec, composition, structure_of
from sciflow.domains.crystals.hull import PartialHull, energy_above_hull, formation_energy
from sciflow.domains.crystals.known import Keep, Known, Start, start
from sciflow.domains.crystals.matching import Tolerances, distinct
from sciflow.domains.crystals.relax import Relaxed, energies, relax
from sciflow.domains.crystals.rewards import Reward
from sciflow.domains.crystals.validity import structurally_valid
from sciflow.domains.designing import (
    Designs,
    Guide,
    Progress,
    Runner,
    Shelf,
    Task,
    Way,
    check_numbers,
    designs_and_baselines,
)

SYMMETRY = 0.1  # angstrom; tolerance of the space groups of generated structures
SAME = Tolerances(0.1, 3.0, 0.1)  # structures this close are one; tilted perovskites stay apart from cubic ones


@dataclass(frozen=True)
class CrystalDesign:
    """A design run.

    Attributes:
        formula: What was asked for; "free composition" where the model chose the species.
        table: One row per distinct structure, best first: rank, sample, formula, spacegroup, spacegroup_number, energy,
            formation_energy, above_partial_hull (eV per atom), copies (samples that are this structure), converged,
            volume (cubic angstrom per atom), density, a, b, c, alpha, beta, gamma, reward.
        structures: In the order of the table.
        counts: samples, unusable (no structure, or overlapping atoms), not_relaxed (no energy: left out), distinct.
        baselines: Mean and best reward of the designs and of plain sampling at equal budget, if there was a reward.
        notes: What the figures rest on, and what became of the space group that was asked for.
    """

    formula: str
    table: list[dict[str, Any]]
    structures: list[Any]
    counts: dict[str, int]
    baselines: dict[str, dict[str, float]]
    notes: list[str]


def design_crystals(
    model: Any,
    formula: str | None,
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
    shelf: Shelf | None = None,
) -> CrystalDesign:
    """Structures, the most stable first.

    Args:
        model: `sciflow.Model` of crystals, for given or for generated species.
        formula: E.g. "SrTiO3"; a model of generated species keeps to it. None: such a model chooses the species.
        num: Number of samples.
        z: Formula units per cell.
        spacegroup: Structures of this space group (number or symbol) come first, and are symmetrised unless parts of
            them are known. Judged after relaxation, with `SYMMETRY`.
        relaxation: "chgnet", or None: structures as sampled, ranked by the reward if there is one.
        known: Lattice and sites that are given; they stay as they are in the relaxation too.
        reward: See `rewards`; with it the table has the samples' rewards, before relaxation.
        guide: Makes the guidance from a reward of states, e.g. ``lambda r: SVDD(PosteriorMean(r), 8, 0.1)``; with a
            reward and no guide: best of `candidates` samples each.
        candidates: Samples per design without `guide`.
        seed: Sample i depends on (seed, i) only.
        steps: Moves of the sampler; None: the model's default.
        batch_size: Crystals at a time.
        relax_steps: Most optimiser steps of one structure.
        relax_seconds: Most processor time of the relaxation of one structure.
        progress: Called with (stage, share done).
        shelf: Keeps finished batches with their rewards, and relaxed structures, on disk: a restart goes on.

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
    if formula is None and not codec.species:
        raise UserError("formula: this model predicts structures of given compositions; give one such as SrTiO3")
    wanted = None if spacegroup is None else spacegroup_number(spacegroup)
    begin = start(codec, None if formula is None else composition(formula, z), known or Known())
    task = _task(model, begin, reward)
    run = Runner(
        _Hooked(model, [Keep(model.processes, begin.state, begin.masks)] if begin.masks else []),
        model.sampling.changed(steps),
        task,
        seed,
        batch_size,
        progress,
        shelf,
        template=lambda sizes: begin.template(codec, sizes),
        size=begin.atoms,
    )
    designs, baselines = _samples(run, num, reward is not None, guide, candidates)
    pool, unusable = _candidates(designs)
    if relaxation is not None:
        pool = _relaxed(pool, begin, relax_steps, relax_seconds, progress, shelf)
    fixed = begin.cell is not None or len(begin.coords) > 0
    table, kept, counts, notes = _ranked(pool, wanted, reward is not None, fixed)
    return CrystalDesign(
        formula or "free composition", table, kept, {"samples": num, "unusable": unusable, **counts}, baselines, notes
    )


def _task(model: Any, begin: Start, reward: Reward | None) -> Task:
    """Decoding and rewards; records are plain lists, so that they can be kept on disk."""
    codec = model.codec

    def decode(state: State) -> list[Any]:
        parts = [begin.exact(one) for one in codec.decode(state)]
        return [None if one is None else [np.asarray(array).tolist() for array in one] for one in parts]

    def score(records: list[Any]) -> np.ndarray:
        if reward is None:
            return np.zeros(len(records))
        return np.asarray(reward([structure_of(one) for one in records]), dtype=np.float64)

    def value(clean: State) -> Tensor:
        return torch.from_numpy(score(decode(begin.imposed(physical(model.processes, clean, codec)))))

    return Task(decode, score, value)


def physical(processes: dict[str, Any], clean: State, codec: CrystalCodec) -> State:
    """A clean state as the codec reads it: fields that still hold the representation of their process are decoded.

    Values hand over what they predict decoded, but finished states (clock 0) as the sampler holds them: coordinates as
    vectors, lattices as logarithms.
    """
    shapes = {"coords": (3,), "lattice": (3, 3), "types": (len(codec.elements),) if codec.species else ()}
    encoded = [name for name in processes if clean[name].shape[1:] not in (shapes[name], ())]
    return clean.put(**{name: processes[name].decode(clean[name], None) for name in encoded})


def _samples(
    run: Runner, num: int, rewarded: bool, guide: Guide | None, candidates: int
) -> tuple[Designs, dict[str, dict[str, float]]]:
    if not rewarded:
        return run.generate("samples", range(num)), {}
    way = None if guide is None else Way(type(guide(run.task.value)).__name__.lower(), guide)
    method, chosen, others = designs_and_baselines(run, num, way, candidates)
    return chosen, {name: _summary(one) for name, one in {method: chosen, **others}.items()}


class _Hooked:
    """A model whose samples are always made with some hooks."""

    def __init__(self, model: Any, hooks: list[Hook]) -> None:
        self.model, self.hooks, self.denoiser, self.sizes = model, hooks, model.denoiser, model.sizes

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
    asked: bool = False  # has the space group that was asked for


def _candidates(designs: Designs) -> tuple[list[_Candidate], int]:
    """Distinct usable samples, those of the best reward first, and the number of unusable samples."""
    rewards = np.nan_to_num(designs.rewards, nan=-np.inf)
    order = sorted(range(len(rewards)), key=lambda i: (-rewards[i], i))
    sampled = [structure_of(designs.records[i]) for i in order]
    structures = [one if structurally_valid(one) else None for one in sampled]
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
    pool: list[_Candidate], begin: Start, steps: int, seconds: float, progress: Progress, shelf: Shelf | None
) -> list[_Candidate]:
    """All relaxed; a known cell and known sites are held."""
    found = []
    for i, one in enumerate(pool):
        part = None if shelf is None else shelf.get("relaxed", i)
        if part is None:
            cell, held = begin.cell is None, len(begin.coords)
            record = relax([one.record.structure], steps, seconds=seconds, cell=cell, held=held)[0]
            part = {**vars(record), "structure": record.structure.as_dict()}
            if shelf is not None:
                shelf.put("relaxed", i, part)
        found.append(replace(one, record=Relaxed(**{**part, "structure": _structure_from(part["structure"])})))
        progress("relaxation", (i + 1) / len(pool))
    return found


def _structure_from(content: dict[str, Any]) -> Any:
    from pymatgen.core import Structure

    return Structure.from_dict(content)


def _ranked(
    pool: list[_Candidate], wanted: int | None, rewarded: bool, fixed: bool
) -> tuple[list[dict[str, Any]], list[Any], dict[str, int], list[str]]:
    """Table, structures, counts, notes: merged again after relaxation; the space group that was asked for comes first,
    then low energies (without any the given order).
    """
    with_energy = any(np.isfinite(one.record.energy) for one in pool)
    failed = [one for one in pool if with_energy and not np.isfinite(one.record.energy)]
    order = [one for one in pool if one not in failed]
    if wanted is not None:
        order = [_judged(one, wanted, refine=not fixed) for one in order]
    order.sort(key=lambda one: (not one.asked, one.record.energy if with_energy else 0.0))
    first = distinct([one.record.structure for one in order], SAME)
    hull, notes = _hull(with_energy)
    rows, structures, asked = [], [], 0
    for place, one in enumerate(order):
        if first[place] != place:
            continue
        asked += one.asked
        copies = sum(twin.copies for twin, owner in zip(order, first, strict=True) if owner == place)
        row = {"rank": len(rows) + 1, "sample": one.sample, "copies": copies, **_row(one.record, hull)}
        rows.append(row | ({"reward": one.reward} if rewarded else {}))
        structures.append(one.record.structure)
    if wanted is not None:
        notes.append(_outcome(wanted, asked, len(rows), fixed))
    return rows, structures, {"not_relaxed": len(failed), "distinct": len(rows)}, notes


def _judged(one: _Candidate, wanted: int, refine: bool) -> _Candidate:
    """Whether it has the space group; if so made exactly symmetric, with the energy it has then."""
    structure = one.record.structure
    if symmetry(structure)[1] != wanted:
        return one
    refined = symmetrised(structure) if refine else structure
    if refined is structure or symmetry(refined)[1] != wanted or not structurally_valid(refined):
        return replace(one, asked=True)
    energy = float(energies([refined])[0]) if np.isfinite(one.record.energy) else one.record.energy
    return replace(one, asked=True, record=replace(one.record, structure=refined, energy=energy))


def _outcome(wanted: int, asked: int, total: int, fixed: bool) -> str:
    """What became of the space group that was asked for."""
    if asked == 0:
        return (
            f"NONE of the {total} distinct structures has space group {wanted} within {SYMMETRY} angstrom, all are "
            "listed; more samples (--num) may help"
        )
    symmetric = "not symmetrised, since parts are fixed" if fixed else "symmetrised (primitive cell)"
    return f"{asked} of {total} have space group {wanted} within {SYMMETRY} angstrom; they come first, {symmetric}"


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
    try:
        found = _analyzer(structure, tolerance)
        return found.get_space_group_symbol(), int(found.get_space_group_number())
    except Exception:  # spglib finds no cell in badly distorted structures
        return "P1", 1


def symmetrised(structure: Any, tolerance: float = SYMMETRY) -> Any:
    """The idealised primitive cell by spglib; the structure itself where it finds none."""
    try:
        return _analyzer(structure, tolerance).find_primitive() or structure
    except Exception:
        return structure


def _analyzer(structure: Any, tolerance: float) -> Any:
    import warnings

    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SpacegroupAnalyzer(structure, symprec=tolerance)


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
