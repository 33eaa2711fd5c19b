"""Where programs are attached without a link: to cgroups, devices, network namespaces, sockmaps.

Such an attachment holds its program without a descriptor, link or pin. A program's type says where
it may be attached, so that only a few places are asked.
"""

from __future__ import annotations

import contextlib
import os
import socket
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import (
    CGROUP_ATTACH_TYPES,
    AttachType,
    BpfMapInfo,
    BpfProgInfo,
    MapType,
    ProgType,
)
from pytest_bpflink.errors import BpfError
from pytest_bpflink.introspection import descriptors, ids, pins
from pytest_bpflink.introspection.prog_query import prog_query, xdp_query
from pytest_bpflink.introspection.tc_filters import programs_in_filters
from pytest_bpflink.system import namespaces, procfs
from pytest_bpflink.system.cgroup2 import cgroup2_mount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping


@dataclass(frozen=True)
class CgroupHolder:
    """A cgroup that the program is attached to: by a link if one is a holder too, else without."""

    path: Path
    attach_type: AttachType

    def __str__(self) -> str:
        return f"the attachment to cgroup {self.path} ({self.attach_type.name})"


@dataclass(frozen=True)
class DeviceHolder:
    """A network device that the program is attached to: by a link if one is a holder too."""

    name: str
    netns_ino: int
    hook: str
    """`XDP`, an attach type of tcx or netkit, or the side of a traffic control filter."""

    def __str__(self) -> str:
        return f"the attachment to device {self.name} in netns {self.netns_ino} ({self.hook})"


@dataclass(frozen=True)
class NetnsHolder:
    """A network namespace that the program is attached to: by a link if one is a holder too."""

    ino: int
    attach_type: AttachType

    def __str__(self) -> str:
        return f"the attachment to netns {self.ino} ({self.attach_type.name})"


@dataclass(frozen=True)
class SockmapHolder:
    """A sockmap or sockhash that the program is attached to: by a link if one is a holder too."""

    map_id: int
    attach_type: AttachType

    def __str__(self) -> str:
        return f"the attachment to map {self.map_id} ({self.attach_type.name})"


Attachment = CgroupHolder | DeviceHolder | NetnsHolder | SockmapHolder


@dataclass(frozen=True)
class Places:
    """Where to look for attachments."""

    cgroups: tuple[Path, ...]
    """Cgroups, each with all below it."""
    netns: Mapping[int, str]
    """Network namespaces by inode, with a path to each."""
    pids: Iterable[int]
    """Processes that may hold sockmaps."""
    mounts: Iterable[Path]
    """BPF file systems in which sockmaps may be pinned."""


def everywhere() -> Places:
    """Return all places that this process can see."""
    cgroups: tuple[Path, ...] = ()
    with contextlib.suppress(BpfError):  # cgroup2 is not mounted
        cgroups = (cgroup2_mount(),)
    found = namespaces.network_namespaces()
    netns = {ino: path for ino, (path, _) in found.items()}
    netns = dict(namespaces.held_by(os.getpid())) | netns
    return Places(cgroups, netns, procfs.processes(), pins.readable_mounts())


def attachable(programs: Iterable[int]) -> dict[int, ProgType]:
    """Return the types of the live programs that may be attached without a link."""
    found = {}
    for number in programs:
        with contextlib.suppress(BpfError), ids.opened("program", number) as fd:
            kind = libbpf.read_info(fd, BpfProgInfo, doing="ask for a program's type").type
            if kind in _SEARCHES:
                found[number] = ProgType(kind)
    return found


def attachments(
    programs: Mapping[int, ProgType], places: Callable[[], Places]
) -> Iterator[tuple[int, Attachment]]:
    """Yield the attachments of programs, by a link or without one, that can be found in `places`.

    `places` is called only if there are programs to look for.
    """
    searches = {_SEARCHES[kind] for kind in programs.values()}
    where = places() if searches else None
    for search in searches:
        if where:
            yield from ((number, held) for number, held in search(where) if number in programs)


def _cgroups(places: Places) -> Iterator[tuple[int, Attachment]]:
    for top in places.cgroups:
        for directory, _, _ in os.walk(top):
            with contextlib.suppress(OSError), _opened(directory) as fd:  # removed meanwhile
                for number, attach_type in _attached_to(fd, CGROUP_ATTACH_TYPES, directory):
                    yield number, CgroupHolder(Path(directory), attach_type)


def _netns(places: Places) -> Iterator[tuple[int, Attachment]]:
    for ino, path in places.netns.items():
        with contextlib.suppress(OSError), _opened(path) as fd:
            for number, attach_type in _attached_to(fd, [AttachType.FLOW_DISSECTOR], path):
                yield number, NetnsHolder(ino, attach_type)


def _xdp(places: Places) -> Iterator[tuple[int, Attachment]]:
    def hooks(ifindex: int) -> Iterator[tuple[int, str]]:
        with contextlib.suppress(BpfError):
            for number in xdp_query(ifindex, where=f"device {ifindex}"):
                yield number, "XDP"

    return _devices(places, hooks)


def _classifiers(places: Places) -> Iterator[tuple[int, Attachment]]:
    def hooks(ifindex: int) -> Iterator[tuple[int, str]]:
        for side, number in programs_in_filters(ifindex):
            yield number, f"tc filter, {side}"
        for number, attach_type in _attached_to(ifindex, _CLASSIFIER_TYPES, f"device {ifindex}"):
            yield number, attach_type.name

    return _devices(places, hooks)


def _devices(
    places: Places, hooks: Callable[[int], Iterable[tuple[int, str]]]
) -> Iterator[tuple[int, Attachment]]:
    for ino, path in places.netns.items():
        found: list[tuple[int, Attachment]] = []
        with contextlib.suppress(OSError), namespaces.inside(path):  # gone meanwhile
            for ifindex, name in socket.if_nameindex():
                found += [(each, DeviceHolder(name, ino, hook)) for each, hook in hooks(ifindex)]
        yield from found


def _sockmaps(places: Places) -> Iterator[tuple[int, Attachment]]:
    seen = set()
    for map_id, fd in _open_sockmaps(places):
        if map_id not in seen:
            seen.add(map_id)
            for number, attach_type in _attached_to(fd, _SOCKMAP_TYPES, f"map {map_id}"):
                yield number, SockmapHolder(map_id, attach_type)


def _open_sockmaps(places: Places) -> Iterator[tuple[int, int]]:
    """Yield the ids of sockmaps that processes hold or that are pinned, each with a descriptor."""
    for pid in places.pids:
        with contextlib.suppress(PermissionError):
            for (_, number), fd in descriptors.held_by(pid, {"map"}):
                mine = pid == os.getpid()
                # The process has ended or closed the descriptor, or duplicating is refused.
                with (
                    contextlib.suppress(OSError),
                    nullcontext(fd) if mine else descriptors.duplicated(pid, fd) as same,
                ):
                    if _is_sockmap(same):
                        yield number, same
    for mount in places.mounts:
        for (kind, number), path in pins.pinned_in(mount):
            if kind == "map":
                with contextlib.suppress(BpfError), pins.opened(path) as fd:  # gone meanwhile
                    if _is_sockmap(fd):
                        yield number, fd


def _is_sockmap(fd: int) -> bool:
    about = libbpf.read_info(fd, BpfMapInfo, doing="ask for a map's type")
    return about.type in {MapType.SOCKMAP, MapType.SOCKHASH}


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _attached_to(
    target: int, attach_types: Iterable[AttachType], where: str
) -> Iterator[tuple[int, AttachType]]:
    for attach_type in attach_types:
        # The kernel lacks the attach type, or can't be asked about it (sockmaps before 5.17).
        with contextlib.suppress(BpfError):
            for number in prog_query(target, attach_type, where=where).prog_ids:
                yield number, attach_type


_CLASSIFIER_TYPES = (
    AttachType.TCX_INGRESS,
    AttachType.TCX_EGRESS,
    AttachType.NETKIT_PRIMARY,
    AttachType.NETKIT_PEER,
)
_SOCKMAP_TYPES = (
    AttachType.SK_SKB_STREAM_PARSER,
    AttachType.SK_SKB_STREAM_VERDICT,
    AttachType.SK_SKB_VERDICT,
    AttachType.SK_MSG_VERDICT,
)
_OF_CGROUPS = (
    ProgType.CGROUP_SKB,
    ProgType.CGROUP_SOCK,
    ProgType.SOCK_OPS,
    ProgType.CGROUP_DEVICE,
    ProgType.CGROUP_SOCK_ADDR,
    ProgType.CGROUP_SYSCTL,
    ProgType.CGROUP_SOCKOPT,
    ProgType.LSM,
)
_SEARCHES = {
    **dict.fromkeys(_OF_CGROUPS, _cgroups),
    ProgType.XDP: _xdp,
    ProgType.SCHED_CLS: _classifiers,
    ProgType.FLOW_DISSECTOR: _netns,
    ProgType.SK_SKB: _sockmaps,
    ProgType.SK_MSG: _sockmaps,
}
