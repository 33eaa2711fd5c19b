"""Every link type in a table: since when, how to see it run, what it can do, and what it answers.

A row is a type, or a flavour of one that the kernel treats apart. `stages` knows how to attach it
and to make it run; `test_conformance` asks the same of every row.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_bpflink import AttachType, LinkType
from pytest_bpflink.selftests import stages
from pytest_bpflink.selftests.cgroup_actions import ACTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from pytest_bpflink import KernelInfo

OK = 0
"""Where an errno is expected: none, it works."""


@dataclass(frozen=True)
class Row:
    """A link type or a flavour of it, and what is special about it."""

    id: str
    link_type: LinkType
    make_stage: Callable[[pytest.FixtureRequest], stages.Stage]
    since: str
    """The release that has it; on an older one it may be missing."""
    config: tuple[str, ...] = ()
    """Options without which a kernel may lack it."""
    libbpf: str = ""
    """The libbpf that knows its section, where 1.0 does not."""
    info: Callable[[Any], dict[str, Any]] = field(default=lambda _stage: {})
    """What its info holds beyond id, program and type."""
    info_since: str = ""
    """The release from which on it does, where that is later."""
    update: int = errno.EINVAL
    detach: int = errno.EOPNOTSUPP
    detached: dict[str, int] = field(default_factory=dict)
    """What its info holds once it has lost its target."""
    target_ends: bool = False
    """Whether its target can go away while it is held."""
    again: Callable[[KernelInfo], int] = field(default=lambda _kernel: OK)
    """What attaching the same program to the same target a second time gives."""
    again_later: Callable[[KernelInfo], int] = field(default=lambda _kernel: OK)
    """What attaching it anew gives when the first link is gone."""
    counts_packets: bool = False
    """Whether a trigger makes its program run exactly once, for one packet."""
    brief: bool = False
    """Whether most checks would but repeat those of another row, which runs the same code."""


def _before(release: tuple[int, ...], old: int, new: int) -> Callable[[KernelInfo], int]:
    return lambda kernel: old if kernel.version < release else new


def _always(number: int) -> Callable[[KernelInfo], int]:
    return lambda _kernel: number


def _program(stage: type[stages.Stage], name: str, **options: Any) -> Any:
    return lambda request: stage(request, f"on_{name}", **options)


def _row(name: str, link_type: LinkType, stage: type[stages.Stage], since: str, **more: Any) -> Row:
    options = more.pop("options", {})
    return Row(
        name, link_type, _program(stage, more.pop("program", name), **options), since, **more
    )


# What is on a trampoline holds one program; before 5.11 a detached one can't be attached again.
_TRAMPOLINE: dict[str, Any] = {
    "again": _before((5, 11), errno.ENOENT, errno.EBUSY),
    "again_later": _before((5, 11), errno.ENOENT, OK),
}
_TRACEPOINT: dict[str, Any] = {"again": _before((6, 2), errno.EEXIST, OK)}


def _tracing(name: str, attach_type: AttachType, **more: Any) -> Row:
    info: Callable[[Any], dict[str, Any]] = lambda _stage: {"attach_type": attach_type}  # noqa: E731
    return _row(name, LinkType.TRACING, stages.Syscalls, "5.7", info=info, **(_TRAMPOLINE | more))


def _perf(name: str, stage: type[stages.Stage], **more: Any) -> Row:
    return _row(name, LinkType.PERF_EVENT, stage, "5.15", info_since="6.6", **more)


_KPROBES = ("CONFIG_KPROBE_EVENTS",)
_UPROBES = ("CONFIG_UPROBE_EVENTS",)

_EVENTS = [
    _row("raw_tp", LinkType.RAW_TRACEPOINT, stages.Syscalls, "5.7", **_TRACEPOINT),
    _row("tp_btf", LinkType.RAW_TRACEPOINT, stages.Syscalls, "5.7", **_TRACEPOINT),
    _tracing("fentry", AttachType.TRACE_FENTRY),
    _tracing("fexit", AttachType.TRACE_FEXIT),
    _tracing("fmod_ret", AttachType.MODIFY_RETURN),
    _tracing("lsm", AttachType.LSM_MAC, config=("CONFIG_BPF_LSM",)),
    _row(
        "freplace",
        LinkType.TRACING,
        stages.Replacement,
        "5.10",
        options={"function": "step"},
        again=_always(errno.EBUSY),
    ),
    _perf("kprobe", stages.Kprobe, config=_KPROBES),
    _perf("kretprobe", stages.Kprobe, config=_KPROBES, options={"retprobe": True}),
    _perf(
        "tracepoint",
        stages.Syscalls,
        config=("CONFIG_FTRACE_SYSCALLS",),
        again=_always(errno.EEXIST),
    ),
    _perf("uprobe", stages.Uprobe, config=_UPROBES),
    _perf("uretprobe", stages.Uprobe, config=_UPROBES, options={"retprobe": True}),
    _perf("perf_event", stages.PageFaults, again=_always(errno.EEXIST)),
    _row(
        "kprobe_multi",
        LinkType.KPROBE_MULTI,
        stages.KprobeMulti,
        "5.18",
        config=("CONFIG_FPROBE",),
        info=lambda _stage: {"count": 2},
        info_since="6.6",
    ),
    _row(
        "uprobe_multi",
        LinkType.UPROBE_MULTI,
        stages.Uprobe,
        "6.6",
        config=_UPROBES,
        libbpf="1.3",
        info=lambda stage: {"count": 1, "offsets": tuple(stage.options["offsets"])},
        info_since="6.8",
    ),
]


def _cgroup(name: str, attach_type: AttachType, since: str = "5.7", **more: Any) -> Row:
    info: Callable[[Any], dict[str, Any]] = lambda stage: {  # noqa: E731
        "cgroup_id": stage.target.id,
        "attach_type": attach_type,
    }
    return Row(
        f"cgroup-{name}",
        LinkType.CGROUP,
        partial(_in_cgroup, name),
        since,
        info=info,
        update=OK,
        detach=OK,
        detached={"cgroup_id": 0},
        target_ends=True,
        **({"brief": True} | more),
    )


def _in_cgroup(name: str, request: pytest.FixtureRequest) -> stages.Stage:
    return stages.InCgroup(request, f"on_{name}", ACTIONS[name])


_UNIX = {"since": "6.7", "libbpf": "1.3"}

_CGROUPS = [
    _cgroup("ingress", AttachType.CGROUP_INET_INGRESS),
    _cgroup("egress", AttachType.CGROUP_INET_EGRESS, brief=False, counts_packets=True),
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
    _cgroup("lsm_cgroup", AttachType.LSM_CGROUP, "6.0", brief=False, config=("CONFIG_BPF_LSM",)),
]


def _iter(name: str, stage: type[stages.Stage], since: str, info: Any, **options: Any) -> Row:
    return _row(f"iter_{name}", LinkType.ITER, stage, since, update=OK, info=info, options=options)


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
]


def _netns(name: str, stage: type[stages.Stage], attach_type: AttachType, **more: Any) -> Row:
    return _row(
        name,
        LinkType.NETNS,
        stage,
        more.pop("since"),
        info=lambda it: {"netns_ino": it.netns.ino, "attach_type": attach_type},
        update=OK,
        detach=OK,
        detached={"netns_ino": 0},
        target_ends=True,
        **more,
    )


def _device(name: str, link_type: LinkType, since: str, program: str, **more: Any) -> Row:
    attach_type = more.pop("attach_type", None)
    holder = more.pop("holder", "device")
    extra = {} if attach_type is None else {"attach_type": attach_type}
    return _row(
        name,
        link_type,
        stages.OnDevice,
        since,
        program=program,
        # A netkit peer's program is attached through the primary, and is on the peer.
        info=lambda stage: {"ifindex": getattr(stage, holder).ifindex} | extra,
        update=OK,
        detach=OK,
        detached={"ifindex": 0},
        target_ends=True,
        counts_packets=True,
        **more,
    )


def _xdp(name: str, flags: dict[str, Any]) -> Row:
    options = {"sender": 1} | flags
    return _device(name, LinkType.XDP, "5.9", "xdp", options=options, again=_always(errno.EBUSY))


def _ordered(name: str, link_type: LinkType, attach_type: AttachType, **more: Any) -> Row:
    return _device(
        name,
        link_type,
        more.pop("since"),
        name,
        attach_type=attach_type,
        libbpf="1.3",
        again=_always(errno.EEXIST),
        **more,
    )


_NETKIT: dict[str, Any] = {"since": "6.7", "config": ("CONFIG_NETKIT",)}

_NETWORK = [
    _netns(
        "flow_dissector",
        stages.Dissected,
        AttachType.FLOW_DISSECTOR,
        since="5.8",
        again=_always(errno.E2BIG),
    ),
    _netns("sk_lookup", stages.InNetNs, AttachType.SK_LOOKUP, since="5.9"),
    _xdp("xdp-native", stages.DRV_MODE),
    _xdp("xdp-generic", stages.SKB_MODE),
    _row(
        "netfilter",
        LinkType.NETFILTER,
        stages.InNetNs,
        "6.4",
        libbpf="1.3",
        config=("CONFIG_NETFILTER_BPF_LINK",),
        options={"pf": socket.AF_INET, "hooknum": 3, "priority": -128},
        info=lambda _stage: {"pf": 2, "hooknum": 3, "priority": -128, "flags": 0},
        update=errno.EOPNOTSUPP,
        detach=OK,
        again=_always(errno.EBUSY),
    ),
    _ordered(
        "tcx_ingress", LinkType.TCX, AttachType.TCX_INGRESS, since="6.6", options={"sender": 1}
    ),
    _ordered("tcx_egress", LinkType.TCX, AttachType.TCX_EGRESS, since="6.6", options={"sender": 0}),
    _ordered(
        "netkit_primary",
        LinkType.NETKIT,
        AttachType.NETKIT_PRIMARY,
        options={"kind": "netkit", "sender": 0},
        **_NETKIT,
    ),
    _ordered(
        "netkit_peer",
        LinkType.NETKIT,
        AttachType.NETKIT_PEER,
        options={"kind": "netkit", "sender": 1},
        holder="sender",
        **_NETKIT,
    ),
]


def _sockmap(name: str, attach_type: AttachType, *, sends: bool) -> Row:
    return _row(
        name,
        LinkType.SOCKMAP,
        stages.Sockets,
        "6.10",
        config=("CONFIG_BPF_STREAM_PARSER",),
        libbpf="1.5",
        options={"sends": sends},
        info=lambda stage: {"map_id": stage.target.id, "attach_type": attach_type},
        update=OK,
        detach=OK,
        detached={"map_id": 0},
        again=_always(errno.EBUSY),
    )


_MAPS = [
    _sockmap("sk_msg", AttachType.SK_MSG_VERDICT, sends=True),
    _sockmap("sk_skb", AttachType.SK_SKB_VERDICT, sends=False),
    _row(
        "struct_ops",
        LinkType.STRUCT_OPS,
        stages.Congestion,
        "6.4",
        libbpf="1.2",
        info=lambda stage: {"map_id": stage.first.id},
        update=OK,
        detach=OK,
        detached={"map_id": 0},
        again=_always(errno.EEXIST),
    ),
]

ROWS = [*_EVENTS, *_CGROUPS, *_ITERS, *_NETWORK, *_MAPS]
