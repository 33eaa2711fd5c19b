"""Does this kernel have it? Probes by effect, and the excuses for what is absent.

A probe makes the kernel do the thing and looks whether it was done: a link type is there when a
program that it holds *ran*, a revision is honoured when a wrong one was *refused*. Acceptance says
nothing (6.12.107 takes a revision for a cgroup and ignores it), nor does the release (6.12.117
honours it, as 6.17 does).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import socket
import struct
from functools import cache
from typing import TYPE_CHECKING

from pytest_bpflink import libbpf
from pytest_bpflink import options as opts
from pytest_bpflink.btf import Kind
from pytest_bpflink.cgroup import Cgroup, cgroup2_mount
from pytest_bpflink.errors import BpfError, NotSupported
from pytest_bpflink.link import created
from pytest_bpflink.netns import NetNs
from pytest_bpflink.perf import PerfEvent, SoftwareEvent
from pytest_bpflink.probe import missing_privileges
from pytest_bpflink.uapi import AttachFlags, AttachType, BpfProgInfo, LinkType, ProgType, XdpFlags
from pytest_bpflink.vmlinux import vmlinux

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_bpflink.link import Link
    from pytest_bpflink.probe import KernelInfo


class UnknownFeature(ValueError):  # noqa: N818 - named for what happened
    """No probe is called that; the sentence says which there are."""


@cache
def absence(feature: str) -> BpfError | None:
    """Probe a feature, once per process: None where it is there, else the error that it gave.

    `link:tcx`, `prog:netfilter`, `map:ringbuf`, `kfunc:bpf_task_acquire`, `cgroup:revision`,
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
            f"no probe for {feature!r}; there are {', '.join(known)}, prog:TYPE, kfunc:NAME"
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


# What runs: a program of two instructions, counted by the kernel's own statistics.

_INSTRUCTION = struct.Struct("<BBhi")


class _Program:
    """A program that returns a number; `runs` is how often it ran."""

    def __init__(self, kind: ProgType, attach_type: AttachType, *, returns: int) -> None:
        # Move a number into the register of the result, and exit.
        code = _INSTRUCTION.pack(0xB7, 0, 0, returns) + _INSTRUCTION.pack(0x95, 0, 0, 0)
        self.attach_type = attach_type
        self.fd = libbpf.call(
            "bpf_prog_load",
            kind,
            b"probe",
            b"GPL",
            code,
            len(code) // _INSTRUCTION.size,
            ctypes.byref(opts.ProgLoadOptions(expected_attach_type=attach_type)),
            doing=f"load a program of type {kind.name} for {attach_type.name}",
        )

    @property
    def runs(self) -> int:
        return int(libbpf.read_info(self.fd, BpfProgInfo, doing="count runs").run_cnt)


@contextlib.contextmanager
def _loaded(kind: ProgType, attach_type: AttachType, *, returns: int = 1) -> Iterator[_Program]:
    statistics = libbpf.call("bpf_enable_stats", 0, doing="count the runs of programs (5.8)")
    try:
        program = _Program(kind, attach_type, returns=returns)
        try:
            yield program
        finally:
            os.close(program.fd)
    finally:
        os.close(statistics)


def _linked(
    program: _Program, target: int, attach_type: AttachType, options: opts.Options | None = None
) -> Link:
    given = ctypes.byref(options) if options else None
    doing = f"make a link of {attach_type.name}"
    fd = libbpf.call("bpf_link_create", program.fd, target, attach_type, given, doing=doing)
    return created(fd, "probe")


def _require_effect(
    program: _Program, link: Link, kind: LinkType, trigger: Callable[[], object]
) -> None:
    before = program.runs
    trigger()
    info = link.info
    if info.type is not kind or program.runs == before:
        raise BpfError(
            errno.EOPNOTSUPP,
            f"run a program by a link of type {kind.name}",
            hint=f"the kernel made one of type {info.type.name}, and it ran {program.runs} times",
        )


def _datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"probe", ("127.0.0.1", 9))


def _on_netns(
    kind: LinkType,
    prog_type: ProgType,
    attach_type: AttachType,
    options: opts.Options | None = None,
    *,
    to: Callable[[NetNs], int],
    returns: int = 1,
) -> Callable[[], None]:
    """Probe a link on a namespace or its loopback, which a datagram passes."""

    def probe() -> None:
        with (
            _loaded(prog_type, attach_type, returns=returns) as program,
            NetNs.create() as netns,
            netns.entered(),
            _linked(program, to(netns), attach_type, options) as link,
        ):
            _require_effect(program, link, kind, _datagram)

    return probe


def _netfilter() -> None:
    libbpf.require("bpf_program__attach_netfilter")
    _on_netns(
        LinkType.NETFILTER,
        ProgType.NETFILTER,
        AttachType.NETFILTER,
        opts.NetfilterLinkOptions(pf=socket.AF_INET, hooknum=3, priority=-128),
        to=lambda _netns: 0,
    )()


def _raw_tracepoint() -> None:
    with _loaded(ProgType.RAW_TRACEPOINT, AttachType(0)) as program:
        doing = "attach to the raw tracepoint sys_enter"
        fd = libbpf.call("bpf_raw_tracepoint_open", b"sys_enter", program.fd, doing=doing)
        with created(fd, "probe") as link:
            _require_effect(program, link, LinkType.RAW_TRACEPOINT, os.getppid)


def _fault_pages() -> None:
    with mmap.mmap(-1, 64 * mmap.PAGESIZE) as fresh:
        for page in range(0, len(fresh), mmap.PAGESIZE):
            fresh[page] = 1


def _perf_event() -> None:
    with (
        _loaded(ProgType.PERF_EVENT, AttachType(0)) as program,
        PerfEvent.software(SoftwareEvent.PAGE_FAULTS) as event,
        _linked(program, event.fileno(), AttachType.PERF_EVENT) as link,
    ):
        _require_effect(program, link, LinkType.PERF_EVENT, _fault_pages)


@contextlib.contextmanager
def _cgroup() -> Iterator[Cgroup]:
    path = cgroup2_mount() / f"pytest-bpflink-probe-{os.getpid()}"
    path.mkdir()
    cgroup = Cgroup(path)
    try:
        yield cgroup
    finally:
        cgroup.remove()


_EGRESS = ProgType.CGROUP_SKB, AttachType.CGROUP_INET_EGRESS


def _cgroup_link() -> None:
    with (
        _loaded(*_EGRESS) as program,
        _cgroup() as cgroup,
        _linked(program, cgroup.fileno(), program.attach_type) as link,
        cgroup.entered(),
    ):
        _require_effect(program, link, LinkType.CGROUP, _datagram)


def _cgroup_revision() -> None:
    """A link that expects a revision which is not the present one must be refused."""
    libbpf.require("bpf_program__attach_cgroup_opts")
    wrong = opts.CgroupLinkOptions(expected_revision=1000)
    with _loaded(*_EGRESS) as program, _cgroup() as cgroup:
        try:
            _linked(program, cgroup.fileno(), program.attach_type, wrong).destroy()
        except BpfError as error:
            if error.errno == errno.ESTALE:
                return
            raise
    raise BpfError(errno.EOPNOTSUPP, "have a wrong expected_revision refused", hint="it is ignored")


def _cgroup_preorder() -> None:
    """A link with PREORDER in a parent must stand before one in the child, not after it."""
    first = opts.CgroupLinkOptions(flags=AttachFlags.PREORDER)
    with _loaded(*_EGRESS) as above, _loaded(*_EGRESS) as below, _cgroup() as parent:
        child = parent.create("child")
        with (
            _linked(below, child.fileno(), below.attach_type),
            _linked(above, parent.fileno(), above.attach_type, first) as preordered,
        ):
            effective = child.attached(below.attach_type, effective=True).prog_ids
            if effective[0] != preordered.info.prog_id:
                raise BpfError(errno.EOPNOTSUPP, "run a parent's program first", hint="it is last")


def _program_type(name: str) -> None:
    kind = ProgType.__members__.get(name.upper())
    if kind is None:
        raise UnknownFeature(f"no program type is called {name!r}")
    doing = f"load a program of type {name}"
    if kind is ProgType.NETFILTER:
        libbpf.require("bpf_program__attach_netfilter")  # the probe is as old as that
    if not libbpf.call("libbpf_probe_bpf_prog_type", kind, None, doing=doing):
        raise BpfError(errno.EINVAL, doing)


def _kfunc(name: str) -> None:
    """Only the kernel's own BTF says which there are; a call needs BTF of the program's as well."""
    vmlinux().find(name, Kind.FUNC)


def _config(_name: str) -> None:
    raise UnknownFeature("a config option is no feature: name it by config=")


_BY_NAME: dict[str, Callable[[str], None]] = {
    "prog": _program_type,
    "kfunc": _kfunc,
    "config": _config,
}


def _fd(netns: NetNs) -> int:
    return netns.fileno()


def _lo(netns: NetNs) -> int:
    return netns.lo.ifindex


_LINKS: dict[str, Callable[[], None]] = {
    "raw_tracepoint": _raw_tracepoint,
    "cgroup": _cgroup_link,
    "netns": _on_netns(LinkType.NETNS, ProgType.SK_LOOKUP, AttachType.SK_LOOKUP, to=_fd),
    "xdp": _on_netns(
        LinkType.XDP,
        ProgType.XDP,
        AttachType.XDP,
        opts.LinkCreateOptions(flags=XdpFlags.SKB_MODE),
        to=_lo,
        returns=2,
    ),
    "perf_event": _perf_event,
    "netfilter": _netfilter,
    "tcx": _on_netns(LinkType.TCX, ProgType.SCHED_CLS, AttachType.TCX_EGRESS, to=_lo, returns=-1),
}
_CGROUPS: dict[str, Callable[[], None]] = {
    "revision": _cgroup_revision,
    "preorder": _cgroup_preorder,
}
