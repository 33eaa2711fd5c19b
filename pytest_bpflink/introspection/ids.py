"""Links, programs and maps by the numbers that the kernel gives them.

Ids only grow (a kernel has two billion of each kind), so what was made since some moment has ids
above the highest of that moment. And a note of what this process made, where somebody asks for one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from typing import TYPE_CHECKING, Literal

from pytest_bpflink.binding import libbpf
from pytest_bpflink.errors import BpfError

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["link", "program", "map"]
Key = tuple[Kind, int]
"""A BPF object: each kind has numbers of its own."""

KINDS: tuple[Kind, ...] = ("link", "program", "map")

_SHORT = {"link": "link", "program": "prog", "map": "map", "btf": "btf"}

# None: nobody wants to know.
_made: set[Key] | None = None


def alive(kind: Kind, after: int = 0) -> Iterator[int]:
    """Yield the ids of all objects of a kind above `after`, in ascending order (CAP_SYS_ADMIN)."""
    found = ctypes.c_uint32(after)
    function, doing = f"bpf_{_SHORT[kind]}_get_next_id", f"enumerate {kind}s"
    end = errno.ENOENT
    # Asked several times for each test: no exception is made where all is well.
    while not libbpf.call(function, found.value, ctypes.byref(found), doing=doing, answer=end):
        yield found.value


def open_by_id(kind: Kind | Literal["btf"], number: int) -> int:
    """Return a descriptor, which is the caller's to close.

    Raises `BpfError`: ENOENT for what is gone, EAGAIN for what is just being made, EPERM without
    CAP_SYS_ADMIN.
    """
    doing = f"open {kind} {number} by id"
    return libbpf.call(f"bpf_{_SHORT[kind]}_get_fd_by_id", number, doing=doing)


@contextlib.contextmanager
def opened(kind: Kind | Literal["btf"], number: int) -> Iterator[int]:
    """Hold an object for the length of a `with` block. Raises `BpfError`, as `open_by_id`."""
    fd = open_by_id(kind, number)
    try:
        yield fd
    finally:
        os.close(fd)


def is_alive(kind: Kind, number: int) -> bool:
    """Whether there is such an object; looking holds it for a moment."""
    try:
        os.close(open_by_id(kind, number))
    except BpfError as error:
        return error.errno == errno.EAGAIN
    return True


def is_listed(kind: Kind, number: int) -> bool:
    """Whether there is such an object, or one that is just being freed; looking holds nothing."""
    return next(alive(kind, number - 1), None) == number


def note_made(kind: Kind, number: int) -> None:
    """Note that this process made an object that may outlive its descriptors."""
    if _made is not None:
        _made.add((kind, number))


@contextlib.contextmanager
def noting() -> Iterator[set[Key]]:
    """Have it noted what this process makes, for the length of a `with` block."""
    global _made  # noqa: PLW0603 - of the process, as the objects are
    outer, _made = _made, set()
    try:
        yield _made
    finally:
        _made = outer
