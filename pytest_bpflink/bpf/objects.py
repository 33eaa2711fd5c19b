"""BPF object files: their programs and maps, and their global variables by name.

`Object.open()` reads the file, `load()` hands it to the kernel; in between, `rodata` can be
written. Programs and maps borrow from their object, and can't be used once it is closed.
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.btf import Btf
from pytest_bpflink.bpf.global_variables import Globals
from pytest_bpflink.bpf.loaded import note_closed, note_loaded
from pytest_bpflink.bpf.map import Map
from pytest_bpflink.bpf.program import Program
from pytest_bpflink.building.compilation import object_of
from pytest_bpflink.errors import BpfError, by_name, is_bpf_error

if TYPE_CHECKING:
    from collections.abc import Iterator

_ELF_MAGIC = b"\x7fELF"


class Object:
    """A BPF object: a `.bpf.o` file, opened and perhaps loaded.

    Lives until `close()` or the end of a `with` block. Then its programs and maps go, except those
    that a link, a pin or another descriptor still holds.
    """

    def __init__(self, pointer: int, path: Path, file: Path) -> None:
        self._pointer: int | None = pointer
        self.path = path
        """The path that `open()` was given."""
        self.file = file
        """The `.bpf.o`: `path`, or what it was compiled to."""
        self.loaded = False
        """Whether the kernel has the object's programs and maps."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read a `.bpf.o`, or compile a `.bpf.c` and read its object, without loading it yet.

        Raises `BpfError`: ENOENT where there is no file, EINVAL or an errno of libbpf's own for a
        file that is no BPF object; `CompileError` for a source that clang refuses.
        """
        __tracebackhide__ = is_bpf_error
        doing = f"open BPF object {Path(path)}"
        file = object_of(path)
        _require_elf(file, doing)
        pointer = libbpf.call("bpf_object__open_file", os.fsencode(file), None, doing=doing)
        return cls(pointer, Path(path), file)

    def load(self) -> Self:
        """Load the programs and maps into the kernel, and return the object itself.

        Raises `VerifierError` when the verifier refuses a program, and `BpfError` for any other
        failure. After a failure the object can't be loaded again.
        """
        __tracebackhide__ = is_bpf_error
        libbpf.call("bpf_object__load", self.pointer, doing=f"load BPF object {self.path}")
        self.loaded = True
        note_loaded(self)
        return self

    def close(self) -> None:
        """Release the object, its programs and its maps; idempotent."""
        if self._pointer is None:
            return
        pointer, self._pointer = self._pointer, None
        note_closed(self)
        self.__dict__.pop("programs", None)
        for name in ("bss", "data", "rodata"):
            section = self.__dict__.pop(name, None)
            if section is not None:
                section.release()
        libbpf.call("bpf_object__close", pointer, doing=f"close {self.path}")

    @property
    def pointer(self) -> int:
        """The `struct bpf_object *`. Raises `BpfError` with EBADF after `close()`."""
        if self._pointer is None:
            raise BpfError(errno.EBADF, f"use BPF object {self.path}", hint="it was closed")
        return self._pointer

    def program(self, name: str) -> Program:
        """Return a program by the name of its function.

        Raises `UnknownName`, which lists the object's programs.
        """
        return by_name("program", name, self.programs, self.path)

    def map(self, name: str) -> Map:
        """Return a map by its name. Raises `UnknownName`, which lists the object's maps."""
        return by_name("map", name, self.maps, self.path)

    @cached_property
    def programs(self) -> dict[str, Program]:
        """All programs of the object, by the names of their functions."""
        each = _each("bpf_object__next_program", self.pointer)
        return {program.name: program for program in (Program(self, one) for one in each)}

    @property
    def maps(self) -> dict[str, Map]:
        """All maps of the object by name, with those for global variables (`.bss`, `.rodata`)."""
        each = _each("bpf_object__next_map", self.pointer)
        return {one.name: one for one in (Map(self, pointer) for pointer in each)}

    @cached_property
    def bss(self) -> Globals:
        """Global variables with the initial value zero."""
        return self._globals(".bss")

    @cached_property
    def data(self) -> Globals:
        """Global variables with any other initial value."""
        return self._globals(".data")

    @cached_property
    def rodata(self) -> Globals:
        """Global constants, to be written before `load()`, which freezes them for the verifier."""
        return self._globals(".rodata")

    @cached_property
    def btf(self) -> Btf | None:
        """The object's types; None when it was compiled without `-g`."""
        pointer = libbpf.call("bpf_object__btf", self.pointer, doing="ask for BTF")
        if not pointer:
            return None
        size = ctypes.c_uint32()
        raw = libbpf.call("btf__raw_data", pointer, ctypes.byref(size), doing="read BTF")
        return _types(ctypes.string_at(raw, size.value))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_pointer", None) is not None:
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._pointer is None else "loaded" if self.loaded else "open"
        return f"<Object {self.path.name} {state}>"

    def _globals(self, section: str) -> Globals:
        name = f"{section} of {self.path.name}"
        for each in self.maps.values():
            if self.btf and each.is_internal and each.name.endswith(section):
                return Globals(name, each, self.btf, self.btf.section(section))
        return Globals(name, None, None, {})


def _each(function: str, owner: int) -> Iterator[int]:
    pointer = None
    while pointer := libbpf.call(function, owner, pointer, doing="look through an object"):
        yield pointer


# For as many files as are in use at a time: reading types takes longer than loading programs.
@lru_cache(maxsize=8)
def _types(raw: bytes) -> Btf:
    return Btf(raw)


def _require_elf(file: Path, doing: str) -> None:
    """Raise `BpfError` with a clear sentence, where libbpf would report an error of libelf."""
    __tracebackhide__ = is_bpf_error
    try:
        with file.open("rb") as stream:
            start = stream.read(len(_ELF_MAGIC))
    except OSError as error:
        raise BpfError(error.errno or 0, doing) from error
    if start != _ELF_MAGIC:
        hint = "not an ELF file; compile it with clang -target bpf -O2 -g -c"
        raise BpfError(errno.EINVAL, doing, hint=hint)
