"""Links, programs and maps that were found on the system, with their types and names."""

from __future__ import annotations

import contextlib
import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import BpfMapInfo, BpfProgInfo, LinkType, MapType, ProgType
from pytest_bpflink.errors import BpfError
from pytest_bpflink.introspection import ids, pins
from pytest_bpflink.introspection.descriptors import duplicated, held_by, key_of, map_type
from pytest_bpflink.introspection.linkinfo import LinkInfo, read_link_info
from pytest_bpflink.system import procfs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from pytest_bpflink.introspection.holders import Holder
    from pytest_bpflink.introspection.ids import Key, Kind


@dataclass(frozen=True)
class Entry:
    """A link, program or map that was alive when it was looked at; equal by kind and id.

    An `Entry` does not hold the object, which may be gone since: see `is_alive`.
    """

    kind: Kind
    """`link`, `program` or `map`."""
    id: int
    """The kernel's id of the object, unique among objects of its kind."""
    type: LinkType | ProgType | MapType = field(compare=False)
    """Of a map that no process and no pin holds: `MapType.UNSPEC`, since it can't be opened safely.

    A descriptor that is opened by id and closed may make the kernel keep a program array for good.
    """
    name: str = field(default="", compare=False)
    """The name of a program or map, as far as the kernel keeps it; of a link, its target."""

    @property
    def is_alive(self) -> bool:
        """Whether the object still exists. Programs and maps outlive their use by up to 300 ms."""
        return ids.is_alive(self.kind, self.id)

    def holders(self) -> tuple[Holder, ...]:
        """Return the holders, as `Link.holders()`; none if only the kernel holds the object."""
        from pytest_bpflink.introspection.holders import holders

        return holders(self.kind, self.id)

    def __str__(self) -> str:
        if self.type is MapType.UNSPEC:
            return f"{self.kind} {self.id}"
        name = f" {self.name}" if self.name else ""
        return f"{self.kind} {self.id} ({self.type.name}{name})"


def entry_of(key: Key) -> Entry | None:
    """Look at an object; None if it is gone, or just being made."""
    return next(iter(entries_of([key])), None)


def entries_of(keys: Iterable[Key]) -> tuple[Entry, ...]:
    """Look at objects, in one search for the holders of maps; those that are gone are left out."""
    keys = list(keys)
    wanted = {number for kind, number in keys if kind == "map"}
    maps = _maps(wanted) if wanted else {}
    found = (maps.get(key[1]) if key[0] == "map" else _by_id(key) for key in keys)
    return tuple(entry for entry in found if entry)


def _by_id(key: Key) -> Entry | None:
    kind, number = key
    with contextlib.suppress(BpfError), ids.opened(kind, number) as fd:
        return _link(fd) if kind == "link" else _program(fd)
    return None


def _maps(wanted: set[int]) -> dict[int, Entry]:
    """Look at maps through their holders, since a map may not be opened by id (see `ids`)."""
    found: dict[int, Entry] = {}
    for entry in _held_maps(wanted):
        found[entry.id] = entry
        if found.keys() >= wanted:
            return found
    for number in wanted - found.keys():
        if ids.is_alive("map", number):
            found[number] = Entry("map", number, MapType.UNSPEC)
    return found


def _held_maps(wanted: Collection[int]) -> Iterator[Entry]:
    """Yield maps that a process or a pin holds, perhaps more than once: first this process's."""
    for pid in (os.getpid(), *procfs.processes()):
        with contextlib.suppress(PermissionError):
            for key, fd in held_by(pid, {"map"}):
                if key[1] in wanted:
                    yield from _held_map(key, pid, fd)
    for mount in pins.readable_mounts():
        for (kind, number), path in pins.pinned_in(mount):
            if kind == "map" and number in wanted:
                with contextlib.suppress(BpfError), pins.opened(path) as fd:  # gone meanwhile
                    yield _map(fd)


def _held_map(key: Key, pid: int, fd: int) -> Iterator[Entry]:
    mine = pid == os.getpid()
    # The process has ended or closed the descriptor, or duplicating is refused.
    with contextlib.suppress(OSError), nullcontext(fd) if mine else duplicated(pid, fd) as same:
        if key_of(same) == key:
            yield _map(same)
            return
    with contextlib.suppress(OSError):
        yield Entry("map", key[1], map_type(pid, fd))


def _link(fd: int) -> Entry:
    info = read_link_info(fd)
    return Entry("link", info.id, info.type, _where(info))


def _where(info: LinkInfo) -> str:
    facts = {"tp_name", "cgroup_id", "ifindex", "netns_ino", "target_name", "prog_id"}
    found = {name: value for name, value in vars(info).items() if name in facts and value}
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _program(fd: int) -> Entry:
    info = libbpf.read_info(fd, BpfProgInfo, doing="read a program's info")
    return Entry("program", info.id, ProgType(info.type), info.name.decode(errors="replace"))


def _map(fd: int) -> Entry:
    info = libbpf.read_info(fd, BpfMapInfo, doing="read a map's info")
    return Entry("map", info.id, MapType(info.type), info.name.decode(errors="replace"))
