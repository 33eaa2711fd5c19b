"""Records of one BTF type, read fast: for events, which come in millions.

The values are those of `Btf.decode()`, which looks each member up anew for each value. A
`RecordDecoder` does so once.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink.binding.btf import Btf, Member


class RecordDecoder:
    """Converts the bytes of one type to Python values.

    A struct may end with an array of unknown length, `char text[]`: its elements are those that
    the record has.
    """

    def __init__(self, btf: Btf, type_id: int, name: str) -> None:
        self.name = name
        """The type's name in C."""
        self.size = btf.size(type_id)
        """Bytes of the type; a record has as many, or more if `is_open_ended`."""
        tail = btf.members(type_id)[-1:]
        self._tail = _Tail.of(btf, tail[0]) if tail else None
        self.decode: Callable[[bytes], Any] = _decoder(btf, type_id)
        """Return the Python value of the bytes of a record, which are `size` or more."""
        if self._tail:
            self._without_tail, self.decode = self.decode, self._decode_with_tail

    @property
    def is_open_ended(self) -> bool:
        """Whether the type ends with an array of unknown length."""
        return self._tail is not None

    def _decode_with_tail(self, data: bytes) -> Any:
        value, tail = self._without_tail(data), self._tail
        assert tail
        rest = data[tail.offset :]
        if tail.is_text:
            value[tail.name] = rest.partition(b"\0")[0]
        else:
            count = len(rest) // tail.step
            value[tail.name] = [
                tail.decode(rest[at * tail.step : (at + 1) * tail.step]) for at in range(count)
            ]
        return value


class _Tail(NamedTuple):
    """The array of unknown length at the end of a struct."""

    name: str
    offset: int
    step: int
    is_text: bool
    decode: Callable[[bytes], Any]

    @classmethod
    def of(cls, btf: Btf, last: Member) -> _Tail | None:
        element, count = btf.element(last.type_id) or (0, 1)
        if count:
            return None
        decode = _decoder(btf, element)
        offset = last.bit_offset // 8
        return cls(last.name, offset, btf.size(element), btf.is_char(element), decode)


def _decoder(btf: Btf, type_id: int) -> Callable[[bytes], Any]:
    number = btf.number_format(type_id)
    if number:
        unpack_number = struct.Struct(btf.sign + number).unpack_from
        return lambda data: unpack_number(data)[0]
    element, count = btf.element(type_id) or (0, 0)
    letter = btf.number_format(element) if element else ""
    if letter and not btf.is_char(element):
        unpack_array = struct.Struct(f"{btf.sign}{count}{letter}").unpack_from
        return lambda data: list(unpack_array(data))
    members = btf.members(type_id)
    if members and _stand_in_line(btf, members):
        return _struct_decoder(btf, members)
    return lambda data: btf.decode(type_id, data)


def _stand_in_line(btf: Btf, members: list[Member]) -> bool:
    """Whether no member is a bit field or shares its bytes, as in a union."""
    end = 0
    for member in members:
        if member.bits or member.bit_offset < end:
            return False
        end = member.bit_offset + 8 * btf.size(member.type_id)
    return True


def _struct_decoder(btf: Btf, members: list[Member]) -> Callable[[bytes], Any]:
    layout, at = btf.sign, 0
    conversions: list[tuple[str, Callable[[bytes], Any]]] = []
    for member in members:
        offset, size = member.bit_offset // 8, btf.size(member.type_id)
        number = btf.number_format(member.type_id)
        layout += f"{offset - at}x{number or f'{size}s'}"
        at = offset + size
        if not number:
            conversions.append((member.name, _decoder(btf, member.type_id)))
    unpack = struct.Struct(layout).unpack_from
    names = [member.name for member in members]

    def decode(data: bytes) -> dict[str, Any]:
        value = dict(zip(names, unpack(data), strict=True))
        for name, convert in conversions:
            value[name] = convert(value[name])
        return value

    return decode
