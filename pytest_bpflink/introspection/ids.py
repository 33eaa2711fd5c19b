"""Links, programs and maps by their ids, and a note of the objects that this process made.

Ids only grow (a kernel has two billion for each kind), so objects that were made since some moment
have ids above the highest of that moment.

**Open no map by its id, except one whose type is known.** When the last descriptor and the last pin
of a PROG_ARRAY are gone, the kernel takes a reference and clears the array in a work item, which
puts the reference. A descriptor that is opened by id and closed while the work item is pending
makes the kernel take a second reference, which nothing puts: prog_array_map_clear() ignores that
schedule_work() returned false. The map then stays until the kernel ends (seen on 6.12, 6.18 and
7.2). `is_alive` opens nothing, and `entries` looks at a map through its holders.

Links and programs may be opened by id at any time. The kernel gives no descriptor of one whose last
reference is gone (bpf_link_inc_not_zero(), bpf_prog_inc_not_zero()), and a link or program, unlike
a map, begins to end only with that reference. If its holders put theirs meanwhile, it ends when the
descriptor is closed, in the same way.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from typing import TYPE_CHECKING, Literal

from pytest_bpflink.binding import libbpf

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["link", "program", "map"]
Key = tuple[Kind, int]
"""A BPF object: its kind, and its id among the objects of that kind."""

KINDS: tuple[Kind, ...] = ("link", "program", "map")

_SHORT = {"link": "link", "program": "prog", "map": "map", "btf": "btf"}

# The objects that this process made in the `with` block of noting(); None outside of one.
_made: set[Key] | None = None


def alive(kind: Kind, after: int = 0) -> Iterator[int]:
    """Yield the ids of all objects of a kind above `after`, in ascending order (CAP_SYS_ADMIN)."""
    found = ctypes.c_uint32(after)
    function, doing = f"bpf_{_SHORT[kind]}_get_next_id", f"enumerate {kind}s"
    end = errno.ENOENT
    # Called several times for each test: the end of the list shall raise no exception.
    while not libbpf.call(function, found.value, ctypes.byref(found), doing=doing, answer=end):
        yield found.value


def open_by_id(kind: Kind | Literal["btf"], number: int) -> int:
    """Return a descriptor of an object, which the caller closes.

    Raises `BpfError`: ENOENT for an object that is gone, EAGAIN for one that is just being made,
    EPERM without CAP_SYS_ADMIN.
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
    """Whether there is such an object, even if it is just being freed; without opening it."""
    return next(alive(kind, number - 1), None) == number


def note_made(kind: Kind, number: int) -> None:
    """Note that this process made an object that may outlive its descriptors."""
    if _made is not None:
        _made.add((kind, number))


@contextlib.contextmanager
def noting() -> Iterator[set[Key]]:
    """Collect the objects that this process makes during a `with` block."""
    global _made  # noqa: PLW0603 - of the process, as the objects are
    outer, _made = _made, set()
    try:
        yield _made
    finally:
        _made = outer
