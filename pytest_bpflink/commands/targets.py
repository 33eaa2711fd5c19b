"""What a link is attached to, in words: a cgroup's path, a device's name, a function's.

Knows where the numbers of `linkinfo` can be looked up. What can't be is shown as the number. Each
place is read once, and only if a link needs it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink import libbpf, linkinfo
from pytest_bpflink.cgroup import cgroup2_mount
from pytest_bpflink.errors import BpfError
from pytest_bpflink.netns import NetNs
from pytest_bpflink.uapi import BpfMapInfo, PerfEventType
from pytest_bpflink.vmlinux import vmlinux

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.linkinfo import LinkInfo

DETACHED = "detached"

# linux/netfilter.h
_FAMILIES = {2: "ipv4", 3: "arp", 7: "bridge", 10: "ipv6"}
_HOOKS = ("pre_routing", "local_in", "forward", "local_out", "post_routing")

_KPROBES = {PerfEventType.KPROBE, PerfEventType.KRETPROBE}
_UPROBES = {PerfEventType.UPROBE, PerfEventType.URETPROBE}

_MOST_PROGRAMS = 64

_VMLINUX = 1
"""The BTF of the kernel itself; modules have others."""

Device = linkinfo.XdpLinkInfo | linkinfo.TcxLinkInfo | linkinfo.NetkitLinkInfo


class Places:
    """What numbers mean on this system, as of now: make one for each look at it."""

    def words(self, info: LinkInfo) -> str:
        """Say what a link is attached to."""
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
                place = info.map_id and self._map(info.map_id)
            case linkinfo.RawTracepointLinkInfo():
                place = info.tp_name
            case linkinfo.TracingLinkInfo():
                place = self._function(info)
            case linkinfo.IterLinkInfo():
                place = self._iterated(info)
            case linkinfo.PerfEventLinkInfo():
                place = _event(info)
            case linkinfo.KprobeMultiLinkInfo():
                place = f"{info.count} kernel functions"
            case linkinfo.TracingMultiLinkInfo():
                place = f"{info.count} kernel functions" if info.count else "kernel functions"
            case linkinfo.UprobeMultiLinkInfo():
                place = f"{info.count} places in {info.path}"
            case linkinfo.NetfilterLinkInfo():
                place = _netfilter(info)
        # What has a target has none any more; a type that is not known here has no words.
        return str(place or (DETACHED if place == 0 else ""))

    # Cgroups.

    def _cgroup(self, cgroup_id: int) -> str:
        path = self._cgroups.get(cgroup_id)
        # One that is removed, and kept by a socket; or outside of this container's.
        return path or f"cgroup {cgroup_id}, which is not to be seen here"

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
        own = "/proc/self/ns/net"
        found = {os.stat(own).st_ino: (own, "this network namespace")}
        named = [(path, f"netns {path.name}") for path in Path("/run/netns").glob("*")]
        pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
        of_processes = [(Path(f"/proc/{pid}/ns/net"), f"netns of pid {pid}") for pid in pids]
        for path, name in (*named, *of_processes):
            with contextlib.suppress(OSError):
                found.setdefault(path.stat().st_ino, (str(path), name))
        return found

    def _device(self, info: Device) -> str:
        # The kernel names no namespace: those that have such a device are candidates.
        candidates = self._devices.get(info.ifindex, [])
        if len(candidates) > 1:
            candidates = [each for each in candidates if self._runs_at(each[0], info)] or candidates
        return " or ".join(name for _, name in candidates) or f"device {info.ifindex}"

    @cached_property
    def _devices(self) -> dict[int, list[tuple[str, str]]]:
        """The devices by index: the path of the namespace of each, and what to call it."""
        found = defaultdict(list)
        for path, namespace in self._namespaces.values():
            with contextlib.suppress(OSError), _inside(path):
                for index, name in socket.if_nameindex():
                    here = namespace.startswith("this")
                    found[index].append((path, name if here else f"{name} in {namespace}"))
        return found

    def _runs_at(self, path: str, info: Device) -> bool:
        with contextlib.suppress(OSError), _inside(path):
            return info.prog_id in _programs_at(info)
        return False

    # Maps and functions.

    def _map(self, map_id: int) -> str:
        try:
            doing = f"look at map {map_id}"
            fd = libbpf.call("bpf_map_get_fd_by_id", map_id, doing=doing)
        except BpfError:  # it is gone
            return f"map {map_id}"
        try:
            name = libbpf.read_info(fd, BpfMapInfo, doing=doing).name.decode(errors="replace")
        finally:
            os.close(fd)
        return f"map {map_id} {name}".rstrip()

    def _function(self, info: linkinfo.TracingLinkInfo) -> str:
        if not info.target_btf_id:
            return "a kernel function"  # before 5.13
        if info.target_obj_id == _VMLINUX:
            with contextlib.suppress(BpfError):
                return vmlinux().name(info.target_btf_id) or ""
        return f"BTF {info.target_obj_id}, type {info.target_btf_id}"

    def _iterated(self, info: linkinfo.IterLinkInfo) -> str:
        of = [
            self._map(info.map_id) if info.map_id else "",
            self._cgroup(info.cgroup_id) if info.cgroup_id else "",
            f"thread {info.tid}" if info.tid else "",
            f"pid {info.pid}" if info.pid else "",
        ]
        return " of ".join([info.target_name, *filter(None, of)])


@contextlib.contextmanager
def _inside(path: str) -> Iterator[None]:
    with contextlib.closing(NetNs(os.open(path, os.O_RDONLY | os.O_CLOEXEC))) as netns:
        if path == "/proc/self/ns/net":
            yield
        else:
            with netns.entered():
                yield


def _programs_at(info: Device) -> list[int]:
    """Return the ids of the programs at a place like this in the present namespace."""
    doing = f"ask what is attached to device {info.ifindex}"
    if isinstance(info, linkinfo.XdpLinkInfo):
        found = ctypes.c_uint32()
        libbpf.call("bpf_xdp_query_id", info.ifindex, 0, ctypes.byref(found), doing=doing)
        return [found.value]
    ids = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    count, flags = ctypes.c_uint32(_MOST_PROGRAMS), ctypes.c_uint32()
    places = (ctypes.byref(flags), ids, ctypes.byref(count))
    libbpf.call("bpf_prog_query", info.ifindex, info.attach_type, 0, *places, doing=doing)
    return list(ids[: count.value])


def _event(info: linkinfo.PerfEventLinkInfo) -> str:
    kind = _lower(info.event_type.name)
    if info.event_type in _KPROBES:
        place = info.name or f"{info.address:#x}"
        return f"{kind} {place}{f'+{info.offset:#x}' if info.offset else ''}"
    if info.event_type in _UPROBES:
        return f"{kind} {info.name}+{info.offset:#x}"
    if info.event_type == PerfEventType.TRACEPOINT:
        return f"tracepoint {info.name}"
    if info.event_type == PerfEventType.EVENT:
        return f"perf event {info.config}"
    return "a perf event"  # before 6.6


def _netfilter(info: linkinfo.NetfilterLinkInfo) -> str:
    family = _FAMILIES.get(info.pf, f"family {info.pf}")
    known = info.hooknum < len(_HOOKS)
    hook = _HOOKS[info.hooknum] if known else f"hook {info.hooknum}"
    return f"{family} {hook}, priority {info.priority}"


def _lower(name: str) -> str:
    return name.lower()
