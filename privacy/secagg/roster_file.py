"""The roster as a file: JSON, client id to Ed25519 public key in hex."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privacy.errors import InputError
from privacy.secagg.keys import Roster


def save_roster(public_keys: Mapping[str, bytes], path: Path) -> None:
    """Write a roster beside ``path`` and rename."""
    aside = path.with_suffix(".part")
    aside.write_text(
        json.dumps({c: key.hex() for c, key in sorted(public_keys.items())}, indent=2) + "\n", "utf-8"
    )
    aside.replace(path)


def load_roster(path: Path) -> Roster:
    """Read a roster: JSON object, client id to public key in hex.

    Raises:
        InputError: unreadable, or not such an object.
    """
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        return Roster({str(client): bytes.fromhex(key) for client, key in document.items()})
    except OSError as error:
        raise InputError(f"cannot read the roster {path}: {error.strerror}") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"roster {path} is not a JSON object of client ids and hex keys: {error}") from None
