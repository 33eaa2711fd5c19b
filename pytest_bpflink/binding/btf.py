"""Memory as Python values, through BTF: the content of a global variable or of a map's value.

Reads the raw BTF of one object after libbpf has opened it and filled in the offset of each global
variable. Knows the encoding of `Documentation/bpf/btf.rst` in both byte orders, and no kernel.

| C | Python |
|---|---|
| integers of 1 to 16 bytes, enums, pointers, bit fields | `int` |
| `bool` | `bool` |
| `float`, `double` | `float` |
| `char[n]` | `bytes`, up to the first zero |
| other arrays | `list` |
| struct, union | `dict` by member |
"""

from __future__ import annotations

import operator
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_bpflink.errors import UnknownName

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_Order = Literal["little", "big"]
_SIGNS: dict[_Order, str] = {"little": "<", "big": ">"}

# The magic number, as it begins BTF of each byte order.
_ORDERS: dict[bytes, _Order] = {b"\x9f\xeb": "little", b"\xeb\x9f": "big"}
_HEADER = {order: struct.Struct(f"{sign}HBBIIIII") for order, sign in _SIGNS.items()}
# A type, an array, a member and a section's variable are three numbers each.
_THREE = {order: struct.Struct(f"{sign}III") for order, sign in _SIGNS.items()}
_TWO = {order: struct.Struct(f"{sign}II") for order, sign in _SIGNS.items()}
_ONE = {order: struct.Struct(f"{sign}I") for order, sign in _SIGNS.items()}

_POINTER_BYTES = 8
_SIGNED, _BOOL = 1, 4


class Kind(IntEnum):
    """`BTF_KIND_*`."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


_MODIFIERS = frozenset(
    {Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG, Kind.VAR}
)

# What a name in C begins with; a name of one word is a type without a tag.
_KEYWORDS = {"struct": {Kind.STRUCT}, "union": {Kind.UNION}, "enum": {Kind.ENUM, Kind.ENUM64}}
_PLAIN = {Kind.INT, Kind.TYPEDEF, Kind.FLOAT}

# The formats of numbers by their sizes, for `struct`.
_FLOATS = {4: "f", 8: "d"}
_INTEGERS = {1: "b", 2: "h", 4: "i", 8: "q"}

# Bytes that follow a type: fixed, or for each of its `vlen` members.
_FIXED = {Kind.INT: 4, Kind.ARRAY: 12, Kind.VAR: 4, Kind.DECL_TAG: 4}
_PER_MEMBER = {
    Kind.STRUCT: 12,
    Kind.UNION: 12,
    Kind.ENUM: 8,
    Kind.FUNC_PROTO: 8,
    Kind.DATASEC: 12,
    Kind.ENUM64: 12,
}


@dataclass(frozen=True)
class Variable:
    """A global variable: its type, and its offset and size in its section in bytes."""

    name: str
    type_id: int
    offset: int
    size: int


class Member(NamedTuple):
    """A member of a struct or union; `bits` is 0 where it is no bit field."""

    name: str
    type_id: int
    bit_offset: int
    bits: int


@dataclass(frozen=True)
class _Type:
    kind: Kind
    name: str
    members: int
    bit_fields: bool
    size_or_type: int
    extra: int  # offset of the bytes that follow the type


class Btf:
    """The types of one object."""

    def __init__(self, raw: bytes) -> None:
        if raw[:2] not in _ORDERS:
            raise ValueError(f"not BTF: it begins with {raw[:2].hex()}")
        order = self._order = _ORDERS[raw[:2]]
        self.sign = _SIGNS[order]
        """What the formats of numbers begin with, for `struct`."""
        self._three = _THREE[order]
        _, _, _, header, type_at, type_length, text_at, text_length = _HEADER[order].unpack_from(
            raw
        )
        self._raw = raw
        self._text = raw[header + text_at : header + text_at + text_length]
        self._types = [_Type(Kind.VOID, "void", 0, False, 0, 0)]
        self._types += self._read_types(header + type_at, header + type_at + type_length)
        # Whether the compiler flags signed enums: then one without the flag is unsigned.
        self._flags_enums = any(
            each.kind is Kind.ENUM64 or (each.kind is Kind.ENUM and each.bit_fields)
            for each in self._types
        )

    def section(self, name: str) -> dict[str, Variable]:
        """Return the variables of a section such as `.bss`, by name; empty for one without any."""
        for each in self._types:
            if each.kind is Kind.DATASEC and each.name == name:
                return {variable.name: variable for variable in self._variables(each)}
        return {}

    @property
    def sections(self) -> list[str]:
        """The names of all sections with variables, such as `.bss` and `.data.NAME`."""
        return [each.name for each in self._types if each.kind is Kind.DATASEC]

    def variables(self, type_id: int) -> dict[str, Variable] | None:
        """Return the variables of a section by name; None for a type that is no section."""
        each = self._types[type_id]
        if each.kind is not Kind.DATASEC:
            return None
        return {variable.name: variable for variable in self._variables(each)}

    def name(self, type_id: int) -> str:
        """Return the name of a type; empty for one without."""
        return self._types[type_id].name

    def functions(self, beginning: str) -> list[str]:
        """Return the names of all functions that begin so."""
        names = (each.name for each in self._types if each.kind is Kind.FUNC)
        return [name for name in names if name.startswith(beginning)]

    def find(self, name: str) -> int:
        """Return the type of a name in C: `struct event`, `union u`, `enum e`, `__u32`.

        Raises `UnknownName`, which lists the structs and unions that there are.
        """
        keyword, _, rest = name.partition(" ")
        kinds, tag = (_KEYWORDS[keyword], rest) if keyword in _KEYWORDS else (_PLAIN, name)
        for number, each in enumerate(self._types):
            if each.kind in kinds and each.name == tag:
                return number
        words = {Kind.STRUCT: "struct", Kind.UNION: "union"}
        known = {f"{words[each.kind]} {each.name}" for each in self._types if each.kind in words}
        raise UnknownName("type", name, known - {"struct ", "union "}, "the object's BTF")

    def members(self, type_id: int) -> list[Member]:
        """Return the members of a struct or union, those of anonymous ones in it as its own."""
        each = self._strip(type_id)
        if each.kind not in {Kind.STRUCT, Kind.UNION}:
            return []
        return [Member(*one) for one in self._members(each)]

    def element(self, type_id: int) -> tuple[int, int] | None:
        """Return the type of an array's elements and their number; None for no array."""
        each = self._strip(type_id)
        return self._array(each) if each.kind is Kind.ARRAY else None

    def is_char(self, type_id: int) -> bool:
        """Whether the type is `char`, whose arrays are text."""
        return self._is_char(type_id)

    def number_format(self, type_id: int) -> str:
        """Return the format of a number for `struct.unpack`; empty for a type that has none."""
        each = self._strip(type_id)
        if each.kind is Kind.FLOAT:
            return _FLOATS.get(each.size_or_type, "")
        if each.kind is Kind.INT and self._encoding(each) & _BOOL:
            return "?"
        if each.kind not in {Kind.INT, Kind.PTR, Kind.ENUM, Kind.ENUM64}:
            return ""
        letter = _INTEGERS.get(self.size(type_id), "")
        return letter if self._signed(each) else letter.upper()

    def first_argument(self, function: str) -> int:
        """Return the type that a function's first argument points to; 0 where that is unknown."""
        for each in self._types:
            if each.kind is Kind.FUNC and each.name == function:
                prototype = self._types[each.size_or_type]
                if not prototype.members:
                    return 0
                _, type_id = _TWO[self._order].unpack_from(self._raw, prototype.extra)
                argument = self._strip(type_id)
                if argument.kind is Kind.PTR:
                    pointed = argument.size_or_type
                    return pointed if self._strip(pointed).kind is Kind.STRUCT else 0
        return 0

    def decode(self, type_id: int, data: bytes | memoryview) -> Any:
        """Return the Python value of a type's bytes."""
        each = self._strip(type_id)
        match each.kind:
            case Kind.INT:  # first, since nearly all counters are integers, and are read often
                bits, encoding = data[: each.size_or_type], self._encoding(each)
                if encoding & _BOOL:
                    return any(bits)
                return int.from_bytes(bits, self._order, signed=bool(encoding & _SIGNED))
            case Kind.PTR | Kind.ENUM | Kind.ENUM64:
                return int.from_bytes(
                    data[: self.size(type_id)], self._order, signed=self._signed(each)
                )
            case Kind.FLOAT:
                return struct.unpack(self._float(each), data[: each.size_or_type])[0]
            case Kind.ARRAY:
                return self._decode_array(each, data)
            case Kind.STRUCT | Kind.UNION:
                return {
                    name: self._decode_member(member, data, bit, bits)
                    for name, member, bit, bits in self._members(each)
                }
        raise TypeError(f"a {each.kind.name} has no value in memory")

    def encode(self, type_id: int, value: Any, present: bytes) -> bytes:
        """Return a type's bytes for a Python value.

        Members of a struct that the value leaves out stay as in `present`. Raises `TypeError` or
        `OverflowError` for a value that the type can't hold.
        """
        each = self._strip(type_id)
        match each.kind:
            case Kind.INT if self._encoding(each) & _BOOL:
                return int(bool(value)).to_bytes(each.size_or_type, self._order)
            case Kind.INT | Kind.PTR | Kind.ENUM | Kind.ENUM64:
                return self._encode_integer(each, value, self.size(type_id))
            case Kind.FLOAT:
                return struct.pack(self._float(each), value)
            case Kind.ARRAY:
                return self._encode_array(each, value, present)
            case Kind.STRUCT | Kind.UNION:
                return self._encode_members(each, value, present)
        raise TypeError(f"a {each.kind.name} has no value in memory")

    def size(self, type_id: int) -> int:
        """Size of a type in bytes."""
        each = self._strip(type_id)
        if each.kind is Kind.PTR:
            return _POINTER_BYTES
        if each.kind is Kind.ARRAY:
            element, count = self._array(each)
            return count * self.size(element)
        return each.size_or_type

    def _read_types(self, start: int, end: int) -> Iterator[_Type]:
        at = start
        while at < end:
            name, info, size_or_type = self._three.unpack_from(self._raw, at)
            kind, members = Kind(info >> 24 & 0x1F), info & 0xFFFF
            at += self._three.size
            yield _Type(kind, self._name(name), members, bool(info >> 31), size_or_type, at)
            at += _FIXED.get(kind, 0) + _PER_MEMBER.get(kind, 0) * members

    def _name(self, offset: int) -> str:
        return self._text[offset : self._text.index(0, offset)].decode()

    def _variables(self, section: _Type) -> Iterator[Variable]:
        for index in range(section.members):
            type_id, offset, size = self._three.unpack_from(
                self._raw, section.extra + index * self._three.size
            )
            # A section also lists extern functions; only variables have a value.
            if self._types[type_id].kind is Kind.VAR:
                yield Variable(self._types[type_id].name, type_id, offset, size)

    def _strip(self, type_id: int) -> _Type:
        each = self._types[type_id]
        while each.kind in _MODIFIERS:
            each = self._types[each.size_or_type]
        return each

    def _encoding(self, integer: _Type) -> int:
        word: int = _ONE[self._order].unpack_from(self._raw, integer.extra)[0]
        return word >> 24 & 0xF

    def _signed(self, each: _Type) -> bool:
        if each.kind is Kind.INT:
            return bool(self._encoding(each) & _SIGNED)
        if each.kind not in {Kind.ENUM, Kind.ENUM64}:
            return False
        # The flag of the kind: signed. clang sets it since release 15, and up to 14 never.
        return each.bit_fields or (not self._flags_enums and self._has_negative(each))

    def _has_negative(self, each: _Type) -> bool:
        if each.kind is Kind.ENUM64:
            return False
        numbers = (
            _TWO[self._order].unpack_from(self._raw, each.extra + 8 * index)[1]
            for index in range(each.members)
        )
        return any(number >> 31 for number in numbers)

    def _array(self, each: _Type) -> tuple[int, int]:
        """Return the type of an array's elements, and their number."""
        element, _, count = self._three.unpack_from(self._raw, each.extra)
        return element, count

    def _is_char(self, type_id: int) -> bool:
        each = self._strip(type_id)
        return each.kind is Kind.INT and each.size_or_type == 1 and each.name == "char"

    def _members(self, each: _Type) -> Iterator[tuple[str, int, int, int]]:
        """Yield each member's name, type, bit offset, and bits (0: not a bit field).

        The members of an anonymous struct or union are yielded in its place.
        """
        for index in range(each.members):
            name, type_id, place = self._three.unpack_from(
                self._raw, each.extra + index * self._three.size
            )
            bit, bits = (place & 0xFFFFFF, place >> 24) if each.bit_fields else (place, 0)
            if name:
                yield self._name(name), type_id, bit, bits
                continue
            inner = self._strip(type_id)
            if inner.kind in {Kind.STRUCT, Kind.UNION}:
                for inner_name, inner_type, inner_bit, inner_bits in self._members(inner):
                    yield inner_name, inner_type, bit + inner_bit, inner_bits

    def _decode_array(self, each: _Type, data: bytes | memoryview) -> Any:
        element, count = self._array(each)
        step = self.size(element)
        if self._is_char(element):
            return bytes(data[:count]).partition(b"\0")[0]
        return [self.decode(element, data[at : at + step]) for at in range(0, count * step, step)]

    def _decode_member(self, type_id: int, data: bytes | memoryview, bit: int, bits: int) -> Any:
        if not bits:
            return self.decode(type_id, data[bit // 8 :])
        shift = self._shift(len(data), bit, bits)
        raw = int.from_bytes(data, self._order) >> shift & (1 << bits) - 1
        if self._signed(self._strip(type_id)) and raw >> bits - 1:
            return raw - (1 << bits)
        return raw

    def _encode_integer(self, each: _Type, value: Any, size: int) -> bytes:
        try:
            return operator.index(value).to_bytes(size, self._order, signed=self._signed(each))
        except OverflowError:
            kind = f"{'s' if self._signed(each) else 'u'}{8 * size}"
            raise OverflowError(f"{value} is out of range for {kind}") from None

    def _encode_array(self, each: _Type, value: Any, present: bytes) -> bytes:
        element, count = self._array(each)
        if self._is_char(element):
            if isinstance(value, int):  # bytes() would take it for a length
                raise TypeError(f"{value} for a char[{count}], which holds bytes or str")
            text = value.encode() if isinstance(value, str) else bytes(value)
            if len(text) > count:
                raise OverflowError(f"{len(text)} bytes do not fit a char[{count}]")
            return text.ljust(count, b"\0")
        values: Sequence[Any] = list(value)
        if len(values) != count:
            raise TypeError(f"{len(values)} values for an array of {count}")
        step = self.size(element)
        return b"".join(
            self.encode(element, one, present[at * step : (at + 1) * step])
            for at, one in enumerate(values)
        )

    def _encode_members(self, each: _Type, value: Mapping[str, Any], present: bytes) -> bytes:
        members = {name: (kind, bit, bits) for name, kind, bit, bits in self._members(each)}
        image = bytearray(present[: each.size_or_type])
        for name, one in value.items():
            if name not in members:
                raise TypeError(f"no member {name!r}; there are: {', '.join(members)}")
            type_id, bit, bits = members[name]
            if bits:
                self._set_bits(image, bit, bits, operator.index(one))
                continue
            at, size = bit // 8, self.size(type_id)
            image[at : at + size] = self.encode(type_id, one, bytes(image[at : at + size]))
        return bytes(image)

    def _set_bits(self, image: bytearray, bit: int, bits: int, value: int) -> None:
        if not -(1 << bits - 1) <= value < 1 << bits:
            raise OverflowError(f"{value} does not fit a bit field of {bits} bits")
        mask, shift = (1 << bits) - 1, self._shift(len(image), bit, bits)
        whole = int.from_bytes(image, self._order) & ~(mask << shift) | (value & mask) << shift
        image[:] = whole.to_bytes(len(image), self._order)

    def _shift(self, length: int, bit: int, bits: int) -> int:
        """Return where a bit field ends in the integer that LENGTH bytes are.

        BTF counts bits as they lie in memory: from the lowest on little-endian machines, else from
        the highest.
        """
        return bit if self._order == "little" else 8 * length - bit - bits

    def _float(self, each: _Type) -> str:
        return self.sign + _FLOATS[each.size_or_type]
