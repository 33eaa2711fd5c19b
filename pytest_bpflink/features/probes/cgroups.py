"""Probes of links to cgroups, of their options, and of each attach type that cgroups have."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from functools import partial
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf, opts
from pytest_bpflink.binding.btf import Kind
from pytest_bpflink.binding.kernel_btf import vmlinux
from pytest_bpflink.binding.uapi import (
    CGROUP_ATTACH_TYPES,
    AttachFlags,
    AttachType,
    LinkType,
    ProgType,
)
from pytest_bpflink.bpf.attaching.cgroup import Cgroup
from pytest_bpflink.errors import BpfError
from pytest_bpflink.features.probes.networks import datagram
from pytest_bpflink.features.probes.program import linked, loaded, require_run, uncounted
from pytest_bpflink.system.cgroup2 import cgroup2_mount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink.features.probes.program import Loaded

_EGRESS = AttachType.CGROUP_INET_EGRESS
_egress = partial(uncounted, ProgType.CGROUP_SKB, _EGRESS)


@contextlib.contextmanager
def _cgroup() -> Iterator[Cgroup]:
    path = cgroup2_mount() / f"pytest-bpflink-probe-{os.getpid()}"
    path.mkdir()
    cgroup = Cgroup(path)
    try:
        yield cgroup
    finally:
        cgroup.remove()


def link() -> None:
    """Probe a program on a cgroup, run by a packet from a socket in the cgroup."""
    with loaded(ProgType.CGROUP_SKB, _EGRESS) as program:
        _require_run(program, _EGRESS, datagram)


def on_lsm_hook() -> None:
    """Probe a program on a cgroup at an LSM hook, run by binding a socket."""
    btf_id = vmlinux().find("bpf_lsm_socket_bind", Kind.FUNC)
    with loaded(ProgType.LSM, AttachType.LSM_CGROUP, btf_id=btf_id) as program:
        _require_run(program, AttachType.LSM_CGROUP, _bind)


def _require_run(program: Loaded, attach_type: AttachType, trigger: Callable[[], object]) -> None:
    with (
        _cgroup() as cgroup,
        linked(program.fd, cgroup.fileno(), attach_type) as made,
        cgroup.entered(),
    ):
        require_run(program, made, LinkType.CGROUP, trigger)


def _bind() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))


def revision() -> None:
    """Probe revisions: a link that expects a wrong one must be refused."""
    libbpf.require("bpf_program__attach_cgroup_opts")
    wrong = opts.CgroupLinkOptions(expected_revision=1000)
    with _egress() as program, _cgroup() as cgroup:
        try:
            linked(program.fd, cgroup.fileno(), _EGRESS, wrong).destroy()
        except BpfError as error:
            if error.errno == errno.ESTALE:
                return
            raise
    raise BpfError(errno.EOPNOTSUPP, "have a wrong expected_revision refused", hint="it is ignored")


def preorder() -> None:
    """Probe PREORDER: a parent's program that has it must run before the child's program."""
    first = opts.CgroupLinkOptions(flags=AttachFlags.PREORDER)
    with _egress() as above, _egress() as below, _cgroup() as parent:
        child = parent.create("child")
        with (
            linked(below.fd, child.fileno(), _EGRESS),
            linked(above.fd, parent.fileno(), _EGRESS, first) as preordered,
        ):
            effective = child.attached(_EGRESS, effective=True).prog_ids
            if effective[0] != preordered.info.prog_id:
                raise BpfError(errno.EOPNOTSUPP, "run a parent's program first", hint="it is last")


def _attachable(attach_type: AttachType) -> Callable[[], None]:
    """Return the probe of an attach type: the kernel must list a program as the cgroup's."""

    def probe() -> None:
        with (
            uncounted(_program_type(attach_type), attach_type) as program,
            _cgroup() as cgroup,
            linked(program.fd, cgroup.fileno(), attach_type) as made,
        ):
            if made.info.prog_id not in cgroup.attached(attach_type).prog_ids:
                doing = f"have a program for {attach_type.name} listed"
                raise BpfError(errno.EOPNOTSUPP, doing, hint="the kernel does not list it")

    return probe


# By the beginning of the attach type's name; programs of all others are of CGROUP_SOCK_ADDR.
_PROGRAM_TYPES = {
    "CGROUP_INET_INGRESS": ProgType.CGROUP_SKB,
    "CGROUP_INET_EGRESS": ProgType.CGROUP_SKB,
    "CGROUP_INET_SOCK_": ProgType.CGROUP_SOCK,
    "CGROUP_INET4_POST_BIND": ProgType.CGROUP_SOCK,
    "CGROUP_INET6_POST_BIND": ProgType.CGROUP_SOCK,
    "CGROUP_SOCK_OPS": ProgType.SOCK_OPS,
    "CGROUP_DEVICE": ProgType.CGROUP_DEVICE,
    "CGROUP_SYSCTL": ProgType.CGROUP_SYSCTL,
    "CGROUP_GETSOCKOPT": ProgType.CGROUP_SOCKOPT,
    "CGROUP_SETSOCKOPT": ProgType.CGROUP_SOCKOPT,
}


def _program_type(attach_type: AttachType) -> ProgType:
    for beginning, kind in _PROGRAM_TYPES.items():
        if attach_type.name.startswith(beginning):
            return kind
    return ProgType.CGROUP_SOCK_ADDR


ACCEPTED = {attach_type: _attachable(attach_type) for attach_type in CGROUP_ATTACH_TYPES}
# The kernel lists programs on LSM hooks by hook, and libbpf has another call for it.
ACCEPTED[AttachType.LSM_CGROUP] = on_lsm_hook
"""Probes by attach type that attach a program; only the one of LSM_CGROUP sees it run."""
