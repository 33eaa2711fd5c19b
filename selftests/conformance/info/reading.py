"""`BPF_OBJ_GET_INFO_BY_FD` of a link, laid out as the kernel's own BTF says.

The project's copy of `struct bpf_link_info` is not used: a mistake in it would be in what a test
expects, too.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.kernel_btf import vmlinux

if TYPE_CHECKING:
    from collections.abc import Mapping

UNTOUCHED = 0xAA
"""The byte that buffers are filled with before the kernel writes to them."""

SPARE = 8
"""Bytes behind each buffer, which the kernel must not write to."""

NO_ADDRESS = 1 << 63
"""Not an address of a process."""

_STRUCT = "bpf_link_info"


@dataclass(frozen=True)
class Text:
    """A name that the kernel writes to a buffer. `length` is the path of the buffer's size.

    The kernel replaces the size by the name's, with the zero at its end.
    """

    value: str
    length: str

    @property
    def written(self) -> bytes:
        """The name's bytes, with the zero."""
        return self.value.encode() + b"\0"


@dataclass(frozen=True)
class Numbers:
    """Numbers of `size` bytes that the kernel writes to a buffer. `length` is the count's path."""

    value: tuple[int, ...]
    length: str
    size: int = 8

    @property
    def written(self) -> bytes:
        """The bytes of all numbers."""
        return b"".join(value.to_bytes(self.size, sys.byteorder) for value in self.value)


@cache
def fields() -> dict[str, tuple[int, int]]:
    """Return the fields of the running kernel's info: offset and size by path."""
    return vmlinux().fields(_STRUCT)


class Info:
    """The bytes of one info, and the buffers that it points to."""

    def __init__(self) -> None:
        self._bytes = bytearray(vmlinux().size(_STRUCT))
        self._buffers: dict[str, ctypes.Array[ctypes.c_char]] = {}

    def give_buffer(self, path: str, size: int) -> None:
        """Let a field point to a new buffer of some bytes."""
        self._buffers[path] = buffer = ctypes.create_string_buffer(
            bytes((UNTOUCHED,)) * (size + SPARE), size + SPARE
        )
        self.set(path, ctypes.addressof(buffer))

    def buffer(self, path: str) -> bytes:
        """Return what is in a field's buffer, and in the spare bytes behind it."""
        return self._buffers[path].raw

    def set(self, path: str, value: int) -> None:
        """Set a field."""
        offset, size = fields()[path]
        self._bytes[offset : offset + size] = value.to_bytes(size, sys.byteorder)

    def get(self, path: str, *, signed: bool = False) -> int:
        """Return the value of a field."""
        offset, size = fields()[path]
        return int.from_bytes(self._bytes[offset : offset + size], sys.byteorder, signed=signed)

    def read(self, fd: int, *, length: int = 0) -> int:
        """Ask the kernel for all or for some bytes, and return how many there are.

        Raises `BpfError`.
        """
        array = (ctypes.c_char * len(self._bytes)).from_buffer(self._bytes)
        size = ctypes.c_uint32(length or len(self._bytes))
        libbpf.call(
            "bpf_obj_get_info_by_fd", fd, array, ctypes.byref(size), doing="read a link's info"
        )
        return int(size.value)


def asking_for(wanted: Mapping[str, int | Text | Numbers], *, less: int = 0) -> Info:
    """Return an info with a buffer for each name and each list of numbers.

    Each buffer has room for what is wanted, or for `less` bytes or numbers less.
    """
    info = Info()
    for path, value in wanted.items():
        if isinstance(value, Text):
            size = len(value.written) - less
            info.give_buffer(path, size)
            info.set(value.length, size)
        elif isinstance(value, Numbers):
            count = len(value.value) - less
            info.give_buffer(path, count * value.size)
            info.set(value.length, count)
    return info
