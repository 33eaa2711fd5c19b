"""Programs, maps and objects as the modules below `program`, `map` and `objects` see them.

A `Program` is a `ProgramHandle`, a `Map` a `MapHandle`, an `Object` an `ObjectHandle`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_bpflink.binding.btf import Btf
    from pytest_bpflink.binding.uapi import AttachType, BpfStream, ProgType


class ObjectHandle(Protocol):
    """The object that a program or a map is borrowed from."""

    @property
    def pointer(self) -> int:
        """The `struct bpf_object *`. Raises `BpfError` with EBADF after `close()`."""

    @property
    def path(self) -> Path:
        """The path that it was opened by: a source, or the `.bpf.o`."""

    @property
    def file(self) -> Path:
        """The `.bpf.o` that it is read from."""

    @property
    def loaded(self) -> bool:
        """Whether the kernel has its programs and maps."""

    @property
    def btf(self) -> Btf | None:
        """The object's types; None when it was compiled without `-g`."""

    @property
    def programs(self) -> Mapping[str, ProgramHandle]:
        """All programs of the object, by the names of their functions."""


class ProgramHandle(Protocol):
    """A program that is attached, or that replaces the program of a link."""

    @property
    def pointer(self) -> int:
        """The `struct bpf_program *`. Raises `BpfError` with EBADF after the object is closed."""

    @property
    def fd(self) -> int:
        """The program's descriptor, borrowed. Raises `BpfError` before the object is loaded."""

    @property
    def id(self) -> int:
        """The kernel's id of the program."""

    @property
    def name(self) -> str:
        """The name of the program's function."""

    @property
    def section(self) -> str:
        """The text of `SEC()`."""

    @property
    def type(self) -> ProgType:
        """The program's type."""

    @property
    def prints(self) -> bool:
        """Whether it calls `bpf_printk`."""

    def read_stream(self, stream: BpfStream = ...) -> str:
        """Take what it wrote to one of its streams."""

    @property
    def expected_attach_type(self) -> AttachType:
        """The attach type for which the program is loaded."""


class MapHandle(Protocol):
    """A map that replaces the map of a link, or that holds global variables."""

    @property
    def pointer(self) -> int:
        """The `struct bpf_map *`. Raises `BpfError` with EBADF after the object is closed."""

    @property
    def fd(self) -> int:
        """The map's descriptor, borrowed."""

    @property
    def name(self) -> str:
        """The map's name in the object."""

    @property
    def value_size(self) -> int:
        """Bytes of a value; of a map of global variables, of all of them."""

    @property
    def flags(self) -> int:
        """The `BPF_F_*` with which the map is created."""

    @property
    def loaded(self) -> bool:
        """Whether the kernel has the map."""
