"""The target of a link, in words: the path of a cgroup, the name of a device or a function.

Knows where the numbers of `linkinfo` can be looked up; `functions` names functions and events. A
number that can't be looked up is shown as it is. Each place is read once, and only if a link needs
it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import BpfMapInfo
from pytest_bpflink.commands.functions import Functions, event, places
from pytest_bpflink.errors import BpfError
from pytest_bpflink.introspection import ids, linkinfo
from pytest_bpflink.introspection.prog_query import prog_query, xdp_query
from pytest_bpflink.system.cgroup2 import cgroup2_mount
from pytest_bpflink.system.namespaces import inside, network_namespaces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bpflink.introspection.linkinfo import LinkInfo

DETACHED = "detached"

# linux/netfilter.h
_FAMILIES = {2: "ipv4", 3: "arp", 7: "bridge", 10: "ipv6"}
_HOOKS = ("pre_routing", "local_in", "forward", "local_out", "post_routing")

Device = linkinfo.XdpLinkInfo | linkinfo.TcxLinkInfo | linkinfo.NetkitLinkInfo


class Places:
    """Says what numbers mean on this system now; make another one for the next look."""

    def __init__(self) -> None:
        self._functions = Functions()
        # By namespace and place in it; None if the kernel does not tell which programs are there.
        self._programs: dict[tuple[object, ...], Sequence[int] | None] = {}

    def words(self, info: LinkInfo) -> str:
        """Say what a link is attached to."""
        if isinstance(info, linkinfo.TracingLinkInfo):
            return self._functions.traced(info)
        kind = getattr(info, "attach_type", None)
        place = self._place(info)
        return f"{place} ({_lower(kind.name)})" if kind is not None else place

    def _place(self, info: LinkInfo) -> str:
        place: str | int = ""
        match info:
            case linkinfo.CgroupLinkInfo():
                place = info.cgroup_id and self._cgroup(info.cgroup_id)
            case linkinfo.NetnsLinkInfo():
                place = info.netns_ino and self._netns(info.netns_ino)
            case linkinfo.XdpLinkInfo() | linkinfo.TcxLinkInfo() | linkinfo.NetkitLinkInfo():
                place = info.ifindex and self._device(info)
            case linkinfo.SockmapLinkInfo() | linkinfo.StructOpsLinkInfo():
                place = info.map_id and self._map(info, info.map_id)
            case linkinfo.RawTracepointLinkInfo():
                place = info.tp_name
            case linkinfo.IterLinkInfo():
                place = self._iterated(info)
            case linkinfo.PerfEventLinkInfo():
                place = event(info)
            case linkinfo.KprobeMultiLinkInfo():
                place = self._functions.probed(info)
            case linkinfo.TracingMultiLinkInfo():
                place = self._functions.traced_many(info)
            case linkinfo.UprobeMultiLinkInfo():
                place = places(info)
            case linkinfo.NetfilterLinkInfo():
                place = _netfilter(info)
        # 0: the link's target is gone. "": the link's type is not known here.
        return str(place or (DETACHED if place == 0 else ""))

    # Cgroups.

    def _cgroup(self, cgroup_id: int) -> str:
        path = self._cgroups.get(cgroup_id)
        # A removed cgroup that a socket keeps, or one outside of this container's hierarchy.
        return path or f"cgroup {cgroup_id}, which can't be seen here"

    @cached_property
    def _cgroups(self) -> dict[int, str]:
        try:
            mount = cgroup2_mount()
        except BpfError:
            return {}
        found = {os.stat(mount).st_ino: str(mount)}
        waiting = [str(mount)]
        while waiting:
            with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        # A cgroup's id is its directory's inode.
                        found[entry.inode()] = entry.path
                        waiting.append(entry.path)
        return found

    # Network namespaces, and devices in them.

    def _netns(self, ino: int) -> str:
        return self._namespaces.get(ino, ("", f"network namespace {ino}"))[1]

    @cached_property
    def _namespaces(self) -> dict[int, tuple[str, str]]:
        """The network namespaces that can be entered: a path to each, and what to call it."""
        return network_namespaces()

    def _device(self, info: Device) -> str:
        # The kernel names no namespace: each namespace with such a device is a candidate.
        candidates = self._devices.get(info.ifindex, [])
        names = [name for path, name in candidates if self._runs_at(path, info)]
        # A namespace that only a descriptor keeps is in no list.
        unseen = f"device {info.ifindex} in a network namespace that can't be seen here"
        return " or ".join(names) or unseen

    @cached_property
    def _devices(self) -> dict[int, list[tuple[str, str]]]:
        """By index: for each device with it, the path of the namespace, and the device's name."""
        found = defaultdict(list)
        for path, namespace in self._namespaces.values():
            with contextlib.suppress(OSError), inside(path):
                for index, name in socket.if_nameindex():
                    here = namespace.startswith("this")
                    found[index].append((path, name if here else f"{name} in {namespace}"))
        return found

    def _runs_at(self, path: str, info: Device) -> bool:
        place = (path, info.type, info.ifindex, getattr(info, "attach_type", None))
        if place not in self._programs:
            try:
                with inside(path):
                    self._programs[place] = _programs_at(info)
            except OSError as error:
                # The kernel refuses to query the peer of a netkit device (EACCES).
                self._programs[place] = None if error.errno == errno.EACCES else []
        programs = self._programs[place]
        return programs is None or info.prog_id in programs

    # Maps and functions.

    def _map(self, info: linkinfo.LinkInfo, map_id: int) -> str:
        """Name the map of a link.

        It may be opened by its id: no link of these types has a program array (see `ids`), and the
        link holds it meanwhile.
        """
        doing = f"look at map {map_id}"
        try:
            with ids.opened("link", info.id), ids.opened("map", map_id) as fd:
                about = libbpf.read_info(fd, BpfMapInfo, doing=doing)
        except BpfError:  # the link or the map is gone
            return f"map {map_id}"
        return f"map {map_id} {about.name.decode(errors='replace')}".rstrip()

    def _iterated(self, info: linkinfo.IterLinkInfo) -> str:
        of = [
            self._map(info, info.map_id) if info.map_id else "",
            self._cgroup(info.cgroup_id) if info.cgroup_id else "",
            f"thread {info.tid}" if info.tid else "",
            f"pid {info.pid}" if info.pid else "",
        ]
        return " of ".join([info.target_name, *filter(None, of)])


def _programs_at(info: Device) -> Sequence[int]:
    """Return the ids of the programs at a place like this in the present namespace."""
    where = f"device {info.ifindex}"
    if isinstance(info, linkinfo.XdpLinkInfo):
        return xdp_query(info.ifindex, where=where)
    return prog_query(info.ifindex, info.attach_type, where=where).prog_ids


def _netfilter(info: linkinfo.NetfilterLinkInfo) -> str:
    family = _FAMILIES.get(info.pf, f"family {info.pf}")
    known = info.hooknum < len(_HOOKS)
    hook = _HOOKS[info.hooknum] if known else f"hook {info.hooknum}"
    return f"{family} {hook}, priority {info.priority}"


def _lower(name: str) -> str:
    return name.lower()
