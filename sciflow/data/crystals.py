"""Cards of crystal sets: the archives of SCIFLOW_DATA, the full benchmarks on the web, and a small set that ships.

The SHA-256 of a full CSV file is known where it was the source of an archive; the others have git's own ids of the
files at the commits named below, read from the repositories' trees.
"""

from __future__ import annotations

from sciflow.data.cards import DataSet

CASTELLI = "Castelli et al., Energy Environ. Sci. 5, 5814 and 9034 (2012); split of CDVAE (Xie et al., ICLR 2022)"
PICKARD = "C. J. Pickard, AIRSS data for carbon at 10 GPa, Materials Cloud 2020.0026/v1"
CDVAE_SPLIT = "split of CDVAE (Xie et al., ICLR 2022)"
OMATG = "duplicates removed by OMatG (FERMat-ML, 'All that structure matches does not glitter')"
MP = "Materials Project (Jain et al., APL Mater. 1, 011002, 2013)"
OPEN = "data openly published; split MIT"
CC_BY = "CC BY 4.0"
CDVAE = "txie-93/cdvae", "f857f598d6f6cca5dc1ea0582d228f12dcc2c2ea"  # repository, commit; the files lie in data/
DIFFCSP = "jiaor17/DiffCSP", "7121d159826efa2ba9500bf299250d96da37f146"


def _stored(name: str, title: str, source: str, licence: str, megabytes: float, sha256: str) -> DataSet:
    return DataSet(name, title, source, licence, megabytes, sha256, f"crystals/{name}.npz")


def _full(
    name: str, part: str, about: tuple[str, str, tuple[str, str]], file: tuple[str, str, float | None]
) -> DataSet:
    (source, licence, (repository, commit)), (count, checksum, megabytes) = about, file
    sha256, git_blob = (checksum, None) if len(checksum) == 64 else (None, checksum)
    substitute = {"mp_20": "mp_20_biternary"}.get(name, name) + ("_test" if part == "test" else "_val")
    return DataSet(
        f"{name}_full_{part}",
        f"{name} as published, {part}: {count} crystals (CSV of CIFs)",
        source,
        licence,
        megabytes,
        sha256,
        None,
        url=f"https://raw.githubusercontent.com/{repository}/{commit}/data/{name}/{part}.csv",
        page=f"https://github.com/{repository}/tree/{commit}/data/{name}",
        substitute=substitute,
        git_blob=git_blob,
    )


STORED = [
    _stored(
        "perov_5_val",
        "Perov-5 validation split: 3,787 perovskites of 5 atoms, 56 elements",
        CASTELLI,
        OPEN,
        0.27,
        "c92d19c1c2b178cafd86c07a9c6a321fdbcd9222d0a0c079ed93ade29f918327",
    ),
    _stored(
        "perov_5_test",
        "Perov-5 test split: 3,785 perovskites of 5 atoms",
        CASTELLI,
        OPEN,
        0.27,
        "caea504226dc9821a815d919eaef323defa3994bd44d5e1efc0ea8394f368cdf",
    ),
    _stored(
        "carbon_24_val",
        "Carbon-24 validation split: 2,032 carbon structures of 6-24 atoms",
        f"{PICKARD}; {CDVAE_SPLIT}",
        CC_BY,
        0.39,
        "a1a57ddb9c7d1c33c0a520f62605405c9aceb96ca89702aac47f40f61c8d7ca7",
    ),
    _stored(
        "carbon_24_test",
        "Carbon-24 test split: 2,030 carbon structures of 6-24 atoms",
        f"{PICKARD}; {CDVAE_SPLIT}",
        CC_BY,
        0.39,
        "da019723066e2c8e129c5da191f10e3ebe1bfba97747485e1143d5b0652e2ca8",
    ),
    _stored(
        "mp_20_biternary_val",
        "MP-20 validation split, its 7,140 crystals of two or three elements (not the whole split)",
        f"{MP}; {CDVAE_SPLIT}; subset of WyckoffTransformer",
        CC_BY,
        1.03,
        "27851fff3e21feef691eb8e5bb1dece1613b2847260b72426fd6e91d0c91446c",
    ),
    _stored(
        "mp_20_biternary_test",
        "MP-20 test split, its 7,118 crystals of two or three elements (not the whole split)",
        f"{MP}; {CDVAE_SPLIT}; subset of WyckoffTransformer",
        CC_BY,
        1.03,
        "2ba7c3bc933e0d001254e65120556bb97ede00b0c55c519551cfd6a74656a15b",
    ),
    _stored(
        "mpts_52_val",
        "MPTS-52 validation split: 5,000 crystals of 1-52 atoms, chronological",
        f"{MP}; mp-time-split as split in DiffCSP",
        CC_BY,
        1.43,
        "5075804123e34cd1de8cb3ab7739abb71cfce47010c73ef64a2d6260ddd4c58a",
    ),
    _stored(
        "mpts_52_test",
        "MPTS-52 test split: 8,096 crystals of 1-52 atoms, chronological",
        f"{MP}; mp-time-split as split in DiffCSP",
        CC_BY,
        2.36,
        "7f0c893d93ebe072108283289e1534bacd209497efcd57d5b888f8200ec08cf5",
    ),
    _stored(
        "carbon_24_unique_val",
        "Carbon-24 without duplicates, validation split: 850 structures",
        f"{PICKARD}; {OMATG}",
        CC_BY,
        0.18,
        "5a90d87bf84606257a1d7c5c8129b2f2b0c60c652ae6f09e4e33a7ade992c973",
    ),
    _stored(
        "carbon_24_unique_test",
        "Carbon-24 without duplicates, test split: 850 structures",
        f"{PICKARD}; {OMATG}",
        CC_BY,
        0.18,
        "4abab5d9dfce0b10751628312db3536e590602e8e353fe02fe2d71b7a6fc8085",
    ),
    _stored(
        "carbon_24_nsplit_htl_val",
        "Carbon-24 split by size, high to low, validation: 792 structures of 8 atoms",
        f"{PICKARD}; {OMATG}",
        CC_BY,
        0.14,
        "3c41ae5722a483f80993832289c5a4d33c6f1b6d9c1abe7c3c656fd5e88479aa",
    ),
    _stored(
        "carbon_24_nsplit_htl_test",
        "Carbon-24 split by size, high to low, test: 825 structures of 6 atoms",
        f"{PICKARD}; {OMATG}",
        CC_BY,
        0.13,
        "8096e5e9b5dc116e0b01349cbd953b5f8d0b93f6c78cbaf7077ec6bc92c426d3",
    ),
    _stored(
        "carbon_24_nsplit_lth_test",
        "Carbon-24 split by size, low to high, test: 811 structures of 16-24 atoms",
        f"{PICKARD}; {OMATG}",
        CC_BY,
        0.24,
        "3218697abbd4ebfe09de040931acee02ed5f550b8f4893276d4e183b90031c47",
    ),
    _stored(
        "carbon_overfit_x_train",
        "one carbon crystal of 6 atoms in 479 fractional descriptions: a test of invariance",
        f"{PICKARD}; {OMATG}",
        CC_BY,
        0.07,
        "41f375873ad6842e1fea92585868698c25d0d1c0511ce88e0399e51ddf13a74d",
    ),
    _stored(
        "carbon_overfit_nxl_train",
        "one carbon crystal in 350 descriptions of 6-16 atoms, different cells: a test of invariance",
        f"{PICKARD}; {OMATG}",
        CC_BY,
        0.06,
        "f00f827ec2575b1ba4cbf7014f3bd7b21a862a3e4d143dbd8998ffeec04601b7",
    ),
]

# (benchmark, source, licence, repository and commit, {part: (crystals, checksum of the CSV file, megabytes)})
# A checksum of 64 digits is SHA-256, one of 40 the id that git gives the file.
BENCHMARKS = [
    (
        "perov_5",
        CASTELLI,
        OPEN,
        CDVAE,
        {
            "train": ("11,356", "0769074b5d51d293b765c4371b8f55c468c9c9f2", None),
            "val": ("3,787", "326f401219901270374b71e2faff63df3a29a99fd26f469993b9f476b693daf2", 3.7),
            "test": ("3,785", "a85878c685037f0a578257f6d4fcdde00e968dbab73c5f1e90ecef65218513f6", 3.7),
        },
    ),
    (
        "carbon_24",
        f"{PICKARD}; {CDVAE_SPLIT}",
        CC_BY,
        CDVAE,
        {
            "train": ("6,091", "5e7ae970fbad8ddc46b6963e8cd6e425f11783a6", None),
            "val": ("2,032", "36c00689cd63073c954a58bc6ed6e2adb7aeed5a630c994970959a1babffd50e", 2.3),
            "test": ("2,030", "386b17c08816f434818d51e46687bf72ff3f92348f3ba24823e4758f1fe8a969", 2.3),
        },
    ),
    (
        "mp_20",
        f"{MP}; {CDVAE_SPLIT}",
        CC_BY,
        CDVAE,
        {
            "train": ("27,136", "b1c9d498565ac2fd8d075a51ff2ef5e51ba6c21f", None),
            "val": ("9,047", "7efe4d7ebeb4f460ceaad35e5326c42111d9c9a1", None),
            "test": ("9,046", "5dc643041df53f5ce4970a79930ad262b4f07acd", None),
        },
    ),
    (
        "mpts_52",
        f"{MP}; mp-time-split as split in DiffCSP",
        CC_BY,
        DIFFCSP,
        {
            "train": ("27,380", "28c53b0a0fd3f32fb8078aca8e5b484e372790c6", None),
            "val": ("5,000", "b5d9f7a8ff72f3a1f24d6bb97e11ad201be40d10be7b27924234da06af04baba", 9.9),
            "test": ("8,096", "4d6e76c4726fb12fb2a7e5bb23594f9b82dbd9bf67b7bfd4866e9c74a8f49038", 16.4),
        },
    ),
]

CRYSTAL_CARDS = [
    DataSet(
        "crystal_prototypes",
        "341 ionic crystals of six textbook structure types, constructed (not measured), for demonstrations and tests",
        "prototypes of Mehl et al., Comput. Mater. Sci. 136, S1 (2017), as bundled with pymatgen; decorated here",
        "free; pymatgen is MIT, see datasets/crystal_prototypes/README.md",
        0.01,
        "90a2b2527bf16758449f6aae5bff038a78c3580c9bb25cc219fb567a8d93c94a",
        None,
        "crystal_prototypes/crystal_prototypes.npz",
    ),
    *STORED,
    *(
        _full(name, part, (source, licence, place), file)
        for name, source, licence, place, parts in BENCHMARKS
        for part, file in parts.items()
    ),
]
