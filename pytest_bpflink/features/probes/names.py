"""Probes by name: of program types, map types, attach types, helpers and kernel functions."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, TypeVar

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.btf import Kind
from pytest_bpflink.binding.kernel_btf import vmlinux
from pytest_bpflink.binding.uapi import AttachType, KernelEnum, MapType, ProgType
from pytest_bpflink.errors import BpfError, UnknownFeature
from pytest_bpflink.features.probes import cgroups, events, networks, program, struct_ops

if TYPE_CHECKING:
    from collections.abc import Callable

_Enum = TypeVar("_Enum", bound=KernelEnum)

_LOG_BYTES = 1 << 16


def program_type(name: str) -> None:
    """Probe whether programs of a type can be loaded."""
    kind = _member(ProgType, name, "program type")
    doing = f"load a program of type {name}"
    if kind is ProgType.NETFILTER:
        libbpf.require("bpf_program__attach_netfilter")  # libbpf's probe came with this function
    if not libbpf.call("libbpf_probe_bpf_prog_type", kind, None, doing=doing):
        raise BpfError(errno.EINVAL, doing)


def map_type(name: str) -> None:
    """Probe whether maps of a type can be made."""
    kind = _member(MapType, name, "map type")
    doing = f"make a map of type {name}"
    if not libbpf.call("libbpf_probe_bpf_map_type", kind, None, doing=doing):
        raise BpfError(errno.EINVAL, doing)


def attach_type(name: str) -> None:
    """Probe whether a program for an attach type runs or can be attached.

    For an attach type without such a probe, probe whether the kernel's BTF has its name.
    """
    kind = _member(AttachType, name, "attach type")
    if kind in _ATTACH_TYPES:
        _ATTACH_TYPES[kind]()
    elif f"BPF_{kind.name}" not in vmlinux().enumerators("bpf_attach_type"):
        raise BpfError(errno.EINVAL, f"find BPF_{kind.name} among the kernel's attach types")


def kernel_function(name: str) -> None:
    """Probe whether the kernel's BTF has a function; to call it, a program would need BTF, too."""
    vmlinux().find(name, Kind.FUNC)


def helper(name: str) -> None:
    """Probe whether programs may call a helper: of the type after a colon, else of any type."""
    short, _, of_type = name.removeprefix("bpf_").partition(":")
    number = vmlinux().enumerators("bpf_func_id").get(f"BPF_FUNC_{short}")
    doing = f"call helper bpf_{short}"
    if number is None:
        raise BpfError(errno.EINVAL, doing, hint="the kernel has none of that name")
    if of_type:
        _require_call(_member(ProgType, of_type, "program type"), number, doing)
        return
    absent = BpfError(errno.EINVAL, doing, hint="no type of program may call it")
    for kind in _CALLERS:
        try:
            _require_call(kind, number, doing)
        except BpfError as error:
            if error.errno == errno.EPERM:  # this host's policy: whether it is there is unknown
                absent = error
        else:
            return
    raise absent


# The first type that may call a helper ends the search; these two may call most helpers.
_CALLERS = [
    ProgType.TRACING,
    ProgType.SCHED_CLS,
    *(kind for kind in ProgType if kind not in {ProgType.UNSPEC, ProgType.EXT}),
]

# Attach types of program types that do not load without one.
_EXPECTED = {
    ProgType.TRACING: AttachType.TRACE_FENTRY,
    ProgType.LSM: AttachType.LSM_MAC,
    ProgType.CGROUP_SOCK_ADDR: AttachType.CGROUP_INET4_CONNECT,
    ProgType.CGROUP_SOCKOPT: AttachType.CGROUP_GETSOCKOPT,
    ProgType.SK_LOOKUP: AttachType.SK_LOOKUP,
    ProgType.NETFILTER: AttachType.NETFILTER,
}
_BTF_TARGETS = {
    ProgType.TRACING: ("security_task_getpgid", Kind.FUNC),
    ProgType.LSM: ("bpf_lsm_task_getpgid", Kind.FUNC),
    ProgType.STRUCT_OPS: ("tcp_congestion_ops", Kind.STRUCT),
}


def _require_call(kind: ProgType, number: int, doing: str) -> None:
    """Raise `BpfError` where the verifier refuses the call itself, not just its arguments."""
    log = ctypes.create_string_buffer(_LOG_BYTES)
    target = _BTF_TARGETS.get(kind)
    btf_id = vmlinux().find(*target) if target else 0
    expected = _EXPECTED.get(kind, AttachType(0))
    try:
        os.close(program.load(kind, expected, program.calling(number), btf_id=btf_id, log=log))
    except BpfError as error:
        if any(words in log.value for words in _REFUSALS):
            hint = f"programs of type {kind.name} may not call it"
            raise BpfError(errno.EINVAL, doing, hint=hint) from error
        if _CALL not in log.value:  # the verifier did not reach the call
            raise


_REFUSALS = (b"unknown func", b"invalid func", b"cannot use helper")
_CALL = b"(85) call"


def _member(kind: type[_Enum], name: str, what: str) -> _Enum:
    found = kind.__members__.get(name.upper())
    if found is None:
        raise UnknownFeature(f"no {what} is called {name!r}")
    return found


_ATTACH_TYPES: dict[AttachType, Callable[[], None]] = {
    **cgroups.ACCEPTED,
    **networks.ACCEPTED,
    **networks.EFFECTS,
    **events.EFFECTS,
    AttachType.STRUCT_OPS: struct_ops.link,
}
