"""A second, slow implementation in plain Python: integers, ``hashlib``, ``hmac`` and nothing else.

Written from the specifications (RFC 5869, 7748, 8032, 8439, FIPS 197, SP 800-38A) and ``docs/protocol.md``,
not from the code under test; it imports nothing from ``privacy``. Not constant-time, not for use. ML-KEM is
left out: in the hybrid suite its shared secret enters as 32 given bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

# --- HKDF-SHA256, RFC 5869 ----------------------------------------------------------------------------------


def hkdf_extract(salt: bytes, ikm: bytes) -> bytes:
    return hmac.new(salt or bytes(32), ikm, hashlib.sha256).digest()


def hkdf_expand(prk: bytes, info: bytes, length: int = 32) -> bytes:
    block, output = b"", b""
    counter = 1
    while len(output) < length:
        block = hmac.new(prk, block + info + bytes([counter]), hashlib.sha256).digest()
        output += block
        counter += 1
    return output[:length]


# --- X25519, RFC 7748 ---------------------------------------------------------------------------------------

P = 2**255 - 19


def x25519(scalar: bytes, point: bytes) -> bytes:
    k = int.from_bytes(scalar, "little") & ~7 & ((1 << 254) - 1) | 1 << 254
    u = int.from_bytes(point, "little") & ((1 << 255) - 1)
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in reversed(range(255)):
        if k >> bit & 1:
            (x2, z2, x3, z3) = _ladder(u, x3, z3, x2, z2)
            (x2, z2, x3, z3) = (x3, z3, x2, z2)
        else:
            (x2, z2, x3, z3) = _ladder(u, x2, z2, x3, z3)
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def _ladder(u: int, x2: int, z2: int, x3: int, z3: int) -> tuple[int, int, int, int]:
    a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
    aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
    e = aa - bb
    return aa * bb % P, e * (aa + 121665 * e) % P, (da + cb) ** 2 % P, u * (da - cb) ** 2 % P


X25519_BASE = (9).to_bytes(32, "little")

# --- Ed25519, RFC 8032 --------------------------------------------------------------------------------------

_Q = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, P - 2, P) % P
_SQRT_M1 = pow(2, (P - 1) // 4, P)
Point = tuple[int, int, int, int]


def _add(p: Point, q: Point) -> Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * _D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _times(s: int, p: Point) -> Point:
    result: Point = (0, 1, 1, 0)
    while s:
        if s & 1:
            result = _add(result, p)
        p, s = _add(p, p), s >> 1
    return result


def _recover_x(y: int, sign: int) -> int:
    x2 = (y * y - 1) * pow(_D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * _SQRT_M1 % P
    return P - x if x & 1 != sign else x


_BY = 4 * pow(5, P - 2, P) % P
_BASE: Point = (_recover_x(_BY, 0), _BY, 1, _recover_x(_BY, 0) * _BY % P)


def _compress(p: Point) -> bytes:
    inverse = pow(p[2], P - 2, P)
    x, y = p[0] * inverse % P, p[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _ed25519_secret(private: bytes) -> tuple[int, bytes]:
    h = hashlib.sha512(private).digest()
    return int.from_bytes(h[:32], "little") & ((1 << 254) - 8) | 1 << 254, h[32:]


def ed25519_public(private: bytes) -> bytes:
    return _compress(_times(_ed25519_secret(private)[0], _BASE))


def ed25519_sign(private: bytes, message: bytes) -> bytes:
    a, prefix = _ed25519_secret(private)
    public = _compress(_times(a, _BASE))
    r = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % _Q
    commitment = _compress(_times(r, _BASE))
    h = int.from_bytes(hashlib.sha512(commitment + public + message).digest(), "little") % _Q
    return commitment + ((r + h * a) % _Q).to_bytes(32, "little")


# --- AES-256-CTR, FIPS 197 and SP 800-38A -------------------------------------------------------------------


def _xtime(a: int) -> int:
    return (a << 1) ^ (0x11B if a & 0x80 else 0)


def _gf_multiply(a: int, b: int) -> int:
    product = 0
    while b:
        if b & 1:
            product ^= a
        a, b = _xtime(a), b >> 1
    return product


def _sbox() -> list[int]:
    box = []
    for a in range(256):
        inverse = next((b for b in range(256) if _gf_multiply(a, b) == 1), 0)
        value = 0x63
        for shift in range(5):
            value ^= (inverse << shift | inverse >> (8 - shift)) & 0xFF
        box.append(value)
    return box


_SBOX = _sbox()


def _aes256_round_keys(key: bytes) -> list[bytes]:
    words = [key[i : i + 4] for i in range(0, 32, 4)]
    constant = 1
    for i in range(8, 60):
        word = words[-1]
        if i % 8 == 0:
            rotated = word[1:] + word[:1]
            word = bytes(_SBOX[b] for b in rotated)
            word = bytes([word[0] ^ constant]) + word[1:]
            constant = _xtime(constant)
        elif i % 8 == 4:
            word = bytes(_SBOX[b] for b in word)
        words.append(bytes(a ^ b for a, b in zip(words[i - 8], word, strict=True)))
    return [b"".join(words[i : i + 4]) for i in range(0, 60, 4)]


def _aes256_block(round_keys: list[bytes], block: bytes) -> bytes:
    state = bytes(a ^ b for a, b in zip(block, round_keys[0], strict=True))
    for number in range(1, 15):
        state = bytes(_SBOX[b] for b in state)
        state = bytes(state[(i + 4 * (i % 4)) % 16] for i in range(16))  # ShiftRows, column by column
        if number < 14:
            columns = [state[i : i + 4] for i in range(0, 16, 4)]
            state = b"".join(
                bytes(
                    _xtime(c[i]) ^ _xtime(c[(i + 1) % 4]) ^ c[(i + 1) % 4] ^ c[(i + 2) % 4] ^ c[(i + 3) % 4]
                    for i in range(4)
                )
                for c in columns
            )
        state = bytes(a ^ b for a, b in zip(state, round_keys[number], strict=True))
    return state


def aes256_ctr(key: bytes, length: int, counter: int = 0) -> bytes:
    round_keys = _aes256_round_keys(key)
    blocks = (
        _aes256_block(round_keys, ((counter + i) % 2**128).to_bytes(16, "big"))
        for i in range((length + 15) // 16)
    )
    return b"".join(blocks)[:length]


# --- ChaCha20-Poly1305, RFC 8439 ----------------------------------------------------------------------------


def _rotate(value: int, count: int) -> int:
    return (value << count | value >> (32 - count)) & 0xFFFFFFFF


def _quarter(s: list[int], a: int, b: int, c: int, d: int) -> None:
    for x, y, z, count in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        s[x] = (s[x] + s[y]) & 0xFFFFFFFF
        s[z] = _rotate(s[z] ^ s[x], count)


def _chacha20_block(key: bytes, counter: int, nonce: bytes) -> bytes:
    start = list(struct.unpack("<16I", b"expand 32-byte k" + key + struct.pack("<I", counter) + nonce))
    state = start.copy()
    for _ in range(10):
        for i in range(4):
            _quarter(state, i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            _quarter(state, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(state, start, strict=True)))


def chacha20_poly1305_seal(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    stream = b"".join(_chacha20_block(key, 1 + i, nonce) for i in range((len(plaintext) + 63) // 64))
    ciphertext = bytes(a ^ b for a, b in zip(plaintext, stream, strict=False))
    one_time = _chacha20_block(key, 0, nonce)
    r = int.from_bytes(one_time[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    s = int.from_bytes(one_time[16:32], "little")
    padded = aad + bytes(-len(aad) % 16) + ciphertext + bytes(-len(ciphertext) % 16)
    padded += struct.pack("<QQ", len(aad), len(ciphertext))
    total = 0
    for i in range(0, len(padded), 16):
        total = (total + int.from_bytes(padded[i : i + 16] + b"\1", "little")) * r % (2**130 - 5)
    return ciphertext + ((total + s) % 2**128).to_bytes(16, "little")


# --- Shamir, protocol section 6 -----------------------------------------------------------------------------

PRIME = 2**256 + 297


def shamir_shares(secret: bytes, coefficients: list[int], holders: int) -> list[bytes]:
    polynomial = [int.from_bytes(secret, "little"), *coefficients]
    values = (sum(c * x**k for k, c in enumerate(polynomial)) % PRIME for x in range(1, holders + 1))
    return [value.to_bytes(33, "little") for value in values]


def shamir_rebuild(shares: dict[int, bytes]) -> bytes:
    total = 0
    for x, share in shares.items():
        weight = 1
        for other in shares:
            if other != x:
                weight = weight * other * pow(other - x, -1, PRIME) % PRIME
        total += weight * int.from_bytes(share, "little")
    return (total % PRIME).to_bytes(32, "little")


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
