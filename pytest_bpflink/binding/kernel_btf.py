"""The running kernel's BTF: its structs, its functions, and the names in its enums.

libbpf looks types up, since the kernel has 150,000 of them. The BTF of modules and programs is
read by id.
"""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.btf import Btf, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator


@cache
def vmlinux() -> Vmlinux:
    """Return the kernel's types, read once per process. Raises `BpfError` without such BTF."""
    return Vmlinux(libbpf.call("btf__load_vmlinux_btf", doing="read the kernel's BTF"))


@contextlib.contextmanager
def types_of(btf_id: int, *, after: Vmlinux | None = None) -> Iterator[Vmlinux]:
    """Read the types of a program or of a module by the id of its BTF, for a `with` block.

    For a module `after` is the kernel's types, after which the module's are numbered. Raises
    `BpfError` when the BTF is gone.
    """
    base = after and after.pointer
    doing = f"read BTF {btf_id}"
    pointer = libbpf.call("btf__load_from_kernel_by_id_split", btf_id, base, doing=doing)
    try:
        yield Vmlinux(pointer)
    finally:
        libbpf.call("btf__free", pointer, doing="free BTF")


# For as many objects as are looked at in turn: reading types takes longer than asking for them.
@lru_cache(maxsize=8)
def types_by_id(btf_id: int) -> Btf:
    """Read the types of a map, a program or an object that is loaded, to decode values by them.

    Raises `BpfError` when the BTF is gone, and with EPERM without CAP_SYS_ADMIN.
    """
    with types_of(btf_id) as types:
        size = ctypes.c_uint32()
        doing = f"read BTF {btf_id}"
        raw = libbpf.call("btf__raw_data", types.pointer, ctypes.byref(size), doing=doing)
        return Btf(ctypes.string_at(raw, size.value))


class _Type(ctypes.Structure):
    """`struct btf_type`, which its members follow in memory."""

    _fields_ = (
        ("name_off", ctypes.c_uint32),
        ("info", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
    )


class _Enumerator(ctypes.Structure):
    """`struct btf_enum`."""

    _fields_ = (("name_off", ctypes.c_uint32), ("value", ctypes.c_int32))


class _Member(ctypes.Structure):
    """`struct btf_member`; `offset` has 24 bits of bit offset, and 8 of a bit field's size."""

    _fields_ = (
        ("name_off", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("offset", ctypes.c_uint32),
    )


_MEMBERS = _BITS = 0xFFFFFF
_VLEN = 0xFFFF


class Vmlinux:
    """Types of the kernel, from `vmlinux()`, or of a module or a program, from `types_of()`."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer

    def find(self, name: str, kind: Kind) -> int:
        """Return the id of a type or a function. Raises `BpfError` with ENOENT for none."""
        doing = f"find {kind.name.lower()} {name} in the kernel's BTF"
        return libbpf.call("btf__find_by_name_kind", self.pointer, name.encode(), kind, doing=doing)

    def name(self, type_id: int) -> str | None:
        """Return the name of a type or a function. Raises `BpfError` for an unknown id."""
        return self._text(self._type(type_id).name_off)

    def members(self, name: str) -> dict[str, tuple[int, int]]:
        """Return a struct's members by name: the index of each, and its offset in bytes."""
        found = self._type(self.find(name, Kind.STRUCT))
        array = (_Member * (found.info & _MEMBERS)).from_address(_behind(found))
        return {
            self._text(each.name_off) or "": (index, (each.offset & _BITS) // 8)
            for index, each in enumerate(array)
        }

    def fields(self, name: str) -> dict[str, tuple[int, int]]:
        """Return the fields of a struct and of the structs and unions in it, by path.

        Of each field, the offset and the size in bytes. Members without a name have no part in the
        path: `detail.count` is a field of the struct `detail`, wherever that stands.
        """
        return dict(self._fields(self.find(name, Kind.STRUCT), "", 0))

    def _fields(self, type_id: int, path: str, at: int) -> Iterator[tuple[str, tuple[int, int]]]:
        found = self._type(type_id)
        while (kind := found.info >> 24 & 31) == Kind.TYPEDEF:
            found = self._type(found.size)  # the number of the type that it names
        if kind not in {Kind.STRUCT, Kind.UNION}:
            yield path, (at, found.size)
            return
        for each in (_Member * (found.info & _VLEN)).from_address(_behind(found)):
            name = self._text(each.name_off)
            inner = f"{path}.{name}".lstrip(".") if name else path
            yield from self._fields(each.type, inner, at + (each.offset & _BITS) // 8)

    def size(self, name: str) -> int:
        """Return the size of a struct in bytes."""
        return int(self._type(self.find(name, Kind.STRUCT)).size)

    def enumerators(self, name: str) -> dict[str, int]:
        """Return the values of an enum by name."""
        found = self._type(self.find(name, Kind.ENUM))
        array = (_Enumerator * (found.info & _MEMBERS)).from_address(_behind(found))
        return {self._text(each.name_off) or "": each.value for each in array}

    def _type(self, type_id: int) -> _Type:
        doing = f"look up type {type_id} in the kernel's BTF"
        return _Type.from_address(
            libbpf.call("btf__type_by_id", self.pointer, type_id, doing=doing)
        )

    def _text(self, offset: int) -> str | None:
        return libbpf.text("btf__name_by_offset", self.pointer, offset)


def _behind(found: _Type) -> int:
    return ctypes.addressof(found) + ctypes.sizeof(found)
