"""Which BPF objects processes have open.

A descriptor of another process is duplicated (pidfd_getfd(2), 5.6) to read the object's id. fdinfo
in /proc has the id, too, but to print it the kernel runs a function of the link's type, and 6.18.15
oopses in the function of KPROBE_MULTI for links without cookies. The duplicate holds the object for
some microseconds, as reading fdinfo does.

Where duplicating is refused, by a container's seccomp filter or Yama's `ptrace_scope` 3, fdinfo is
read after all, but for a link only if the kernel can't have the bug.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import BpfNumber, MapType
from pytest_bpflink.errors import BpfError
from pytest_bpflink.system import procfs
from pytest_bpflink.system.libc import libc

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pytest_bpflink.introspection.ids import Key, Kind

# By the answer of `kind_of_descriptor`.
_KINDS: dict[str, Kind] = {"link": "link", "prog": "program", "map": "map"}
_ALL = frozenset(_KINDS.values())

_PIDFD_GETFD = 438  # the same on all architectures that libbpf runs on; glibc 2.36 has a wrapper


def held_by(pid: int, kinds: Collection[Kind] = _ALL) -> Iterator[tuple[Key, int]]:
    """Yield each BPF object of some kinds that a process has open, with the descriptor.

    A process that is gone has none. Fewer `kinds` are faster, since only their ids are read. Raises
    `PermissionError` for a process that this one may not look into.
    """
    find = key_of if pid == os.getpid() else partial(_key_of_another, pid)
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for fd in sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd")):
            key = find(fd, kinds)
            if key is not None:
                yield key, fd


def kind_of_descriptor(fd: int, pid: int | str = "self") -> str:
    """Return the kind of a process's descriptor: `link`, `map`, `prog`, or the file's name.

    The info of an object does not say of which kind it is, so the name of the anonymous inode
    decides: `bpf-map`, `bpf-prog`, `bpf_link` or `bpf-link`.
    """
    name = os.readlink(f"/proc/{pid}/fd/{fd}").removeprefix("anon_inode:").strip("[]")
    return name[4:] if name.startswith(("bpf-", "bpf_")) else name


def require_kind(fd: int, kind: Kind, doing: str) -> None:
    """Raise `BpfError` with EINVAL for a descriptor of another kind, EBADF for one not open."""
    try:
        found = kind_of_descriptor(fd)
    except OSError as error:
        raise BpfError(errno.EBADF, doing, hint="the descriptor is not open") from error
    known = _KINDS.get(found)
    if known != kind:
        what = f"a {known}" if known else found
        raise BpfError(errno.EINVAL, doing, hint=f"it is {what}, not a {kind}")


def key_of(fd: int, kinds: Collection[Kind] = _ALL) -> Key | None:
    """Return the BPF object behind a descriptor of this process; None for any other file."""
    try:
        kind = _KINDS.get(kind_of_descriptor(fd))
        if kind and kind in kinds:
            return kind, libbpf.read_info(fd, BpfNumber, doing="ask for an id").id
    except (FileNotFoundError, BpfError):  # closed meanwhile
        pass
    return None


def _key_of_another(pid: int, fd: int, kinds: Collection[Kind]) -> Key | None:
    with contextlib.suppress(FileNotFoundError):  # closed meanwhile
        kind = kind_of_descriptor(fd, pid)
        if _KINDS.get(kind) not in kinds:
            return None
        try:
            with duplicated(pid, fd) as duplicate:
                return key_of(duplicate)
        except OSError as error:
            if error.errno == errno.EBADF:  # closed meanwhile
                return None
            if error.errno in {errno.EPERM, errno.ENOSYS}:
                return _read_fdinfo(pid, fd, kind)
            raise
    return None


@contextlib.contextmanager
def duplicated(pid: int, fd: int) -> Iterator[int]:
    """Hold a duplicate of another process's descriptor during a `with` block. Raises `OSError`."""
    pidfd = os.pidfd_open(pid)
    try:
        duplicate: int = libc().syscall(_PIDFD_GETFD, pidfd, fd, ctypes.c_uint(0))
        if duplicate < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(pidfd)
    try:
        yield duplicate
    finally:
        os.close(duplicate)


def _read_fdinfo(pid: int, fd: int, kind: str) -> Key | None:
    if kind == "link" and _reading_may_crash():
        return None
    number = _number_in_fdinfo(f"{kind}_id", pid, fd)
    return (_KINDS[kind], number) if number else None


def map_type(pid: int, fd: int) -> MapType:
    """Return the type that fdinfo has of a map; UNSPEC of another file. Raises `OSError`."""
    return MapType(_number_in_fdinfo("map_type", pid, fd))


def _number_in_fdinfo(name: str, pid: int, fd: int) -> int:
    text = procfs.read(f"/proc/{pid}/fdinfo/{fd}")
    found = re.search(rf"^{name}:\s+(\d+)$".encode(), text, re.MULTILINE)
    return int(found[1]) if found else 0


@cache
def _reading_may_crash() -> bool:
    """Whether the kernel has the function with the bug of 6.18; True where that can't be read."""
    try:
        return b" bpf_kprobe_multi_show_fdinfo" in Path("/proc/kallsyms").read_bytes()
    except OSError:
        return True
