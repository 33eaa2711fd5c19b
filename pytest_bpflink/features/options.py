"""The options of a kernel's configuration that features need, beyond their release.

They explain why a feature is absent, and never say that it is there: a probe says that.
"""

from __future__ import annotations

_BPF = "CONFIG_BPF_SYSCALL"
_EVENTS = (_BPF, "CONFIG_BPF_EVENTS")
_TRAMPOLINES = (
    *_EVENTS,
    "CONFIG_BPF_JIT",
    "CONFIG_DEBUG_INFO_BTF",
    # FUNCTION_TRACER and DYNAMIC_FTRACE bring it; arm64 has it since Linux 6.4.
    "CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS",
)
_LSM = (_BPF, "CONFIG_BPF_LSM", "CONFIG_DEBUG_INFO_BTF")
_FPROBE = (*_EVENTS, "CONFIG_FPROBE")
_UPROBES = (*_EVENTS, "CONFIG_UPROBE_EVENTS")
_CGROUP = (_BPF, "CONFIG_CGROUP_BPF")
_SOCKMAP = (_BPF, "CONFIG_BPF_STREAM_PARSER")

# By the beginning of a feature's name, after its kind.
_NEEDED = {
    "raw_tracepoint": _EVENTS,
    "tracepoint": _EVENTS,
    "kprobe": (*_EVENTS, "CONFIG_KPROBE_EVENTS"),
    "perf_event": (*_EVENTS, "CONFIG_PERF_EVENTS"),
    "tracing": _TRAMPOLINES,
    "trace_fentry": _TRAMPOLINES,
    "trace_fexit": _TRAMPOLINES,
    "trace_fsession": _TRAMPOLINES,
    "modify_return": _TRAMPOLINES,
    "trace_raw_tp": (*_EVENTS, "CONFIG_DEBUG_INFO_BTF"),
    "iter": (*_EVENTS, "CONFIG_DEBUG_INFO_BTF"),
    "trace_iter": (*_EVENTS, "CONFIG_DEBUG_INFO_BTF"),
    "kprobe_multi": _FPROBE,
    "trace_kprobe": _FPROBE,
    "uprobe_multi": _UPROBES,
    "trace_uprobe": _UPROBES,
    "bpf_get_func_arg": _TRAMPOLINES,
    "ext": (_BPF, "CONFIG_BPF_JIT"),
    # Without `struct module` in its BTF the kernel registers no struct_ops (6.9).
    "struct_ops": (_BPF, "CONFIG_BPF_JIT", "CONFIG_DEBUG_INFO_BTF", "CONFIG_MODULES"),
    "lsm": _LSM,
    "cgroup": _CGROUP,
    "sock_ops": _CGROUP,
    # Probe and selftests take a hook of sockets.
    "lsm_cgroup": (*_LSM, "CONFIG_CGROUP_BPF", "CONFIG_SECURITY_NETWORK"),
    "netfilter": (_BPF, "CONFIG_NETFILTER_BPF_LINK"),
    "tcx": (_BPF, "CONFIG_NET_CLS_ACT"),
    "netkit": (_BPF, "CONFIG_NETKIT"),
    "sockmap": _SOCKMAP,
    "sk_skb": _SOCKMAP,
    "sk_msg": _SOCKMAP,
}


def options_of(feature: str) -> tuple[str, ...]:
    """Return the options that a feature needs of each kernel: `link:tcx`, `attach:lsm_mac`.

    A helper needs those of the programs that it is for: `helper:bpf_get_attach_cookie:tracing`.
    """
    kind, _, name = feature.partition(":")
    if kind in {"cgroup", "kfunc"}:
        return _CGROUP if kind == "cgroup" else (_BPF, "CONFIG_DEBUG_INFO_BTF")
    if kind == "helper":
        name = name.partition(":")[2] or name
    found = [beginning for beginning in _NEEDED if name.startswith(beginning)]
    return _NEEDED[max(found, key=len)] if found else (_BPF,)
