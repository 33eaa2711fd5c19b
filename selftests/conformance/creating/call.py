"""`BPF_LINK_CREATE` filled as each row's link needs it."""

from __future__ import annotations

import contextlib
import ctypes
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink import AttachType, LinkType
from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.bpf_syscall import bpf
from pytest_bpflink.binding.btf import Kind
from pytest_bpflink.binding.kernel_btf import types_of
from pytest_bpflink.binding.uapi import BpfProgInfo, IterInfo
from pytest_bpflink.selftests.conformance.network_stages import InNetNs
from pytest_bpflink.selftests.support.link_create import LinkCreate, numbers, texts
from pytest_bpflink.system.perf_events import Attributes, open_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.conformance.stages import Stage

_RAW_TRACEPOINT_OPEN = 17  # BPF_RAW_TRACEPOINT_OPEN
_RETURN_PROBE = 1 << 0  # the lowest bit of the config of a kprobe's or a uprobe's perf event
_COUNTER_SHIFT = 32  # the same config has above it the offset of the uprobe's counter
_TYPE_TRACEPOINT = 2  # PERF_TYPE_TRACEPOINT
_TRACEPOINTS = Path("/sys/kernel/tracing/events")


class _RawTracepoint(ctypes.Structure):
    # `raw_tracepoint` of `union bpf_attr`; the cookie came with 6.10.
    _fields_ = (("name", ctypes.c_char_p), ("fd", ctypes.c_uint32), ("cookie", ctypes.c_uint64))


def open_raw_tracepoint(*, name: bytes | None, fd: int, cookie: int = 0) -> int:
    """`BPF_RAW_TRACEPOINT_OPEN`: return a link's descriptor. Raises `BpfError`."""
    doing = "open a raw tracepoint by hand"
    return bpf(_RAW_TRACEPOINT_OPEN, _RawTracepoint(name, fd, cookie), doing=doing)


def inside(stage: Stage) -> contextlib.AbstractContextManager[object]:
    """Enter the network namespace in which an index means the stage's device."""
    return stage.netns.entered() if isinstance(stage, InNetNs) else contextlib.nullcontext()


def right_call(row: Row, stage: Stage) -> LinkCreate:
    """Return the call that attaches the stage's first program to its target."""
    call = LinkCreate(fd=stage.first.fd)
    call.attach_type = attach_type_of(row, stage)
    _FILL.get(row.link_type, _fill_none)(call, stage)
    return call


def attach_type_of(row: Row, stage: Stage) -> AttachType:
    """Return the attach type with which the row's link is created."""
    if row.link_type is LinkType.STRUCT_OPS:
        return AttachType.STRUCT_OPS
    if row.link_type is LinkType.PERF_EVENT:
        return AttachType.PERF_EVENT
    attach_type: AttachType = stage.first.expected_attach_type  # type: ignore[union-attr]
    return attach_type


def _fill_none(call: LinkCreate, stage: Stage) -> None:
    """Leave the target to the program, which names it: raw_tp, tp_btf, struct_ops."""


def _fill_tracing(call: LinkCreate, stage: Any) -> None:
    if stage.target is None:
        return
    call.target = stage.target.fd
    info = libbpf.read_info(call.target, BpfProgInfo, doing="ask for the program's BTF")
    with types_of(info.btf_id) as types:
        call.set("target_btf_id", types.find(stage.options["function"], Kind.FUNC))


def _fill_cgroup(call: LinkCreate, stage: Any) -> None:
    call.target = stage.target.fileno()


def _fill_iter(call: LinkCreate, stage: Any) -> None:
    info = IterInfo()
    if "map_elem" in stage.name:
        info.map_fd = stage.target.fd
    elif "cgroup" in stage.name:
        info.cgroup.cgroup_fd = stage.target.fileno()
        info.cgroup.order = stage.options["order"]
    else:
        return
    call.set("iter.iter_info", info)
    call.set("iter.iter_info_len", ctypes.sizeof(info))


def _fill_netns(call: LinkCreate, stage: Any) -> None:
    call.target = stage.netns.fileno()


def _fill_device(call: LinkCreate, stage: Any) -> None:
    call.target = stage.device.ifindex
    call.flags = stage.options.get("flags", 0)


def _fill_netfilter(call: LinkCreate, stage: Any) -> None:
    for name, value in stage.options.items():
        call.set(f"netfilter.{name}", value)


def _fill_kprobe_multi(call: LinkCreate, stage: Any) -> None:
    call.set("kprobe_multi.syms", texts(*stage.target))
    call.set("kprobe_multi.cookies", numbers(*stage.options["cookies"]))
    call.set("kprobe_multi.cnt", len(stage.target))


def _fill_tracing_multi(call: LinkCreate, stage: Any) -> None:
    call.set("tracing_multi.ids", (ctypes.c_uint32 * 2)(*stage.numbers))
    call.set("tracing_multi.cookies", numbers(*stage.options["cookies"]))
    call.set("tracing_multi.cnt", len(stage.target))


def _fill_uprobe_multi(call: LinkCreate, stage: Any) -> None:
    call.set("uprobe_multi.path", ctypes.create_string_buffer(os.fsencode(stage.target)))
    call.set("uprobe_multi.offsets", numbers(*stage.options["offsets"]))
    call.set("uprobe_multi.cnt", len(stage.options["offsets"]))


def _fill_sockmap(call: LinkCreate, stage: Any) -> None:
    call.target = stage.target.fd


def _fill_perf_event(call: LinkCreate, stage: Any) -> None:
    call.target = stage.target.fileno() if hasattr(stage.target, "fileno") else _open_event(stage)


_FILL: dict[LinkType, Callable[[LinkCreate, Any], None]] = {
    LinkType.TRACING: _fill_tracing,
    LinkType.CGROUP: _fill_cgroup,
    LinkType.ITER: _fill_iter,
    LinkType.NETNS: _fill_netns,
    LinkType.XDP: _fill_device,
    LinkType.PERF_EVENT: _fill_perf_event,
    LinkType.KPROBE_MULTI: _fill_kprobe_multi,
    LinkType.NETFILTER: _fill_netfilter,
    LinkType.TCX: _fill_device,
    LinkType.UPROBE_MULTI: _fill_uprobe_multi,
    LinkType.NETKIT: _fill_device,
    LinkType.SOCKMAP: _fill_sockmap,
    LinkType.TRACING_MULTI: _fill_tracing_multi,
}


def _open_event(stage: Any) -> int:
    """Open a perf event of the kind that the stage's program attaches to, until the test ends."""
    if stage.target is None:
        number = (_TRACEPOINTS / "syscalls/sys_enter_getpgid/id").read_text()
        attributes = Attributes(type=_TYPE_TRACEPOINT, config=int(number), sample_period=1)
    else:
        kind = "kprobe" if isinstance(stage.target, str) else "uprobe"
        place = ctypes.create_string_buffer(os.fsencode(stage.target))
        attributes = Attributes(
            type=int(Path(f"/sys/bus/event_source/devices/{kind}/type").read_text()),
            config=_RETURN_PROBE * stage.options.get("retprobe", False)
            | stage.options.get("ref_ctr_offset", 0) << _COUNTER_SHIFT,
            config1=ctypes.addressof(place),
            config2=stage.options.get("offset", 0),
        )
    fd = open_event(attributes, pid=0)
    stage.request.addfinalizer(partial(os.close, fd))
    return fd
