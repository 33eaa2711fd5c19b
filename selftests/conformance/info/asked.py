"""Links with something in each field that their info can show, and what the fields must be.

`EXPECTED` has every field of `bpf_link_info`'s union: a test compares its paths with the kernel's.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_bpflink import LinkType, SoftwareEvent
from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.btf import Kind
from pytest_bpflink.binding.kernel_btf import types_of, vmlinux
from pytest_bpflink.binding.uapi import BpfBtfInfo, BpfProgInfo, IterInfo, PerfEventType
from pytest_bpflink.selftests.conformance.creating.call import (
    attach_type_of,
    inside,
    open_raw_tracepoint,
    right_call,
)
from pytest_bpflink.selftests.conformance.info.reading import Numbers, Text, fields
from pytest_bpflink.selftests.support.link_create import numbers

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.conformance.stages import Stage
    from pytest_bpflink.selftests.support.link_create import LinkCreate

COOKIE = 0x1234_5678_9ABC_DEF0
"""A cookie no two bytes of which are the same."""

_RETURN = 1 << 0  # BPF_F_KPROBE_MULTI_RETURN, and BPF_F_UPROBE_MULTI_RETURN
_DEFRAG = 1 << 0  # BPF_F_NETFILTER_IP_DEFRAG
_TYPE_SOFTWARE = 1  # PERF_TYPE_SOFTWARE
_COUNTER = 64  # in the file's header, which no process has mapped for writing

_Field: TypeAlias = "Callable[[Row, Any], int | Text | Numbers]"


def form_of(row: Row) -> str:
    """Return the path in `bpf_link_info` of what is filled for a row's link."""
    if row.link_type is not LinkType.PERF_EVENT:
        return row.link_type.name.lower()
    name = row.id.replace("ret", "")
    return f"perf_event.{'event' if name == 'perf_event' else name}"


def create(row: Row, stage: Stage) -> int:
    """Attach the stage's first program with all that the info can show; return a descriptor.

    The caller closes it. Raises `BpfError`.
    """
    cookie = COOKIE if f"{form_of(row)}.cookie" in fields() else 0
    if row.link_type is LinkType.RAW_TRACEPOINT:
        name = b"sys_enter" if row.id == "raw_tp" else None
        return open_raw_tracepoint(name=name, fd=stage.first.fd, cookie=cookie)
    if f"{form_of(row)}.ref_ctr_offset" in fields():
        stage.options["ref_ctr_offset"] = _COUNTER
    call = right_call(row, stage)
    if row.link_type in _MORE:
        _MORE[row.link_type](call, stage)
    if cookie:
        path = {LinkType.TRACING: "tracing.cookie", LinkType.PERF_EVENT: "perf_event.bpf_cookie"}
        call.set(path[row.link_type], cookie)
    with inside(stage):
        return call.create()


def expected(row: Row, stage: Stage) -> dict[str, int | Text | Numbers]:
    """Return what the fields of such a link's info must be, those that the kernel has."""
    form = form_of(row)
    found: dict[str, int | Text | Numbers] = {}
    if row.link_type is LinkType.PERF_EVENT and "perf_event.type" in fields():
        found["perf_event.type"] = _PERF_TYPES[row.id]
    for name, field in EXPECTED[form].items():
        path = f"{form}.{name}"
        if path in fields() and _is_shown(path, row):
            found[path] = field(row, stage)
    return found


def _is_shown(path: str, row: Row) -> bool:
    """Whether the row's link has a field: the fields of iterators are in the same bytes."""
    kind = {"iter.cgroup": "cgroup", "iter.task": "task"}.get(path.rpartition(".")[0], "")
    return kind in row.id


# Building links.


def _task(call: LinkCreate, stage: Stage) -> None:
    if stage.name == "on_iter_task" and "iter.task.pid" in fields():
        info = IterInfo()
        info.task.pid = os.getpid()
        call.set("iter.iter_info", info)
        call.set("iter.iter_info_len", ctypes.sizeof(info))


def _at_return(call: LinkCreate, _stage: Any) -> None:
    call.set("kprobe_multi.flags", _RETURN)
    call.set("kprobe_multi.cookies", numbers(COOKIE, COOKIE + 1))


def _defragmented(call: LinkCreate, _stage: Any) -> None:
    call.set("netfilter.flags", _DEFRAG)


def _tracing_multi(call: LinkCreate, _stage: Any) -> None:
    call.set("tracing_multi.cookies", numbers(COOKIE, COOKIE + 1))


def _uprobes(call: LinkCreate, stage: Any) -> None:
    call.set("uprobe_multi.flags", _RETURN)
    call.set("uprobe_multi.pid", os.getpid())
    call.set("uprobe_multi.offsets", numbers(*_offsets(stage)))
    call.set("uprobe_multi.cnt", 2)
    call.set("uprobe_multi.cookies", numbers(COOKIE, COOKIE + 1))
    call.set("uprobe_multi.ref_ctr_offsets", numbers(_COUNTER, _COUNTER + 2))


_MORE: dict[LinkType, Callable[[LinkCreate, Any], None]] = {
    LinkType.ITER: _task,
    LinkType.KPROBE_MULTI: _at_return,
    LinkType.NETFILTER: _defragmented,
    LinkType.TRACING_MULTI: _tracing_multi,
    LinkType.UPROBE_MULTI: _uprobes,
}


# What was asked for.


@cache
def vmlinux_id() -> int:
    """Return the id of the kernel's BTF."""
    for number in range(1, 1000):
        name = ctypes.create_string_buffer(64)
        info = BpfBtfInfo(name=ctypes.addressof(name), name_len=len(name))
        fd = libbpf.call("bpf_btf_get_fd_by_id", number, doing="open BTF", answer=2)
        if fd < 0:
            continue
        libbpf.refresh_info(fd, info, doing="ask for the BTF's name")
        os.close(fd)
        if name.value == b"vmlinux":
            return number
    raise LookupError("no BTF of the kernel")


def address(function: str) -> int:
    """Return the address of a function of the kernel."""
    text = _symbols()
    end = max(text.find(f" {kind} {function}\n".encode()) for kind in "tT")
    return int(text[text.rfind(b"\n", 0, end) + 1 : end], 16)


@cache
def _symbols() -> bytes:
    """Return the kernel's symbols, 200,000 lines, which are read once."""
    with open("/proc/kallsyms", "rb") as file:
        return file.read()


def _attach_type(row: Row, stage: Any) -> int:
    return attach_type_of(row, stage)


def _target_obj_id(_row: Row, stage: Any) -> int:
    number: int = stage.target.id if stage.target else vmlinux_id()
    return number


def _target_btf_id(row: Row, stage: Any) -> int:
    if not stage.target:
        traced = "bpf_lsm_task_getpgid" if row.id == "lsm" else "security_task_getpgid"
        return vmlinux().find(traced, Kind.FUNC)
    info = libbpf.read_info(stage.target.fd, BpfProgInfo, doing="ask for the program's BTF")
    with types_of(info.btf_id) as types:
        return types.find(stage.options["function"], Kind.FUNC)


def _cookie(_row: Row, _stage: Any) -> int:
    return COOKIE


def _zero(_row: Row, _stage: Any) -> int:
    return 0


def _text(value: Callable[[Any], str], size: str) -> _Field:
    return lambda _row, stage: Text(value(stage), size)


def _number(value: Callable[[Any], int]) -> _Field:
    return lambda _row, stage: value(stage)


def _numbers(values: Callable[[Any], tuple[int, ...]], count: str, size: int = 8) -> _Field:
    return lambda _row, stage: Numbers(values(stage), count, size)


def _iter_name(row: Row, _stage: Any) -> Text:
    name = row.id.removeprefix("iter_")
    return Text("bpf_map_elem" if name == "map_elem" else name, "iter.target_name_len")


def _offsets(stage: Any) -> tuple[int, int]:
    return stage.offset_of("labs"), stage.offset_of("ffs")


def _probed(function: str, stage: Any) -> int:
    """Return where a probe at a function is: behind the landing pad that x86 has for IBT."""
    kernel = stage.request.getfixturevalue("bpf_kernel")
    return address(function) + 4 * ("CONFIG_X86_KERNEL_IBT" in kernel.config)


def _by_address(stage: Any) -> list[tuple[int, int]]:
    return sorted(zip(map(address, stage.target), (COOKIE, COOKIE + 1), strict=True))


def _by_type(stage: Any) -> list[tuple[int, int, int]]:
    """Return type id, address and cookie of each function, in the order of the type ids."""
    places = [_probed(function, stage) for function in stage.target]
    return sorted(zip(stage.numbers, places, (COOKIE, COOKIE + 1), strict=True))


_PERF_TYPES = {
    "uprobe": PerfEventType.UPROBE,
    "uretprobe": PerfEventType.URETPROBE,
    "kprobe": PerfEventType.KPROBE,
    "kretprobe": PerfEventType.KRETPROBE,
    "tracepoint": PerfEventType.TRACEPOINT,
    "perf_event": PerfEventType.EVENT,
}

_IFINDEX = {"ifindex": _number(lambda stage: stage.device.ifindex)}
_MAP_ID = {"map_id": _number(lambda stage: stage.target.id)}
_ATTACH_TYPE = {"attach_type": _attach_type}

EXPECTED: dict[str, dict[str, _Field]] = {
    "raw_tracepoint": {
        "tp_name": _text(lambda _: "sys_enter", "raw_tracepoint.tp_name_len"),
        "cookie": _cookie,
    },
    "tracing": {
        **_ATTACH_TYPE,
        "target_obj_id": _target_obj_id,
        "target_btf_id": _target_btf_id,
        "cookie": _cookie,
    },
    "cgroup": {"cgroup_id": _number(lambda stage: stage.target.id), **_ATTACH_TYPE},
    "iter": {
        "target_name": _iter_name,
        "map.map_id": _number(lambda stage: stage.target.id if "map_elem" in stage.name else 0),
        "cgroup.cgroup_id": _number(lambda stage: stage.target.id),
        "cgroup.order": _number(lambda stage: stage.options["order"]),
        "task.tid": _zero,
        "task.pid": _number(lambda stage: os.getpid() if stage.name == "on_iter_task" else 0),
    },
    "netns": {"netns_ino": _number(lambda stage: stage.netns.ino), **_ATTACH_TYPE},
    "xdp": _IFINDEX,
    "struct_ops": {"map_id": _number(lambda stage: stage.first.id)},
    "netfilter": {
        "pf": _number(lambda stage: stage.options["pf"]),
        "hooknum": _number(lambda stage: stage.options["hooknum"]),
        "priority": _number(lambda stage: stage.options["priority"]),
        "flags": _number(lambda _: _DEFRAG),
    },
    "kprobe_multi": {
        "addrs": _numbers(
            lambda stage: tuple(address for address, _ in _by_address(stage)), "kprobe_multi.count"
        ),
        "flags": _number(lambda _: _RETURN),
        "missed": _zero,
        "cookies": _numbers(
            lambda stage: tuple(cookie for _, cookie in _by_address(stage)), "kprobe_multi.count"
        ),
    },
    "uprobe_multi": {
        "path": _text(lambda stage: str(stage.target), "uprobe_multi.path_size"),
        "offsets": _numbers(_offsets, "uprobe_multi.count"),
        "ref_ctr_offsets": _numbers(lambda _: (_COUNTER, _COUNTER + 2), "uprobe_multi.count"),
        "cookies": _numbers(lambda _: (COOKIE, COOKIE + 1), "uprobe_multi.count"),
        "flags": _number(lambda _: _RETURN),
        "pid": _number(lambda _: os.getpid()),
    },
    "tracing_multi": {
        **_ATTACH_TYPE,
        "btf_obj_id": _number(lambda _: vmlinux_id()),
        "ids": _numbers(
            lambda stage: tuple(one for one, _, _ in _by_type(stage)), "tracing_multi.count", 4
        ),
        "addrs": _numbers(
            lambda stage: tuple(one for _, one, _ in _by_type(stage)), "tracing_multi.count"
        ),
        "cookies": _numbers(
            lambda stage: tuple(one for _, _, one in _by_type(stage)), "tracing_multi.count"
        ),
    },
    "perf_event.uprobe": {
        "file_name": _text(lambda stage: str(stage.target), "perf_event.uprobe.name_len"),
        "offset": _number(lambda stage: stage.options["offset"]),
        "cookie": _cookie,
        "ref_ctr_offset": _number(lambda _: _COUNTER),
    },
    "perf_event.kprobe": {
        "func_name": _text(lambda stage: stage.target, "perf_event.kprobe.name_len"),
        "offset": _zero,
        "addr": _number(lambda stage: _probed(stage.target, stage)),
        "missed": _zero,
        "cookie": _cookie,
    },
    "perf_event.tracepoint": {
        "tp_name": _text(lambda _: "sys_enter_getpgid", "perf_event.tracepoint.name_len"),
        "cookie": _cookie,
    },
    "perf_event.event": {
        "config": _number(lambda _: SoftwareEvent.PAGE_FAULTS),
        "type": _number(lambda _: _TYPE_SOFTWARE),
        "cookie": _cookie,
    },
    "tcx": {**_IFINDEX, **_ATTACH_TYPE},
    "netkit": {
        # A program for the peer is attached through the primary, and the info names the peer.
        "ifindex": _number(lambda stage: getattr(stage, _holder(stage)).ifindex),
        **_ATTACH_TYPE,
    },
    "sockmap": {**_MAP_ID, **_ATTACH_TYPE},
}


def _holder(stage: Any) -> str:
    return "sender" if "peer" in stage.name else "device"
