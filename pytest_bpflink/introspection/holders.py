"""Who holds a BPF object: descriptors, pins, other BPF objects, cgroups.

Holders that can't be found are a descriptor in flight over SCM_RIGHTS, and a perf event, device or
network namespace to which a program is attached without a link; without privilege, also other
users' processes. `descriptors` says which links of other processes are missed in containers.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import CGROUP_ATTACH_TYPES, AttachType, BpfProgInfo
from pytest_bpflink.errors import BpfError
from pytest_bpflink.introspection import ids, linkinfo, pins
from pytest_bpflink.introspection.descriptors import held_by
from pytest_bpflink.introspection.prog_query import prog_query
from pytest_bpflink.system import procfs
from pytest_bpflink.system.cgroup2 import cgroup2_mount

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

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


@dataclass(frozen=True)
class CgroupHolder:
    """A cgroup that the program is attached to: by a link if one is a holder too, else without."""

    path: Path
    attach_type: AttachType

    def __str__(self) -> str:
        return f"the attachment to cgroup {self.path} ({self.attach_type.name})"


Holder = DescriptorHolder | PinHolder | ObjectHolder | CgroupHolder


def holders(kind: Kind, number: int) -> tuple[Holder, ...]:
    """Find the holders of an object: descriptors in the order of pids, pins, objects, cgroups."""
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
        searches += [_links, _programs, partial(cgroups, {number for _, number in found})]
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


def cgroups(programs: set[int]) -> Iterator[tuple[Key, Holder]]:
    """Yield the cgroups that some programs are attached to, by a link or without one."""
    with contextlib.suppress(BpfError):  # no cgroup2
        for directory, _, _ in os.walk(cgroup2_mount()):
            with contextlib.suppress(OSError):  # the cgroup is removed meanwhile
                for attach_type, attached in _attached_to(directory):
                    for number in programs.intersection(attached):
                        yield ("program", number), CgroupHolder(Path(directory), attach_type)


def _attached_to(cgroup: str) -> Iterator[tuple[AttachType, tuple[int, ...]]]:
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for attach_type in CGROUP_ATTACH_TYPES:
            with contextlib.suppress(BpfError):  # the kernel lacks this attach type
                yield attach_type, prog_query(fd, attach_type, where=cgroup).prog_ids
    finally:
        os.close(fd)
