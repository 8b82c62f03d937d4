"""The state: named tensors ("fields") and, per field, the layout that says which row belongs to which sample.

Dense fields keep sample i in row i and may be padded (a mask marks the real entries); ragged fields stack the rows
of all samples and name each row's sample in `index`. Nothing else flows through the core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """How the rows of one field map to samples.

    Attributes:
        batch: Number of samples B.
        index: (rows,) sample of each row; None: row i is sample i (dense).
        mask: 1 on valid entries, broadcastable to the field; None: all are valid.
        sizes: True number of rows (nodes, atoms, tokens) of each sample, known on the host; None: not stated.
        anchor: Point per row on which an `Anchored` process is centred, broadcastable to the field; None: the origin.
        scale: Unit of length of an `Anchored` process, positive, () or one row per row of the field; None: 1.
    """

    batch: int
    index: Tensor | None = None
    mask: Tensor | None = None
    sizes: tuple[int, ...] | None = None
    anchor: Tensor | None = None
    scale: Tensor | None = None

    def rows(self, value: Tensor, x: Tensor) -> Tensor:
        """Per-sample values () or (B,) as a tensor that broadcasts against `x`. The only broadcast of time there is."""
        if value.ndim == 0:
            return value
        value = value if self.index is None else value[self.index]
        return value.reshape(value.shape + (1,) * (x.ndim - value.ndim))

    def per_sample(self, entries: Tensor) -> Tensor:
        """Masked sum of entries (rows, ...) over each sample: (B,)."""
        if self.mask is not None:
            mask = self.mask
            while mask.ndim > entries.ndim:  # entries already reduced over their last dimension
                mask = mask.squeeze(-1)
            entries = entries * mask[(...,) + (None,) * (entries.ndim - mask.ndim)]
        total = entries.reshape(entries.shape[0], -1).sum(1)
        return total if self.index is None else total.new_zeros(self.batch).index_add(0, self.index, total)

    def counts(self, like: Tensor) -> Tensor:
        """Number of valid entries of each sample in a field shaped like `like`: (B,)."""
        return self.per_sample(torch.ones_like(like, dtype=torch.get_default_dtype()))

    def map(self, function: Callable[[Tensor], Tensor]) -> Layout:
        """The layout with `function` applied to each of its tensors."""
        parts = {name: None if v is None else function(v) for name, v in self._tensors().items()}
        return replace(self, index=None if self.index is None else function(self.index), **parts)

    def repeat(self, copies: int) -> Layout:
        """Layout of `copies` copies of the batch, copy after copy."""
        index = None if self.index is None else torch.cat([self.index + c * self.batch for c in range(copies)])
        sizes = None if self.sizes is None else self.sizes * copies
        parts = {name: v if v is None or v.ndim == 0 else _repeat(v, copies) for name, v in self._tensors().items()}
        return Layout(self.batch * copies, index, sizes=sizes, **parts)

    def select(self, samples: Tensor) -> tuple[Layout, Tensor]:
        """Layout of the chosen samples and the rows of the old field that it takes, both in the order of `samples`."""
        sizes = None if self.sizes is None else tuple(self.sizes[i] for i in samples.tolist())
        if self.index is None:
            index, rows = None, samples
        else:  # (chosen, rows) matches, in the order of the choice
            index, rows = (self.index[None, :] == samples[:, None]).nonzero(as_tuple=True)
        parts = {name: v if v is None or v.ndim == 0 else v[rows] for name, v in self._tensors().items()}
        return Layout(len(samples), index, sizes=sizes, **parts), rows

    def _tensors(self) -> dict[str, Tensor | None]:
        """What is shaped like the field."""
        return {"mask": self.mask, "anchor": self.anchor, "scale": self.scale}


@dataclass(frozen=True, eq=False)
class State:
    """Everything that evolves (`fields`, with `layouts`) and everything that does not (`cond`).

    Attributes:
        fields: Name -> tensor (rows, ...).
        layouts: Name -> layout of that field.
        cond: Conditions, never changed by the loop. Tensors whose first size is B are per sample.
    """

    fields: Mapping[str, Tensor]
    layouts: Mapping[str, Layout]
    cond: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        return self.fields[name]

    @property
    def batch(self) -> int:
        """Number of samples B."""
        return next(iter(self.layouts.values())).batch

    def put(self, **fields: Tensor) -> State:
        """A state with some fields replaced."""
        return replace(self, fields={**self.fields, **fields})

    def condition(self, **cond: Any) -> State:
        """A state with some conditions added or replaced."""
        return replace(self, cond={**self.cond, **cond})

    def map(self, function: Callable[[Tensor], Tensor]) -> State:
        """The state with `function` applied to each tensor of its fields, layouts and conditions."""
        return State(
            {name: function(x) for name, x in self.fields.items()},
            {name: layout.map(function) for name, layout in self.layouts.items()},
            {name: function(v) if isinstance(v, Tensor) else v for name, v in self.cond.items()},
        )

    def to(self, device: torch.device | str) -> State:
        """The same state on another device."""
        return self.map(lambda value: value.to(device))

    def detach(self) -> State:
        """A state whose fields carry no gradient."""
        return replace(self, fields={name: x.detach() for name, x in self.fields.items()})

    def repeat(self, copies: int) -> State:
        """`copies` copies of the batch, copy after copy."""
        return State(
            {name: _repeat(x, copies) for name, x in self.fields.items()},
            {name: layout.repeat(copies) for name, layout in self.layouts.items()},
            {name: _repeat(v, copies) if self._per_sample(v) else v for name, v in self.cond.items()},
        )

    def select(self, samples: Tensor | Sequence[int]) -> State:
        """The chosen samples, in the given order; repeats are allowed."""
        chosen = torch.as_tensor(samples, device=next(iter(self.fields.values())).device)
        picked = {name: layout.select(chosen) for name, layout in self.layouts.items()}
        return State(
            {name: x[picked[name][1]] for name, x in self.fields.items()},
            {name: layout for name, (layout, _) in picked.items()},
            {name: v[chosen] if self._per_sample(v) else v for name, v in self.cond.items()},
        )

    def _per_sample(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == self.batch


def _repeat(value: Tensor, copies: int) -> Tensor:
    return value.repeat(copies, *[1] * (value.ndim - 1))
