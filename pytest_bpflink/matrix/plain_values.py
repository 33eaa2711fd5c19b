"""Plain values as bytes: written fast, and read so that no bytes can do harm.

`dumps` is `marshal`, which is C, since Python is slow in an emulated guest. `marshal.loads` may
crash the process on bad bytes, as its documentation says, and a kernel under test may send any
bytes. So `loads` is Python: it checks each length and makes plain values only. Every release of
Python writes version 2 of the format, and writes the same value the same way.
"""

from __future__ import annotations

import marshal
import struct
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_VERSION = 2

# The number of the message, and the checksum of the rest.
_HEADER = struct.Struct("!II")

_INT, _SIZE, _FLOAT = struct.Struct("<i"), struct.Struct("<I"), struct.Struct("<d")

# An int of more than 32 bits is written as digits of 15 bits.
_DIGIT, _DIGIT_BITS = struct.Struct("<H"), 15

# No report has values as deep as this; Python's own limit is 1000 calls.
_MOST_DEPTH = 100

SCALARS = frozenset({type(None), bool, int, float, complex, bytes, str})
_SEQUENCES = frozenset({tuple, list, set, frozenset})


class DamagedError(ValueError):
    """The bytes differ from the bytes that were written, or are out of order."""


def dumps(value: Any) -> bytes:
    """Return a plain value as bytes. Raises ValueError for a value that `marshal` can't write.

    The value may consist of `SCALARS`, tuples, lists, sets, frozensets and dicts; `marshal` writes
    bytes-like values as bytes.
    """
    return marshal.dumps(value, _VERSION)


def plain(value: Any, depth: int = _MOST_DEPTH // 2) -> Any:
    """Return a value that `dumps` takes and `loads` makes the same: it, or its `repr`.

    A container stays one, with its parts made plain; one that is too deep becomes its `repr`.
    """
    kind = type(value)
    if kind in SCALARS:
        return value
    if not depth:
        return described(value)
    if kind in _SEQUENCES:
        return kind(plain(part, depth - 1) for part in value)
    if kind is dict:
        return {plain(key, depth - 1): plain(part, depth - 1) for key, part in value.items()}
    # A str of a class of its own, as of a library for paths or arrays.
    return str.__str__(value) if isinstance(value, str) else described(value)


def described(value: object) -> str:
    """Return a value's `repr`, or Python's own where the `repr` of its class fails."""
    try:
        return str(repr(value))
    except Exception:  # noqa: BLE001 (it is anyone's)
        return object.__repr__(value)


def loads(data: bytes) -> Any:
    """Return the value that `dumps` wrote. Raises DamagedError."""
    reader = _Reader(data)
    value = reader.value()
    if reader.left:
        raise DamagedError(f"{reader.left} bytes follow its end")
    return value


def sealed(number: int, data: bytes) -> bytes:
    """Return a message: the bytes after the message's number and their checksum."""
    return _HEADER.pack(number, zlib.crc32(data)) + data


def unsealed(number: int, message: bytes) -> bytes:
    """Return the bytes of the message with this number. Raises DamagedError."""
    if len(message) < _HEADER.size:
        raise DamagedError(f"it has {len(message)} bytes")
    found, checksum = _HEADER.unpack_from(message)
    data = message[_HEADER.size :]
    if zlib.crc32(data) != checksum:
        raise DamagedError("its checksum is wrong")
    if found != number:
        raise DamagedError(f"its number is {found} instead of {number}")
    return data


class _Reader:
    """Reads one value, from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._depth = 0

    @property
    def left(self) -> int:
        """How many bytes follow."""
        return len(self._data) - self._at

    def value(self) -> Any:
        """Read a value. Raises DamagedError."""
        kind = self._take(1)
        read = _READERS.get(kind)
        if read is None:
            raise DamagedError(f"it has a value of unknown type {kind!r}")
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise DamagedError(f"its values are more than {_MOST_DEPTH} deep")
        value = read(self)
        self._depth -= 1
        return value

    def _take(self, size: int) -> bytes:
        if size > self.left:
            raise DamagedError(f"it ends {size - self.left} bytes too early")
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def _size(self) -> int:
        size: int = _SIZE.unpack(self._take(_SIZE.size))[0]
        return size

    def _int(self) -> int:
        value: int = _INT.unpack(self._take(_INT.size))[0]
        return value

    def _long(self) -> int:
        digits = self._int()
        value = 0
        for place in range(abs(digits)):
            (digit,) = _DIGIT.unpack(self._take(_DIGIT.size))
            value |= digit << place * _DIGIT_BITS
        return -value if digits < 0 else value

    def _float(self) -> float:
        value: float = _FLOAT.unpack(self._take(_FLOAT.size))[0]
        return value

    def _complex(self) -> complex:
        return complex(self._float(), self._float())

    def _bytes(self) -> bytes:
        return self._take(self._size())

    def _str(self) -> str:
        try:
            return self._bytes().decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise DamagedError("it has text that is no UTF-8") from None

    def _list(self) -> list[Any]:
        size = self._size()
        # Each value takes a byte at least: a size that can't be true allocates nothing.
        if size > self.left:
            raise DamagedError(f"it has a list of {size} values in {self.left} bytes")
        return [self.value() for _ in range(size)]

    def _tuple(self) -> tuple[Any, ...]:
        return tuple(self._list())

    def _frozenset(self) -> frozenset[Any]:
        try:
            return frozenset(self._list())
        except TypeError:
            raise DamagedError("it has a set of values that can't be in one") from None

    def _set(self) -> set[Any]:
        return set(self._frozenset())

    def _dict(self) -> dict[Any, Any]:
        value = {}
        while self._data[self._at : self._at + 1] != b"0":
            key = self.value()
            try:
                value[key] = self.value()
            except TypeError:
                raise DamagedError("it has a key that is not hashable") from None
        self._at += 1
        return value


_READERS: dict[bytes, Callable[[_Reader], Any]] = {
    b"N": lambda _: None,
    b"T": lambda _: True,
    b"F": lambda _: False,
    b"i": _Reader._int,  # noqa: SLF001
    b"l": _Reader._long,  # noqa: SLF001
    b"g": _Reader._float,  # noqa: SLF001
    b"y": _Reader._complex,  # noqa: SLF001
    b"s": _Reader._bytes,  # noqa: SLF001
    b"u": _Reader._str,  # noqa: SLF001
    b"(": _Reader._tuple,  # noqa: SLF001
    b"[": _Reader._list,  # noqa: SLF001
    b"<": _Reader._set,  # noqa: SLF001
    b">": _Reader._frozenset,  # noqa: SLF001
    b"{": _Reader._dict,  # noqa: SLF001
}
