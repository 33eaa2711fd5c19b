"""Does this kernel have it? Probes by effect, and the excuses for what is absent.

A probe makes the kernel do the thing and looks whether it was done: a link type is there when a
program that it holds *ran*, a revision is honoured when a wrong one was *refused*. Acceptance says
nothing (6.12.107 takes a revision for a cgroup and ignores it), nor does the release (6.12.117
honours it, as 6.17 does).
"""

from __future__ import annotations

import errno
from functools import cache
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import AttachType
from pytest_bpflink.errors import BpfError, NotSupported, UnknownFeature
from pytest_bpflink.features.privileges import missing_privileges
from pytest_bpflink.features.probes import cgroups, events, names, networks, struct_ops

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_bpflink.features.kernel_info import KernelInfo


@cache
def absence(feature: str) -> BpfError | None:
    """Probe a feature, once per process: None where it is there, else the error that it gave.

    `link:tcx`, `attach:tcx_ingress`, `prog:netfilter`, `map:ringbuf`, `helper:bpf_loop`,
    `helper:bpf_sk_assign:sk_lookup`, `kfunc:bpf_task_acquire`, `cgroup:revision`,
    `cgroup:preorder`. Raises `UnknownFeature`.
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
    """Say what explains that a feature is absent; empty where nothing does, which is a failure.

    Four things can be shown: the loaded libbpf lacks a function, the kernel is older than the
    feature, it is built without one of the options of `config`, or this host's policy refuses it.
    """
    if isinstance(error, NotSupported) and error.since.startswith("libbpf"):
        return error.hint
    if since and kernel.version < version_tuple(since):
        return f"came with Linux {since}, this is {kernel.release}"
    lacking = [option for option in config if kernel.config and option not in kernel.config]
    if lacking:
        return f"this kernel ({kernel.release}) is built without {', '.join(lacking)}"
    if error.errno == errno.EPERM and kernel.where == "native" and not missing_privileges():
        return f"this host's policy refuses it, every capability notwithstanding: {error.strerror}"
    return ""


def require_libbpf(release: str, *, what: str) -> None:
    """Raise `NotSupported` where the loaded libbpf is older: it knows no such section, say."""
    here = libbpf.version()
    if version_tuple(here) < version_tuple(release):
        raise NotSupported(what, since=f"libbpf {release}", here=f"libbpf {here}")


def version_tuple(release: str) -> tuple[int, ...]:
    """Return the numbers of a release: `(6, 6)`. Raises ValueError for what is none."""
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
