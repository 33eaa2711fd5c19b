"""What the kernel says about a link: `bpf_link_info`, as a frozen dataclass per link type.

Fields that the running kernel does not fill are zero or empty: each class names the first release
that fills them. A link of an unknown type gives the common part, `LinkInfo`.
"""

from __future__ import annotations

import ctypes
import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import AttachType, BpfLinkInfo, LinkType, PerfEventType
from pytest_bpflink.errors import BpfError
from pytest_bpflink.introspection import ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NAME_BYTES = 512  # KSYM_NAME_LEN since 6.1; for a longer name the kernel says ENOSPC


@dataclass(frozen=True)
class LinkInfo:
    """The info of every link: its id, and the id of its program (0 for struct_ops)."""

    id: int
    prog_id: int
    type: LinkType = field(kw_only=True)


@dataclass(frozen=True)
class RawTracepointLinkInfo(LinkInfo):
    """A raw_tp or tp_btf program on a tracepoint (5.7); `cookie` after 6.12."""

    tp_name: str
    cookie: int = 0
    type: LinkType = field(default=LinkType.RAW_TRACEPOINT, kw_only=True)


@dataclass(frozen=True)
class TracingLinkInfo(LinkInfo):
    """fentry, fexit, fmod_ret, LSM or freplace (5.7); target ids since 5.13, cookie after 6.12."""

    attach_type: AttachType
    target_obj_id: int = 0
    target_btf_id: int = 0
    cookie: int = 0
    type: LinkType = field(default=LinkType.TRACING, kw_only=True)


@dataclass(frozen=True)
class CgroupLinkInfo(LinkInfo):
    """A program on a cgroup (5.7); `cgroup_id` is 0 after detaching, or if the cgroup is gone."""

    cgroup_id: int
    attach_type: AttachType
    type: LinkType = field(default=LinkType.CGROUP, kw_only=True)


@dataclass(frozen=True)
class IterLinkInfo(LinkInfo):
    """An iterator over kernel objects (5.8), perhaps of one map, cgroup or task (6.1)."""

    target_name: str
    map_id: int = 0
    cgroup_id: int = 0
    order: int = 0
    tid: int = 0
    pid: int = 0
    type: LinkType = field(default=LinkType.ITER, kw_only=True)


@dataclass(frozen=True)
class NetnsLinkInfo(LinkInfo):
    """A flow dissector or sk_lookup program (5.8); `netns_ino` is 0 after detaching."""

    netns_ino: int
    attach_type: AttachType
    type: LinkType = field(default=LinkType.NETNS, kw_only=True)


@dataclass(frozen=True)
class XdpLinkInfo(LinkInfo):
    """An XDP program on a device (5.9); `ifindex` is 0 after detaching."""

    ifindex: int
    type: LinkType = field(default=LinkType.XDP, kw_only=True)


@dataclass(frozen=True)
class PerfEventLinkInfo(LinkInfo):
    """A program on a perf event (5.15); everything beyond the common part since 6.6.

    `name` is the function of a kprobe, the file of a uprobe, the name of a tracepoint; `config` and
    `perf_type` (`PERF_TYPE_SOFTWARE` is 1) are a perf event's own. `missed` counts the hits of a
    kprobe that ran no program, since another kprobe's handler was running (6.7); `ref_ctr_offset`
    is the offset of a uprobe's counter of holders (after 6.12).
    """

    event_type: PerfEventType = PerfEventType.UNSPEC
    name: str = ""
    offset: int = 0
    address: int = 0
    config: int = 0
    cookie: int = 0
    perf_type: int = 0
    missed: int = 0
    ref_ctr_offset: int = 0
    type: LinkType = field(default=LinkType.PERF_EVENT, kw_only=True)


@dataclass(frozen=True)
class KprobeMultiLinkInfo(LinkInfo):
    """A program on many kernel functions (5.18); everything beyond the common part since 6.6."""

    count: int = 0
    flags: int = 0
    missed: int = 0
    addrs: tuple[int, ...] = ()
    cookies: tuple[int, ...] = ()
    type: LinkType = field(default=LinkType.KPROBE_MULTI, kw_only=True)


@dataclass(frozen=True)
class StructOpsLinkInfo(LinkInfo):
    """A registered struct_ops map (6.4); `map_id` is 0 after detaching."""

    map_id: int
    type: LinkType = field(default=LinkType.STRUCT_OPS, kw_only=True)


@dataclass(frozen=True)
class NetfilterLinkInfo(LinkInfo):
    """A program on a netfilter hook (6.4)."""

    pf: int
    hooknum: int
    priority: int
    flags: int
    type: LinkType = field(default=LinkType.NETFILTER, kw_only=True)


@dataclass(frozen=True)
class TcxLinkInfo(LinkInfo):
    """A program on a device's ingress or egress (6.6); `ifindex` is 0 after detaching."""

    ifindex: int
    attach_type: AttachType
    type: LinkType = field(default=LinkType.TCX, kw_only=True)


@dataclass(frozen=True)
class UprobeMultiLinkInfo(LinkInfo):
    """A program on many places of one file (6.6); everything beyond the common part since 6.8."""

    path: str = ""
    count: int = 0
    flags: int = 0
    pid: int = 0
    offsets: tuple[int, ...] = ()
    ref_ctr_offsets: tuple[int, ...] = ()
    cookies: tuple[int, ...] = ()
    type: LinkType = field(default=LinkType.UPROBE_MULTI, kw_only=True)


@dataclass(frozen=True)
class NetkitLinkInfo(LinkInfo):
    """A program on a netkit device or its peer (6.7); `ifindex` is 0 after detaching."""

    ifindex: int
    attach_type: AttachType
    type: LinkType = field(default=LinkType.NETKIT, kw_only=True)


@dataclass(frozen=True)
class SockmapLinkInfo(LinkInfo):
    """A program on a sockmap or sockhash (6.10); `map_id` is 0 after detaching."""

    map_id: int
    attach_type: AttachType
    type: LinkType = field(default=LinkType.SOCKMAP, kw_only=True)


@dataclass(frozen=True)
class TracingMultiLinkInfo(LinkInfo):
    """A program on many kernel functions by trampolines (7.2); all beyond the common part in 7.3.

    `ids` are the functions' type ids in the BTF `btf_obj_id`, in ascending order.
    """

    attach_type: AttachType | None = None
    count: int = 0
    btf_obj_id: int = 0
    ids: tuple[int, ...] = ()
    addrs: tuple[int, ...] = ()
    cookies: tuple[int, ...] = ()
    type: LinkType = field(default=LinkType.TRACING_MULTI, kw_only=True)


def read_link_info(fd: int, *, doing: str = "read a link's info") -> LinkInfo:
    """Ask the kernel about the link behind a descriptor.

    Raises `BpfError`: EBADF for a descriptor that is not open, EINVAL for a file that is no BPF
    object, such as a perf event.
    """
    raw = libbpf.read_info(fd, BpfLinkInfo, doing=doing)
    kind = LinkType(raw.type)
    if kind in _READERS:
        return _READERS[kind](fd, raw)
    return LinkInfo(raw.id, raw.prog_id, type=kind)


def infos() -> Iterator[LinkInfo]:
    """Yield what the kernel says about each link on the system (5.8; needs CAP_SYS_ADMIN).

    Each link is open only while its info is read. Links that end meanwhile, and links that are just
    being made, are left out.
    """
    for link_id in ids.alive("link"):
        try:
            with ids.opened("link", link_id) as fd:
                info = read_link_info(fd)
        except BpfError as error:
            if error.errno not in {errno.ENOENT, errno.EAGAIN}:
                raise
        else:
            yield info


def _read_raw_tracepoint(fd: int, raw: BpfLinkInfo) -> LinkInfo:
    name = _Text(_NAME_BYTES)
    raw.detail.raw_tracepoint.tp_name, raw.detail.raw_tracepoint.tp_name_len = name.place
    _read_again(fd, raw)
    return RawTracepointLinkInfo(
        raw.id, raw.prog_id, tp_name=name.text, cookie=raw.detail.raw_tracepoint.cookie
    )


def _read_tracing(_fd: int, raw: BpfLinkInfo) -> LinkInfo:
    it = raw.detail.tracing
    return TracingLinkInfo(
        raw.id,
        raw.prog_id,
        attach_type=AttachType(it.attach_type),
        target_obj_id=it.target_obj_id,
        target_btf_id=it.target_btf_id,
        cookie=it.cookie,
    )


def _read_cgroup(_fd: int, raw: BpfLinkInfo) -> LinkInfo:
    it = raw.detail.cgroup
    return CgroupLinkInfo(raw.id, raw.prog_id, it.cgroup_id, AttachType(it.attach_type))


def _read_iter(fd: int, raw: BpfLinkInfo) -> LinkInfo:
    name = _Text(_NAME_BYTES)
    raw.detail.iter.target_name, raw.detail.iter.target_name_len = name.place
    _read_again(fd, raw)
    it, what = raw.detail.iter, name.text
    of_cgroup, of_task = what == "cgroup", what.startswith("task")
    return IterLinkInfo(
        raw.id,
        raw.prog_id,
        target_name=what,
        map_id=it.map_id,
        cgroup_id=it.target.cgroup.cgroup_id if of_cgroup else 0,
        order=it.target.cgroup.order if of_cgroup else 0,
        tid=it.target.task.tid if of_task else 0,
        pid=it.target.task.pid if of_task else 0,
    )


def _read_netns(_fd: int, raw: BpfLinkInfo) -> LinkInfo:
    it = raw.detail.netns
    return NetnsLinkInfo(raw.id, raw.prog_id, it.netns_ino, AttachType(it.attach_type))


def _read_xdp(_fd: int, raw: BpfLinkInfo) -> LinkInfo:
    return XdpLinkInfo(raw.id, raw.prog_id, raw.detail.device.ifindex)


def _read_device(
    kind: type[TcxLinkInfo | NetkitLinkInfo],
) -> Callable[[int, BpfLinkInfo], LinkInfo]:
    def read(_fd: int, raw: BpfLinkInfo) -> LinkInfo:
        it = raw.detail.device
        return kind(raw.id, raw.prog_id, it.ifindex, AttachType(it.attach_type))

    return read


def _read_struct_ops(_fd: int, raw: BpfLinkInfo) -> LinkInfo:
    return StructOpsLinkInfo(raw.id, raw.prog_id, raw.detail.map.map_id)


def _read_sockmap(_fd: int, raw: BpfLinkInfo) -> LinkInfo:
    it = raw.detail.map
    return SockmapLinkInfo(raw.id, raw.prog_id, it.map_id, AttachType(it.attach_type))


def _read_netfilter(_fd: int, raw: BpfLinkInfo) -> LinkInfo:
    it = raw.detail.netfilter
    return NetfilterLinkInfo(raw.id, raw.prog_id, it.pf, it.hooknum, it.priority, it.flags)


def _read_kprobe_multi(fd: int, raw: BpfLinkInfo) -> LinkInfo:
    it = raw.detail.kprobe_multi
    addrs, cookies = _Numbers(it.count), _Numbers(it.count)
    it.addrs, it.cookies = addrs.address, cookies.address
    if it.count:
        _read_again(fd, raw)
    return KprobeMultiLinkInfo(
        raw.id,
        raw.prog_id,
        count=it.count,
        flags=it.flags,
        missed=it.missed,
        addrs=addrs.values,
        cookies=cookies.values,
    )


def _read_tracing_multi(fd: int, raw: BpfLinkInfo) -> LinkInfo:
    it = raw.detail.tracing_multi
    ids, addrs, cookies = (
        _Numbers(it.count, ctypes.c_uint32),
        _Numbers(it.count),
        _Numbers(it.count),
    )
    if it.count:
        it.ids, it.addrs, it.cookies = ids.address, addrs.address, cookies.address
        _read_again(fd, raw)
    return TracingMultiLinkInfo(
        raw.id,
        raw.prog_id,
        attach_type=AttachType(it.attach_type) if it.count else None,
        count=it.count,
        btf_obj_id=it.btf_obj_id,
        ids=ids.values,
        addrs=addrs.values,
        cookies=cookies.values,
    )


def _read_uprobe_multi(fd: int, raw: BpfLinkInfo) -> LinkInfo:
    it = raw.detail.uprobe_multi
    path = _Text(4096)  # PATH_MAX
    offsets, counters, cookies = (_Numbers(it.count) for _ in range(3))
    if it.count:
        it.path, it.path_size = path.place
        it.offsets, it.ref_ctr_offsets = offsets.address, counters.address
        it.cookies = cookies.address
        _read_again(fd, raw)
    return UprobeMultiLinkInfo(
        raw.id,
        raw.prog_id,
        path=path.text,
        count=it.count,
        flags=it.flags,
        pid=it.pid,
        offsets=offsets.values,
        ref_ctr_offsets=counters.values,
        cookies=cookies.values,
    )


def _read_perf_event(fd: int, raw: BpfLinkInfo) -> LinkInfo:
    kind = PerfEventType(raw.detail.perf_event.type)
    it = raw.detail.perf_event.detail
    name = _Text(4096)
    match kind:
        case PerfEventType.KPROBE | PerfEventType.KRETPROBE:
            it.kprobe.func_name, it.kprobe.name_len = name.place
            _read_again(fd, raw)
            found = {
                "offset": it.kprobe.offset,
                "address": it.kprobe.addr,
                "cookie": it.kprobe.cookie,
                "missed": it.kprobe.missed,
            }
        case PerfEventType.UPROBE | PerfEventType.URETPROBE:
            it.uprobe.file_name, it.uprobe.name_len = name.place
            _read_again(fd, raw)
            found = {
                "offset": it.uprobe.offset,
                "cookie": it.uprobe.cookie,
                "ref_ctr_offset": it.uprobe.ref_ctr_offset,
            }
        case PerfEventType.TRACEPOINT:
            it.tracepoint.tp_name, it.tracepoint.name_len = name.place
            _read_again(fd, raw)
            found = {"cookie": it.tracepoint.cookie}
        case PerfEventType.EVENT:
            found = {
                "config": it.event.config,
                "cookie": it.event.cookie,
                "perf_type": it.event.type,
            }
        case _:
            found = {}
    return PerfEventLinkInfo(raw.id, raw.prog_id, kind, name.text, **found)


_READERS: dict[LinkType, Callable[[int, BpfLinkInfo], LinkInfo]] = {
    LinkType.RAW_TRACEPOINT: _read_raw_tracepoint,
    LinkType.TRACING: _read_tracing,
    LinkType.CGROUP: _read_cgroup,
    LinkType.ITER: _read_iter,
    LinkType.NETNS: _read_netns,
    LinkType.XDP: _read_xdp,
    LinkType.PERF_EVENT: _read_perf_event,
    LinkType.KPROBE_MULTI: _read_kprobe_multi,
    LinkType.STRUCT_OPS: _read_struct_ops,
    LinkType.NETFILTER: _read_netfilter,
    LinkType.TCX: _read_device(TcxLinkInfo),
    LinkType.UPROBE_MULTI: _read_uprobe_multi,
    LinkType.NETKIT: _read_device(NetkitLinkInfo),
    LinkType.SOCKMAP: _read_sockmap,
    LinkType.TRACING_MULTI: _read_tracing_multi,
}


def _read_again(fd: int, raw: BpfLinkInfo) -> None:
    """Ask once more, now with buffers for the parts of variable length."""
    libbpf.refresh_info(fd, raw, doing="read a link's info")


class _Text:
    """A buffer for a name that the kernel writes."""

    def __init__(self, size: int) -> None:
        self._buffer = ctypes.create_string_buffer(size)
        self.place = ctypes.addressof(self._buffer), size

    @property
    def text(self) -> str:
        return self._buffer.value.decode(errors="replace")


class _Numbers:
    """A buffer for an array of numbers that the kernel writes."""

    def __init__(self, count: int, number: type[Any] = ctypes.c_uint64) -> None:
        self._array = (number * count)()

    @property
    def address(self) -> int:
        return ctypes.addressof(self._array) if self._array else 0

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(self._array)
