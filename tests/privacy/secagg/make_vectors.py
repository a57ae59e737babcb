"""Write ``tests/vectors/secagg.json`` with the reference implementation alone.

``python -m tests.privacy.secagg.make_vectors`` rewrites the file; a change of it is a change of protocol.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.privacy.secagg import reference as ref

PATH = Path(__file__).parents[2] / "vectors" / "secagg.json"
SECTIONS = [("gradient", 5, 32, 1000), ("metrics", 2, 64, 10**12), ("counts", 3, 16, 300)]
MASK_SECTIONS = [("narrow", 70_001, 16, 1), ("wide", 20_000, 64, 1), ("middle", 40_003, 32, 1)]
NAMES = ["silo-a", "silo-b", "silo-c", "silo-d"]


def fixed(what: str, length: int = 32) -> bytes:
    """Reproducible bytes."""
    return hashlib.shake_256(b"fedtower test vector: " + what.encode()).digest(length)


def mask_vector() -> dict[str, Any]:
    """Words of one stream at the edges of sections and of 128 KiB pieces."""
    seed, label = fixed("mask seed"), fixed("mask label")
    key = ref.hkdf_expand(seed, b"secagg/v1/mask" + label)
    picks, start = [], 0
    for name, length, bits, _ in ref.layout(MASK_SECTIONS):
        width = bits // 8
        per_piece = 128 * 1024 // width
        edges = {0, 1, per_piece - 1, per_piece, per_piece + 1, length - 2, length - 1}
        for index in sorted(i for i in edges if 0 <= i < length):
            offset = start + index * width
            block = ref.aes256_ctr(key, 16, offset // 16)
            block += ref.aes256_ctr(key, 16, offset // 16 + 1)
            word = int.from_bytes(block[offset % 16 : offset % 16 + width], "little")
            picks.append([name, index, str(word)])
        start += length * width
    return {"seed": seed.hex(), "label": label.hex(), "sections": MASK_SECTIONS, "words": picks}


def shamir_vector() -> dict[str, Any]:
    """Shares of two secrets from recorded coefficient bytes."""
    secrets, drawn = [fixed("secret 1"), b"\xff" * 32], fixed("coefficients", 2 * 3 * 48)
    coefficients = [
        int.from_bytes(drawn[at : at + 48], "little") % ref.PRIME for at in range(0, len(drawn), 48)
    ]
    shares = [
        ref.shamir_shares(secret, coefficients[3 * k : 3 * k + 3], 6) for k, secret in enumerate(secrets)
    ]
    return {
        "secrets": [secret.hex() for secret in secrets],
        "threshold": 4,
        "holders": 6,
        "random": drawn.hex(),
        "shares_by_secret": [[share.hex() for share in row] for row in shares],
    }


def pair_key_vector() -> dict[str, Any]:
    """The hybrid pair key from given shared secrets and public parts."""
    x25519_shared, mlkem_shared, transcript = fixed("x25519"), fixed("mlkem"), fixed("transcript")
    parts = [
        b"silo-a",
        fixed("xa"),
        fixed("ma", 1184),
        b"silo-b",
        fixed("xb"),
        fixed("mb", 1184),
        fixed("c", 1088),
    ]
    info = b"secagg/v1/pair-key" + ref.tagged("pair-key", *parts)
    key = ref.hkdf_expand(ref.hkdf_extract(transcript, x25519_shared + mlkem_shared), info)
    return {
        "x25519_shared": x25519_shared.hex(),
        "mlkem_shared": mlkem_shared.hex(),
        "transcript": transcript.hex(),
        "public_parts": [part.hex() for part in parts],
        "pair_key": key.hex(),
    }


def round_vector() -> dict[str, Any]:
    """Round 2 of an epoch of four clients; silo-c vanishes before its upload."""
    privates = {name: fixed(f"identity {name}") for name in NAMES}
    publics = {name: ref.ed25519_public(private) for name, private in privates.items()}
    random = {name: fixed(f"random {name}", 32 + 32 + 4 * 2 * 48) for name in NAMES}
    clients = {name: ref.Client(name, privates[name], publics, ref.Draws(random[name])) for name in NAMES}
    session, epoch = b"vector-session", 3
    keys = {name: client.key_message(session, epoch, NAMES) for name, client in clients.items()}
    x25519_keys = {name: client.public for name, client in clients.items()}
    confirmations = {name: client.confirmations(keys, x25519_keys) for name, client in clients.items()}
    schema_hash = hashlib.sha256(ref.schema_bytes(SECTIONS, 4)).digest()
    header = {
        "suite": 1, "session": session, "epoch": epoch, "round": 2, "task": "gradients",
        "task_hash": fixed("task"), "model_hash": fixed("model"), "catalogue_hash": fixed("catalogue"),
        "schema_hash": schema_hash, "cohort": NAMES, "threshold": 3,
    }  # fmt: skip
    values = {
        name: {
            "gradient": [1000, -1000, 3 * k, -k, 0],
            "metrics": [10**12 - k, -(10**12)],
            "counts": [300, -300, k],
        }
        for k, name in enumerate(NAMES)
    }
    survivors = ["silo-a", "silo-b", "silo-d"]
    uploads = {name: clients[name].upload(header, SECTIONS, values[name]) for name in survivors}
    digests = {name: clients[name].digest for name in survivors}
    agreements = {name: clients[name].agree(digests) for name in survivors}
    reveals = {name: clients[name].reveal(bundles_to(name, uploads, survivors)) for name in survivors}
    sums = ref.unmask(SECTIONS, header, *opened(uploads, reveals))
    return {
        "identities": hexed(privates),
        "random": hexed(random),
        "sections": SECTIONS,
        "max_clients": 4,
        "header": {k: v.hex() if isinstance(v, bytes) else v for k, v in header.items()},
        "values": values,
        "label": clients["silo-a"].label.hex(),
        "keys": hexed(keys),
        "confirmations": hexed(confirmations),
        "survivors": survivors,
        "uploads": hexed(uploads),
        "agreements": hexed(agreements),
        "reveals": hexed(reveals),
        "sums": sums,
    }


def hexed(messages: dict[str, bytes]) -> dict[str, str]:
    """Messages as hexadecimal text."""
    return {name: message.hex() for name, message in messages.items()}


def after(message: bytes, name: str) -> int:
    """Where the fields begin that follow version, kind, label and sender."""
    return 2 + 32 + 4 + len(name)


def parsed_upload(message: bytes, name: str) -> tuple[bytes, list[bytes]]:
    """Body and bundles of an upload."""
    at = after(message, name)
    size = int.from_bytes(message[at : at + 4], "little")
    body, at = message[at + 4 : at + 4 + size], at + 4 + size
    at += 4 + 32 * int.from_bytes(message[at : at + 4], "little")
    count, at = int.from_bytes(message[at : at + 4], "little"), at + 4
    bundles = []
    for _ in range(count):
        size = int.from_bytes(message[at : at + 4], "little")
        bundles.append(message[at + 4 : at + 4 + size])
        at += 4 + size
    return body, bundles


def bundles_to(destination: str, uploads: dict[str, bytes], survivors: list[str]) -> dict[str, bytes]:
    """What every other survivor sealed to the destination."""
    return {
        source: parsed_upload(uploads[source], source)[1][
            [n for n in NAMES if n != source].index(destination)
        ]
        for source in survivors
        if source != destination
    }


def opened(uploads: dict[str, bytes], reveals: dict[str, bytes]):
    """Bodies of the uploads, and self and pair shares of the reveals."""
    shares = {}
    for name, message in reveals.items():
        at = after(message, name)
        own = 33 * int.from_bytes(message[at : at + 4], "little")
        shares[name] = (message[at + 4 : at + 4 + own], message[at + 8 + own : -64])
    return {name: parsed_upload(message, name)[0] for name, message in uploads.items()}, shares


def vectors() -> dict[str, Any]:
    """Everything in the file."""
    return {
        "source": "tests/privacy/secagg/reference.py, independent of privacy.secagg",
        "mask": mask_vector(),
        "shamir": shamir_vector(),
        "pair_key": pair_key_vector(),
        "round": round_vector(),
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(vectors(), indent=1) + "\n")
