"""Cards of population snapshots: small sets of SCIFLOW_DATA, and the full sets on the web.

Checksums of the web files are git's ids of them at the commits named below, read from the repositories' trees; GEO
gives none.
"""

from __future__ import annotations

from sciflow.data.cards import DataSet

MOON = "Moon et al., Nat. Biotechnol. 37, 1482 (2019), human embryoid bodies, five ranges of 27 days"
CHU = "Chu et al., Genome Biol. 17, 173 (2016), GEO GSE75748, human ES cells to definitive endoderm"
COOK = "Cook and Vanderhyden, Nat. Commun. 11, 2142 (2020), TGF-beta on A549 cells; coordinates of TIGON"
WEINREB = "Weinreb et al., Science 367, eaaw3381 (2020), lineage tracing of mouse haematopoiesis; coordinates of TIGON"
SCHIEBINGER = "Schiebinger et al., Cell 176, 928 (2019); subset from the test data of moscot"
SBIRR = "Shen, Berlinghieri and Broderick, arXiv 2408.06277 (data folder of the public code)"
HYCOM = f"drifters simulated in the HYCOM Gulf of Mexico reanalysis; {SBIRR}"
OWN = "fresh draws of the published law, made for sciflow"
UNSTATED = "published data, no licence stated; cite the source"
TRAJECTORYNET = "KrishnaswamyLab/TrajectoryNet", "810c89b081f95405bc0ad42bfb3cb41038e13700"  # repository, commit
TIGON = "yutongo/TIGON", "1ed92cfcc250415fc01b4d344a308b0680cc9635"


def _stored(name: str, title: str, source: str, licence: str, kilobytes: float, sha256: str) -> DataSet:
    file = name if "." in name else f"{name}.npz"
    return DataSet(name.split(".")[0], title, source, licence, kilobytes / 1000, sha256, f"singlecell/{file}")


def _on_github(
    name: str, title: str, about: tuple[str, str], place: tuple[str, str], path: str, blob: str, substitute: str
) -> DataSet:
    (source, licence), (repository, commit) = about, place
    return DataSet(
        name,
        title,
        source,
        licence,
        None,
        None,
        None,
        url=f"https://raw.githubusercontent.com/{repository}/{commit}/{path}",
        page=f"https://github.com/{repository}/blob/{commit}/{path}",
        substitute=substitute,
        git_blob=blob,
    )


CELL_CARDS = [
    _stored(
        "eb_pca5",
        "embryoid bodies: 5 times, 300 cells each, 5 scaled principal components",
        MOON,
        "CC BY 4.0 (from memory)",
        28,
        "045c9213a9ce9f685897048fd67dc8e20cc0700a435e5eca47e958d2d4c590cb",
    ),
    _stored(
        "hesc_pca5",
        "human ES cells to endoderm: 0, 12, 24, 36, 72 h, 66 to 172 cells, 5 principal components",
        CHU,
        UNSTATED,
        12,
        "c658ea930db0f7ecbecbd58aebf4bd91de5146ce03c275b5a224009a49905d59",
    ),
    _stored(
        "emt_ae3",
        "epithelial-mesenchymal transition: 5 times over 7 days, 129 to 885 cells, 3 autoencoder coordinates",
        COOK,
        "MIT (TIGON)",
        36,
        "03ae0ec6bc179ead53143936270eb43e691f39f4edd2922f6d94a990f87bad68",
    ),
    _stored(
        "hematopoiesis_lineage2",
        "mouse haematopoiesis: days 2, 4, 6, 1,429 to 5,788 cells, 2 coordinates; strong proliferation",
        WEINREB,
        "MIT (TIGON)",
        81,
        "35563433f5e8fd186ed033010cd3529004b72665810c47414f85282b66b8a28c",
    ),
    _stored(
        "reprogramming_250.h5ad",
        "fibroblast reprogramming: 250 cells x 1,479 genes, obs['day'] 10, 10.5, 11 (h5ad)",
        SCHIEBINGER,
        "BSD-3 (moscot)",
        193,
        "6f52a97d9f0f6ef9b5be1bb8b50d6544849ce71ba343aa603e73e3f225908eb8",
    ),
    _stored(
        "gom_vortex_large",
        "drifters around a large vortex: 9 times, 111 each, 2-d",
        HYCOM,
        UNSTATED,
        10,
        "cbf55ebe3b55fbe88e26d07093196b2a6eea70b75982a851bb187990d3d8dcdb",
    ),
    _stored(
        "gom_vortex_small",
        "drifters around a small vortex: 9 times, 111 each, 2-d",
        HYCOM,
        UNSTATED,
        10,
        "fdc00f0d43009f2704f76530faa5932470d8bbf424095a07cccf0987c1b31b84",
    ),
    _stored(
        "lv_published",
        "Lotka-Volterra with noise: 9 times, 50 each; the array of the SBIRR paper",
        SBIRR,
        UNSTATED,
        6,
        "3968c804e517244eb002fbf1b669178d403d548e65bc89c8525c1815347da292",
    ),
    _stored(
        "repressilator_published",
        "repressilator with noise: 11 times, 50 each; the array of the SBIRR paper",
        SBIRR,
        UNSTATED,
        9,
        "3eceef4b588f8b29caa904c1e0e609f39545e361f33f20602f83efc08d12c147",
    ),
    *(
        _stored(f"{system}_seed{seed}", f"{title}, seed {seed}", OWN, "free to use", size, sha256)
        for system, title, size, checksums in (
            (
                "lv",
                "Lotka-Volterra with noise: 9 times, 50 each",
                6,
                (
                    "aede957eda0b58e750a906c49b47470fd1f3ca72fcdcc8d00ff9059341c40818",
                    "801e01f85199c5270411213ce6306f4e3aa965fa1cc26ba1b9ac804803d2885b",
                    "10993d56f4712749bebb2a32eb52eed9bcd0b4c53c7ec12578ac8b8b5e0ac609",
                ),
            ),
            (
                "repressilator",
                "repressilator with noise: 11 times, 50 each",
                9,
                (
                    "79d12ce67a09e6a8ea9004303baaf55721134893ce8a46f71c1ea3c6717c6c2e",
                    "0483e60db0399df636554cd828d3d7069118f136a5f58c4875e7cefa3a7b9ccf",
                    "74c8683cb15c99a0fbfedb76499b1165c61697e68f7f99594ed3dbc4d9ae569f",
                ),
            ),
        )
        for seed, sha256 in enumerate(checksums)
    ),
    _on_github(
        "eb_full",
        "embryoid bodies in full: 5 times, 100 principal components",
        (MOON, "CC BY 4.0 (from memory)"),
        TRAJECTORYNET,
        "data/eb_velocity_v5.npz",
        "06b92296690840bb4c146085b6cd18ad89667c74",
        "eb_pca5",
    ),
    DataSet(
        "hesc_full",
        "human ES cells to endoderm in full: counts of 758 cells, six times (genes x cells, CSV)",
        CHU,
        "public GEO record, no restrictions stated",
        None,
        None,
        None,
        url="https://ftp.ncbi.nlm.nih.gov/geo/series/GSE75nnn/GSE75748/suppl/GSE75748_sc_time_course_ec.csv.gz",
        page="https://www.ncbi.nlm.nih.gov/geo/query/acc.cgi?acc=GSE75748",
        substitute="hesc_pca5",
    ),
    _on_github(
        "hematopoiesis_full",
        "mouse haematopoiesis, file of TIGON: days 2, 4, 6, 2 coordinates",
        (WEINREB, "MIT (TIGON)"),
        TIGON,
        "Input/Lineage.npy",
        "b3e8d93db25c5119f3fc61abba0b98d27b30c8f3",
        "hematopoiesis_lineage2",
    ),
    _on_github(
        "emt_full",
        "epithelial-mesenchymal transition, file of TIGON: 5 times, 3 coordinates",
        (COOK, "MIT (TIGON)"),
        TIGON,
        "Input/EMT.npy",
        "b70a322003c69be915965297fb10578846116463",
        "emt_ae3",
    ),
]
