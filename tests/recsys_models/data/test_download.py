"""The downloader against a file server on this machine; the publisher is never contacted."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from recsys_models.data.adapters import load
from recsys_models.data.download import MOVIELENS_SHA256, download_movielens
from recsys_models.errors import DataError


def archive(*members: tuple[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as content:
        for name, text in members:
            # The same bytes whenever this is run: they name a test, and the workers of a run must agree on names.
            content.writestr(zipfile.ZipInfo(name, date_time=(2026, 1, 1, 0, 0, 0)), text)
    return buffer.getvalue()


GOOD = archive(("ml-100k/u.data", "1\t2\t3\t881250949\n2\t2\t3\t881250950\n"), ("ml-100k/README", "terms"))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address it is served at."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_fetch_check_unpack_and_load(server: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = server
    (folder / "ml-100k.zip").write_bytes(GOOD)
    target = tmp_path / "data"
    path = download_movielens("ml-100k", target, base_url=url + "/", sha256=sha256(GOOD).upper())
    assert path == target / "ml-100k"
    assert sorted(one.name for one in path.iterdir()) == ["README", "u.data"]
    assert [one.name for one in target.iterdir()] == ["ml-100k"], "nothing is left beside it"
    assert load(path).sequences.n_users == 2
    (folder / "ml-100k.zip").unlink()
    assert download_movielens("ml-100k", target, base_url=url) == path, "what is there is not fetched again"


@pytest.mark.parametrize(
    ("content", "expected", "message"),
    [
        (GOOD, None, "has SHA-256 .*, expected " + MOVIELENS_SHA256["ml-100k"]),
        (GOOD[:-1], sha256(GOOD), "has SHA-256"),
        (b"no zip", sha256(b"no zip"), "is no zip file"),
        (None, None, "cannot be fetched .*404"),
    ],
)
def test_whatever_goes_wrong_leaves_nothing(
    server: tuple[Path, str], tmp_path: Path, content: bytes | None, expected: str | None, message: str
) -> None:
    folder, url = server
    if content is not None:
        (folder / "ml-100k.zip").write_bytes(content)
    with pytest.raises(DataError, match=message):
        download_movielens("ml-100k", tmp_path / "data", base_url=url, sha256=expected)
    assert list((tmp_path / "data").iterdir()) == []


def test_members_cannot_leave_the_folder(server: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = server
    content = archive(("../../escaped", "x"), ("/absolute", "y"))
    (folder / "ml-1m.zip").write_bytes(content)
    path = download_movielens("ml-1m", tmp_path / "data", base_url=url, sha256=sha256(content))
    assert sorted(one.name for one in path.iterdir()) == ["absolute", "escaped"]
    assert not (tmp_path / "escaped").exists()


def test_unknown_names_other_schemes_and_dead_servers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown data set 'ml-9': use one of ml-100k, ml-1m"):
        download_movielens("ml-9", tmp_path)
    with pytest.raises(DataError, match="neither http nor https"):
        download_movielens("ml-1m", tmp_path, base_url="file:///etc")
    with pytest.raises(DataError, match="cannot be fetched"):
        download_movielens("ml-1m", tmp_path, base_url="http://127.0.0.1:1")
