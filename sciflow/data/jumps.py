"""Cards of jump-process sets: flashing ratchet, prior sample of FIM-MJP, ion channels, HP35 macrostates."""

from __future__ import annotations

from sciflow.data.cards import DataSet

OPENFIM = "OpenFIM repository (FIM-MJP, Berghaus et al., NeurIPS 2024), recoded"


def _stored(name: str, title: str, source: str, licence: str, megabytes: float, sha256: str, file: str) -> DataSet:
    return DataSet(name, title, source, licence, megabytes, sha256, f"mjp/{file}.npz")


RATCHETS = {
    0: "63d2cfc88775e13fab97cf990e8eda1ac363ee6d5c887ce8547e6c6d0b0c831b",
    1: "9933ca28a102d187ff6249dfa99a1934f7095d652067234ca26f77302ad3227b",
    2: "21c5646d87ddc314c516dda27532fdf154989383bd4df38fd2a02d578bd342f4",
    3: "42ab56edab02255f8bb2c8cb398a4b82e447cd9405bac3d10be57ff6e3c72e0a",
}

JUMP_CARDS = [
    *(
        _stored(
            f"dfr_V{potential}",
            f"discrete flashing ratchet, V = {potential}, r = b = 1: 10,000 paths of 100 points on [0, 2.5], 6 states",
            OPENFIM,
            "MIT",
            0.1,
            sha256,
            f"dfr_V{potential}",
        )
        for potential, sha256 in RATCHETS.items()
    ),
    _stored(
        "fim_prior_sample",
        "1,400 processes of the training prior of FIM-MJP: rates, graphs, initial laws, path lengths (no paths)",
        OPENFIM,
        "MIT",
        0.3,
        "9af80c4949cc4c28558feea3f2727513ae5e18e947b4399652edaeee0d6a08b7",
        "fim_prior_sample",
    ),
    _stored(
        "ip3r2",
        "current of one type-2 IP3 receptor, 60,000 samples at 20 kHz",
        "L. Wagner and D. Yule, analysed in Siekmann et al. (2014); test data of icmcstat",
        "repository under GPL-2; data only, cite the source",
        0.05,
        "3b47dad659cc7e429197fec09a65348491e21c7da7fbbea018f7866c5cb3f745",
        "ip3r2_current",
    ),
    _stored(
        "porb",
        "current through a bacterial porin, 2,956 samples",
        "C. Steinem lab, Goettingen; R package mich",
        "MIT",
        0.01,
        "614b7885b0786439112ed0477d73a42b40df5d6f8ad986ef142f309aca664295",
        "porb_current",
    ),
    _stored(
        "hp35",
        "villin headpiece HP35: two macrostate labels of 1,526,041 frames, 0.2 ns apart, 12 states each",
        "Nagel, Sartore & Stock, JCTC (2023); underlying trajectory: D. E. Shaw Research (not included)",
        "BSD-3 (labels)",
        0.06,
        "1bfa225c6d9c8ba9422e963b1e8a21962d81bee8e33a028700a0ab811aeb6764",
        "hp35_macrostates",
    ),
]
