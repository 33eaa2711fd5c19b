"""Keys and values of a map as Python values, and back to bytes."""

from __future__ import annotations

import operator
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_bpflink.binding.btf import Btf, Variable


_NUMBERS = frozenset({1, 2, 4, 8})


class StructKey(dict[str, Any]):
    """A struct or union as a key of a map: a dict that hashes, and that can't be changed.

    It keeps the bytes of the key, with those of the padding, in `raw`. It equals any dict with the
    same members, but another key of a map only if all bytes are equal. Arrays in it are tuples.
    """

    def __init__(self, members: dict[str, Any], raw: bytes = b"") -> None:
        super().__init__(members)
        self.raw = raw
        """The bytes of the key; empty for a struct in a key."""

    def __eq__(self, other: object) -> bool:
        if isinstance(other, StructKey) and self.raw and other.raw:
            return self.raw == other.raw
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[object, ...]:
        return StructKey, (dict(self), self.raw)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("a key of a map can't be changed; dict(key) is a dict that can")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


class Codec:
    """Converts values of a map to Python values, and back.

    Without a BTF type a value of 1, 2, 4 or 8 bytes is an unsigned number, and any other its bytes.
    """

    def __init__(self, btf: Btf | None, type_id: int, size: int) -> None:
        self.size = size
        self._btf = btf if type_id else None
        self._type_id = type_id

    @property
    def buffer_size(self) -> int:
        """How many bytes the kernel reads and writes for an element."""
        return self.size

    def decode(self, data: bytes) -> Any:
        """Return the Python value of an element's bytes."""
        if self._btf:
            return self._btf.decode(self._type_id, data)
        return int.from_bytes(data, sys.byteorder) if self.size in _NUMBERS else data

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a Python value; bytes of the element's size are taken as they are.

        Raises `TypeError` or `OverflowError` for a value that the type can't hold.
        """
        if isinstance(value, bytes) and len(value) == self.size:
            return value
        if self._btf:
            return self._btf.encode(self._type_id, value, bytes(self.size))
        if self.size in _NUMBERS and not isinstance(value, bytes):
            return operator.index(value).to_bytes(self.size, sys.byteorder)
        raise TypeError(f"needs {self.size} bytes, since it has no BTF type; not {value!r}")


class PerCpuCodec(Codec):
    """Converts a value for each possible CPU to a list, and back."""

    def __init__(self, btf: Btf | None, type_id: int, size: int, *, cpus: int) -> None:
        super().__init__(btf, type_id, size)
        self._cpus = cpus
        self._step = (size + 7) // 8 * 8

    @property
    def buffer_size(self) -> int:
        """How many bytes the kernel reads and writes for the values of all CPUs."""
        return self._cpus * self._step

    def decode(self, data: bytes) -> Any:
        """Return a list with the Python value of each possible CPU."""
        starts = range(0, self.buffer_size, self._step)
        return [Codec.decode(self, data[start : start + self.size]) for start in starts]

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a list with a value for each CPU, or of any other value for all."""
        if not isinstance(value, list):
            value = [value] * self._cpus
        if len(value) != self._cpus:
            wanted = f"a list of {self._cpus}, one for each possible CPU, or one value for all"
            raise TypeError(f"{len(value)} values where a per-CPU map takes {wanted}")
        each = [Codec.encode(self, one) for one in value]
        return b"".join(one.ljust(self._step, b"\0") for one in each)


class ReferenceCodec(Codec):
    """Converts what is put into the slots of a map: programs, maps, devices, sockets.

    The kernel takes a descriptor, or of a device its index, and gives an id, or a socket's cookie.
    """

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a descriptor or an index, of an object or as a number."""
        for attribute in ("fd", "ifindex"):
            if hasattr(value, attribute):
                return super().encode(getattr(value, attribute))
        return super().encode(value.fileno() if hasattr(value, "fileno") else value)


class SectionCodec(Codec):
    """Converts the global variables of a section to a dict; they are set one by one, by name."""

    def __init__(self, btf: Btf, variables: Mapping[str, Variable], size: int) -> None:
        super().__init__(btf, 0, size)
        self._types = btf
        self._variables = variables

    def decode(self, data: bytes) -> Any:
        """Return the values of the variables by name."""
        return {
            name: self._types.decode(each.type_id, data[each.offset : each.offset + each.size])
            for name, each in self._variables.items()
        }

    def encode(self, value: Any) -> bytes:
        """Return bytes as they are. Raises `TypeError` for any other value."""
        if isinstance(value, bytes) and len(value) == self.size:
            return value
        raise TypeError("global variables are set one by one: map['NAME'] = value")


class KeyCodec(Codec):
    """Converts keys of a map to Python values that hash, and back to the very same bytes."""

    def decode(self, data: bytes) -> Any:
        """Return the Python value of a key; the bytes where a value would not give them back."""
        value = _hashable(super().decode(data))
        if isinstance(value, StructKey):
            return StructKey(value, data)
        return value if self.encode(value) == data else data

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a key. A key of a map has its own, with those of the padding."""
        if isinstance(value, StructKey) and len(value.raw) == self.size:
            members = super().decode(value.raw)
            # A key of another map may have another type of this size.
            if _hashable(members) == dict(value):
                return value.raw
        return super().encode(value)

    @cached_property
    def has_unseen_bytes(self) -> bool:
        """Whether two keys can have equal values and different bytes, such as in the padding."""
        # The second pattern has a byte behind the first zero of any char[].
        patterns = b"\xff" * self.size, (b"\0\xff" * self.size)[: self.size]
        return any(self.encode(Codec.decode(self, each)) != each for each in patterns)


class DescriptorKeyCodec(KeyCodec):
    """Converts what a value of local storage belongs to: a socket, a file, a cgroup, a pidfd."""

    @cached_property
    def has_unseen_bytes(self) -> bool:
        """No: a key is the number of a descriptor."""
        return False

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a descriptor, of an object or as a number."""
        return super().encode(value.fileno() if hasattr(value, "fileno") else value)


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return StructKey({name: _hashable(member) for name, member in value.items()})
    if isinstance(value, list):
        return tuple(_hashable(element) for element in value)
    return value
