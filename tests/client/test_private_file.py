"""What a client keeps is its owner's alone from the first byte on, and whole or not there at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from client.private_file import write_private


def test_it_is_never_readable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, modes = tmp_path / "kept.json", []
    opened = os.open

    def watching(name: object, flags: int, mode: int = 0o777, **options: object) -> int:
        descriptor = opened(name, flags, mode, **options)  # pyright: ignore[reportArgumentType]
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    monkeypatch.setattr(os, "open", watching)
    (tmp_path / "kept.part").write_bytes(b"left by a crash, readable by all")
    (tmp_path / "kept.part").chmod(0o644)
    write_private(path, b"one")
    write_private(path, b"two")
    assert path.read_bytes() == b"two"
    assert modes == [0o600, 0o600]
    assert [file.name for file in tmp_path.iterdir()] == ["kept.json"]


def test_a_crash_before_the_end_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept.json"
    write_private(path, b"old")

    def no_disk(_descriptor: int) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", no_disk)
        with pytest.raises(OSError, match="no space"):
            write_private(path, b"new")
    assert path.read_bytes() == b"old"
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
