"""The mounted BPF file systems, and the BPF objects that are pinned in them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pytest_bpflink.binding import libbpf
from pytest_bpflink.errors import BpfError
from pytest_bpflink.introspection.descriptors import key_of
from pytest_bpflink.system import estates, procfs
from pytest_bpflink.system.libc import libc
from pytest_bpflink.system.mountinfo import mounted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.introspection.ids import Key

# `struct statfs` begins with f_type: a long, but for s390, where it is an unsigned int
# (arch/s390/include/uapi/asm/statfs.h).
_F_TYPE_BYTES = {"s390x": 4}

MAGIC = 0xCAFE4A11
"""`BPF_FS_MAGIC`, the type that statfs(2) gives."""


def mounts() -> Iterator[Path]:
    """Yield the BPF FS mounts that this process sees."""
    return (mount.path for mount in mounted("bpf"))


def pins_below(mount: Path) -> Iterator[Path]:
    """Yield the paths of the pins in a BPF FS.

    Left out are names with a dot. They are the kernel's (`maps.debug`, of CONFIG_BPF_PRELOAD):
    nobody else may make them or look them up.
    """
    for directory, _, names in os.walk(mount):
        for name in sorted(names):
            if "." not in name:
                yield Path(directory, name)


def is_on_bpffs(path: str | os.PathLike[str]) -> bool:
    """Whether a path, or the nearest directory above it that exists, is on a BPF FS."""
    here = Path(os.path.abspath(path))  # not resolve(), which looks up the last name
    while True:
        with contextlib.suppress(OSError):
            return _file_system(here) == MAGIC
        if here == here.parent:
            return False
        here = here.parent


def pinned_in(mount: Path) -> Iterator[tuple[Key, Path]]:
    """Yield each object that is pinned in a BPF FS, which is held for a moment, and its path."""
    for path in pins_below(mount):
        key = None
        with contextlib.suppress(BpfError), opened(path) as fd:  # the pin is gone meanwhile
            key = key_of(fd)
        if key is not None:
            yield key, path


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Hold a pinned object for the length of a `with` block. Raises `BpfError`."""
    fd: int = libbpf.call("bpf_obj_get", os.fsencode(path), doing=f"look at {path}")
    try:
        yield fd
    finally:
        os.close(fd)


def readable_mounts() -> Iterator[Path]:
    """Yield each mounted BPF FS once, except those in the estates of other sessions.

    A mount in another mount namespace is reached through a process there: `/proc/PID/root/...`.
    """
    seen: set[tuple[str, Path]] = set()
    for pid in _one_in_each_mount_namespace():
        with contextlib.suppress(OSError):
            for mount in sorted(mounted("bpf", pid), key=lambda mount: mount.path):
                what = mount.device, mount.root
                # Looking at a pin holds its link, which a test of that session may expect to end.
                if what not in seen and not estates.is_of_another_session(mount.path):
                    inside = str(mount.path).lstrip("/")
                    yield mount.path if pid == os.getpid() else Path(f"/proc/{pid}/root", inside)
                seen.add(what)


def _one_in_each_mount_namespace() -> Iterator[int]:
    seen = set()
    for pid in (os.getpid(), *procfs.processes()):
        with contextlib.suppress(OSError):
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
            if namespace not in seen:
                seen.add(namespace)
                yield pid


def _file_system(path: Path) -> int:
    """f_type of statfs(2), which `os.statvfs` leaves out."""
    buffer = ctypes.create_string_buffer(256)
    if libc().statfs(os.fsencode(path), buffer):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    return _first_member(buffer.raw, _F_TYPE_BYTES.get(platform.machine(), 8), sys.byteorder)


def _first_member(structure: bytes, size: int, order: Literal["little", "big"]) -> int:
    """Return 32 bits of a structure's first member, an integer of SIZE bytes."""
    return int.from_bytes(structure[:size], order) & 0xFFFFFFFF
