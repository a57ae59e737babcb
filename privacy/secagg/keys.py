"""Long-term identities, the roster that pins them, and per-epoch agreement keys (protocol §7)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from privacy.errors import InputError, ProtocolError
from privacy.secagg.labels import Suite, names_bytes, require_client_ids, tagged_hash
from privacy.secagg.secret import Secret

if TYPE_CHECKING:
    from privacy.randomness import RandomSource

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
MLKEM_PUBLIC_BYTES = 1184
MLKEM_CIPHERTEXT_BYTES = 1088


class Identity:
    """A client's long-term Ed25519 key (RFC 8032); its public half is enrolled in the roster."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key

    @classmethod
    def generate(cls, randomness: RandomSource) -> Identity:
        """A fresh identity from 32 random bytes."""
        return cls(Ed25519PrivateKey.from_private_bytes(randomness.random_bytes(32)))

    def save(self, path: Path) -> None:
        """Write the private key as PKCS#8 PEM to a new file that only its owner can read.

        Raises:
            InputError: the file exists; an identity is never overwritten.
        """
        pem = self._private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise InputError(
                f"{path} exists; an identity is never overwritten, choose another path"
            ) from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read an identity that ``save`` wrote.

        Raises:
            InputError: no such file, others may read it, or it holds no Ed25519 key.
        """
        try:
            mode, pem = path.stat().st_mode, path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read the identity {path}: {error.strerror}") from None
        if mode & 0o077:
            raise InputError(f"{path} may be read by others (mode {mode & 0o777:o}); run chmod 600 on it")
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise InputError(f"{path} holds no unencrypted PEM private key") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise InputError(f"{path} holds no Ed25519 key")
        return cls(key)

    def public_bytes(self) -> bytes:
        """The 32-byte public key for the roster."""
        return self._private_key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """A 64-byte Ed25519 signature over the message."""
        return self._private_key.sign(message)

    def __repr__(self) -> str:
        return f"Identity({self.public_bytes().hex()[:16]}…)"


class Roster:
    """Who may take part: client ids and their pinned Ed25519 public keys.

    Raises:
        InputError: a bad id, a key that is not 32 bytes, or one key under two ids.
    """

    def __init__(self, public_keys: Mapping[str, bytes]) -> None:
        self.client_ids = tuple(sorted(public_keys))
        require_client_ids(self.client_ids)
        raw = [bytes(public_keys[client_id]) for client_id in self.client_ids]
        if any(len(key) != PUBLIC_KEY_BYTES for key in raw):
            raise InputError(f"roster keys must be raw Ed25519 public keys of {PUBLIC_KEY_BYTES} bytes")
        if len(set(raw)) != len(raw):
            raise InputError("one public key is enrolled under two client ids; each client needs its own")
        self._keys = {
            client_id: Ed25519PublicKey.from_public_bytes(key)
            for client_id, key in zip(self.client_ids, raw, strict=True)
        }
        self.sha256 = tagged_hash("roster", names_bytes(self.client_ids), *raw)

    def __contains__(self, client_id: object) -> bool:
        return client_id in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def is_signed_by(self, client_id: str, signature: bytes, message: bytes) -> bool:
        """Whether ``signature`` over ``message`` verifies under the enrolled key of ``client_id``."""
        key = self._keys.get(client_id)
        if key is None:
            return False
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class EpochKey:
    """One client's private agreement keys for one epoch; dropped when all pair keys are derived."""

    def __init__(self, x25519: X25519PrivateKey, mlkem: MLKEM768PrivateKey | None) -> None:
        self._x25519 = x25519
        self._mlkem = mlkem
        self.x25519_public = x25519.public_key().public_bytes_raw()
        self.mlkem_public = mlkem.public_key().public_bytes_raw() if mlkem else b""

    @classmethod
    def generate(cls, suite: Suite, randomness: RandomSource) -> EpochKey:
        """Fresh keys of the suite: 32 random bytes for X25519, then 64 (FIPS 203 seed) for ML-KEM-768."""
        x25519 = X25519PrivateKey.from_private_bytes(randomness.random_bytes(32))
        if suite is Suite.X25519:
            return cls(x25519, None)
        try:
            return cls(x25519, MLKEM768PrivateKey.from_seed_bytes(randomness.random_bytes(64)))
        except UnsupportedAlgorithm:
            raise InputError(
                "this build of cryptography has no ML-KEM-768; use a wheel with OpenSSL 3.5 or newer, "
                "or agree on suite X25519 in every client's policy"
            ) from None

    def exchange(self, peer_public: bytes) -> bytes:
        """X25519 (RFC 7748); a peer key of small order is a ProtocolError."""
        try:
            return self._x25519.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError:
            raise ProtocolError("a peer sent an X25519 key of small order") from None

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """The ML-KEM-768 shared secret a peer encapsulated to us."""
        if self._mlkem is None:
            return b""
        return self._mlkem.decapsulate(ciphertext)

    def __repr__(self) -> str:
        return f"EpochKey({'X25519+ML-KEM-768' if self._mlkem else 'X25519'})"


def encapsulate(peer_mlkem_public: bytes) -> tuple[bytes, bytes]:
    """A fresh shared secret for the owner of an ML-KEM-768 key: ``(secret, ciphertext)``."""
    try:
        return MLKEM768PublicKey.from_public_bytes(peer_mlkem_public).encapsulate()
    except ValueError:
        raise ProtocolError("a peer sent an invalid ML-KEM-768 key") from None


def derive_pair_key(
    x25519_shared: bytes, mlkem_shared: bytes, *, transcript: bytes, public_parts: tuple[bytes, ...]
) -> Secret:
    """K_ij = HKDF-SHA256 of both shared secrets, salted by the epoch's transcript (protocol §7.4).

    Args:
        x25519_shared: 32 bytes.
        mlkem_shared: 32 bytes, or empty in the suite without ML-KEM.
        transcript: hash of all key messages of the epoch.
        public_parts: both parties' public keys, smaller client id first, and the ciphertext.
    """
    info = b"secagg/v1/pair-key" + tagged_hash("pair-key", *public_parts)
    kdf = HKDF(algorithm=SHA256(), length=32, salt=transcript, info=info)
    return Secret(kdf.derive(x25519_shared + mlkem_shared))
