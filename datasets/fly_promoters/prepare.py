"""Derives fly_promoters.fasta.gz from the Debian package r-bioc-biostrings.

Run: python datasets/fly_promoters/prepare.py [PACKAGE.deb]

The package (14 MB) is downloaded by its hash, unless it is given, and read as what it is, an `ar` archive around a tar
file; nothing in it is installed or executed. The output is reproducible byte for byte (gzip time stamp 0); another zlib
may compress differently, so the text is checked.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from sciflow.core.files import replacing  # noqa: E402

URL = "http://deb.debian.org/debian/pool/main/r/r-bioc-biostrings/r-bioc-biostrings_2.66.0-1_amd64.deb"
PACKAGE = "94ba289411284aaf42501357cac6f50b559d23d5f9c1300fa1e4f2e91cd4fa12"  # sha256
MEMBER = "./usr/lib/R/site-library/Biostrings/extdata/dm3_upstream2000.fa.gz"
TARGET = HERE / "fly_promoters.fasta.gz"
EXPECTED = "2d334c3931126c76a756a6c324c9d07e7692ee2b0a96323df28667d41ec72c83"  # of the uncompressed text
LENGTH = 200


def package(words: list[str]) -> bytes:
    """The bytes of the Debian package, from a file or the mirror, checked."""
    if words:
        content = Path(words[0]).read_bytes()
    else:
        with urllib.request.urlopen(URL, timeout=120) as stream:
            content = stream.read()
    digest = hashlib.sha256(content).hexdigest()
    if digest != PACKAGE:
        sys.exit(f"sha256 of the package: got {digest}, expected {PACKAGE}")
    return content


def upstream(content: bytes) -> str:
    """The FASTA text of the 2,000 bases upstream of each transcript, out of the package."""
    place = 8  # behind the magic word of `ar`; each entry has a head of 60 bytes, its name first, its size at 48
    while not content[place : place + 16].startswith(b"data.tar"):
        size = int(content[place + 48 : place + 58])
        place += 60 + size + size % 2
    size = int(content[place + 48 : place + 58])
    with tarfile.open(fileobj=io.BytesIO(content[place + 60 : place + 60 + size])) as archive:
        member = archive.extractfile(MEMBER)
        if member is None:
            sys.exit(f"no {MEMBER} in the package")
        return gzip.decompress(member.read()).decode()


def promoters(text: str) -> Iterator[tuple[str, str]]:
    """(header, last 200 bases) of each entry; without N, each sequence once (the first transcript that has it)."""
    seen = set()
    for entry in text.split(">")[1:]:
        head, *lines = entry.splitlines()
        sequence = "".join(lines).upper()[-LENGTH:]
        if set(sequence) <= set("ACGT") and sequence not in seen:
            seen.add(sequence)
            name, place = head.split()  # NM_078863_up_2000_chr2L_16764737_f chr2L:16764737-16766736
            transcript, _, rest = name.partition("_up_2000_")
            chromosome, window = place.split(":")
            strand = "+" if rest.endswith("_f") else "-"
            yield f"{transcript} chrom={chromosome} start={window.rpartition('-')[0]} strand={strand}", sequence


def main() -> None:
    table = list(promoters(upstream(package(sys.argv[1:]))))
    text = "".join(f">{header}\n{sequence}\n" for header, sequence in table).encode()
    digest = hashlib.sha256(text).hexdigest()
    if digest != EXPECTED:
        sys.exit(f"sha256 of the list: got {digest}, expected {EXPECTED}; {TARGET.name} was left as it is")
    with (
        replacing(TARGET) as temporary,
        open(temporary, "wb") as raw,
        gzip.GzipFile("", "wb", 9, raw, mtime=0) as stream,
    ):
        stream.write(text)
    print(f"{TARGET}: {len(table)} promoters, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
