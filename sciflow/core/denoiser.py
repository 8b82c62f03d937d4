"""The denoiser: a network together with the processes that say what its outputs mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sciflow.core.errors import UserError
from sciflow.core.process import Prediction, Process
from sciflow.core.state import State


class Denoiser(nn.Module):
    """Network + processes: State and clocks in, one `Prediction` per field out.

    The network has the one signature `network(state, signals) -> {field: tensor}`. If it has a method
    `prepare(state) -> State`, that is called once per run or training step (anchors, encoded conditions).

    Args:
        network: Module, or any callable of that signature (oracles).
        processes: Field -> process.
    """

    def __init__(self, network: Any, processes: Mapping[str, Process]) -> None:
        super().__init__()
        self.network = network
        self.processes = nn.ModuleDict(dict(processes))

    def prepare(self, state: State) -> State:
        """State with what the network computes once."""
        prepare = getattr(self.network, "prepare", None)
        return state if prepare is None else prepare(state)

    def forward(self, state: State, clocks: Mapping[str, Tensor]) -> dict[str, Prediction]:
        """Evaluate the network once.

        Args:
            state: Fields as they are shown to the network.
            clocks: Field -> clock, () or (B,).

        Raises:
            UserError: The network left out a field that has a process.
        """
        signals = {}
        for name, clock in clocks.items():
            x = state[name]
            process = self.processes[name] if name in self.processes else None  # noqa: SIM401 (ModuleDict has no get)
            signal = clock if process is None else process.signal(x, clock, state.layouts[name])  # type: ignore[operator]
            signals[name] = signal.to(x.device, x.dtype if x.is_floating_point() else torch.get_default_dtype())
        outputs = self.network(state, signals)
        missing = [name for name in self.processes if name not in outputs]
        if missing:
            raise UserError(f"the network returned {sorted(outputs)}, but a process also expects {missing}")
        return {
            name: Prediction(outputs[name], process.kind, process, state[name], clocks[name], state.layouts[name])  # type: ignore[arg-type]
            for name, process in self.processes.items()
        }
