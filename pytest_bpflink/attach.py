"""Attaching: what each kind of program attaches to, and the call of libbpf's that does it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import inspect
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink import attach_events as events
from pytest_bpflink import libbpf
from pytest_bpflink import options as opts
from pytest_bpflink.cgroup import Cgroup
from pytest_bpflink.errors import BpfError, NotSupported
from pytest_bpflink.link import Link, attached, created
from pytest_bpflink.netns import Device, NetNs
from pytest_bpflink.objects import Map, Program
from pytest_bpflink.perf import PerfEvent
from pytest_bpflink.uapi import AttachFlags, AttachType, IterInfo, ProgType, XdpFlags

if TYPE_CHECKING:
    from collections.abc import Callable


def attach(program: Program, target: object | None, options: dict[str, Any]) -> Link:
    """Attach a program to a target of the kind that its type takes; see `Program.attach()`."""
    way = _way_of(program)
    if not isinstance(target, way.targets):
        doing = f"attach {program.name} ({program.type.name}, {program.section}) to {target!r}"
        raise BpfError(errno.EINVAL, doing, hint=f"a program of this type attaches to {way.takes}")
    _require_known(program, way, options)
    return way.attach(program, target, **options)


def _require_known(program: Program, way: _Way, options: dict[str, Any]) -> None:
    known = _options_of(way.attach)
    unknown = ", ".join(options.keys() - set(known))
    if unknown:
        doing = f"attach {program.name} ({program.type.name}, {program.section}) with {unknown}"
        hint = f"its options are: {', '.join(known)}" if known else "it has no options"
        raise BpfError(errno.EINVAL, doing, hint=hint)


@cache
def _options_of(attach: Callable[..., Link]) -> list[str]:
    parameters = inspect.signature(attach).parameters.values()
    return [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]


def attach_struct_ops(table: Map) -> Link:
    """Put a struct_ops map in force; see `Map.attach()`."""
    doing = f"attach struct_ops map {table.name}"
    pointer = libbpf.call("bpf_map__attach_struct_ops", table.pointer, doing=doing)
    try:
        return attached(pointer, table.name)
    except BpfError as error:
        # Without BPF_F_LINK the map itself stands for the attachment, and libbpf says so.
        raise NotSupported(
            f"attach {table.name} by a BPF link",
            since='Linux 6.4, libbpf 1.2 and a map in SEC(".struct_ops.link")',
            here="without one of them",
        ) from error


def _to_cgroup(
    program: Program,
    cgroup: Cgroup,
    *,
    flags: int = 0,
    relative: Program | Link | None = None,
    expected_revision: int = 0,
) -> Link:
    name = f"{program.name} on {cgroup.path}"
    doing = f"attach {program.name} to {cgroup.path}"
    arguments = program.pointer, cgroup.fileno()
    if not (flags or relative or expected_revision):
        pointer = libbpf.call("bpf_program__attach_cgroup", *arguments, doing=doing)
    else:
        order = _order(flags=flags, relative=relative, expected_revision=expected_revision)
        options = ctypes.byref(order)
        pointer = libbpf.call("bpf_program__attach_cgroup_opts", *arguments, options, doing=doing)
    return attached(pointer, name)


def _to_ordered_device(function: str) -> Callable[..., Link]:
    def to_device(
        program: Program,
        device: Device,
        *,
        flags: int = 0,
        relative: Program | Link | None = None,
        expected_revision: int = 0,
    ) -> Link:
        name = f"{program.name} on {device}"
        order = _order(flags=flags, relative=relative, expected_revision=expected_revision)
        options = ctypes.byref(order)
        with device.netns.entered():
            pointer = libbpf.call(
                function, program.pointer, device.ifindex, options, doing=f"attach {name}"
            )
        return attached(pointer, name)

    return to_device


def _order(
    *, flags: int, relative: Program | Link | None, expected_revision: int
) -> opts.OrderOptions:
    """Say where among several programs one shall stand."""
    if isinstance(relative, Link):
        flags |= AttachFlags.LINK
    return opts.OrderOptions(
        flags=flags,
        relative_fd=relative.fd if relative else 0,
        expected_revision=expected_revision,
    )


def _xdp(program: Program, device: Device, *, flags: XdpFlags | int = 0) -> Link:
    name = f"{program.name} on {device}"
    with device.netns.entered():
        if not flags:
            pointer = libbpf.call(
                "bpf_program__attach_xdp", program.pointer, device.ifindex, doing=f"attach {name}"
            )
            return attached(pointer, name)
        # libbpf's own helper has no place for flags.
        return _create(program, device.ifindex, AttachType.XDP, name, flags=flags)


def _to_netns(program: Program, netns: NetNs) -> Link:
    name = f"{program.name} on {netns}"
    pointer = libbpf.call(
        "bpf_program__attach_netns", program.pointer, netns.fileno(), doing=f"attach {name}"
    )
    return attached(pointer, name)


def _netfilter(
    program: Program,
    netns: NetNs | None,
    *,
    pf: int,
    hooknum: int,
    priority: int = 0,
    flags: int = 0,
) -> Link:
    name = f"{program.name} on netfilter hook {hooknum} at {priority}"
    options = opts.NetfilterOptions(pf=pf, hooknum=hooknum, priority=priority, flags=flags)
    with netns.entered() if netns else contextlib.nullcontext():
        pointer = libbpf.call(
            "bpf_program__attach_netfilter",
            program.pointer,
            ctypes.byref(options),
            doing=f"attach {name}",
        )
    return attached(pointer, name)


def _to_sockmap(program: Program, sockets: Map) -> Link:
    name = f"{program.name} on {sockets.name}"
    pointer = libbpf.call(
        "bpf_program__attach_sockmap", program.pointer, sockets.fd, doing=f"attach {name}"
    )
    return attached(pointer, name)


def _iter(
    program: Program,
    target: Map | Cgroup | None,
    *,
    order: int = 0,
    tid: int = 0,
    pid: int = 0,
) -> Link:
    info = IterInfo()
    if isinstance(target, Map):
        info.map_fd = target.fd
    elif isinstance(target, Cgroup):
        info.cgroup.order, info.cgroup.cgroup_fd = order, target.fileno()
    elif tid or pid:
        info.task.tid, info.task.pid = tid, pid
    options = opts.IterOptions(link_info=ctypes.addressof(info), link_info_len=ctypes.sizeof(info))
    name = f"{program.name} over {target or program.section}"
    pointer = libbpf.call(
        "bpf_program__attach_iter", program.pointer, ctypes.byref(options), doing=f"attach {name}"
    )
    return attached(pointer, name)


def _freplace(program: Program, target: Program | None, *, function: str = "") -> Link:
    name = f"{program.name} in place of {function or program.section}"
    if target is None:
        return events.as_section_says(program)
    pointer = libbpf.call(
        "bpf_program__attach_freplace",
        program.pointer,
        target.fd,
        function.encode(),
        doing=f"attach {name}",
    )
    return attached(pointer, name)


def _not_by_itself(program: Program, _target: object) -> Link:
    doing = f"attach {program.name} ({program.type.name})"
    raise BpfError(errno.EINVAL, doing, hint="its struct_ops map is what attaches: Map.attach()")


@dataclass(frozen=True)
class _Way:
    """How programs of one kind attach."""

    attach: Callable[..., Link]
    targets: tuple[type, ...]
    takes: str


_NONE = type(None)
_SECTION = _Way(events.as_section_says, (_NONE,), "what its SEC() names")
_CGROUP = _Way(_to_cgroup, (Cgroup,), "a Cgroup")
_NETNS = _Way(_to_netns, (NetNs,), "a NetNs")
_SOCKMAP = _Way(_to_sockmap, (Map,), "a Map of sockets")
_TCX = _Way(_to_ordered_device("bpf_program__attach_tcx"), (Device,), "a device of a NetNs")
_NETKIT = _Way(_to_ordered_device("bpf_program__attach_netkit"), (Device,), "a netkit device")
_FUNCTIONS = (_NONE, str, list, tuple), "names of kernel functions, or a pattern"
_KPROBES = _Way(events.to_kprobe_multi, *_FUNCTIONS)
_TRAMPOLINES = _Way(events.to_tracing_multi, *_FUNCTIONS)
_UPROBES = _Way(events.to_uprobe_multi, (_NONE, Path), "a Path with offsets=")
_ITER = _Way(_iter, (_NONE, Map, Cgroup), "a Map, a Cgroup, or what its SEC() names")

_BY_PROGRAM_TYPE = {
    ProgType.CGROUP_SKB: _CGROUP,
    ProgType.CGROUP_SOCK: _CGROUP,
    ProgType.CGROUP_DEVICE: _CGROUP,
    ProgType.CGROUP_SOCK_ADDR: _CGROUP,
    ProgType.CGROUP_SYSCTL: _CGROUP,
    ProgType.CGROUP_SOCKOPT: _CGROUP,
    ProgType.SOCK_OPS: _CGROUP,
    ProgType.XDP: _Way(_xdp, (Device,), "a device of a NetNs"),
    ProgType.FLOW_DISSECTOR: _NETNS,
    ProgType.SK_LOOKUP: _NETNS,
    ProgType.SK_MSG: _SOCKMAP,
    ProgType.SK_SKB: _SOCKMAP,
    ProgType.NETFILTER: _Way(_netfilter, (_NONE, NetNs), "a NetNs, by default the present one"),
    ProgType.EXT: _Way(_freplace, (_NONE, Program), "a function of another Program"),
    ProgType.PERF_EVENT: _Way(events.to_perf_event, (PerfEvent,), "a PerfEvent"),
    ProgType.KPROBE: _Way(
        events.to_probe, (_NONE, str, Path), "a kernel function's name, or a Path with offset="
    ),
    ProgType.STRUCT_OPS: _Way(_not_by_itself, (object,), "nothing by itself"),
}

# These say more than the type of the program does.
_BY_ATTACH_TYPE = {
    AttachType.LSM_CGROUP: _CGROUP,
    AttachType.TRACE_ITER: _ITER,
    AttachType.TCX_INGRESS: _TCX,
    AttachType.TCX_EGRESS: _TCX,
    AttachType.NETKIT_PRIMARY: _NETKIT,
    AttachType.NETKIT_PEER: _NETKIT,
    AttachType.TRACE_KPROBE_MULTI: _KPROBES,
    AttachType.TRACE_KPROBE_SESSION: _KPROBES,
    AttachType.TRACE_UPROBE_MULTI: _UPROBES,
    AttachType.TRACE_UPROBE_SESSION: _UPROBES,
    AttachType.TRACE_FENTRY_MULTI: _TRAMPOLINES,
    AttachType.TRACE_FEXIT_MULTI: _TRAMPOLINES,
    AttachType.TRACE_FSESSION_MULTI: _TRAMPOLINES,
}


def _way_of(program: Program) -> _Way:
    by_attach_type = _BY_ATTACH_TYPE.get(program.expected_attach_type)
    return by_attach_type or _BY_PROGRAM_TYPE.get(program.type, _SECTION)


def _create(
    program: Program, target: int, attach_type: AttachType, name: str, *, flags: int
) -> Link:
    """`BPF_LINK_CREATE` itself."""
    options = opts.LinkCreateOptions(flags=flags)
    fd = libbpf.call(
        "bpf_link_create",
        program.fd,
        target,
        attach_type,
        ctypes.byref(options),
        doing=f"attach {name}",
    )
    return created(fd, name)
