"""Programs, maps and objects as the modules below `program`, `map` and `objects` see them.

A `Program` is a `ProgramHandle`, a `Map` a `MapHandle`, an `Object` an `ObjectHandle`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pytest_bpflink.binding.btf import Btf
    from pytest_bpflink.binding.uapi import AttachType, ProgType


class ObjectHandle(Protocol):
    """The object that a program or a map is borrowed from."""

    @property
    def pointer(self) -> int:
        """The `struct bpf_object *`. Raises `BpfError` with EBADF after `close()`."""

    @property
    def loaded(self) -> bool:
        """Whether the kernel has its programs and maps."""

    @property
    def btf(self) -> Btf | None:
        """The object's types; None when it was compiled without `-g`."""


class ProgramHandle(Protocol):
    """A program that is attached, or put into a link."""

    @property
    def pointer(self) -> int:
        """The `struct bpf_program *`. Raises `BpfError` with EBADF after the object is closed."""

    @property
    def fd(self) -> int:
        """Its descriptor, borrowed. Raises `BpfError` before the object is loaded."""

    @property
    def id(self) -> int:
        """The kernel's number for it."""

    @property
    def name(self) -> str:
        """The name of its function."""

    @property
    def section(self) -> str:
        """What `SEC()` says."""

    @property
    def type(self) -> ProgType:
        """Its program type."""

    @property
    def expected_attach_type(self) -> AttachType:
        """The attach type that it is loaded for."""


class MapHandle(Protocol):
    """A map that a link has, or that global variables are in."""

    @property
    def pointer(self) -> int:
        """The `struct bpf_map *`. Raises `BpfError` with EBADF after the object is closed."""

    @property
    def fd(self) -> int:
        """Its descriptor, borrowed."""

    @property
    def name(self) -> str:
        """Its name in the object."""

    @property
    def loaded(self) -> bool:
        """Whether the kernel has it."""
