"""Whether this kernel has a feature, by its effect, and the excuses for absent features.

A probe uses the feature and looks for the effect: a link type is there if the program of a link
*ran*, and revisions are honoured if a wrong one was *refused*. It proves nothing that the kernel
accepts a call (6.12.107 takes a revision for a cgroup and ignores it), nor does the kernel's
release (6.12.117 honours revisions, as 6.17 does).
"""

from __future__ import annotations

import errno
from functools import cache
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import AttachType
from pytest_bpflink.errors import BpfError, NotSupported, UnknownFeature
from pytest_bpflink.features import conditions
from pytest_bpflink.features.privileges import missing_privileges
from pytest_bpflink.features.probes import cgroups, events, names, networks, struct_ops

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_bpflink.features.kernel_info import KernelInfo


@cache
def absence(feature: str) -> BpfError | None:
    """Probe a feature, once per process: return None where it is there, else the probe's error.

    Features are `link:tcx`, `attach:tcx_ingress`, `prog:netfilter`, `map:ringbuf`,
    `helper:bpf_loop`, `helper:bpf_sk_assign:sk_lookup`, `kfunc:bpf_task_acquire`,
    `cgroup:revision`, `cgroup:preorder`. Raises `UnknownFeature` for any other kind or name.
    """
    kind, _, name = feature.partition(":")
    probes = {"link": _LINKS, "cgroup": _CGROUPS}
    if kind in _BY_NAME:
        probe: Callable[[], None] = lambda: _BY_NAME[kind](name)  # noqa: E731
    elif name in probes.get(kind, {}):
        probe = probes[kind][name]
    else:
        known = [f"{group}:{each}" for group, named in probes.items() for each in named]
        raise UnknownFeature(
            f"no probe for {feature!r}; there are {', '.join(known)}, prog:TYPE, attach:TYPE,"
            " map:TYPE, helper:NAME, kfunc:NAME"
        )
    try:
        probe()
    except BpfError as error:
        return error
    return None


def excuse(
    error: BpfError, kernel: KernelInfo, *, since: str = "", config: Sequence[str] = ()
) -> str:
    """Return the reason for which a feature may be absent; empty where there is none: a failure.

    Five reasons can be shown: the loaded libbpf lacks a function, the kernel is older than `since`,
    the kernel is built without one of the options of `config`, the kernel lacks BTF, a JIT, the BPF
    LSM or a module, or this host's policy refuses the feature.
    """
    if isinstance(error, NotSupported) and error.since.startswith("libbpf"):
        return error.hint
    if since and kernel.version < version_tuple(since):
        return f"came with Linux {since}, this is {kernel.release}"
    needed = dict.fromkeys(config)  # the link type and the test may name the same option
    lacking = [option for option in needed if kernel.config and option not in kernel.config]
    if lacking:
        return f"this kernel ({kernel.release}) is built without {', '.join(lacking)}"
    if reason := conditions.lack(error, kernel.config, config):
        return reason
    if error.errno == errno.EPERM and kernel.where == "native" and not missing_privileges():
        return f"this host's policy refuses it, though no capability is missing: {error.strerror}"
    return ""


def require_libbpf(release: str, *, what: str) -> None:
    """Raise `NotSupported` where the loaded libbpf is older than a release that `what` needs."""
    here = libbpf.version()
    if version_tuple(here) < version_tuple(release):
        raise NotSupported(what, since=f"libbpf {release}", here=f"libbpf {here}")


def require_bpf_lsm(options: Sequence[str], *, what: str) -> None:
    """Raise `BpfError` if `what` needs the BPF LSM and it is off: its programs would never run."""
    if conditions.other_lsms(options):
        raise BpfError(errno.EOPNOTSUPP, f"run {what}")


def version_tuple(release: str) -> tuple[int, ...]:
    """Return the numbers of a release: `(6, 6)`. Raises ValueError for any other text."""
    return tuple(int(part) for part in release.split("."))


def _config(_name: str) -> None:
    raise UnknownFeature("a config option is no feature: name it by config=")


_BY_NAME: dict[str, Callable[[str], None]] = {
    "prog": names.program_type,
    "attach": names.attach_type,
    "map": names.map_type,
    "helper": names.helper,
    "kfunc": names.kernel_function,
    "config": _config,
}
_LINKS: dict[str, Callable[[], None]] = {
    "raw_tracepoint": events.raw_tracepoint,
    "tracing": events.EFFECTS[AttachType.TRACE_FENTRY],
    "cgroup": cgroups.link,
    "iter": events.iterator,
    "netns": networks.EFFECTS[AttachType.SK_LOOKUP],
    "xdp": networks.EFFECTS[AttachType.XDP],
    "perf_event": events.perf_event,
    "kprobe_multi": events.EFFECTS[AttachType.TRACE_KPROBE_MULTI],
    "struct_ops": struct_ops.link,
    "netfilter": networks.netfilter,
    "tcx": networks.EFFECTS[AttachType.TCX_EGRESS],
    "uprobe_multi": events.EFFECTS[AttachType.TRACE_UPROBE_MULTI],
    "netkit": networks.EFFECTS[AttachType.NETKIT_PRIMARY],
    "sockmap": networks.sockmap_link,
    "tracing_multi": events.EFFECTS[AttachType.TRACE_FENTRY_MULTI],
}
_CGROUPS: dict[str, Callable[[], None]] = {
    "revision": cgroups.revision,
    "preorder": cgroups.preorder,
}
