"""The global variables of a BPF object, by name."""

from __future__ import annotations

import ctypes
import errno
import mmap
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from pytest_bpflink.binding import libbpf
from pytest_bpflink.errors import BpfError, by_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.binding.btf import Btf, Variable
    from pytest_bpflink.bpf.handles import MapHandle


_MMAPABLE = 1 << 10
_ONLY_KEY = bytes(4)


class Globals(MutableMapping[str, Any]):
    """The global variables of one section, by name: reading gives a copy, an assignment writes.

    A variable is read or written as a whole: `bss["counts"] = [0, 0]`, not a single element. An
    unknown name raises `UnknownName`, which lists the known ones. Writing to a section that loading
    has frozen raises `BpfError` with EACCES.

    A section with static variables only, of which one `bpf_printk()` is enough, is read and written
    as a map: what a program writes while a variable of the section is assigned is lost.
    """

    def __init__(
        self, name: str, section: MapHandle | None, btf: Btf | None, variables: dict[str, Variable]
    ) -> None:
        self._name = name
        self._section = section
        self._btf = btf
        self._variables = variables
        self._live: mmap.mmap | None = None

    def __getitem__(self, name: str) -> Any:
        variable = self._variable(name)
        image, btf = self._memory()
        return btf.decode(variable.type_id, bytes(image[_span(variable)]))

    def __setitem__(self, name: str, value: Any) -> None:
        variable = self._variable(name)
        image, btf = self._memory()
        encoded = btf.encode(variable.type_id, value, bytes(image[_span(variable)]))
        doing = f"write {name} in {self._name}"
        frozen = BpfError(errno.EACCES, doing, hint="it is frozen by loading")
        try:
            image[_span(variable)] = encoded
        except TypeError as error:  # the error of a read-only mmap
            raise frozen from error
        if isinstance(image, bytearray) and not self._write_map(bytes(image), doing):
            raise frozen

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"{name} in {self._name} can't be deleted, only written")

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def __repr__(self) -> str:
        return f"<Globals {self._name}: {', '.join(self._variables) or 'none'}>"

    def release(self) -> None:
        """Unmap the kernel's memory; part of closing the object."""
        self._section = None
        if self._live is not None:
            self._live.close()

    def _variable(self, name: str) -> Variable:
        return by_name("global variable", name, self._variables, self._name)

    def _memory(self) -> tuple[memoryview | mmap.mmap | bytearray, Btf]:
        """Return the section's memory: libbpf's before loading, the kernel's map after it.

        It is a copy if the map can't be mapped.
        """
        if self._section is None or self._btf is None:
            raise BpfError(errno.EBADF, f"use {self._name}", hint="the object was closed")
        if not self._section.loaded:
            return _initial_value(self._section), self._btf
        if not self._section.flags & _MMAPABLE:
            return self._read_map(self._section), self._btf
        if self._live is None:
            self._live = self._map_live(self._section)
        return self._live, self._btf

    def _map_live(self, section: MapHandle) -> mmap.mmap:
        # bpf_object__load() maps the section too, from libbpf 1.6 on; before, only skeletons do.
        protection = mmap.PROT_READ
        if not self._name.startswith((".rodata", ".kconfig")):
            protection |= mmap.PROT_WRITE
        return mmap.mmap(section.fd, section.value_size, flags=mmap.MAP_SHARED, prot=protection)

    def _read_map(self, section: MapHandle) -> bytearray:
        image = bytearray(section.value_size)
        place = (ctypes.c_char * len(image)).from_buffer(image)
        doing = f"read {self._name}"
        libbpf.call("bpf_map_lookup_elem", section.fd, _ONLY_KEY, place, doing=doing)
        return image

    def _write_map(self, image: bytes, doing: str) -> bool:
        """Write all variables of the section; False if loading has frozen the map."""
        assert self._section
        arguments = self._section.fd, _ONLY_KEY, image, 0
        result = libbpf.call("bpf_map_update_elem", *arguments, doing=doing, answer=errno.EPERM)
        return result == 0


def _span(variable: Variable) -> slice:
    return slice(variable.offset, variable.offset + variable.size)


def _initial_value(section: MapHandle) -> memoryview:
    size = ctypes.c_size_t()
    address = libbpf.call(
        "bpf_map__initial_value",
        section.pointer,
        ctypes.byref(size),
        doing=f"find the memory of {section.name}",
    )
    array = (ctypes.c_char * size.value).from_address(address)
    return memoryview(array).cast("B")
