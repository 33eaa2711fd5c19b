"""Mistakes in `BPF_LINK_CREATE`, and the errno that each is refused with.

The mistakes of a link type stand in the order in which kernels find them: a call with two mistakes
is refused for the first.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_bpflink import (
    AttachFlags,
    AttachType,
    BpfError,
    LinkType,
    PerfEvent,
    SoftwareEvent,
    XdpFlags,
)
from pytest_bpflink.binding.kernel_btf import vmlinux
from pytest_bpflink.binding.uapi import IterInfo
from pytest_bpflink.features import probing
from pytest_bpflink.selftests.conformance.creating.call import attach_type_of
from pytest_bpflink.selftests.conformance.outcomes import OK
from pytest_bpflink.selftests.conformance.row import always, before
from pytest_bpflink.selftests.support.link_create import numbers, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_bpflink import KernelInfo
    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.conformance.stages import Stage
    from pytest_bpflink.selftests.support.link_create import LinkCreate

_Errno: TypeAlias = "Callable[[KernelInfo], int]"


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong in an otherwise right call."""

    name: str
    fields: dict[str, Any]
    """The fields that are wrong, by path: a value, or a function of the row and its stage."""
    errno: _Errno
    """`OK` if the kernel does not look at the field."""
    is_paired: bool = True
    """Whether calls with this mistake and another one are made, too."""

    def may_go_with(self, other: Mistake) -> bool:
        """Whether the two are in different fields."""
        return not self.fields.keys() & other.fields.keys()

    def make(self, call: LinkCreate, row: Row, stage: Stage) -> None:
        """Put the mistake into a call."""
        for path, value in self.fields.items():
            call.set(path, value(row, stage) if callable(value) else value)


def mistakes_of(row: Row) -> list[Mistake]:
    """Return the mistakes that a call for a row's link can have, in the kernel's order."""
    attach_types = before((5, 19), errno.EINVAL, OK) if row.id == "freplace" else errno.EINVAL
    return [
        *_COMMON,
        _mistake("no attach type", "attach_type", 1000, attach_types),
        _mistake("attach type of another type", "attach_type", _of_other_hook, attach_types),
        _mistake(
            "attach type of a sibling",
            "attach_type",
            _of_sibling,
            _TAKES_SIBLING.get(row.id, _TAKES_SIBLING.get(row.link_type, attach_types)),
            is_paired=False,
        ),
        *_OF_TYPE.get(row.link_type, ()),
        *_OF_ROW.get(row.id, () if row.link_type is not LinkType.TRACING else _NO_TARGET),
    ]


def creatable(row: Row) -> _Errno:
    """Return `OK`, or the errno of the right call: other commands make some links."""
    if row.id == "raw_tp":
        return always(errno.EINVAL)  # BPF_RAW_TRACEPOINT_OPEN makes it
    if row.id == "tp_btf" or (row.link_type is LinkType.TRACING and row.id != "freplace"):
        return before((5, 19), errno.EINVAL, OK)
    return always(OK)


def _mistake(
    name: str, path: str, value: Any, number: int | _Errno, *, is_paired: bool = True, **more: Any
) -> Mistake:
    """Make a mistake in a field, and in more: `iter__iter_info_len` means `iter.iter_info_len`."""
    fields = {path: value} | {each.replace("__", "."): given for each, given in more.items()}
    return Mistake(name, fields, number if callable(number) else always(number), is_paired)


_MINUS_ONE = 2**32 - 1
_NO_ADDRESS = 1 << 63  # not an address of a process
_NO_FLAG = 1 << 31
_NO_DEVICE = 10**6
_NO_PROCESS = 1 << 22  # PID_MAX_LIMIT
_TOO_MANY = (1 << 20) + 1  # MAX_KPROBE_MULTI_CNT and its like are 1 << 20
_INFO_SIZE = ctypes.sizeof(IterInfo)


def _closed(_row: Row, _stage: Stage) -> int:
    fd = os.dup(0)
    os.close(fd)
    return fd


def _open(path: str) -> Callable[[Row, Stage], int]:
    def opened(_row: Row, stage: Stage) -> int:
        fd = os.open(path, os.O_RDONLY)
        stage.request.addfinalizer(partial(os.close, fd))
        return fd

    return opened


def _map(_row: Row, stage: Stage) -> int:
    return next(one for one in stage.object.maps.values() if one.is_internal).fd


def _program(_row: Row, stage: Stage) -> int:
    return stage.load("cgroup", "on_egress", "on_egress_alt").program("on_egress").fd


def _of_other_kind(row: Row, stage: Stage) -> int:
    return (_program if row.link_type is LinkType.STRUCT_OPS else _map)(row, stage)


def _of_other_type(row: Row, stage: Stage) -> int:
    if row.id in {"raw_tp", "freplace"}:
        # Their attach type is 0, CGROUP_INET_INGRESS: a program for cgroups is of the right type.
        return stage.load("net", "on_xdp", "on_xdp_alt").program("on_xdp").fd
    return stage.of_other_type().fd


def _of_other_hook(row: Row, _stage: Stage) -> AttachType:
    is_lookup = row.link_type is LinkType.NETNS
    return AttachType.CGROUP_INET_EGRESS if is_lookup else AttachType.SK_LOOKUP


def _of_sibling(row: Row, stage: Stage) -> AttachType:
    return _SIBLINGS.get(attach_type_of(row, stage), AttachType.CGROUP_INET6_BIND)


def _software_event(_row: Row, stage: Stage) -> int:
    event = PerfEvent.software(SoftwareEvent.PAGE_FAULTS)
    stage.request.addfinalizer(event.close)
    return event.fileno()


def _veth(_row: Row, stage: Any) -> int:
    index: int = stage.place("veth", lambda _: stage.netns.veth())[0].ifindex
    return index


_COMMON = (
    _mistake("a byte behind the fields", "beyond", 1, errno.EINVAL),
    _mistake("program -1", "fd", _MINUS_ONE, errno.EBADF),
    # In a pair, a file that is opened for the other mistake would have the number.
    _mistake("program closed", "fd", _closed, errno.EBADF, is_paired=False),
    _mistake("a file for a program", "fd", _open(os.devnull), errno.EINVAL),
    _mistake("another kind of object for a program", "fd", _of_other_kind, errno.EINVAL),
    _mistake("a program of another type", "fd", _of_other_type, errno.EINVAL),
)

# Another hook for programs of the same type, if there is one; else any.
_SIBLINGS = {
    AttachType.CGROUP_INET_INGRESS: AttachType.CGROUP_INET_EGRESS,
    AttachType.CGROUP_INET_EGRESS: AttachType.CGROUP_INET_INGRESS,
    AttachType.CGROUP_INET_SOCK_CREATE: AttachType.CGROUP_INET_SOCK_RELEASE,
    AttachType.CGROUP_INET_SOCK_RELEASE: AttachType.CGROUP_INET_SOCK_CREATE,
    AttachType.CGROUP_INET4_POST_BIND: AttachType.CGROUP_INET6_POST_BIND,
    AttachType.CGROUP_INET6_POST_BIND: AttachType.CGROUP_INET4_POST_BIND,
    AttachType.CGROUP_INET6_BIND: AttachType.CGROUP_INET4_BIND,
    AttachType.CGROUP_GETSOCKOPT: AttachType.CGROUP_SETSOCKOPT,
    AttachType.CGROUP_SETSOCKOPT: AttachType.CGROUP_GETSOCKOPT,
    AttachType.FLOW_DISSECTOR: AttachType.SK_LOOKUP,
    AttachType.SK_LOOKUP: AttachType.FLOW_DISSECTOR,
    AttachType.LSM_MAC: AttachType.LSM_CGROUP,
    AttachType.LSM_CGROUP: AttachType.LSM_MAC,
    AttachType.MODIFY_RETURN: AttachType.TRACE_FENTRY,
    AttachType.NETKIT_PEER: AttachType.TCX_EGRESS,
    AttachType.NETKIT_PRIMARY: AttachType.TCX_INGRESS,
    AttachType.PERF_EVENT: AttachType.TRACE_KPROBE_MULTI,
    AttachType.SK_MSG_VERDICT: AttachType.SK_SKB_VERDICT,
    AttachType.SK_SKB_VERDICT: AttachType.SK_SKB_STREAM_VERDICT,
    AttachType.TCX_EGRESS: AttachType.NETKIT_PEER,
    AttachType.TCX_INGRESS: AttachType.NETKIT_PRIMARY,
    AttachType.TRACE_FENTRY: AttachType.TRACE_FEXIT,
    AttachType.TRACE_FENTRY_MULTI: AttachType.TRACE_FEXIT_MULTI,
    AttachType.TRACE_FEXIT: AttachType.TRACE_FENTRY,
    AttachType.TRACE_FEXIT_MULTI: AttachType.TRACE_FENTRY_MULTI,
    AttachType.TRACE_FSESSION_MULTI: AttachType.TRACE_FENTRY_MULTI,
    AttachType.TRACE_ITER: AttachType.TRACE_FENTRY,
    AttachType.TRACE_KPROBE_MULTI: AttachType.PERF_EVENT,
    AttachType.TRACE_RAW_TP: AttachType.TRACE_FENTRY,
    AttachType.TRACE_UPROBE_MULTI: AttachType.TRACE_KPROBE_MULTI,
    AttachType.XDP: AttachType.XDP_DEVMAP,
}


def _without_fprobe(kernel: KernelInfo) -> int:
    return errno.EINVAL if "CONFIG_FPROBE" in kernel.config else errno.EOPNOTSUPP


_KPROBES = ("kprobe", "kretprobe", "uprobe", "uretprobe")
_TAKES_SIBLING: dict[str | LinkType, int | _Errno] = {
    # The kernel keeps packets' programs for one direction only where they change verdicts (cgroup).
    "cgroup-ingress": OK,
    "cgroup-egress": OK,
    # A netkit device has tcx hooks; a veth has no netkit hooks.
    LinkType.NETKIT: OK,
    LinkType.TCX: errno.ENXIO,
    "sk_skb": OK,
    **dict.fromkeys(_KPROBES, _without_fprobe),
}

_FLAG = _mistake("unknown flag", "flags", _NO_FLAG, errno.EINVAL)
_NO_DESCRIPTOR = (
    _mistake("target -1", "target", _MINUS_ONE, errno.EBADF),
    _mistake("target closed", "target", _closed, errno.EBADF, is_paired=False),
)


def _unseen(*paths: str) -> tuple[Mistake, ...]:
    """Return mistakes that the kernel does not see: fields that the type has no use for."""
    return tuple(_mistake(f"{path} for nothing", path, 1, OK) for path in paths)


# Distributions bring PREORDER and revisions of cgroups to kernels older than 6.15 and 6.17.


def _takes_preorder(_kernel: KernelInfo) -> int:
    return errno.EINVAL if probing.absence("cgroup:preorder") else OK


def _with_revisions(old: int, new: int) -> _Errno:
    """Give `new` where cgroups count revisions."""
    return lambda kernel: new if _counts_revisions(kernel.version) else old


@cache
def _counts_revisions(release: tuple[int, ...]) -> bool:
    # Not the feature's probe, which needs libbpf 1.6 besides.
    try:
        return "revisions" in vmlinux().members("cgroup_bpf")
    except BpfError:
        return release >= (6, 17)


_NO_TARGET = (
    # The section of the program has named the function.
    _mistake("target alone", "target", _program, errno.EINVAL),
    _mistake("function alone", "target_btf_id", 1, errno.EINVAL),
    _mistake("another program's function", "target", _program, errno.EINVAL, target_btf_id=1),
)

_ORDERED = (
    _mistake("device 0", "target", 0, errno.ENODEV),
    _mistake("no such device", "target", _NO_DEVICE, errno.ENODEV),
    _mistake("wrong revision", "order.expected_revision", 99, errno.ESTALE),
    _mistake("relative to id 0", "flags", AttachFlags.ID, errno.ENOENT),
    _mistake(
        "before no program",
        "order.relative_fd",
        _MINUS_ONE,
        errno.EBADF,
        flags=AttachFlags.BEFORE,
    ),
    _mistake(
        "before no link",
        "order.relative_fd",
        _MINUS_ONE,
        errno.EBADF,
        flags=AttachFlags.BEFORE | AttachFlags.LINK,
    ),
    _mistake(
        "before no program's id",
        "order.relative_fd",
        _MINUS_ONE,
        errno.ENOENT,
        flags=AttachFlags.BEFORE | AttachFlags.ID,
    ),
    _mistake("relative to nothing", "order.relative_fd", _MINUS_ONE, errno.EBADF),
    _FLAG,
    _mistake("replacing nothing", "flags", AttachFlags.REPLACE, errno.ENOENT),
    _mistake("before and after", "flags", AttachFlags.BEFORE | AttachFlags.AFTER, errno.ERANGE),
)

_OF_TYPE: dict[LinkType, Sequence[Mistake]] = {
    LinkType.RAW_TRACEPOINT: _unseen("flags", "target", "target_btf_id"),
    LinkType.TRACING: _unseen("flags"),
    LinkType.CGROUP: (
        _FLAG,
        _mistake("replacing", "flags", AttachFlags.REPLACE, errno.EINVAL),
        _mistake("overridable", "flags", AttachFlags.ALLOW_OVERRIDE, errno.EINVAL),
        _mistake(
            "preordered",
            "flags",
            AttachFlags.PREORDER,
            _takes_preorder,
            is_paired=False,
        ),
        *_NO_DESCRIPTOR,
        _mistake("a file for a cgroup", "target", _open(os.devnull), errno.EBADF),
        _mistake("a directory for a cgroup", "target", _open("/"), errno.EBADF),
        _mistake(
            "wrong revision",
            "order.expected_revision",
            99,
            _with_revisions(OK, errno.ESTALE),
        ),
        _mistake(
            "relative to nothing",
            "order.relative_fd",
            99,
            _with_revisions(OK, errno.EINVAL),
        ),
    ),
    LinkType.ITER: (
        _FLAG,
        _mistake("a target", "target", 1, errno.EINVAL),
        _mistake(
            "info without length", "iter.iter_info", IterInfo(), errno.EINVAL, iter__iter_info_len=0
        ),
        _mistake(
            "length without info", "iter.iter_info", 0, errno.EINVAL, iter__iter_info_len=_INFO_SIZE
        ),
        _mistake(
            "info at no address",
            "iter.iter_info",
            _NO_ADDRESS,
            errno.EFAULT,
            iter__iter_info_len=_INFO_SIZE,
        ),
        _mistake(
            "a byte behind the info's fields",
            "iter.iter_info",
            ctypes.create_string_buffer(bytes(_INFO_SIZE + 63) + b"\1", _INFO_SIZE + 64),
            errno.E2BIG,
            iter__iter_info_len=_INFO_SIZE + 64,
        ),
    ),
    LinkType.NETNS: (
        _FLAG,
        *_NO_DESCRIPTOR,
        _mistake("a file for a namespace", "target", _open(os.devnull), errno.EINVAL),
        _mistake("another namespace", "target", _open("/proc/self/ns/uts"), errno.EINVAL),
    ),
    LinkType.XDP: (
        _mistake("device 0", "target", 0, errno.EINVAL),
        _mistake("no such device", "target", _NO_DEVICE, errno.EINVAL),
        _FLAG,
        _mistake("two modes", "flags", XdpFlags.SKB_MODE | XdpFlags.DRV_MODE, errno.EINVAL),
        _mistake("if none is there", "flags", 1 << 0, errno.EINVAL),  # UPDATE_IF_NOEXIST
        _mistake("replacing", "flags", 1 << 4, errno.EINVAL),  # XDP_FLAGS_REPLACE
    ),
    LinkType.PERF_EVENT: (
        _FLAG,
        *_NO_DESCRIPTOR,
        _mistake("a file for an event", "target", _open(os.devnull), errno.EBADF),
    ),
    LinkType.KPROBE_MULTI: (
        _FLAG,
        _mistake("unknown flag of its own", "kprobe_multi.flags", _NO_FLAG, errno.EINVAL),
        _mistake("neither names nor addresses", "kprobe_multi.syms", 0, errno.EINVAL),
        _mistake("names and addresses", "kprobe_multi.addrs", numbers(1, 2), errno.EINVAL),
        _mistake("no function", "kprobe_multi.cnt", 0, errno.EINVAL),
        _mistake("too many functions", "kprobe_multi.cnt", _TOO_MANY, errno.E2BIG),
        _mistake("cookies at no address", "kprobe_multi.cookies", _NO_ADDRESS, errno.EFAULT),
        _mistake("names at no address", "kprobe_multi.syms", _NO_ADDRESS, errno.EFAULT),
        _mistake(
            "addresses at no address",
            "kprobe_multi.addrs",
            _NO_ADDRESS,
            errno.EFAULT,
            kprobe_multi__syms=0,
        ),
        _mistake(
            "an unknown function",
            "kprobe_multi.syms",
            texts("security_task_getpgid", "nobody_calls_this"),
            errno.ESRCH,
        ),
        _mistake(
            "addresses of no functions",
            "kprobe_multi.addrs",
            numbers(1, 2),
            before((6, 18), errno.EINVAL, errno.ENOENT),
            kprobe_multi__syms=0,
        ),
        *_unseen("target"),
    ),
    LinkType.NETFILTER: (
        _FLAG,
        _mistake("another family", "netfilter.pf", socket.AF_UNIX, errno.EAFNOSUPPORT),
        _mistake("no such hook", "netfilter.hooknum", 99, errno.EPROTO),
        _mistake("unknown flag of its own", "netfilter.flags", _NO_FLAG, errno.EOPNOTSUPP),
        _mistake("lowest priority", "netfilter.priority", -(2**31), errno.ERANGE),
        _mistake("highest priority", "netfilter.priority", 2**31 - 1, errno.ERANGE),
        _mistake(
            "before packets are defragmented",
            "netfilter.priority",
            -400,
            errno.ERANGE,
            netfilter__flags=1,
        ),
        *_unseen("target"),
    ),
    LinkType.TCX: _ORDERED,
    LinkType.NETKIT: (
        _mistake("another kind of device", "target", _veth, errno.ENXIO),
        *_ORDERED,
    ),
    LinkType.UPROBE_MULTI: (
        _mistake("unknown flag", "flags", _NO_FLAG, before((6, 18), OK, errno.EINVAL)),
        _mistake("unknown flag of its own", "uprobe_multi.flags", _NO_FLAG, errno.EINVAL),
        _mistake("no offsets", "uprobe_multi.offsets", 0, errno.EINVAL),
        _mistake("no offset", "uprobe_multi.cnt", 0, errno.EINVAL),
        _mistake("process -1", "uprobe_multi.pid", _MINUS_ONE, errno.EINVAL),
        # 7.2 takes a descriptor for the path, and looks at the path later.
        _mistake("no path", "uprobe_multi.path", 0, errno.EINVAL, is_paired=False),
        _mistake("too many offsets", "uprobe_multi.cnt", _TOO_MANY, errno.E2BIG),
        # 6.18 looks at these three after the path, others before it.
        *(
            _mistake(
                f"{name} at no address",
                f"uprobe_multi.{name}",
                _NO_ADDRESS,
                errno.EFAULT,
                is_paired=False,
            )
            for name in ("offsets", "cookies", "ref_ctr_offsets")
        ),
        _mistake("path at no address", "uprobe_multi.path", _NO_ADDRESS, errno.EFAULT),
        _mistake(
            "no such file",
            "uprobe_multi.path",
            ctypes.create_string_buffer(b"/nowhere"),
            errno.ENOENT,
        ),
        _mistake(
            "a directory for a file",
            "uprobe_multi.path",
            ctypes.create_string_buffer(b"/"),
            errno.EBADF,
        ),
        _mistake("no such process", "uprobe_multi.pid", _NO_PROCESS, errno.ESRCH),
        _mistake("offset below 0", "uprobe_multi.offsets", numbers(1 << 63), errno.EINVAL),
        _mistake("offset behind the file", "uprobe_multi.offsets", numbers(1 << 40), errno.EINVAL),
        *_unseen("target"),
    ),
    LinkType.SOCKMAP: (
        _FLAG,
        *_NO_DESCRIPTOR,
        _mistake("a file for a map", "target", _open(os.devnull), errno.EINVAL),
        _mistake("a program for a map", "target", _program, errno.EINVAL),
        _mistake("another kind of map", "target", _map, errno.EINVAL),
    ),
    LinkType.STRUCT_OPS: _unseen("flags", "target"),
    LinkType.TRACING_MULTI: (
        _mistake("no functions", "tracing_multi.ids", 0, errno.EINVAL),
        _mistake("no function", "tracing_multi.cnt", 0, errno.EINVAL),
        _mistake("too many functions", "tracing_multi.cnt", _TOO_MANY, errno.E2BIG),
        _FLAG,
        _mistake("a target", "target", 1, errno.EINVAL),
        _mistake("functions at no address", "tracing_multi.ids", _NO_ADDRESS, errno.EFAULT),
        _mistake("cookies at no address", "tracing_multi.cookies", _NO_ADDRESS, errno.EFAULT),
        _mistake(
            "no types", "tracing_multi.ids", (ctypes.c_uint32 * 2)(1 << 30, 1 << 29), errno.EINVAL
        ),
        _mistake("types of no functions", "tracing_multi.ids", (ctypes.c_uint32 * 2)(1, 2), 22),
    ),
}


def _info(**fields: Any) -> Callable[[Row, Stage], IterInfo]:
    """Return a function that makes an iterator's info: `cgroup__order` means `cgroup.order`."""

    def make(row: Row, stage: Any) -> IterInfo:
        info = IterInfo()
        for path, value in fields.items():
            first, _, second = path.partition("__")
            place = getattr(info, first) if second else info
            setattr(place, second or first, value(row, stage) if callable(value) else value)
        return info

    return make


def _wrong_info(name: str, number: int | _Errno, **fields: Any) -> Mistake:
    info = _info(**fields)
    return _mistake(name, "iter.iter_info", info, number, iter__iter_info_len=_INFO_SIZE)


# Before 6.1 an iterator's info has no tasks and cgroups, and no bytes for them.
_TASKS = (
    _wrong_info(
        "a thread and a process",
        before((6, 1), errno.E2BIG, errno.EINVAL),
        task__tid=1,
        task__pid=1,
    ),
    _wrong_info(
        "a file for a process",
        before((6, 1), errno.E2BIG, errno.EBADF),
        task__pid_fd=_open(os.devnull),
    ),
)

_NO_EVENT_OF_ITS_KIND = (
    _mistake("another kind of event", "target", _software_event, errno.EINVAL),
)

_OF_ROW: dict[str, Sequence[Mistake]] = {
    "freplace": (
        _mistake("function alone", "target", 0, errno.EINVAL),
        _mistake("target alone", "target_btf_id", 0, errno.EINVAL),
        _mistake("target -1", "target", _MINUS_ONE, errno.EBADF),
        _mistake("a file for a program to replace", "target", _open(os.devnull), errno.EINVAL),
        _mistake("another program's function", "target", _program, errno.EINVAL),
        _mistake("a type that is no function", "target_btf_id", 1, errno.EINVAL),
    ),
    "xdp-native": (_mistake("on the device", "flags", XdpFlags.HW_MODE, errno.EINVAL),),
    "xdp-dummy": (_mistake("on the device", "flags", XdpFlags.HW_MODE, errno.EOPNOTSUPP),),
    **dict.fromkeys((*_KPROBES, "tracepoint"), _NO_EVENT_OF_ITS_KIND),
    "iter_task": _TASKS,
    "iter_task_file": _TASKS,
    "iter_map_elem": (
        _mistake("no info", "iter.iter_info", 0, errno.EBADF, iter__iter_info_len=0),
        _wrong_info("map 0", errno.EBADF, map_fd=0),
        _wrong_info("map -1", errno.EBADF, map_fd=_MINUS_ONE),
        _wrong_info("a file for a map", errno.EINVAL, map_fd=_open(os.devnull)),
        _wrong_info("a program for a map", errno.EINVAL, map_fd=_program),
    ),
    "iter_cgroup": (
        _wrong_info("no order", errno.EINVAL, cgroup__order=0),
        _wrong_info("unknown order", errno.EINVAL, cgroup__order=99),
        _wrong_info(
            "descriptor and id",
            errno.EINVAL,
            cgroup__order=1,
            cgroup__cgroup_fd=_open(os.devnull),
            cgroup__cgroup_id=1,
        ),
        _wrong_info(
            "a file for a cgroup",
            errno.EBADF,
            cgroup__order=1,
            cgroup__cgroup_fd=_open(os.devnull),
        ),
        _wrong_info("no such cgroup", errno.ENOENT, cgroup__order=1, cgroup__cgroup_id=1 << 60),
    ),
}
