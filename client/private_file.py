"""Files that only their owner may read, whole or not there at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_private(path: Path, content: bytes) -> None:
    """Replace ``path`` by a file of mode 600 that holds ``content``; on return it survives a power cut.

    Nobody else can read it at any moment, and a crash leaves the old file or the new one.
    """
    aside = path.with_suffix(".part")
    aside.unlink(missing_ok=True)  # a crash may have left one, of whatever mode
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)
