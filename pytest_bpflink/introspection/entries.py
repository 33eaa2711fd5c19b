"""Links, programs and maps that were found on the system, with their types and names."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import BpfMapInfo, BpfProgInfo, LinkType, MapType, ProgType
from pytest_bpflink.errors import BpfError
from pytest_bpflink.introspection import ids
from pytest_bpflink.introspection.linkinfo import LinkInfo, read_link_info

if TYPE_CHECKING:
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
        name = f" {self.name}" if self.name else ""
        return f"{self.kind} {self.id} ({self.type.name}{name})"


def entry_of(key: Key) -> Entry | None:
    """Look at an object by its id; None if the object is gone, or just being made."""
    kind, number = key
    with contextlib.ExitStack() as undo:
        try:
            fd = undo.enter_context(ids.opened(kind, number))
        except BpfError:
            return None
        return _READERS[kind](fd)


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


_READERS = {"link": _link, "program": _program, "map": _map}
