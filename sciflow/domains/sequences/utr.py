"""Ribosome load of 5' untranslated regions: the two published convolutional networks (Sample et al., 2019).

Optimus 5-Prime style (Nat. Biotechnol. 37, 803): 50 nucleotides before the start codon, followed here by ATGG, two
valid convolutions of 40 channels and width 8, two dense layers -> scaled mean ribosome load. Both are predictors of one
assay in one cell line. Their weights are GPL-3.0: sciflow does not contain them, the user names the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sciflow.core.errors import UserError
from sciflow.data import resolve
from sciflow.domains.sequences.reward_base import DifferentiableReward

LENGTH = 50
START = (0, 3, 2, 2)  # ATGG
# mean ribosome load = slope * prediction + intercept, least squares on 3,002 measured human 5'UTR fragments
CALIBRATION = {"a": (1.513, 5.505), "b": (1.483, 5.984)}
LAYERS = {"conv1": (40, 4, 8), "conv2": (40, 40, 8), "fc1": (40, 1600), "fc2": (1, 40)}


class UTRReward(DifferentiableReward):
    """Predicted scaled ribosome load; see `ribosome_load` for ribosomes.

    Args:
        path: .npz with arrays ``MODEL.conv1.weight`` (40, 4, 8), ``MODEL.conv1.bias``, conv2, fc1 (40, 1600), fc2.
        model: Prefix of the arrays.

    Raises:
        UserError: No such file, or arrays are missing or of another shape.
    """

    tail: Tensor

    def __init__(self, path: str | Path, model: str) -> None:
        super().__init__(f"utr:{model}", ("rna", "dna"), (LENGTH,))
        self.model = model
        self.conv1, self.conv2 = nn.Conv1d(4, 40, 8), nn.Conv1d(40, 40, 8)
        self.fc1, self.fc2 = nn.Linear(1600, 40), nn.Linear(40, 1)
        self.load_state_dict(_weights(path, model))
        self.register_buffer("tail", nn.functional.one_hot(torch.tensor(START), 4).float())
        self.eval().requires_grad_(False)

    def score(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scaled load (B,), float32."""
        x, _ = self.checked(x, mask)
        x = torch.cat([x.float(), self.tail.expand(len(x), -1, -1)], 1).transpose(1, 2)
        hidden = self.conv2(self.conv1(x).relu()).relu().transpose(1, 2).flatten(1)  # position-major
        return self.fc2(self.fc1(hidden).relu())[:, 0]

    def ribosome_load(self, values: np.ndarray) -> np.ndarray:
        """Mean ribosome load (residual standard deviation 0.7) of scaled predictions of the published models.

        Raises:
            UserError: No calibration is known for this model.
        """
        if self.model not in CALIBRATION:
            raise UserError(f"no calibration for model '{self.model}', only for {', '.join(CALIBRATION)}")
        slope, intercept = CALIBRATION[self.model]
        return slope * np.asarray(values) + intercept


def utr_reward(rest: str) -> UTRReward:
    """The reward of ``a``, ``b`` (file in ``SCIFLOW_DATA``) or ``PATH.npz#MODEL``."""
    path, sharp, model = rest.rpartition("#")
    if sharp:
        return UTRReward(path, model)
    if rest not in CALIBRATION:
        raise UserError(f"utr: got '{rest}', expected a, b or PATH.npz#MODEL")
    return UTRReward(resolve("optimus5p"), rest)


def _weights(path: str | Path, model: str) -> dict[str, Tensor]:
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError) as error:
        raise UserError(f"utr: cannot read weights from {path} ({error}); expected an .npz file") from None
    prefixes = sorted({name.split(".")[0] for name in arrays})
    weights = {}
    for layer, shape in LAYERS.items():
        for part, expected in (("weight", shape), ("bias", shape[:1])):
            array = arrays.get(f"{model}.{layer}.{part}")
            if array is None or array.shape != expected:
                got = "nothing" if array is None else f"shape {array.shape}"
                raise UserError(
                    f"utr: {path} has {got} at {model}.{layer}.{part}, expected {expected}; "
                    f"models: {', '.join(prefixes)}"
                )
            weights[f"{layer}.{part}"] = torch.from_numpy(array)
    return weights
