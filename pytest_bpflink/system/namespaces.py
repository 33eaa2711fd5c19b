"""Network namespaces: which this process can find, and entering one of them."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.system import procfs
from pytest_bpflink.system.libc import libc
from pytest_bpflink.system.mountinfo import mounted

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLONE_NEWNET = 0x40000000

OWN = "/proc/thread-self/ns/net"
"""The namespace of this thread; namespaces are a thread's, not a process's."""


def set_network_namespace(fd: int) -> None:
    """Move this thread into a namespace. Raises `OSError`: EPERM without CAP_SYS_ADMIN."""
    if libc().setns(fd, _CLONE_NEWNET):  # os.setns came with Python 3.12
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def inside(path: str) -> Iterator[None]:
    """Move this thread into a namespace for a `with` block, and then back. Raises `OSError`."""
    if path == OWN:
        yield
        return
    flags = os.O_RDONLY | os.O_CLOEXEC
    with contextlib.ExitStack() as undo:
        home, there = os.open(OWN, flags), os.open(path, flags)
        for fd in (home, there):
            undo.callback(os.close, fd)
        set_network_namespace(there)
        undo.callback(set_network_namespace, home)
        yield


def network_namespaces() -> dict[int, tuple[str, str]]:
    """Return the namespaces with a process or a mount, by inode: a path, and what to call it.

    A namespace that only a descriptor keeps is not among them: see `held_by`.
    """
    found = {os.stat(OWN).st_ino: (OWN, "this network namespace")}
    named = [(path, f"netns {path.name}") for path in Path("/run/netns").glob("*")]
    # Mounts keep namespaces without a process, as container runtimes do.
    kept = [mount.path for mount in mounted("nsfs") if str(mount.root).startswith("net:[")]
    named += [(path, f"netns {path}") for path in kept]
    pids = sorted(procfs.processes())
    of_processes = [(Path(f"/proc/{pid}/ns/net"), f"netns of pid {pid}") for pid in pids]
    for path, name in (*named, *of_processes):
        with contextlib.suppress(OSError):
            found.setdefault(path.stat().st_ino, (str(path), name))
    return found


def held_by(pid: int) -> Iterator[tuple[int, str]]:
    """Yield the inode of each namespace that a process has open, and a path to it."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                if os.readlink(entry.path).startswith("net:["):
                    yield os.stat(entry.path).st_ino, entry.path
