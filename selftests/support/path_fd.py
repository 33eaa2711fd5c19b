"""Pins by relative paths and below a directory's descriptor, and a BPF FS that is mounted nowhere.

`Link.pin()` makes paths absolute, and libbpf takes descriptors since 1.3: this calls the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import TYPE_CHECKING

from pytest_bpflink import BpfError
from pytest_bpflink.binding.bpf_syscall import bpf

if TYPE_CHECKING:
    from collections.abc import Iterator

_OBJ_PIN, _OBJ_GET = 6, 7
_PATH_FD = 1 << 14

# The numbers of these calls are the same on all architectures.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_SET_STRING, _CREATE = 1, 6


class _Object(ctypes.Structure):
    """The part of `union bpf_attr` for OBJ_PIN and OBJ_GET."""

    _fields_ = (
        ("pathname", ctypes.c_uint64),
        ("bpf_fd", ctypes.c_uint32),
        ("file_flags", ctypes.c_uint32),
        ("path_fd", ctypes.c_int32),
        ("padding", ctypes.c_uint32),
    )


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[int]:
    """Give a descriptor of a file or directory, for its path alone."""
    descriptor = os.open(path, os.O_PATH)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def pin_at(fd: int, path: str, *, below: int = 0, flags: int | None = None) -> None:
    """Pin what a descriptor holds at a path below a directory, by its descriptor (6.5)."""
    _object(_OBJ_PIN, path, below, flags, bpf_fd=fd)


def get_at(path: str, *, below: int = 0, flags: int | None = None) -> int:
    """Return a new descriptor of what is pinned at a path below a directory (6.5)."""
    return _object(_OBJ_GET, path, below, flags)


def _object(command: int, path: str, below: int, flags: int | None, *, bpf_fd: int = 0) -> int:
    name = ctypes.create_string_buffer(os.fsencode(path))
    attributes = _Object(
        pathname=ctypes.addressof(name),
        bpf_fd=bpf_fd,
        file_flags=flags if flags is not None else _PATH_FD if below else 0,
        path_fd=below,
    )
    doing = f"{'pin' if command == _OBJ_PIN else 'open'} {path} below a descriptor"
    return bpf(command, attributes, doing=doing)


@contextlib.contextmanager
def detached_bpffs(**options: str) -> Iterator[int]:
    """Make a BPF FS, and give the descriptor of its mount, which is at no path (5.2)."""
    context = open_bpffs()
    try:
        mount = mount_bpffs(context, **options)
    finally:
        os.close(context)
    try:
        yield mount
    finally:
        os.close(mount)


def open_bpffs() -> int:
    """Return a descriptor for the options of a BPF FS to be made, which is this process's."""
    return _call(_FSOPEN, b"bpf", 0, doing="open a BPF FS")


def mount_bpffs(context: int, **options: str) -> int:
    """Make a BPF FS with options, and return the descriptor of its mount."""
    for name, value in options.items():
        set_option(context, name, value)
    _call(_FSCONFIG, context, _CREATE, None, None, 0, doing="make a BPF FS")
    return _call(_FSMOUNT, context, 0, 0, doing="mount a BPF FS")


def set_option(context: int, name: str, value: str) -> None:
    """Set an option of a BPF FS to be made. Raises `BpfError`."""
    doing = f"set {name}={value}"
    _call(_FSCONFIG, context, _SET_STRING, name.encode(), value.encode(), 0, doing=doing)


def _call(number: int, *arguments: int | bytes | None, doing: str) -> int:
    found: int = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    if found < 0:
        raise BpfError(ctypes.get_errno(), doing)
    return found
