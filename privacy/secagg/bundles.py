"""Shares on their way to their holders: one sealed bundle per round and direction (protocol §6.3)."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from privacy.errors import ProtocolError
from privacy.secagg.labels import tagged_hash
from privacy.secagg.masks import expand
from privacy.secagg.secret import Secret
from privacy.secagg.shamir import SHARE_BYTES, is_share

TAG_BYTES = 16
_NONCE = bytes(12)  # every key seals exactly one bundle


def bundle_key(pair_key: Secret, label: bytes, source: str, destination: str) -> Secret:
    """The ChaCha20-Poly1305 key (RFC 8439) of the one bundle from source to destination in a round."""
    return expand(
        pair_key, b"secagg/v1/seal" + tagged_hash("seal", label, source.encode(), destination.encode())
    )


def seal(key: Secret, label: bytes, shares: Sequence[bytes]) -> bytes:
    """Encrypt and authenticate the shares for their holder; the label is associated data."""
    return ChaCha20Poly1305(key.expose()).encrypt(_NONCE, b"".join(shares), label)


def open_bundle(key: Secret, label: bytes, sealed: bytes, count: int) -> list[bytes]:
    """Decrypt a bundle of ``count`` shares.

    Raises:
        ProtocolError: not from this source, for this holder and round, or not shares.
    """
    try:
        opened = ChaCha20Poly1305(key.expose()).decrypt(_NONCE, sealed, label)
    except InvalidTag:
        raise ProtocolError("a bundle of shares is not what its sender sealed for this round") from None
    shares = [opened[at : at + SHARE_BYTES] for at in range(0, len(opened), SHARE_BYTES)]
    if len(shares) != count or not all(is_share(share) for share in shares):
        raise ProtocolError("a bundle of shares has the wrong size or holds numbers outside the field")
    return shares
