"""Programs, maps and objects as the modules below `program`, `map` and `objects` see them.

A `Program` is a `ProgramHandle`, a `Map` a `MapHandle`, an `Object` an `ObjectHandle`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pytest_bpflink.errors import WrongArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
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

    @property
    def before_closing(self) -> list[Callable[[], None]]:
        """Called when the object is closed, before libbpf frees it."""


class LoadedProgramHandle(Protocol):
    """A program that replaces the program of a link, that runs, or whose runs are counted."""

    @property
    def pointer(self) -> int:
        """The `struct bpf_program *`; 0 for a program that no object of this process has."""

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
    def type(self) -> ProgType:
        """The program's type."""


class ProgramHandle(LoadedProgramHandle, Protocol):
    """A program of an object, which is attached."""

    @property
    def owner(self) -> ObjectHandle:
        """The object that it is borrowed from."""

    @property
    def section(self) -> str:
        """The text of `SEC()`."""

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
        """The `struct bpf_map *`; 0 for a map that no object of this process has."""

    @property
    def fd(self) -> int:
        """The map's descriptor, borrowed."""

    @property
    def name(self) -> str:
        """The map's name."""

    @property
    def value_size(self) -> int:
        """Bytes of a value; of a map of global variables, of all of them."""

    @property
    def flags(self) -> int:
        """The `BPF_F_*` with which the map is created."""

    @property
    def loaded(self) -> bool:
        """Whether the kernel has the map."""


class NetnsHandle(Protocol):
    """A network namespace as seen by what is made or attached in it."""

    @property
    def before_closing(self) -> list[Callable[[], None]]:
        """Called when the namespace is closed, the last one first."""

    @property
    def clsact(self) -> set[int]:
        """The indices of devices that got a clsact qdisc for a filter."""

    def entered(self) -> AbstractContextManager[object]:
        """Move this thread into the namespace for a `with` block."""


class DeviceHandle(Protocol):
    """A network device as seen by what is attached to it."""

    @property
    def netns(self) -> NetnsHandle:
        """The namespace that the device is in."""

    @property
    def ifindex(self) -> int:
        """The kernel's number for the device."""


def require_program(given: object, doing: str) -> None:
    """Raise `WrongArgument` unless it is a program; `doing` is what it is given for."""
    if not hasattr(type(given), "verified_insns"):
        hint = f'it takes a Program, not {given!r}: write object.program("NAME")'
        raise WrongArgument(doing, hint=hint)


def require_map(given: object, doing: str) -> None:
    """Raise `WrongArgument` unless it is a map."""
    if not hasattr(type(given), "value_size"):
        raise WrongArgument(doing, hint=f'it takes a Map, not {given!r}: write object.map("NAME")')
