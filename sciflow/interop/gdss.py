"""Official GDSS checkpoints (Jo, Lee & Hwang, ICML 2022; github.com/harryjo97/GDSS) as sciflow models.

Nothing is unpickled: the files are read with torch's restricted reader, and their weights become one .safetensors file.
The model keeps what the checkpoints were tuned with: no time conditioning, a standard normal prior for every SDE
(which the
schedules do not reach), the released sampler with its step size 1/N on clocks from 1 to 1e-4, batch-coupled Langevin
steps and first-order OU halves. A VP network n means score = -n/sigma (kind "noise"), a VE network n means score = n.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sciflow.core.codec import Codec
from sciflow.core.errors import UserError
from sciflow.core.grids import FixedStep
from sciflow.core.schedules import VE, VP, Schedule, SubVP
from sciflow.core.solver import Solver
from sciflow.core.spaces import Euclidean, SymmetricMatrix
from sciflow.domains.graphs.network import GraphScores, convert_official_weights, network_from_params
from sciflow.model import Model
from sciflow.processes.gaussian import GaussianProcess
from sciflow.sampling import SamplingPlan
from sciflow.solvers.euler_maruyama import EulerMaruyama
from sciflow.solvers.langevin import NormLangevin
from sciflow.solvers.reverse_diffusion import ReverseDiffusion
from sciflow.solvers.s4 import S4

SCHEDULES: dict[str, type[Schedule]] = {"VP": VP, "VE": VE, "subVP": SubVP}
ATOMS = {"QM9": ["C", "N", "O", "F"], "ZINC250k": ["C", "N", "O", "F", "P", "S", "Cl", "Br", "I"]}
# The molecule checkpoints store no sampler; these are the released configuration files (gdss.md, section 10).
MOLECULE_SAMPLERS = {
    ("QM9", "ScoreNetworkX"): {"predictor": "Reverse", "corrector": "Langevin", "snr": 0.2, "scale_eps": 0.7},
    ("ZINC250k", "ScoreNetworkX"): {"predictor": "Reverse", "corrector": "Langevin", "snr": 0.2, "scale_eps": 0.9},
    ("ZINC250k", "ScoreNetworkX_GMH"): {"predictor": "Reverse", "corrector": "Langevin", "snr": 0.2, "scale_eps": 0.8},
}


def load_official(path: str | Path, ema: bool | None = None) -> Model:
    """An official checkpoint as a model that `sciflow sample` runs.

    Args:
        path: One of the seven released .pth files, or one trained with that code.
        ema: Averaged weights; None: as the checkpoint's own sampling configuration says.

    Raises:
        UserError: Not such a checkpoint, or its parameters do not fit its tensors.
    """
    checkpoint = _read(Path(path))
    config = checkpoint["model_config"]
    data = config["data"]["data"]
    use_ema = bool(config.get("sample", {}).get("use_ema", False)) if ema is None else ema
    networks = {part: _network(checkpoint, part, use_ema) for part in ("x", "adj")}
    processes = {
        "x": _process(config["sde"]["x"], Euclidean()),
        "adj": _process(config["sde"]["adj"], SymmetricMatrix()),
    }
    sampler = config.get("sampler") or MOLECULE_SAMPLERS.get((data, checkpoint["params_x"]["model_type"]))
    if sampler is None:
        raise UserError(f"'{path}' names no sampler and its data '{data}' is unknown; known: QM9, ZINC250k")
    model = Model(
        processes,
        GraphScores(networks["x"], networks["adj"]),
        sampling_plan(sampler, config["sde"]["x"]["num_scales"], config.get("sample", {})),
        _codec(config["data"]),
        {
            "name": f"gdss-{Path(path).stem.removeprefix('gdss_')}",
            "domain": "molecules" if data in ATOMS else "graphs",
            "sizes": _sizes(data, config["data"]["max_node_num"]),
            "source": "github.com/harryjo97/GDSS",
            "time_conditioned": False,
            "ema": use_ema,
        },
    )
    return model.eval()


def sampling_plan(sampler: Mapping[str, Any], scales: int, sample: Mapping[str, Any]) -> SamplingPlan:
    """The released sampler as a plan.

    Args:
        sampler: predictor (Euler, Reverse, S4), corrector (Langevin, None), snr, scale_eps, n_steps.
        scales: Number of levels and of moves.
        sample: eps (last clock) and noise_removal.

    Raises:
        UserError: Unknown predictor or corrector.
    """
    snr, scale = float(sampler.get("snr", 0.0)), float(sampler.get("scale_eps", 1.0))
    predictors: dict[str, Solver] = {
        "Euler": EulerMaruyama(),
        "Reverse": ReverseDiffusion(scales),
        "S4": S4(snr, scale, exact_ou=False, scales=scales),
    }
    if sampler["predictor"] not in predictors or str(sampler["corrector"]) not in ("Langevin", "None"):
        raise UserError(
            f"unknown predictor '{sampler['predictor']}' or corrector '{sampler['corrector']}'; expected "
            f"{', '.join(predictors)} and Langevin or None"
        )
    langevin = NormLangevin(snr, scale, scales)
    corrects = sampler["corrector"] == "Langevin" and sampler["predictor"] != "S4"
    return SamplingPlan(
        dict.fromkeys(("x", "adj"), predictors[sampler["predictor"]]),
        FixedStep(1.0, float(sample.get("eps", 1e-4))),
        steps=scales,
        correct=dict.fromkeys(("x", "adj"), langevin) if corrects else None,
        n_correct=int(sampler.get("n_steps", 1)),
        final="mean" if sample.get("noise_removal", True) else "sample",
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"no file '{path}'")
    try:
        with torch.serialization.safe_globals([(collections.OrderedDict, "easydict.EasyDict")]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"'{path}' is damaged or no GDSS checkpoint: {str(error).splitlines()[0]}") from None
    needed = ("model_config", "params_x", "params_adj", "x_state_dict", "adj_state_dict")
    missing = [key for key in needed if not isinstance(checkpoint, dict) or key not in checkpoint]
    if missing:
        raise UserError(f"'{path}' is no GDSS checkpoint: it has no {', '.join(missing)}")
    return checkpoint


def _network(checkpoint: Mapping[str, Any], part: str, ema: bool) -> nn.Module:
    weights: dict[str, Tensor] = {k.removeprefix("module."): v for k, v in checkpoint[f"{part}_state_dict"].items()}
    if ema:
        if f"ema_{part}" not in checkpoint:
            raise UserError("this checkpoint holds no averaged weights; load it with ema=False")
        weights = dict(zip(weights, checkpoint[f"ema_{part}"]["shadow_params"], strict=True))
    network = network_from_params(checkpoint[f"params_{part}"])
    try:
        network.load_state_dict(convert_official_weights(weights))
    except RuntimeError as error:
        raise UserError(f"params_{part} of the checkpoint do not fit its tensors: {error}") from None
    return network


def _process(sde: Mapping[str, Any], space: Euclidean) -> GaussianProcess:
    if sde["type"] not in SCHEDULES:
        raise UserError(f"unknown SDE '{sde['type']}'; expected one of {', '.join(SCHEDULES)}")
    schedule = SCHEDULES[sde["type"]](sde["beta_min"], sde["beta_max"])  # type: ignore[call-arg]
    return GaussianProcess(schedule, space, kind="score" if sde["type"] == "VE" else "noise", prior_std=1.0)


def _codec(data: Mapping[str, Any]) -> Codec:
    if data["data"] in ATOMS:
        from sciflow.domains.molecules.codec import GDSSMoleculeCodec

        return GDSSMoleculeCodec(ATOMS[data["data"]], data["max_node_num"])
    from sciflow.domains.graphs.codec import DegreeGraphCodec

    return DegreeGraphCodec(data["max_node_num"], data["max_feat_num"])


def _sizes(data: str, max_nodes: int) -> dict[str, int]:
    """Node counts of the official training graphs, which the checkpoints do not store; full size for unknown data."""
    table = json.loads((Path(__file__).parent / "gdss_sizes.json").read_text())
    return table.get(data, {str(max_nodes): 1})
