r"""Trajectories as states and back. All samples of a state have the same number of frames T.

| field | shape | content |
|---|---|---|
| pos | (atoms, T, D) | positions of all frames minus the centre; the layout's mask (atoms, T, 1) is 0 where observed |
| observed | (atoms, T, D) | positions of observed frames minus the centre, 0 elsewhere |
| atoms | (atoms, F) | invariant features of points |
| pairs | (pairs, E) | invariant features of the pairs i < j of each sample, i-major |

Conditions: "times" (B, T), one frame spacing of the training data = 1, from 0; "seen" (B, T), 1 where observed;
"centre" (B, D) float64: mean of the observed positions, of all where nothing is observed. It is taken off in float64,
so a molecule a thousand angstrom away loses nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sciflow.core.codec import Codec
from sciflow.core.errors import UserError
from sciflow.core.state import Layout, State
from sciflow.domains.trajectories.data import (
    UNITS,
    Trajectory,
    atom_features,
    atom_numbers,
    check_positions,
    hop_features,
)

POS, OBSERVED, ATOMS, PAIRS = "pos", "observed", "atoms", "pairs"
MOLECULES_KEPT = 64  # descriptions of training molecules in a codec


def ragged(sizes: Sequence[int]) -> Layout:
    """Layout of samples with these numbers of rows."""
    counts = torch.tensor(list(sizes), dtype=torch.long)
    return Layout(len(counts), torch.arange(len(counts)).repeat_interleave(counts), sizes=tuple(counts.tolist()))


def upper(pairs: np.ndarray) -> np.ndarray:
    """(N, N, E) symmetric -> (N (N - 1) / 2, E), pairs i < j, i-major."""
    return pairs[np.triu_indices(len(pairs), 1)]


def square(pairs: np.ndarray, atoms: int) -> np.ndarray:
    """The inverse of `upper`; the diagonal is 0."""
    full = np.zeros((atoms, atoms, pairs.shape[1]), np.float32)
    first, second = np.triu_indices(atoms, 1)
    full[first, second] = full[second, first] = pairs
    return full


class TrajectoryCodec(Codec):
    """Trajectories <-> states.

    Args:
        frames: T of generated trajectories where nothing else is said.
        features: F, channels of points.
        pairs: E, channels of pairs.
        dims: D.
        unit: Of times: "fs", "s" or "step".
        spacing: Time between two frames of the training data, in that unit.
        kind: "molecule": features say element and bonds; "points": they are given.
        conditional: Whether some frames have to be observed.
        molecules: What is known of the training molecules, the most frequent first: dicts with numbers, bonds and
            names (molecule), or features and pairs (points). `template` takes them from here.
    """

    def __init__(
        self,
        frames: int,
        features: int,
        pairs: int,
        dims: int = 3,
        unit: str = "step",
        spacing: float = 1.0,
        kind: Literal["molecule", "points"] = "points",
        conditional: bool = False,
        molecules: list[dict[str, Any]] | None = None,
    ) -> None:
        if frames < 2 or features < 1 or pairs < 1 or dims not in (2, 3):
            raise UserError(
                f"codec: got frames={frames}, features={features}, pairs={pairs}, dims={dims}; "
                "expected at least 2 frames, 1 channel each, and 2 or 3 dimensions"
            )
        if unit not in UNITS or not spacing > 0 or kind not in ("molecule", "points"):
            raise UserError(f"codec: got unit='{unit}', spacing={spacing}, kind='{kind}'; expected one of {UNITS}, > 0")
        self.frames, self.features, self.pairs, self.dims = frames, features, pairs, dims
        self.unit, self.spacing, self.kind, self.conditional = unit, float(spacing), kind, conditional
        self.molecules = list(molecules or [])

    @classmethod
    def infer(
        cls, trajectories: Sequence[Trajectory], frames: int, conditional: bool, stride: int = 1
    ) -> TrajectoryCodec:
        """Channels, unit and spacing of a training set, and the descriptions of its molecules.

        Raises:
            UserError: Trajectories that do not go together.
        """
        first = trajectories[0]
        kind = "points" if first.numbers is None else "molecule"
        spacing = float(np.median([one.spacing for one in trajectories])) * stride
        shape = first.features.shape[1], first.pairs.shape[2]
        codec = cls(frames, *shape, first.dims, first.unit, spacing, kind, conditional)
        for number, one in enumerate(trajectories):
            codec.check(one, f"trajectory {number}", spacing=one.spacing * stride)
        return cls(frames, *shape, first.dims, first.unit, spacing, kind, conditional, _descriptions(trajectories))

    def check(self, one: Trajectory, source: str = "trajectory", spacing: float | None = None) -> None:
        """Refuse a trajectory that this codec cannot take.

        Raises:
            UserError: Other dimensions, features, unit or time between frames.
        """
        if one.dims != self.dims:
            raise UserError(f"{source}: got {one.dims}-D positions, expected {self.dims}-D as in the training data")
        got, kind = (one.features.shape[1], one.pairs.shape[2]), "points" if one.numbers is None else "molecule"
        if kind != self.kind or got != (self.features, self.pairs):
            raise UserError(
                f"{source}: got {kind} with {got[0]} and {got[1]} channels of points and pairs, expected {self.kind} "
                f"with {self.features} and {self.pairs}, as in the training data"
            )
        if "step" not in (one.unit, self.unit) and one.unit != self.unit:
            raise UserError(f"{source}: got times in {one.unit}, expected {self.unit}")
        if spacing is not None and one.unit == self.unit and abs(spacing / self.spacing - 1) > 0.01:
            raise UserError(
                f"{source}: got frames {spacing:g} {one.unit} apart, expected {self.spacing:g} as in the training "
                "data; take every n-th frame, or tell the right spacing"
            )

    # -- trajectories -> states --------------------------------------------------------------------------------------
    def to_state(self, objects: Sequence[Any]) -> State:
        """Trajectories with one number of frames as a clean state; their `observed` frames are observed.

        Raises:
            UserError: Different numbers of frames, all frames observed, none where the model needs some, positions that
                are unusable, or another kind of trajectory.
        """
        frames = {one.frames for one in objects}
        if len(frames) != 1:
            raise UserError(f"got trajectories of {sorted(frames)} frames, expected one number of frames per batch")
        for number, one in enumerate(objects):
            self.check(one, f"trajectory {number}")
            check_positions(one.positions, f"trajectory {number}")
        total = frames.pop()
        seen = [np.zeros(total, bool) if one.observed is None else np.asarray(one.observed, bool) for one in objects]
        if self.conditional and not all(flags.any() for flags in seen):
            raise UserError("mask: no frame is observed, expected at least one; this model continues observed frames")
        rows = [torch.from_numpy(one.positions).transpose(0, 1) for one in objects]
        return self.assemble(
            torch.cat(rows),
            [one.atoms for one in objects],
            torch.from_numpy(np.stack([self.model_times(one.times, one.unit) for one in objects])),
            torch.from_numpy(np.stack(seen)),
            torch.from_numpy(np.concatenate([one.features for one in objects])),
            torch.from_numpy(np.concatenate([upper(one.pairs) for one in objects])),
        )

    def model_times(self, times: np.ndarray, unit: str) -> np.ndarray:
        """Times from 0 in units of the training spacing; frames of files that know no time count as one each."""
        known = unit == self.unit
        spacing = self.spacing if known else float(np.median(np.diff(times))) if len(times) > 1 else 1.0
        return (times - times[0]) / spacing

    def assemble(
        self,
        positions: Tensor,
        sizes: Sequence[int],
        times: Tensor,
        seen: Tensor,
        features: Tensor,
        pairs: Tensor,
        dtype: torch.dtype | None = None,
    ) -> State:
        """A state from parts.

        Args:
            positions: (atoms, T, D) float64, all samples one after the other; unobserved ones may be anything.
            sizes: Atoms per sample.
            times: (B, T) in units of the training spacing.
            seen: (B, T) bool.
            features: (atoms, F).
            pairs: (pairs, E).
            dtype: Of the state; None: torch's default.

        Raises:
            UserError: All frames of a sample are observed.
        """
        if seen.all(1).any():
            raise UserError(f"mask: all {seen.shape[1]} frames are observed, expected at least one to generate")
        layout, dtype = ragged(sizes), dtype or torch.get_default_dtype()
        index: Tensor = layout.index  # type: ignore[assignment]
        weights = torch.where(seen.any(1, keepdim=True), seen, True).double()
        total = positions.new_zeros(layout.batch, positions.shape[2])
        total.index_add_(0, index, (positions * weights[index][..., None]).sum(1))
        centre = total / (weights.sum(1) * torch.tensor(sizes))[:, None]
        centred = (positions - centre[index][:, None]).to(dtype)
        visible = seen[index][..., None]
        mask = (~visible).to(dtype) if bool(seen.any()) else None
        fields = {
            POS: centred,
            OBSERVED: centred * visible,
            ATOMS: features.to(dtype),
            PAIRS: pairs.to(dtype),
        }
        counts = [n * (n - 1) // 2 for n in sizes]
        layouts = {
            POS: Layout(layout.batch, index, mask, layout.sizes),
            OBSERVED: layout,
            ATOMS: layout,
            PAIRS: ragged(counts),
        }
        return State(fields, layouts, {"times": times.to(dtype), "seen": seen.to(dtype), "centre": centre})

    # -- templates ---------------------------------------------------------------------------------------------------
    def template(self, sizes: Sequence[int]) -> State:
        """Zeros for unconditional samples: training molecules with these numbers of atoms, the most frequent of each.

        Raises:
            UserError: The model needs observed frames, or no training molecule has so many atoms.
        """
        if self.conditional:
            raise UserError(
                "this model continues observed frames; give it some: sciflow design trajectory --model MODEL "
                "--observed FILE, or Model.generate(template=codec.template_of(trajectory, '0:10'))"
            )
        known = {molecule["atoms"]: molecule for molecule in reversed(self.molecules)}
        missing = sorted(set(sizes) - set(known))
        if missing or not len(sizes):
            raise UserError(f"sizes: got {missing}, expected numbers of atoms of training molecules: {sorted(known)}")
        return self.template_for([self._blank(known[size]) for size in sizes])

    def template_for(self, trajectories: Sequence[Trajectory], frames: int | None = None) -> State:
        """Zeros for unconditional samples of the same molecules (systems) as the given trajectories."""
        frames = frames or self.frames
        for number, one in enumerate(trajectories):
            self.check(one, f"trajectory {number}")
        sizes = [one.atoms for one in trajectories]
        return self.assemble(
            torch.zeros(sum(sizes), frames, self.dims, dtype=torch.float64),
            sizes,
            torch.arange(frames, dtype=torch.float64).expand(len(sizes), frames),
            torch.zeros(len(sizes), frames, dtype=torch.bool),
            torch.from_numpy(np.concatenate([one.features for one in trajectories])),
            torch.from_numpy(np.concatenate([upper(one.pairs) for one in trajectories])),
        )

    def template_of(
        self,
        trajectory: Trajectory,
        observed: Iterable[int] | str,
        frames: int | None = None,
        copies: int = 1,
        times: np.ndarray | None = None,
    ) -> State:
        """A state with the observed frames of a trajectory in their places, everything else to be generated.

        Args:
            trajectory: Either exactly the observed frames in order, or a longer one of which they are taken.
            observed: Frame numbers of the result, or text such as "0:10" (see `windows.frame_indices`).
            frames: T of the result; None: that of the training data.
            copies: Number of samples.
            times: (T,) times of all frames in the trajectory's unit; None: evenly spaced as in the training data.

        Raises:
            UserError: No frame or all frames observed, too few frames in the trajectory, or another spacing.
        """
        from sciflow.domains.trajectories.windows import frame_indices

        frames = frames or self.frames
        chosen = frame_indices(observed, frames) if isinstance(observed, str) else np.array(sorted(set(observed)), int)
        if not 0 < len(chosen) < frames or chosen[0] < 0 or chosen[-1] >= frames:
            raise UserError(
                f"mask: got {len(chosen)} of {frames} frames as observed, expected at least one, and one to generate"
            )
        if trajectory.frames == len(chosen):
            given = trajectory
        elif trajectory.frames > chosen[-1]:
            given = trajectory.select(chosen)
        else:
            raise UserError(
                f"got {trajectory.frames} frames, expected the {len(chosen)} observed ones, or a trajectory that holds "
                f"frame {chosen[-1]}"
            )
        self.check(
            trajectory,
            spacing=None if times is not None or trajectory.frames < 3 else self._given_spacing(given, chosen),
        )
        check_positions(given.positions, "observed frames")
        positions = np.zeros((frames, trajectory.atoms, self.dims))
        positions[chosen] = given.positions
        clock = np.arange(float(frames)) if times is None else self.model_times(np.asarray(times), trajectory.unit)
        seen = torch.zeros(1, frames, dtype=torch.bool)
        seen[:, chosen] = True
        state = self.assemble(
            torch.from_numpy(positions).transpose(0, 1).contiguous(),
            [trajectory.atoms],
            torch.from_numpy(clock)[None],
            seen,
            torch.from_numpy(trajectory.features),
            torch.from_numpy(upper(trajectory.pairs)),
        )
        blank = state[POS] * seen[..., None]
        return state.put(**{POS: blank}).repeat(copies)

    # -- states -> trajectories --------------------------------------------------------------------------------------
    def to_objects(self, state: State) -> list[Any]:
        """Trajectories at their true places; None where a position is not finite."""
        layout = state.layouts[POS]
        sizes = layout.sizes or tuple(torch.bincount(layout.index, minlength=layout.batch).tolist())  # type: ignore[arg-type]
        index: Tensor = layout.index.cpu()  # type: ignore[union-attr]
        positions = state[POS].detach().cpu().double() + state.cond["centre"].cpu().double()[index][:, None]
        times = state.cond["times"].detach().cpu().double().numpy() * self.spacing
        seen = state.cond["seen"].detach().cpu().numpy() > 0.5
        parts = zip(
            positions.split(list(sizes)),
            state[ATOMS].detach().cpu().split(list(sizes)),
            state[PAIRS].detach().cpu().split([n * (n - 1) // 2 for n in sizes]),
            strict=True,
        )
        return [
            self._object(x.transpose(0, 1).numpy(), times[k], h.numpy(), square(e.numpy(), sizes[k]), seen[k])
            for k, (x, h, e) in enumerate(parts)
        ]

    def _object(
        self, positions: np.ndarray, times: np.ndarray, features: np.ndarray, pairs: np.ndarray, seen: np.ndarray
    ) -> Trajectory | None:
        if not np.isfinite(positions).all():
            return None
        observed = seen if seen.any() else None
        one = Trajectory(positions, times, self.unit, features.astype(np.float32), pairs, observed=observed)
        if self.kind == "points":
            return one
        numbers, bonds = atom_numbers(features), np.argwhere(np.triu(pairs[..., 0] > 0.5, 1))
        key = (numbers.tolist(), sorted(map(sorted, bonds.tolist())))
        names = next(
            (m["names"] for m in self.molecules if (m["numbers"], sorted(map(sorted, m["bonds"]))) == key), None
        )
        return Trajectory(
            positions,
            times,
            self.unit,
            one.features,
            pairs,
            numbers,
            bonds,
            np.array(names) if names else None,
            observed,
        )

    def _given_spacing(self, given: Trajectory, chosen: np.ndarray) -> float | None:
        """Time per frame of the result, by the times of the observed frames; None where there is only one."""
        if given.frames < 2:
            return None
        return float(np.median(np.diff(given.times) / np.diff(chosen)))

    def _blank(self, molecule: dict[str, Any]) -> Trajectory:
        """One frame of zeros of a described molecule."""
        atoms = molecule["atoms"]
        if self.kind == "molecule":
            numbers, bonds = np.array(molecule["numbers"]), np.array(molecule["bonds"], int).reshape(-1, 2)
            features, pairs = atom_features(numbers), hop_features(bonds, atoms)
        else:
            numbers = bonds = None
            features = np.array(molecule["features"], np.float32)
            pairs = square(np.array(molecule["pairs"], np.float32).reshape(-1, self.pairs), atoms)
        return Trajectory(np.zeros((1, atoms, self.dims)), np.zeros(1), self.unit, features, pairs, numbers, bonds)


def _descriptions(trajectories: Sequence[Trajectory]) -> list[dict[str, Any]]:
    """Different molecules (all of them) or systems of points (one per number of points), the most frequent first."""
    keys = [(one.atoms, one.features.tobytes(), one.pairs.tobytes()) for one in trajectories]
    examples = dict(zip(reversed(keys), reversed(trajectories)))
    found, sizes = [], set()
    for key, _ in Counter(keys).most_common():
        one = examples[key]
        if one.numbers is None and one.atoms in sizes:
            continue
        sizes.add(one.atoms)
        found.append(_description(one))
    return found[:MOLECULES_KEPT]


def _description(one: Trajectory) -> dict[str, Any]:
    if one.numbers is None:
        return {"atoms": one.atoms, "features": one.features.tolist(), "pairs": upper(one.pairs).tolist()}
    names = None if one.names is None else [str(name) for name in one.names]
    bonds = np.argwhere(np.triu(one.pairs[..., 0] > 0.5, 1)) if one.bonds is None else one.bonds
    return {"atoms": one.atoms, "numbers": one.numbers.tolist(), "bonds": bonds.tolist(), "names": names}
