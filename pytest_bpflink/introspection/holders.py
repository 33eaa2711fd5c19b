"""Who holds a BPF object: descriptors, pins, other BPF objects, and attachments without a link.

Holders that can't be found are a descriptor in flight over SCM_RIGHTS, and a socket, a perf event
or a traffic control action that has the program; without privilege, also other users' processes.
`descriptors` says which links of other processes are missed in containers.
"""

from __future__ import annotations

import contextlib
import ctypes
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import BpfProgInfo
from pytest_bpflink.errors import BpfError
from pytest_bpflink.introspection import ids, linkinfo, pins
from pytest_bpflink.introspection.attachments import (
    Attachment,
    attachable,
    attachments,
    everywhere,
)
from pytest_bpflink.introspection.descriptors import held_by
from pytest_bpflink.system import procfs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from pytest_bpflink.introspection.ids import Key, Kind


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


@dataclass(frozen=True)
class ObjectHolder:
    """Another BPF object: a link holds its program or map, a program its maps."""

    kind: Kind
    id: int

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


Holder = DescriptorHolder | PinHolder | ObjectHolder | Attachment


def holders(kind: Kind, number: int) -> tuple[Holder, ...]:
    """Find the holders of an object: descriptors by pid, pins, other objects, attachments."""
    return holders_of([(kind, number)])[kind, number]


def holders_of(keys: Iterable[Key]) -> dict[Key, tuple[Holder, ...]]:
    """Find the holders of several objects, in one search."""
    found: dict[Key, list[Holder]] = {key: [] for key in keys}
    kinds = {kind for kind, _ in found}
    searches: list[Callable[[], Iterator[tuple[Key, Holder]]]] = [
        partial(_descriptors, kinds),
        _pins,
    ]
    if kinds != {"link"}:
        programs = {number for kind, number in found if kind == "program"}
        searches += [_links, _programs, partial(_attachments, programs)]
    for search in searches:
        for key, holder in search():
            if key in found:
                found[key].append(holder)
    return {key: tuple(holding) for key, holding in found.items()}


def _descriptors(kinds: Collection[Kind]) -> Iterator[tuple[Key, Holder]]:
    for pid in procfs.processes():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            held = list(held_by(pid, kinds))
            command = command_of(pid) if held else ""
            for key, fd in held:
                yield key, DescriptorHolder(pid, fd, command)


def command_of(pid: int) -> str:
    """Return the name of a process, as far as the kernel keeps it. Raises `OSError`."""
    return procfs.read(f"/proc/{pid}/comm").decode(errors="replace").strip()


def _pins() -> Iterator[tuple[Key, Holder]]:
    for mount in pins.readable_mounts():
        for key, path in pins.pinned_in(mount):
            yield key, PinHolder(path)


def _links() -> Iterator[tuple[Key, Holder]]:
    for info in linkinfo.infos():
        holder = ObjectHolder("link", info.id)
        yield ("program", info.prog_id), holder
        yield ("map", getattr(info, "map_id", 0)), holder


def _programs() -> Iterator[tuple[Key, Holder]]:
    for number in ids.alive("program"):
        with contextlib.suppress(BpfError), ids.opened("program", number) as fd:
            for map_id in _maps_of(fd):
                yield ("map", map_id), ObjectHolder("program", number)


def _maps_of(program_fd: int) -> list[int]:
    info = libbpf.read_info(program_fd, BpfProgInfo, doing="ask for a program's maps")
    numbers = (ctypes.c_uint32 * info.nr_map_ids)()
    count = info.nr_map_ids
    info = BpfProgInfo(nr_map_ids=count, map_ids=ctypes.addressof(numbers) if count else 0)
    libbpf.refresh_info(program_fd, info, doing="ask for a program's maps")
    return list(numbers)


def _attachments(programs: set[int]) -> Iterator[tuple[Key, Holder]]:
    for number, attachment in attachments(attachable(programs), everywhere):
        yield ("program", number), attachment
