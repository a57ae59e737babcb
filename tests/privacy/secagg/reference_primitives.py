"""The standards' algorithms in plain Python: integers, ``hashlib``, ``hmac`` and nothing else.

From RFC 5869, 7748, 8032 and 8439, FIPS 197, SP 800-38A and Shamir 1979. Slow, not constant-time.
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
