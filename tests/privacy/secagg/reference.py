"""A second, slow implementation of the protocol in plain Python.

Written from ``docs/protocol.md`` and the standards, not from the code under test; it imports nothing from
``privacy``. ML-KEM is left out: in the hybrid suite its shared secret enters as 32 given bytes.
"""

from __future__ import annotations

import hashlib
import struct

from tests.privacy.secagg.reference_primitives import (
    PRIME,
    X25519_BASE,
    aes256_ctr,
    chacha20_poly1305_seal,
    ed25519_public,
    ed25519_sign,
    hkdf_expand,
    hkdf_extract,
    shamir_rebuild,
    shamir_shares,
    x25519,
)

__all__ = ["aes256_ctr", "chacha20_poly1305_seal", "ed25519_public", "ed25519_sign", "hkdf_extract", "x25519"]

# --- the protocol -------------------------------------------------------------------------------------------

PREFIX = b"fedtower/secagg/v1/"


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str) -> bytes:
    return u32(len(value.encode())) + value.encode()


def names(values) -> bytes:
    values = list(values)
    return u32(len(values)) + b"".join(text(value) for value in values)


def tagged(tag: str, *parts: bytes) -> bytes:
    whole = b"".join(u64(len(part)) + part for part in (PREFIX + tag.encode(), *parts))
    return hashlib.sha256(whole).digest()


def to_sign(tag: str, *parts: bytes) -> bytes:
    return PREFIX + tag.encode() + b"\0" + tagged(tag, *parts)


def schema_bytes(sections, max_clients: int) -> bytes:
    encoded = b"\x01" + u32(max_clients) + u32(len(sections))
    for name, length, bits, bound in sections:
        encoded += text(name) + u64(length) + bytes([bits]) + u64(bound)
    return encoded


def layout(sections):
    return [section for bits in (64, 32, 16) for section in sections if section[2] == bits]


def label(header: dict, sections) -> bytes:
    return tagged(
        "header",
        bytes([header["suite"]]),
        header["session"],
        u64(header["epoch"]),
        u64(header["round"]),
        header["task"].encode(),
        header["task_hash"],
        header["model_hash"],
        header["catalogue_hash"],
        header["schema_hash"],
        bytes(section[2] for section in layout(sections)),
        u64(sum(section[1] for section in sections)),
        names(header["cohort"]),
        u32(header["threshold"]),
    )


def roster_hash(publics: dict[str, bytes]) -> bytes:
    ordered = sorted(publics)
    return tagged("roster", names(ordered), *(publics[name] for name in ordered))


class Draws:
    """Reads a client's recorded random bytes in order."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, length: int) -> bytes:
        self.at += length
        if self.at > len(self.data):
            raise ValueError("not enough recorded randomness")
        return self.data[self.at - length : self.at]


class Client:
    """One client in suite 1 (X25519), for one epoch and its rounds."""

    def __init__(self, name: str, private: bytes, publics: dict[str, bytes], draws: Draws) -> None:
        self.name, self.private, self.publics, self.draws = name, private, publics, draws

    def key_message(self, session: bytes, epoch: int, cohort: list[str]) -> bytes:
        self.secret = self.draws.take(32)
        self.public = x25519(self.secret, X25519_BASE)
        context = tagged("epoch", b"\x01", session, u64(epoch), roster_hash(self.publics), names(cohort))
        signature = ed25519_sign(self.private, to_sign("key", context, self.name.encode(), self.public, b""))
        return b"\x01\x01" + context + text(self.name) + self.public + u32(0) + signature

    def confirmations(self, directory: dict[str, bytes], publics: dict[str, bytes]) -> bytes:
        """``directory``: key messages by name; ``publics``: the X25519 keys in them."""
        transcript = tagged("transcript", *(directory[name] for name in sorted(directory)))
        peers = [name for name in sorted(directory) if name != self.name]
        self.pair = {peer: self._pair_key(peer, publics, transcript) for peer in peers}
        self.next_round = 1
        message = b"\x01\x03" + u32(len(peers))
        for peer in peers:
            signed = to_sign("confirmation", self.name.encode(), peer.encode(), transcript, b"")
            message += text(self.name) + text(peer) + transcript + u32(0) + ed25519_sign(self.private, signed)
        return message

    def _pair_key(self, peer: str, publics: dict[str, bytes], transcript: bytes) -> bytes:
        low, high = sorted((self.name, peer))
        parts = (low.encode(), publics[low], b"", high.encode(), publics[high], b"", b"")
        info = b"secagg/v1/pair-key" + tagged("pair-key", *parts)
        return hkdf_expand(hkdf_extract(transcript, x25519(self.secret, publics[peer])), info)

    def upload(self, header: dict, sections, values: dict[str, list[int]]) -> bytes:
        while self.next_round < header["round"]:
            self._ratchet()
        self.header, self.label = header, label(header, sections)
        cohort, L = header["cohort"], self.label
        self.peers = [peer for peer in cohort if peer != self.name]
        seeds = {peer: hkdf_expand(self.pair[peer], b"secagg/v1/pair" + L) for peer in self.peers}
        self.open_keys = {peer: self._seal_key(peer, self.name) for peer in self.peers}
        own_seed = self.draws.take(32)
        body = mask(sections, values, L, [(own_seed, 1)] + [
            (seeds[peer], 1 if peer > self.name else -1) for peer in self.peers
        ])  # fmt: skip
        commitments = tagged("commit-self", L, self.name.encode(), own_seed)
        for peer in self.peers:
            low, high = sorted((self.name, peer))
            commitments += tagged("commit-pair", L, low.encode(), high.encode(), seeds[peer])
        t, n = header["threshold"], len(cohort)
        columns = []
        for secret in [own_seed] + [seeds[peer] for peer in self.peers]:
            drawn = [int.from_bytes(self.draws.take(48), "little") % PRIME for _ in range(t - 1)]
            columns.append(shamir_shares(secret, drawn, n))
        dealt = {holder: b"".join(column[k] for column in columns) for k, holder in enumerate(cohort)}
        self.own = dealt[self.name]
        bundles = [
            chacha20_poly1305_seal(self._seal_key(self.name, peer), bytes(12), dealt[peer], L)
            for peer in self.peers
        ]
        self.digest = tagged(
            "upload",
            L,
            self.name.encode(),
            hashlib.sha256(body).digest(),
            commitments,
            tagged("bundles", *bundles),
        )
        self._ratchet()
        encoded = b"\x01\x04" + L + text(self.name) + u32(len(body)) + body
        encoded += u32(len(commitments) // 32) + commitments + u32(len(bundles))
        encoded += b"".join(u32(len(bundle)) + bundle for bundle in bundles)
        return encoded + ed25519_sign(self.private, to_sign("upload", L, self.digest))

    def _seal_key(self, source: str, destination: str) -> bytes:
        pair = self.pair[destination if source == self.name else source]
        info = b"secagg/v1/seal" + tagged("seal", self.label, source.encode(), destination.encode())
        return hkdf_expand(pair, info)

    def _ratchet(self) -> None:
        info = b"secagg/v1/ratchet" + u64(self.next_round)
        self.pair = {peer: hkdf_expand(key, info) for peer, key in self.pair.items()}
        self.next_round += 1

    def agree(self, digests: dict[str, bytes]) -> bytes:
        self.survivors = sorted(digests)
        self.statement = to_sign(
            "survivors", self.label, names(self.survivors), b"".join(digests[s] for s in self.survivors)
        )
        return b"\x01\x06" + self.label + text(self.name) + ed25519_sign(self.private, self.statement)

    def reveal(self, bundles: dict[str, bytes]) -> bytes:
        """``bundles``: what each other survivor sealed to this client."""
        cohort = self.header["cohort"]
        held = {self.name: self.own}
        for source, sealed in bundles.items():
            # Decryption is encryption of the ciphertext; sealing the result again checks the tag.
            opened = chacha20_poly1305_seal(self.open_keys[source], bytes(12), sealed[:-16], self.label)[:-16]
            if chacha20_poly1305_seal(self.open_keys[source], bytes(12), opened, self.label) != sealed:
                raise ValueError("bundle does not open")
            held[source] = opened
        own_shares = b"".join(held[s][:33] for s in self.survivors)
        pair_shares = b""
        for survivor in self.survivors:
            order = [survivor] + [peer for peer in cohort if peer != survivor]
            for gone in (name for name in cohort if name not in self.survivors):
                at = 33 * order.index(gone)
                pair_shares += held[survivor][at : at + 33]
        signed = to_sign("reveal", self.label, self.name.encode(), self.statement, own_shares, pair_shares)
        encoded = b"\x01\x08" + self.label + text(self.name) + u32(len(own_shares) // 33) + own_shares
        return encoded + u32(len(pair_shares) // 33) + pair_shares + ed25519_sign(self.private, signed)


def mask(sections, values: dict[str, list[int]], L: bytes, seeds: list[tuple[bytes, int]]) -> bytes:
    """Words of the values plus (sign +1) or minus (sign -1) the stream of every seed."""
    total = sum(length * bits // 8 for _, length, bits, _ in sections)
    streams = [(aes256_ctr(hkdf_expand(seed, b"secagg/v1/mask" + L), total), sign) for seed, sign in seeds]
    body, at = b"", 0
    for name, length, bits, _ in layout(sections):
        width = bits // 8
        for k in range(length):
            word = int(values[name][k])
            for stream, sign in streams:
                word += sign * int.from_bytes(stream[at : at + width], "little")
            body += (word % 2**bits).to_bytes(width, "little")
            at += width
    return body


def lift(sections, body: bytes) -> dict[str, list[int]]:
    """Words to the integers nearest to zero."""
    sums, at = {}, 0
    for name, length, bits, _ in layout(sections):
        width = bits // 8
        words = [int.from_bytes(body[at + k * width : at + (k + 1) * width], "little") for k in range(length)]
        sums[name] = [word - 2**bits if word >> (bits - 1) else word for word in words]
        at += width * length
    return sums


def unmask(sections, header: dict, bodies: dict[str, bytes], reveals: dict[str, tuple[bytes, bytes]]):
    """The server's sum. ``reveals``: per client its self shares and its pair shares, concatenated."""
    L, cohort = label(header, sections), header["cohort"]
    survivors = sorted(bodies)
    dropped = [name for name in cohort if name not in survivors]
    points = {name: cohort.index(name) + 1 for name in sorted(reveals)[: header["threshold"]]}
    to_remove = []
    for row, survivor in enumerate(survivors):
        cut = slice(33 * row, 33 * row + 33)
        to_remove.append((shamir_rebuild({x: reveals[name][0][cut] for name, x in points.items()}), -1))
        for column, gone in enumerate(dropped):
            at = 33 * (row * len(dropped) + column)
            seed = shamir_rebuild({x: reveals[name][1][at : at + 33] for name, x in points.items()})
            to_remove.append((seed, -1 if survivor < gone else 1))
    summed = {name: [0] * length for name, length, _, _ in sections}
    for body in bodies.values():
        for name, words in lift(sections, body).items():
            summed[name] = [a + b for a, b in zip(summed[name], words, strict=True)]
    return lift(sections, mask(sections, summed, L, to_remove))
