"""The table of all link types: since when, how to see one run, what it can do, what it answers.

A row is a type, or a variant of one that the kernel treats differently. Its stage can attach it and
make its program run; the `test_conformance_` files ask the same of every row.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_bpflink import AttachType, LinkType
from pytest_bpflink.selftests.conformance import event_stages as events
from pytest_bpflink.selftests.conformance import stages
from pytest_bpflink.selftests.conformance.cgroup_actions import ACTIONS
from pytest_bpflink.selftests.conformance.network_rows import NETWORK, SOCKMAPS
from pytest_bpflink.selftests.conformance.outcomes import OK
from pytest_bpflink.selftests.conformance.row import (
    TARGET_FIRST,
    TARGET_LAST,
    Row,
    always,
    before,
    programs_of,
    row_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


# A trampoline takes a program once at a time; before 5.11 a program can't be attached again.
_TRAMPOLINE: dict[str, Any] = {
    "again": before((5, 11), errno.ENOENT, errno.EBUSY),
    "again_later": before((5, 11), errno.ENOENT, OK),
}
_TRACEPOINT: dict[str, Any] = {"again": before((6, 2), errno.EEXIST, OK)}


def _tracing(name: str, attach_type: AttachType, **more: Any) -> Row:
    info: Callable[[Any], dict[str, Any]] = lambda _stage: {"attach_type": attach_type}  # noqa: E731
    return row_of(
        name, LinkType.TRACING, events.Trampoline, "5.7", info=info, **(_TRAMPOLINE | more)
    )


def _perf(name: str, stage: type[stages.Stage], **more: Any) -> Row:
    more = {"many_targets": stage is not events.Syscalls} | more
    return row_of(name, LinkType.PERF_EVENT, stage, "5.15", info_since=(6, 6), **more)


def _tracing_multi(name: str, attach_type: AttachType, **more: Any) -> Row:
    return row_of(
        name,
        LinkType.TRACING_MULTI,
        events.Functions,
        "7.2",
        libbpf="1.8",
        many_targets=True,
        again=always(errno.EBUSY),
        info=lambda stage: {"attach_type": attach_type, "ids": tuple(sorted(stage.numbers))},
        info_since=(7, 3),
        **more,
    )


_KPROBES = ("CONFIG_KPROBE_EVENTS",)
_UPROBES = ("CONFIG_UPROBE_EVENTS",)

_EVENTS = [
    row_of("raw_tp", LinkType.RAW_TRACEPOINT, events.Syscalls, "5.7", **_TRACEPOINT),
    row_of(
        "tp_btf",
        LinkType.RAW_TRACEPOINT,
        events.Syscalls,
        "5.7",
        needs="attach:trace_raw_tp",
        **_TRACEPOINT,
    ),
    _tracing("fentry", AttachType.TRACE_FENTRY),
    _tracing("fexit", AttachType.TRACE_FEXIT),
    _tracing("fmod_ret", AttachType.MODIFY_RETURN),
    _tracing("lsm", AttachType.LSM_MAC, config=("CONFIG_BPF_LSM",)),
    row_of(
        "freplace",
        LinkType.TRACING,
        events.Replacement,
        "5.10",
        needs="prog:ext",
        config=("CONFIG_BPF_EVENTS",),  # of the program that is replaced
        options={"function": "step"},
        again=always(errno.EBUSY),
    ),
    _perf("kprobe", events.Kprobe, config=_KPROBES, keeps_module=lambda _kernel: False),
    _perf("kretprobe", events.Kprobe, config=_KPROBES, options={"retprobe": True}),
    _perf(
        "tracepoint",
        events.Syscalls,
        config=("CONFIG_FTRACE_SYSCALLS",),
        again=always(errno.EEXIST),
    ),
    _perf("uprobe", events.Uprobe, config=_UPROBES),
    _perf("uretprobe", events.Uprobe, config=_UPROBES, options={"retprobe": True}),
    _perf("perf_event", events.PageFaults, again=always(errno.EEXIST), alone=True),
    row_of(
        "kprobe_multi",
        LinkType.KPROBE_MULTI,
        events.Functions,
        "5.18",
        keeps_module=lambda kernel: kernel.version >= (6, 3),
        many_targets=True,
        info=lambda _stage: {"count": 2},
        info_since=(6, 6),
    ),
    _tracing_multi("fentry_multi", AttachType.TRACE_FENTRY_MULTI),
    _tracing_multi("fexit_multi", AttachType.TRACE_FEXIT_MULTI, brief=True),
    _tracing_multi("fsession_multi", AttachType.TRACE_FSESSION_MULTI, brief=True),
    row_of(
        "uprobe_multi",
        LinkType.UPROBE_MULTI,
        events.Uprobe,
        "6.6",
        many_targets=True,
        libbpf="1.3",
        info=lambda stage: {"count": 1, "offsets": tuple(stage.options["offsets"])},
        info_since=(6, 8),
    ),
]


# Hooks whose programs have the same type. The other hooks have a type of their own.
_SAME_TYPE = (
    ("ingress", "egress"),
    ("sock_create", "sock_release", "post_bind4", "post_bind6"),
    ("bind4", "bind6", "connect4", "connect6"),
    ("sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6"),
    ("getpeername4", "getpeername6", "getsockname4", "getsockname6"),
    ("connect_unix", "sendmsg_unix", "recvmsg_unix", "getpeername_unix", "getsockname_unix"),
    ("getsockopt", "setsockopt"),
)
_SIBLINGS = {
    name: ("cgroup", f"on_{names[index - 1]}")
    for names in _SAME_TYPE
    for index, name in enumerate(names)
}


def _cgroup(name: str, attach_type: AttachType, since: str = "5.7", **more: Any) -> Row:
    usual: dict[str, Any] = {
        "brief": True,
        "sibling": _SIBLINGS.get(name, ()),
        "takes_sibling": always(OK),
    }
    info: Callable[[Any], dict[str, Any]] = lambda stage: {  # noqa: E731
        "cgroup_id": stage.target.id,
        "attach_type": attach_type,
    }
    return Row(
        f"cgroup-{name}",
        LinkType.CGROUP,
        partial(_in_cgroup, name),
        since,
        programs_of(stages.InCgroup, name),
        info=info,
        update=OK,
        detach=OK,
        detached={"cgroup_id": 0},
        precedence=TARGET_FIRST,
        many_targets=True,
        target_ends=True,
        **(usual | more),
    )


def _in_cgroup(name: str, request: pytest.FixtureRequest) -> stages.Stage:
    return stages.InCgroup(request, f"on_{name}", ACTIONS[name])


_FULL: dict[str, Any] = {"brief": False, "counts_packets": True}
_UNIX = {"since": "6.7", "libbpf": "1.3"}

_CGROUPS = [
    _cgroup("ingress", AttachType.CGROUP_INET_INGRESS, counts_packets=True),
    _cgroup("egress", AttachType.CGROUP_INET_EGRESS, **_FULL),
    _cgroup("sock_create", AttachType.CGROUP_INET_SOCK_CREATE),
    _cgroup("sock_release", AttachType.CGROUP_INET_SOCK_RELEASE, "5.9"),
    _cgroup("post_bind4", AttachType.CGROUP_INET4_POST_BIND),
    _cgroup("post_bind6", AttachType.CGROUP_INET6_POST_BIND),
    _cgroup("bind4", AttachType.CGROUP_INET4_BIND),
    _cgroup("bind6", AttachType.CGROUP_INET6_BIND),
    _cgroup("connect4", AttachType.CGROUP_INET4_CONNECT),
    _cgroup("connect6", AttachType.CGROUP_INET6_CONNECT),
    _cgroup("sendmsg4", AttachType.CGROUP_UDP4_SENDMSG),
    _cgroup("sendmsg6", AttachType.CGROUP_UDP6_SENDMSG),
    _cgroup("recvmsg4", AttachType.CGROUP_UDP4_RECVMSG),
    _cgroup("recvmsg6", AttachType.CGROUP_UDP6_RECVMSG),
    _cgroup("getpeername4", AttachType.CGROUP_INET4_GETPEERNAME, "5.8"),
    _cgroup("getpeername6", AttachType.CGROUP_INET6_GETPEERNAME, "5.8"),
    _cgroup("getsockname4", AttachType.CGROUP_INET4_GETSOCKNAME, "5.8"),
    _cgroup("getsockname6", AttachType.CGROUP_INET6_GETSOCKNAME, "5.8"),
    _cgroup("connect_unix", AttachType.CGROUP_UNIX_CONNECT, **_UNIX),
    _cgroup("sendmsg_unix", AttachType.CGROUP_UNIX_SENDMSG, **_UNIX),
    _cgroup("recvmsg_unix", AttachType.CGROUP_UNIX_RECVMSG, **_UNIX),
    _cgroup("getpeername_unix", AttachType.CGROUP_UNIX_GETPEERNAME, **_UNIX),
    _cgroup("getsockname_unix", AttachType.CGROUP_UNIX_GETSOCKNAME, **_UNIX),
    _cgroup("sysctl", AttachType.CGROUP_SYSCTL),
    _cgroup("getsockopt", AttachType.CGROUP_GETSOCKOPT),
    _cgroup("setsockopt", AttachType.CGROUP_SETSOCKOPT),
    _cgroup("device", AttachType.CGROUP_DEVICE),
    _cgroup("sock_ops", AttachType.CGROUP_SOCK_OPS),
    _cgroup(
        "lsm_cgroup",
        AttachType.LSM_CGROUP,
        "6.0",
        brief=False,
        needs="attach:lsm_cgroup",
        sibling=("events", "on_lsm"),
        takes_sibling=always(errno.ENOENT),
        retargeted=("cgroup", "on_lsm_listen"),
        takes_retargeted=errno.ENOENT,
    ),
]


def _iter(name: str, stage: type[stages.Stage], since: str, info: Any, **options: Any) -> Row:
    return row_of(
        f"iter_{name}",
        LinkType.ITER,
        stage,
        since,
        update=OK,
        info=info,
        options=options,
        precedence=TARGET_LAST,
        many_targets=stage is not stages.Iterator,
        sibling=("iter", "on_iter_task" if name != "task" else "on_iter_map_elem"),
        brief=name in _KERNEL_OBJECTS,
    )


def _iter_objects(name: str, since: str) -> Row:
    return _iter(name, stages.Iterator, since, lambda _stage: {"target_name": name})


# Iterators that differ in the objects that they walk over, while their links are alike.
_KERNEL_OBJECTS = {
    "task_file": "5.8",
    "bpf_map": "5.8",
    "bpf_prog": "5.9",
    "bpf_link": "6.0",
    "netlink": "5.8",
    "tcp": "5.9",
    "udp": "5.9",
    "unix": "5.15",
    "ksym": "6.0",
}


_ITERS = [
    _iter("task", stages.Iterator, "5.8", lambda _stage: {"target_name": "task"}),
    _iter(
        "map_elem",
        stages.MapIterator,
        "5.8",
        lambda stage: {"target_name": "bpf_map_elem", "map_id": stage.target.id},
    ),
    _iter(
        "cgroup",
        stages.CgroupIterator,
        "6.1",
        lambda stage: {"target_name": "cgroup", "cgroup_id": stage.target.id, "order": 1},
        order=1,
    ),
    *(_iter_objects(name, since) for name, since in _KERNEL_OBJECTS.items()),
]


_STRUCT_OPS = [
    row_of(
        "struct_ops",
        LinkType.STRUCT_OPS,
        stages.Congestion,
        "6.4",
        libbpf="1.2",
        info=lambda stage: {"map_id": stage.first.id},
        update=OK,
        detach=OK,
        detached={"map_id": 0},
        precedence=(errno.EINVAL, errno.ENOLINK, errno.EPERM),
        again=always(errno.EEXIST),
        retargeted=("struct_ops", "congestion_renamed"),
    ),
]

ROWS = [*_EVENTS, *_CGROUPS, *_ITERS, *NETWORK, *SOCKMAPS, *_STRUCT_OPS]
