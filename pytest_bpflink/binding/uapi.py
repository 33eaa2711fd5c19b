"""The part of the kernel's `uapi/linux/bpf.h` that the project uses: enums and structures.

Names are the kernel's without their common prefix: `BPF_LINK_TYPE_CGROUP` is `LinkType.CGROUP`.
Numbers are ABI and never change, but later kernels add some: a number that an enum does not know
becomes a member called `UNKNOWN_<number>` instead of an error.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum, IntFlag
from typing import Self


class KernelEnum(IntEnum):
    """An enum of the kernel's, open to numbers of later releases."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, int):
            return None
        member = int.__new__(cls, value)
        member._name_ = f"UNKNOWN_{value}"
        member._value_ = value
        return member


class LinkType(KernelEnum):
    """`enum bpf_link_type`: the kind of hook that a link holds."""

    UNSPEC = 0
    RAW_TRACEPOINT = 1
    TRACING = 2
    CGROUP = 3
    ITER = 4
    NETNS = 5
    XDP = 6
    PERF_EVENT = 7
    KPROBE_MULTI = 8
    STRUCT_OPS = 9
    NETFILTER = 10
    TCX = 11
    UPROBE_MULTI = 12
    NETKIT = 13
    SOCKMAP = 14
    TRACING_MULTI = 15


class ProgType(KernelEnum):
    """`enum bpf_prog_type`: the type of a program, for which the verifier checks it."""

    UNSPEC = 0
    SOCKET_FILTER = 1
    KPROBE = 2
    SCHED_CLS = 3
    SCHED_ACT = 4
    TRACEPOINT = 5
    XDP = 6
    PERF_EVENT = 7
    CGROUP_SKB = 8
    CGROUP_SOCK = 9
    LWT_IN = 10
    LWT_OUT = 11
    LWT_XMIT = 12
    SOCK_OPS = 13
    SK_SKB = 14
    CGROUP_DEVICE = 15
    SK_MSG = 16
    RAW_TRACEPOINT = 17
    CGROUP_SOCK_ADDR = 18
    LWT_SEG6LOCAL = 19
    LIRC_MODE2 = 20
    SK_REUSEPORT = 21
    FLOW_DISSECTOR = 22
    CGROUP_SYSCTL = 23
    RAW_TRACEPOINT_WRITABLE = 24
    CGROUP_SOCKOPT = 25
    TRACING = 26
    STRUCT_OPS = 27
    EXT = 28
    LSM = 29
    SK_LOOKUP = 30
    SYSCALL = 31
    NETFILTER = 32


class MapType(KernelEnum):
    """`enum bpf_map_type`: how a map keeps its values."""

    UNSPEC = 0
    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERF_EVENT_ARRAY = 4
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    STACK_TRACE = 7
    CGROUP_ARRAY = 8
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    HASH_OF_MAPS = 13
    DEVMAP = 14
    SOCKMAP = 15
    CPUMAP = 16
    XSKMAP = 17
    SOCKHASH = 18
    CGROUP_STORAGE = 19
    REUSEPORT_SOCKARRAY = 20
    PERCPU_CGROUP_STORAGE = 21
    QUEUE = 22
    STACK = 23
    SK_STORAGE = 24
    DEVMAP_HASH = 25
    STRUCT_OPS = 26
    RINGBUF = 27
    INODE_STORAGE = 28
    TASK_STORAGE = 29
    BLOOM_FILTER = 30
    USER_RINGBUF = 31
    CGRP_STORAGE = 32
    ARENA = 33


class AttachType(KernelEnum):
    """`enum bpf_attach_type`: where a program may be attached."""

    CGROUP_INET_INGRESS = 0
    CGROUP_INET_EGRESS = 1
    CGROUP_INET_SOCK_CREATE = 2
    CGROUP_SOCK_OPS = 3
    SK_SKB_STREAM_PARSER = 4
    SK_SKB_STREAM_VERDICT = 5
    CGROUP_DEVICE = 6
    SK_MSG_VERDICT = 7
    CGROUP_INET4_BIND = 8
    CGROUP_INET6_BIND = 9
    CGROUP_INET4_CONNECT = 10
    CGROUP_INET6_CONNECT = 11
    CGROUP_INET4_POST_BIND = 12
    CGROUP_INET6_POST_BIND = 13
    CGROUP_UDP4_SENDMSG = 14
    CGROUP_UDP6_SENDMSG = 15
    LIRC_MODE2 = 16
    FLOW_DISSECTOR = 17
    CGROUP_SYSCTL = 18
    CGROUP_UDP4_RECVMSG = 19
    CGROUP_UDP6_RECVMSG = 20
    CGROUP_GETSOCKOPT = 21
    CGROUP_SETSOCKOPT = 22
    TRACE_RAW_TP = 23
    TRACE_FENTRY = 24
    TRACE_FEXIT = 25
    MODIFY_RETURN = 26
    LSM_MAC = 27
    TRACE_ITER = 28
    CGROUP_INET4_GETPEERNAME = 29
    CGROUP_INET6_GETPEERNAME = 30
    CGROUP_INET4_GETSOCKNAME = 31
    CGROUP_INET6_GETSOCKNAME = 32
    XDP_DEVMAP = 33
    CGROUP_INET_SOCK_RELEASE = 34
    XDP_CPUMAP = 35
    SK_LOOKUP = 36
    XDP = 37
    SK_SKB_VERDICT = 38
    SK_REUSEPORT_SELECT = 39
    SK_REUSEPORT_SELECT_OR_MIGRATE = 40
    PERF_EVENT = 41
    TRACE_KPROBE_MULTI = 42
    LSM_CGROUP = 43
    STRUCT_OPS = 44
    NETFILTER = 45
    TCX_INGRESS = 46
    TCX_EGRESS = 47
    TRACE_UPROBE_MULTI = 48
    CGROUP_UNIX_CONNECT = 49
    CGROUP_UNIX_SENDMSG = 50
    CGROUP_UNIX_RECVMSG = 51
    CGROUP_UNIX_GETPEERNAME = 52
    CGROUP_UNIX_GETSOCKNAME = 53
    NETKIT_PRIMARY = 54
    NETKIT_PEER = 55
    TRACE_KPROBE_SESSION = 56
    TRACE_UPROBE_SESSION = 57
    TRACE_FSESSION = 58
    TRACE_FENTRY_MULTI = 59
    TRACE_FEXIT_MULTI = 60
    TRACE_FSESSION_MULTI = 61


CGROUP_ATTACH_TYPES = tuple(
    attach_type
    for attach_type in AttachType
    if attach_type.name.startswith("CGROUP_") or attach_type is AttachType.LSM_CGROUP
)
"""The attach types for which a cgroup has a list of programs."""


class AttachFlags(IntFlag):
    """The `BPF_F_*` flags of attaching: `BPF_PROG_ATTACH`, `BPF_LINK_CREATE`, `BPF_LINK_UPDATE`.

    `ALLOW_OVERRIDE` since 4.10, `ALLOW_MULTI` 4.15, `REPLACE` 5.6, `BEFORE`, `AFTER`, `ID` and
    `LINK` 6.6 (tcx), `PREORDER` about 6.15, and backported.
    """

    ALLOW_OVERRIDE = 1 << 0
    ALLOW_MULTI = 1 << 1
    REPLACE = 1 << 2
    BEFORE = 1 << 3
    AFTER = 1 << 4
    ID = 1 << 5
    PREORDER = 1 << 6
    LINK = 1 << 13


class XdpFlags(IntFlag):
    """The `XDP_FLAGS_*` of `uapi/linux/if_link.h`: where a device runs its program."""

    SKB_MODE = 1 << 1
    DRV_MODE = 1 << 2
    HW_MODE = 1 << 3


class RunFlags(IntFlag):
    """The `BPF_F_TEST_*` flags of `BPF_PROG_TEST_RUN`.

    `ON_CPU` since 5.10 (raw_tp), `XDP_LIVE_FRAMES` 5.18, `SKB_CHECKSUM_COMPLETE` 6.14.
    """

    ON_CPU = 1 << 0
    XDP_LIVE_FRAMES = 1 << 1
    SKB_CHECKSUM_COMPLETE = 1 << 2


class XdpAction(KernelEnum):
    """`enum xdp_action`: what an XDP program has done with a packet."""

    ABORTED = 0
    DROP = 1
    PASS = 2
    TX = 3
    REDIRECT = 4


class Direction(IntEnum):
    """Which way packets go through a device: libbpf's `enum bpf_tc_attach_point`."""

    INGRESS = 1
    EGRESS = 2


class TcAction(KernelEnum):
    """The `TC_ACT_*` of `uapi/linux/pkt_cls.h`, and tcx's: what is done with a packet."""

    UNSPEC = -1
    OK = 0
    RECLASSIFY = 1
    SHOT = 2
    PIPE = 3
    STOLEN = 4
    QUEUED = 5
    REPEAT = 6
    REDIRECT = 7
    TRAP = 8


class Verdict(KernelEnum):
    """`enum sk_action`: whether a packet goes on. Netfilter's first two verdicts are the same."""

    DROP = 0
    PASS = 1


class BpfStream(KernelEnum):
    """`BPF_STDOUT` and `BPF_STDERR`: the streams of a program, for `Program.read_stream()`."""

    STDOUT = 1
    STDERR = 2


QUERY_EFFECTIVE = 1 << 0
"""`BPF_F_QUERY_EFFECTIVE`: all programs that run in the cgroup, its ancestors' included."""

PROG_NAME_LENGTH = 16
"""`BPF_OBJ_NAME_LEN`: bytes of the name of a program or a map, with the closing zero."""


class _RawTracepoint(ctypes.Structure):
    _fields_ = (
        ("tp_name", ctypes.c_uint64),
        ("tp_name_len", ctypes.c_uint32),
        ("cookie", ctypes.c_uint64),
    )


class _Tracing(ctypes.Structure):
    _fields_ = (
        ("attach_type", ctypes.c_uint32),
        ("target_obj_id", ctypes.c_uint32),
        ("target_btf_id", ctypes.c_uint32),
        ("cookie", ctypes.c_uint64),
    )


class _Cgroup(ctypes.Structure):
    _fields_ = (("cgroup_id", ctypes.c_uint64), ("attach_type", ctypes.c_uint32))


class _IterCgroup(ctypes.Structure):
    _fields_ = (("cgroup_id", ctypes.c_uint64), ("order", ctypes.c_uint32))


class _IterTask(ctypes.Structure):
    _fields_ = (("tid", ctypes.c_uint32), ("pid", ctypes.c_uint32))


class _IterTarget(ctypes.Union):
    _fields_ = (("cgroup", _IterCgroup), ("task", _IterTask))


class _Iter(ctypes.Structure):
    _fields_ = (
        ("target_name", ctypes.c_uint64),
        ("target_name_len", ctypes.c_uint32),
        ("map_id", ctypes.c_uint32),
        ("target", _IterTarget),
    )


class _Netns(ctypes.Structure):
    _fields_ = (("netns_ino", ctypes.c_uint32), ("attach_type", ctypes.c_uint32))


class _Device(ctypes.Structure):
    # xdp has an index only, tcx and netkit have both.
    _fields_ = (("ifindex", ctypes.c_uint32), ("attach_type", ctypes.c_uint32))


class _Map(ctypes.Structure):
    # struct_ops has a map only, sockmap has both.
    _fields_ = (("map_id", ctypes.c_uint32), ("attach_type", ctypes.c_uint32))


class _Netfilter(ctypes.Structure):
    _fields_ = (
        ("pf", ctypes.c_uint32),
        ("hooknum", ctypes.c_uint32),
        ("priority", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
    )


class _KprobeMulti(ctypes.Structure):
    _fields_ = (
        ("addrs", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("missed", ctypes.c_uint64),
        ("cookies", ctypes.c_uint64),
    )


class _UprobeMulti(ctypes.Structure):
    _fields_ = (
        ("path", ctypes.c_uint64),
        ("offsets", ctypes.c_uint64),
        ("ref_ctr_offsets", ctypes.c_uint64),
        ("cookies", ctypes.c_uint64),
        ("path_size", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("pid", ctypes.c_uint32),
    )


class _TracingMulti(ctypes.Structure):
    _fields_ = (
        ("attach_type", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("btf_obj_id", ctypes.c_uint32),
        ("ids", ctypes.c_uint64),
        ("addrs", ctypes.c_uint64),
        ("cookies", ctypes.c_uint64),
    )


class _Uprobe(ctypes.Structure):
    _fields_ = (
        ("file_name", ctypes.c_uint64),
        ("name_len", ctypes.c_uint32),
        ("offset", ctypes.c_uint32),
        ("cookie", ctypes.c_uint64),
        ("ref_ctr_offset", ctypes.c_uint64),
    )


class _Kprobe(ctypes.Structure):
    _fields_ = (
        ("func_name", ctypes.c_uint64),
        ("name_len", ctypes.c_uint32),
        ("offset", ctypes.c_uint32),
        ("addr", ctypes.c_uint64),
        ("missed", ctypes.c_uint64),
        ("cookie", ctypes.c_uint64),
    )


class _Tracepoint(ctypes.Structure):
    _fields_ = (
        ("tp_name", ctypes.c_uint64),
        ("name_len", ctypes.c_uint32),
        ("cookie", ctypes.c_uint64),
    )


class _Event(ctypes.Structure):
    _fields_ = (
        ("config", ctypes.c_uint64),
        ("type", ctypes.c_uint32),
        ("cookie", ctypes.c_uint64),
    )


class _PerfEventDetail(ctypes.Union):
    _fields_ = (
        ("uprobe", _Uprobe),
        ("kprobe", _Kprobe),
        ("tracepoint", _Tracepoint),
        ("event", _Event),
    )


class _PerfEvent(ctypes.Structure):
    _fields_ = (("type", ctypes.c_uint32), ("detail", _PerfEventDetail))


class _LinkDetail(ctypes.Union):
    _fields_ = (
        ("raw_tracepoint", _RawTracepoint),
        ("tracing", _Tracing),
        ("cgroup", _Cgroup),
        ("iter", _Iter),
        ("netns", _Netns),
        ("device", _Device),
        ("map", _Map),
        ("netfilter", _Netfilter),
        ("kprobe_multi", _KprobeMulti),
        ("uprobe_multi", _UprobeMulti),
        ("tracing_multi", _TracingMulti),
        ("perf_event", _PerfEvent),
    )


class BpfLinkInfo(ctypes.Structure):
    """`struct bpf_link_info`; the kernel fills as much as it knows and leaves the rest zero."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("detail", _LinkDetail),
    )


class _IterInfoCgroup(ctypes.Structure):
    _fields_ = (
        ("order", ctypes.c_uint32),
        ("cgroup_fd", ctypes.c_uint32),
        ("cgroup_id", ctypes.c_uint64),
    )


class _IterInfoTask(ctypes.Structure):
    _fields_ = (("tid", ctypes.c_uint32), ("pid", ctypes.c_uint32), ("pid_fd", ctypes.c_uint32))


class IterInfo(ctypes.Union):
    """`union bpf_iter_link_info`: a map (5.9), cgroup or task (6.1) that an iterator goes over."""

    _fields_ = (
        ("map_fd", ctypes.c_uint32),
        ("cgroup", _IterInfoCgroup),
        ("task", _IterInfoTask),
    )


class PerfEventType(KernelEnum):
    """`enum bpf_perf_event_type`: the kind of a PERF_EVENT link's event (6.6)."""

    UNSPEC = 0
    UPROBE = 1
    URETPROBE = 2
    KPROBE = 3
    KRETPROBE = 4
    TRACEPOINT = 5
    EVENT = 6


class BpfNumber(ctypes.Structure):
    """The common beginning of the infos of links, programs and maps; the kernel fills no more."""

    _fields_ = (("type", ctypes.c_uint32), ("id", ctypes.c_uint32))


class BpfProgInfo(ctypes.Structure):
    """`struct bpf_prog_info`, up to `verified_insns` (5.16); `recursion_misses` came with 5.12."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", ctypes.c_uint32),
        ("xlated_prog_len", ctypes.c_uint32),
        ("jited_prog_insns", ctypes.c_uint64),
        ("xlated_prog_insns", ctypes.c_uint64),
        ("load_time", ctypes.c_uint64),
        ("created_by_uid", ctypes.c_uint32),
        ("nr_map_ids", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * PROG_NAME_LENGTH),
        ("ifindex", ctypes.c_uint32),
        ("gpl_compatible", ctypes.c_uint32),
        # From netns_dev to jited_func_lens, which are not used.
        ("place", ctypes.c_uint64 * 5),
        ("btf_id", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        # From func_info to prog_tags, which are not used.
        ("rest", ctypes.c_uint64 * 7),
        ("run_time_ns", ctypes.c_uint64),
        ("run_cnt", ctypes.c_uint64),
        ("recursion_misses", ctypes.c_uint64),
        ("verified_insns", ctypes.c_uint32),
        ("attach_btf_obj_id", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
    )


class BpfMapInfo(ctypes.Structure):
    """The beginning of `struct bpf_map_info`, up to `btf_value_type_id` (4.18)."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * PROG_NAME_LENGTH),
        ("ifindex", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("netns_dev", ctypes.c_uint64),
        ("netns_ino", ctypes.c_uint64),
        ("btf_id", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
    )


class BpfBtfInfo(ctypes.Structure):
    """`struct bpf_btf_info` (4.18; `name` and `kernel_btf` since 5.11)."""

    _fields_ = (
        ("btf", ctypes.c_uint64),
        ("btf_size", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("name", ctypes.c_uint64),
        ("name_len", ctypes.c_uint32),
        ("kernel_btf", ctypes.c_uint32),
    )
