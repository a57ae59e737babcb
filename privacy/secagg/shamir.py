"""Shamir's secret sharing of 32-byte secrets over GF(2**256 + 297) (protocol §6; Shamir, CACM 1979).

The prime is the first above 2**256, so every 32-byte string is a field element and a share takes 33
bytes. Holders' points are 1, 2, …, n.

Many secrets are shared at once: because points are small, the coefficients of all secrets are laid side
by side into one long integer and Horner's rule runs once per holder on that integer, without carries
between neighbours and with a single reduction at the end. The result is what textbook Horner gives,
several times faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from privacy.errors import InputError, ProtocolError

if TYPE_CHECKING:
    from privacy.randomness import RandomSource

PRIME = (1 << 256) + 297
SECRET_BYTES = 32
SHARE_BYTES = 33
_DRAW_BYTES = 48  # a coefficient is 384 random bits modulo PRIME: at most 2**-127 from uniform


def split(
    secrets: Sequence[bytes], holders: int, threshold: int, randomness: RandomSource
) -> list[list[bytes]]:
    """Share each secret among ``holders`` so that any ``threshold`` of them can rebuild it.

    Args:
        secrets: 32-byte strings.
        holders: number of shares n, 1 to 1024; holder k (from 0) gets the polynomial's value at k + 1.
        threshold: t in 1 to n; the polynomials have degree t - 1.
        randomness: source of the t - 1 coefficients of each secret, drawn secret by secret from the
            coefficient of x**1 upwards, 48 little-endian bytes each.

    Returns:
        For every holder the list of its 33-byte little-endian shares, one per secret.

    Guarantees:
        Fewer than ``threshold`` shares of a secret are (within 2**-127 per coefficient) independent of it.

    Raises:
        InputError: a secret that is not 32 bytes, or threshold or holders out of range.
    """
    if not 1 <= threshold <= holders <= 1024:
        raise InputError(f"threshold={threshold} and holders={holders} must satisfy 1 <= t <= n <= 1024")
    if any(len(secret) != SECRET_BYTES for secret in secrets):
        raise InputError(f"secrets must have {SECRET_BYTES} bytes each")
    lane = _lane_bytes(holders, threshold)
    columns = _coefficient_columns(secrets, threshold, randomness, lane)
    return [_evaluate(columns, point, len(secrets), lane) for point in range(1, holders + 1)]


def lagrange_at_zero(points: Sequence[int]) -> list[int]:
    """Weights w with ``f(0) = sum(w * f(point))`` for every polynomial of degree < len(points)."""
    if len(set(points)) != len(points) or any(not 0 < point < PRIME for point in points):
        raise InputError(f"points must be distinct and positive, not {list(points)}")
    weights: list[int] = []
    for mine in points:
        numerator = denominator = 1
        for other in points:
            if other != mine:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - mine) % PRIME
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return weights


def combine(shares: Sequence[bytes], weights: Sequence[int]) -> bytes:
    """Rebuild a secret from as many shares as there are weights, in the same order.

    Raises:
        ProtocolError: the value is not a 32-byte string, so at least one share is wrong.
    """
    total = sum(
        int.from_bytes(share, "little") * weight for share, weight in zip(shares, weights, strict=True)
    )
    value = total % PRIME
    if value >> (8 * SECRET_BYTES):
        raise ProtocolError("shares do not combine to a 32-byte secret; at least one share is wrong")
    return value.to_bytes(SECRET_BYTES, "little")


def is_share(share: bytes) -> bool:
    """Whether the bytes are the one encoding of a field element."""
    return len(share) == SHARE_BYTES and int.from_bytes(share, "little") < PRIME


def _lane_bytes(holders: int, threshold: int) -> int:
    """Room for ``sum of t coefficients x holders**(t - 1)``, so that lanes never carry into each other."""
    bits = PRIME.bit_length() + (threshold - 1) * holders.bit_length() + threshold.bit_length()
    return (bits + 7) // 8


def _coefficient_columns(
    secrets: Sequence[bytes], threshold: int, randomness: RandomSource, lane: int
) -> list[int]:
    """Column d holds the coefficients of x**d of all secrets, one per lane."""
    rows = [[int.from_bytes(secret, "little")] for secret in secrets]
    drawn = memoryview(randomness.random_bytes(len(secrets) * (threshold - 1) * _DRAW_BYTES))
    for start, row in enumerate(rows):
        for degree in range(threshold - 1):
            at = (start * (threshold - 1) + degree) * _DRAW_BYTES
            row.append(int.from_bytes(drawn[at : at + _DRAW_BYTES], "little") % PRIME)
    return [
        int.from_bytes(b"".join(row[degree].to_bytes(lane, "little") for row in rows), "little")
        for degree in range(threshold)
    ]


def _evaluate(columns: Sequence[int], point: int, count: int, lane: int) -> list[bytes]:
    value = 0
    for column in reversed(columns):
        value = value * point + column
    lanes = value.to_bytes(count * lane, "little")
    return [
        (int.from_bytes(lanes[at : at + lane], "little") % PRIME).to_bytes(SHARE_BYTES, "little")
        for at in range(0, count * lane, lane)
    ]
