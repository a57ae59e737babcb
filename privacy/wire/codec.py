"""A strict, canonical binary encoding (protocol §2).

Every value has exactly one encoding and every decoder accepts exactly that one, so two parties that
agree on bytes agree on meaning and a hash of the bytes is a hash of the value. Integers are fixed-width
and little-endian; byte strings and texts carry a ``u32`` length; arrays carry dtype, shape and raw
little-endian data. There is no pickle, no object dtype, no optional field and no padding.

Sizes are checked against a limit *and* against the bytes that are really there before anything is
allocated, so a length bomb costs the sender more than the receiver.

Reading raises ``ProtocolError`` and nothing else; writing a value that has no encoding raises
``InputError``.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from privacy.errors import InputError, ProtocolError

MAX_BYTES = 1 << 30  # one byte string
MAX_TEXT_BYTES = 1 << 20  # one text
MAX_ELEMENTS = 1 << 29  # one array
MAX_DIMENSIONS = 8
MAX_NAMES = 1 << 16  # arrays in one named collection
MAX_JSON_BYTES = 1 << 26

NAMED_ARRAYS_VERSION = 1

# The position is the dtype's code on the wire; append only.
_DTYPES: tuple[np.dtype[Any], ...] = tuple(
    np.dtype(name) for name in ("<u1", "<u2", "<u4", "<u8", "<i8", "<f4", "<f8")
)


class Writer:
    """Collects encoded fields; ``finish`` joins them into one message."""

    def __init__(self) -> None:
        self._parts: list[bytes | memoryview] = []

    def u8(self, value: int) -> Writer:
        """Append an integer in [0, 2**8)."""
        return self._unsigned(value, 1)

    def u16(self, value: int) -> Writer:
        """Append an integer in [0, 2**16)."""
        return self._unsigned(value, 2)

    def u32(self, value: int) -> Writer:
        """Append an integer in [0, 2**32)."""
        return self._unsigned(value, 4)

    def u64(self, value: int) -> Writer:
        """Append an integer in [0, 2**64)."""
        return self._unsigned(value, 8)

    def f64(self, value: float) -> Writer:
        """Append a finite binary64 number; NaN and infinities have no encoding."""
        if not math.isfinite(value):
            raise InputError(f"cannot encode {value}: only finite numbers may be sent")
        self._parts.append(struct.pack("<d", value))
        return self

    def raw(self, value: bytes) -> Writer:
        """Append bytes whose length both sides know from the format (keys, hashes, signatures)."""
        self._parts.append(bytes(value))
        return self

    def bytes(self, value: bytes | bytearray | memoryview) -> Writer:
        """Append a byte string with its ``u32`` length."""
        if len(value) > MAX_BYTES:
            raise InputError(f"cannot encode {len(value)} bytes in one field; the limit is {MAX_BYTES}")
        self.u32(len(value))
        return self.raw(bytes(value))

    def str(self, value: str) -> Writer:
        """Append a text as UTF-8 with its ``u32`` length."""
        try:
            encoded = value.encode()
        except UnicodeEncodeError:
            raise InputError(f"cannot encode the text {value!r}: it is not valid Unicode") from None
        if len(encoded) > MAX_TEXT_BYTES:
            raise InputError(f"cannot encode a text of {len(encoded)} bytes; the limit is {MAX_TEXT_BYTES}")
        return self.bytes(encoded)

    def array(self, value: NDArray[Any]) -> Writer:
        """Append an array: dtype code, number of dimensions, each dimension as ``u64``, data in C order."""
        little_endian = value.dtype.newbyteorder("<")
        if little_endian not in _DTYPES:
            names = ", ".join(dtype.name for dtype in _DTYPES)
            raise InputError(f"cannot encode an array of {value.dtype}; use one of {names}")
        if value.ndim > MAX_DIMENSIONS or value.size > MAX_ELEMENTS:
            raise InputError(
                f"cannot encode an array of shape {value.shape}; at most {MAX_DIMENSIONS} dimensions "
                f"and {MAX_ELEMENTS} elements are allowed"
            )
        self.u8(_DTYPES.index(little_endian)).u8(value.ndim)
        for size in value.shape:
            self.u64(size)
        # `tobytes` copies in C order whatever the memory layout, and keeps 0-d arrays 0-d.
        return self.raw(value.astype(little_endian, copy=False).tobytes(order="C"))

    def finish(self) -> bytes:
        """The message: all fields in the order in which they were appended."""
        return b"".join(self._parts)

    def _unsigned(self, value: int, width: int) -> Writer:
        try:
            self._parts.append(int(value).to_bytes(width, "little"))
        except OverflowError:
            raise InputError(f"cannot encode {value} as an unsigned {8 * width}-bit integer") from None
        return self


class Reader:
    """Takes fields off a message in order; ``finish`` insists that nothing is left."""

    def __init__(self, message: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(message).cast("B")
        self._at = 0

    @property
    def remaining(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self._at

    def u8(self) -> int:
        """Read an integer in [0, 2**8)."""
        return int.from_bytes(self._take(1), "little")

    def u16(self) -> int:
        """Read an integer in [0, 2**16)."""
        return int.from_bytes(self._take(2), "little")

    def u32(self) -> int:
        """Read an integer in [0, 2**32)."""
        return int.from_bytes(self._take(4), "little")

    def u64(self) -> int:
        """Read an integer in [0, 2**64)."""
        return int.from_bytes(self._take(8), "little")

    def f64(self) -> float:
        """Read a finite binary64 number."""
        value: float = struct.unpack("<d", self._take(8))[0]
        if not math.isfinite(value):
            raise ProtocolError(f"message holds the number {value}; only finite numbers may be sent")
        return value

    def raw(self, length: int) -> bytes:
        """Read exactly ``length`` bytes, a length both sides know from the format."""
        return bytes(self._take(length))

    def bytes(self, limit: int = MAX_BYTES) -> bytes:
        """Read a byte string of at most ``limit`` bytes."""
        return self.raw(self.count(limit))

    def str(self, limit: int = MAX_TEXT_BYTES) -> str:
        """Read a text of at most ``limit`` bytes of UTF-8."""
        encoded = self.bytes(limit)
        try:
            return encoded.decode()
        except UnicodeDecodeError:
            raise ProtocolError("message holds a text that is not valid UTF-8") from None

    def count(self, limit: int) -> int:
        """Read a ``u32`` that says how many bytes or things follow, and refuse more than ``limit``."""
        count = self.u32()
        if count > limit:
            raise ProtocolError(f"message announces {count} of something; the limit here is {limit}")
        return count

    def version(self, expected: int) -> None:
        """Read a ``u8`` version and refuse any but ``expected``."""
        found = self.u8()
        if found != expected:
            raise ProtocolError(f"message has version {found}; this program speaks version {expected}")

    def array(self, *, dtype: DTypeLike | None = None, max_elements: int = MAX_ELEMENTS) -> NDArray[Any]:
        """Read an array into fresh, writable memory in native byte order.

        Args:
            dtype: the only acceptable element type; any of the permitted ones if None.
            max_elements: refuse larger arrays before allocating.

        Raises:
            ProtocolError: unknown or unexpected dtype, too large, or fewer bytes than the shape needs.
        """
        code, dimensions = self.u8(), self.u8()
        if code >= len(_DTYPES):
            raise ProtocolError(f"message holds an array of unknown dtype code {code}")
        found = _DTYPES[code]
        if dtype is not None and found != np.dtype(dtype):
            raise ProtocolError(
                f"message holds an array of {found.name} where {np.dtype(dtype).name} belongs"
            )
        if dimensions > MAX_DIMENSIONS:
            raise ProtocolError(
                f"message holds an array of {dimensions} dimensions; the limit is {MAX_DIMENSIONS}"
            )
        shape = tuple(self.u64() for _ in range(dimensions))
        # Zero-sized dimensions must not hide a huge one: every non-zero dimension counts towards the limit.
        if math.prod(max(size, 1) for size in shape) > min(max_elements, MAX_ELEMENTS):
            raise ProtocolError(
                f"message holds an array of shape {shape}; the limit is {max_elements} elements"
            )
        data = self._take(math.prod(shape) * found.itemsize)
        return np.frombuffer(data, dtype=found).reshape(shape).astype(found.newbyteorder("="))

    def finish(self) -> None:
        """Refuse a message with bytes left over."""
        if self.remaining:
            raise ProtocolError(f"message has {self.remaining} bytes left over")

    def _take(self, length: int) -> memoryview:
        if length > self.remaining:
            raise ProtocolError(f"message ends early: {length} bytes expected, {self.remaining} left")
        self._at += length
        return self._data[self._at - length : self._at]


def named_arrays_encode(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Encode arrays under distinct names, sorted by the names' UTF-8 bytes (protocol §2.3).

    Raises:
        InputError: a dtype outside the permitted list, or a size over the limits.
    """
    if len(arrays) > MAX_NAMES:
        raise InputError(f"cannot encode {len(arrays)} named arrays; the limit is {MAX_NAMES}")
    writer = Writer().u8(NAMED_ARRAYS_VERSION).u32(len(arrays))
    for name in sorted(arrays, key=_name_order):
        writer.str(name).array(arrays[name])
    return writer.finish()


def named_arrays_decode(data: bytes | bytearray | memoryview) -> dict[str, NDArray[Any]]:
    """Decode what ``named_arrays_encode`` wrote; names come back in sorted order.

    Non-finite floats pass: whether they are usable is for the reader of the values to say.

    Raises:
        ProtocolError: anything but the one canonical encoding.
    """
    reader = Reader(data)
    reader.version(NAMED_ARRAYS_VERSION)
    arrays: dict[str, NDArray[Any]] = {}
    previous: bytes | None = None
    for _ in range(reader.count(MAX_NAMES)):
        name = reader.str()
        if previous is not None and name.encode() <= previous:
            raise ProtocolError(f"array {name!r} is a duplicate or out of order")
        previous = name.encode()
        arrays[name] = reader.array()
    reader.finish()
    return arrays


def canonical_json(value: object) -> bytes:
    """The one JSON text of a value: sorted keys, no blanks, UTF-8, no NaN or infinity, text keys only.

    Raises:
        InputError: the value has no such text.
    """
    _require_text_keys(value)
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"value has no canonical JSON: {error}") from None


def parse_json(data: bytes | bytearray | memoryview) -> Any:
    """Parse canonical JSON.

    Raises:
        ProtocolError: not JSON, duplicate keys, or any other text than ``canonical_json`` would write.
    """
    if len(data) > MAX_JSON_BYTES:
        raise ProtocolError(f"JSON of {len(data)} bytes; the limit is {MAX_JSON_BYTES}")
    try:
        value = json.loads(bytes(data).decode())
        is_canonical = canonical_json(value) == bytes(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not canonical JSON: {error}") from None
    if not is_canonical:
        raise ProtocolError("JSON is not in canonical form (sorted unique keys, no blanks, shortest numbers)")
    return value


def _name_order(name: str) -> bytes:
    return name.encode(
        errors="surrogatepass"
    )  # an invalid name is refused, with a reason, when it is written


def _require_text_keys(value: object) -> None:
    """JSON turns the key 1 into "1", which would make two different values look alike."""
    pending: list[object] = [value]
    seen: set[int] = set()
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        if isinstance(item, dict):
            entries = cast(dict[object, object], item)
            bad = [key for key in entries if not isinstance(key, str)]
            if bad:
                raise InputError(f"value has no canonical JSON: the key {bad[0]!r} is not a text")
            pending.extend(entries.values())
            seen.add(id(entries))
        elif isinstance(item, (list, tuple)):
            elements = cast(Sequence[object], item)
            pending.extend(elements)
            seen.add(id(elements))
