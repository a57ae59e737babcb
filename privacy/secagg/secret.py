"""Key material that does not print, pickle or outlive its round."""

from __future__ import annotations

from typing import NoReturn


class Secret:
    """Bytes that must not be seen: ``repr`` shows the length only, ``wipe`` overwrites them.

    Guarantees:
        Best effort, as far as CPython allows: this object's own buffer is overwritten, but copies the
        interpreter or a library made while computing with ``expose()`` are only dropped.
    """

    __slots__ = ("_buffer",)

    def __init__(self, value: bytes | bytearray) -> None:
        self._buffer = bytearray(value)

    def expose(self) -> bytes:
        """The bytes themselves, for immediate use in a primitive.

        Raises:
            ValueError: the secret was wiped.
        """
        if not self._buffer:
            raise ValueError("this secret was wiped; its round or epoch is over")
        return bytes(self._buffer)

    def wipe(self) -> None:
        """Overwrite the bytes with zeros and forget them; harmless when repeated."""
        self._buffer[:] = bytes(len(self._buffer))
        self._buffer = bytearray()

    @property
    def is_wiped(self) -> bool:
        """Whether nothing is left to expose."""
        return not self._buffer

    def __repr__(self) -> str:
        return f"Secret({len(self._buffer)} bytes)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret must not be pickled or copied out of the process")
