"""Handles of maps and programs, which own a descriptor or borrow from what owns one."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from pytest_bpflink.binding import libbpf
from pytest_bpflink.errors import BpfError
from pytest_bpflink.introspection.descriptors import require_kind
from pytest_bpflink.introspection.ids import Kind, note_made

if TYPE_CHECKING:
    from pytest_bpflink.binding.btf import Btf


class Reference(Protocol):
    """What a map or a program is known by: libbpf's structure, or a descriptor."""

    @property
    def name(self) -> str:
        """The name in the object, or else the kernel's."""

    @property
    def pointer(self) -> int:
        """Libbpf's structure; 0 where it has none. Raises `BpfError` once the object is closed."""

    @property
    def fd(self) -> int:
        """The descriptor. Raises `BpfError` before loading, and with EBADF once it is closed."""

    @property
    def btf(self) -> Btf | None:
        """The types of the object, or of the map or program itself."""

    @property
    def is_open(self) -> bool:
        """Whether it has a descriptor that must be closed."""

    def pin(self, path: str | os.PathLike[str], doing: str) -> None:
        """Pin it."""

    def close(self) -> None:
        """Release it."""


class Handle:
    """A map or a program. Released by `close()` or the end of a `with` block, unless it is lent."""

    _reference: Reference

    def __init__(self, reference: Reference, *, is_lent: bool = False) -> None:
        self._reference = reference
        self._is_lent = is_lent

    def close(self) -> None:
        """Release what was opened or created; idempotent.

        What is borrowed stays until the `Object`, `Link` or `Program` that has it is closed.
        """
        if not self._is_lent:
            self._reference.close()

    def release(self) -> None:
        """Release what is lent; part of closing what has it."""
        self._reference.close()

    @property
    def pointer(self) -> int:
        """Libbpf's structure of it; 0 where no `Object` of this process has it."""
        return self._reference.pointer

    @property
    def fd(self) -> int:
        """The descriptor, borrowed. Raises `BpfError` before loading, with EBADF once closed."""
        return self._reference.fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        reference = getattr(self, "_reference", None)
        if reference is not None and not self._is_lent and reference.is_open:
            reference.close()  # first: where warnings are errors the next line raises
            text = f"{self!r} was never closed"
            warnings.warn(text, ResourceWarning, stacklevel=1, source=self)


class Descriptor:
    """A descriptor of a map or a program, until `close()`."""

    pointer = 0
    """libbpf has no structure of the map or program."""
    loaded = True
    """The kernel has it."""

    def __init__(self, kind: Kind, fd: int, number: int) -> None:
        self.kind = kind
        self.id = number
        """The kernel's id; known after `close()`, too."""
        self._fd: int | None = fd

    @property
    def fd(self) -> int:
        """The descriptor. Raises `BpfError` with EBADF after `close()`."""
        if self._fd is None:
            raise BpfError(errno.EBADF, f"use {self.kind} {self.id}", hint="it was closed")
        return self._fd

    @property
    def is_open(self) -> bool:
        """Whether it holds the map or program."""
        return self._fd is not None

    def pin(self, path: str | os.PathLike[str], doing: str) -> None:
        """Pin the map or program. Raises `BpfError`."""
        note_made(self.kind, self.id)
        libbpf.call("bpf_obj_pin", self.fd, os.fsencode(path), doing=doing)

    def close(self) -> None:
        """Close it; idempotent."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


def open_pin(kind: Kind, path: str | os.PathLike[str]) -> int:
    """Return a descriptor of a pinned map or program, which the caller closes.

    Raises `BpfError`: ENOENT where there is no pin, EINVAL where an object of another kind is
    pinned, EACCES where the file's mode refuses reading and writing.
    """
    doing = f"open the {kind} pinned at {Path(path)}"
    fd = libbpf.call("bpf_obj_get", os.fsencode(path), doing=doing)
    try:
        require_kind(fd, kind, doing)
    except BpfError:
        os.close(fd)
        raise
    return fd
