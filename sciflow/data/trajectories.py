"""Cards of trajectory sets: molecules and pedestrians of SCIFLOW_DATA, the original MD17 on the web, simulated systems.

MD17 files are the original ones: revised MD17 is a random subset of frames without time order and is of no use here.
"""

from __future__ import annotations

from sciflow.data.cards import DataSet

GFN2 = "GFN2-xTB (tblite 0.8.0), Langevin dynamics at 500 K, 1 fs steps, every fifth frame; made for sciflow"
AMBER = "OpenMM 8.6.1, Amber ff14SB with OBC2 implicit solvent, Langevin dynamics at 300 K; made for sciflow"
MD17 = "Chmiela et al., Sci. Adv. 3, e1603015 (2017); www.sgdml.org; PBE+vdW-TS at 500 K, 0.5 fs per frame"
GEOTDM = "systems of GeoTDM (Han et al., NeurIPS 2024) by sciflow's own simulator"
OWN = "simulation output, free to use"


def _stored(name: str, title: str, source: str, licence: str, megabytes: float, sha256: str, file: str) -> DataSet:
    return DataSet(name, title, source, licence, megabytes, sha256, f"trajectories/{file}.npz")


def _md17(name: str, file: str, frames: str, substitute: str) -> DataSet:
    return DataSet(
        f"md17_{name}",
        f"MD17 {name}, original: {frames} frames, 0.5 fs apart (every tenth is used)",
        MD17,
        "published data, no explicit licence known; cite the source",
        None,
        None,
        None,
        url=f"http://www.quantum-machine.org/gdml/data/npz/{file}.npz",
        page="http://www.sgdml.org/#datasets",
        substitute=substitute,
    )


def _simulated(name: str, title: str) -> DataSet:
    return DataSet(name, title, GEOTDM, OWN, None, None, None, made=True)


TRAJECTORY_CARDS = [
    _simulated("charged", "five charges: 3,000 / 256 / 2,000 trajectories of 30 frames"),
    _simulated("springs", "five bodies, half of the pairs joined by springs: 3,000 / 256 / 2,000 trajectories"),
    _simulated("gravity", "ten masses: 3,000 / 256 / 2,000 trajectories of 30 frames"),
    _stored(
        "ala2",
        "alanine dipeptide, 22 atoms, 10 ns: 20,000 frames, 500 fs apart",
        AMBER,
        OWN,
        3.5,
        "d4e9056ef3ea07e152b9be13df632f90e5c1f217a12b6bdee4547ba582712b4f",
        "ala2_500fs",
    ),
    _stored(
        "ala2_fine",
        "alanine dipeptide, 22 atoms: 40 segments of 500 frames, 10 fs apart",
        AMBER,
        OWN,
        3.5,
        "fb20a1f904db9f8305a940c43649cd30c85084f1a559d0372c534a8c028cdb56",
        "ala2_fine10fs",
    ),
    _stored(
        "ethanol",
        "ethanol at 500 K, 9 atoms: 20,000 frames, 5 fs apart (shaped like MD17, not MD17)",
        GFN2,
        OWN,
        1.3,
        "e31a48451716de61150847ec5bb5fc40b74e2bf6e3ae33f27ad52d6d4baa8e82",
        "ethanol_xtb_500K",
    ),
    _stored(
        "malonaldehyde",
        "malonaldehyde at 500 K, 9 atoms: 10,000 frames, 5 fs apart; its proton changes sides",
        GFN2,
        OWN,
        0.64,
        "47e6a37bbd3f88acff96d94e5261d5cdf748838ed1031dcc87dc8c95f9c68828",
        "malonaldehyde_xtb_500K",
    ),
    _stored(
        "adk",
        "adenylate kinase, C-alpha atoms, closed to open: 98 frames along a biased path, not in time",
        "Beckstein et al., J. Mol. Biol. 394, 160 (2009), from the wheel MDAnalysisTests",
        "GPL-2.0-or-later (MDAnalysisTests)",
        0.18,
        "344bd1c0221d65822b39254abf957377e6c4afc8bd28f576f3ef2b513f4877ae",
        "adk_dims_ca",
    ),
    _stored(
        "eth_ucy",
        "pedestrians, eight recordings of ETH and UCY, 0.4 s apart; by scene: eth, hotel, univ, zara1, zara2",
        "Pellegrini et al., ICCV 2009; Lerner et al., Eurographics 2007; text files of AgentFormer",
        "research use; cite the sources",
        0.5,
        "d640b0143fef2b1dc2debf0e365c773ebf00f1d599f9535bed6a045c9fa322ea",
        "eth_ucy",
    ),
    _stored(
        "nbody_reference",
        "144 trajectories of the GeoTDM generator with their start states, to test simulators",
        "reference generator of GeoTDM (Han et al., NeurIPS 2024)",
        OWN,
        1.1,
        "cfde360f9d6c3d9a5fdeca921e22acffd435631486eea8726727bb0889f9565f",
        "nbody_reference",
    ),
    _md17("aspirin", "md17_aspirin", "211,762", "ala2_fine"),
    _md17("benzene", "md17_benzene2017", "627,983", "ethanol"),
    _md17("ethanol", "md17_ethanol", "555,092", "ethanol"),
    _md17("malonaldehyde", "md17_malonaldehyde", "993,237", "malonaldehyde"),
    _md17("naphthalene", "md17_naphthalene", "326,250", "ethanol"),
    _md17("salicylic", "md17_salicylic", "320,231", "malonaldehyde"),
    _md17("toluene", "md17_toluene", "442,790", "ethanol"),
    _md17("uracil", "md17_uracil", "133,770", "malonaldehyde"),
]
