"""Who holds a BPF object: descriptors of processes, and pins in BPF file systems.

What cannot be seen: a descriptor in flight over SCM_RIGHTS, a pin in another mount namespace, the
processes of other users without privilege.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink import bpffs, leftovers, libbpf
from pytest_bpflink.errors import BpfError
from pytest_bpflink.link import kind_of_descriptor

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class DescriptorHolder:
    """A process that has the object open."""

    pid: int
    fd: int
    command: str

    def __str__(self) -> str:
        return f"fd {self.fd} of pid {self.pid} ({self.command})"


@dataclass(frozen=True)
class PinHolder:
    """A file in a BPF FS that refers to the object."""

    path: Path

    def __str__(self) -> str:
        return f"pin {self.path}"


Holder = DescriptorHolder | PinHolder


def holders_of_link(link_id: int) -> tuple[Holder, ...]:
    """Find who holds a link, descriptors first, in the order of pids."""
    return (*_descriptors_of_link(link_id), *_pins_of_link(link_id))


_LINK_ID = re.compile(r"^link_id:\s+(\d+)$", re.MULTILINE)


def _descriptors_of_link(link_id: int) -> Iterator[DescriptorHolder]:
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            for fd in sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd")):
                if _link_behind(pid, fd) == link_id:
                    yield DescriptorHolder(
                        pid, fd, Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
                    )


def _link_behind(pid: int, fd: int) -> int | None:
    """Return the id of the link that a process's descriptor is of, None for anything else."""
    with contextlib.suppress(FileNotFoundError):  # closed meanwhile
        if not os.readlink(f"/proc/{pid}/fd/{fd}").startswith(
            ("anon_inode:bpf_link", "anon_inode:bpf-link")
        ):
            return None
        found = _LINK_ID.search(Path(f"/proc/{pid}/fdinfo/{fd}").read_text())
        return int(found[1]) if found else None
    return None


def _pins_of_link(link_id: int) -> Iterator[PinHolder]:
    for mount in sorted(set(bpffs.mounts())):
        if leftovers.is_of_another_session(mount):
            continue  # looking at a pin holds the link, which might be about to end there
        for path in bpffs.pins_below(mount):
            if _link_pinned_at(path) == link_id:
                yield PinHolder(path)


def _link_pinned_at(path: Path) -> int | None:
    try:
        fd = libbpf.call("bpf_obj_get", os.fsencode(path), doing=f"look at {path}")
    except BpfError:  # gone meanwhile
        return None
    try:
        return _link_behind(os.getpid(), fd) if kind_of_descriptor(fd) == "link" else None
    finally:
        os.close(fd)
