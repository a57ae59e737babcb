"""Fetching MovieLens from its publisher, GroupLens, whose terms forbid passing it on: https://files.grouplens.org."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from recsys_models.errors import DataError

MOVIELENS_URL = "https://files.grouplens.org/datasets/movielens"
MOVIELENS_SHA256 = {
    "ml-100k": "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    "ml-1m": "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
}
"""Of the zip files as published."""

_LARGEST_DOWNLOAD = 64 * 1024 * 1024
_LARGEST_EXTRACTED = 512 * 1024 * 1024
_CHUNK = 1 << 16


def download_movielens(
    name: str,
    target: Path,
    *,
    base_url: str = MOVIELENS_URL,
    sha256: str | None = None,
    timeout_s: float = 30.0,
) -> Path:
    """Fetch ``{base_url}/{name}.zip``, check it and unpack it.

    Everything is written to a folder beside ``target/name`` that is renamed at the end, so an interrupted
    download leaves no half data set. The licence is in the README that comes with the data.

    Args:
        name: ``"ml-100k"`` or ``"ml-1m"``.
        target: folder to put the data set's folder into.
        base_url: where the zip file lies, ``http`` or ``https``.
        sha256: expected hash of the zip file; by default the pinned one.
        timeout_s: longest silence of the server.

    Returns:
        ``target / name``, ready for ``adapters.load``. If it is there already nothing is fetched.

    Raises:
        DataError: if the name is unknown, the server cannot be reached, or the file is not the expected one.
    """
    expected = sha256 or MOVIELENS_SHA256.get(name)
    if expected is None:
        raise DataError(f"unknown data set '{name}': use one of {', '.join(MOVIELENS_SHA256)} or pass sha256")
    if not base_url.startswith(("http://", "https://")):
        raise DataError(f"base_url '{base_url}' is neither http nor https: pass the publisher's address")
    final = target / name
    if final.is_dir():
        return final
    target.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=target, prefix=f".{name}."))
    try:
        archive = beside / f"{name}.zip"
        _fetch(f"{base_url.rstrip('/')}/{name}.zip", archive, expected.lower(), timeout_s)
        _unpack(archive, beside / "data")
        (beside / "data").replace(final)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return final


def _fetch(url: str, archive: Path, expected: str, timeout_s: float) -> None:
    digest, size = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer, archive.open("wb") as file:
            while chunk := answer.read(_CHUNK):
                size += len(chunk)
                if size > _LARGEST_DOWNLOAD:
                    raise DataError(f"{url} is larger than {_LARGEST_DOWNLOAD} bytes: check the address")
                digest.update(chunk)
                file.write(chunk)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DataError(f"{url} cannot be fetched ({error}): check the address and the network") from None
    if digest.hexdigest() != expected:
        raise DataError(f"{url} has SHA-256 {digest.hexdigest()}, expected {expected}: do not use it")


def _unpack(archive: Path, folder: Path) -> None:
    """Write the files of the one folder in the archive, by their bare names, so that none lands elsewhere."""
    folder.mkdir()
    try:
        with zipfile.ZipFile(archive) as content:
            members = [member for member in content.infolist() if not member.is_dir()]
            if sum(member.file_size for member in members) > _LARGEST_EXTRACTED:
                raise DataError(
                    f"{archive.name} unpacks to more than {_LARGEST_EXTRACTED} bytes: do not use it"
                )
            for member in members:
                with content.open(member) as source, (folder / Path(member.filename).name).open("wb") as file:
                    shutil.copyfileobj(source, file, _CHUNK)
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive.name} is no zip file ({error}): check the address") from None
