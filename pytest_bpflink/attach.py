"""Attaching: what each kind of program attaches to, and the call of libbpf's that does it."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING, Any

from pytest_bpflink import libbpf
from pytest_bpflink.cgroup import Cgroup
from pytest_bpflink.errors import BpfError, NotSupported
from pytest_bpflink.link import Link, attached
from pytest_bpflink.uapi import AttachType, ProgType

if TYPE_CHECKING:
    from pytest_bpflink.objects import Program

_CGROUP_PROGRAMS = frozenset(
    {
        ProgType.CGROUP_SKB,
        ProgType.CGROUP_SOCK,
        ProgType.CGROUP_DEVICE,
        ProgType.CGROUP_SOCK_ADDR,
        ProgType.CGROUP_SYSCTL,
        ProgType.CGROUP_SOCKOPT,
        ProgType.SOCK_OPS,
    }
)


def attach(program: Program, target: object | None, options: dict[str, Any]) -> Link:
    """Attach a program to a target of the kind that its type takes; see `Program.attach()`."""
    _require_fitting(program, target)
    if isinstance(target, Cgroup):
        name, pointer = f"{program.name} on {target.path}", _to_cgroup(program, target, **options)
    else:
        name, pointer = program.name, _as_its_section_says(program, **options)
    try:
        return attached(pointer, name)
    except BpfError as error:
        if error.errno != errno.EINVAL:
            raise
        # Before 5.15 libbpf makes up a link around a perf event, which is none to the kernel.
        raise NotSupported(
            f"attach {name} ({program.section}) by a BPF link",
            since="Linux 5.15",
            here="an older kernel, where libbpf hands out a perf event",
        ) from error


def _require_fitting(program: Program, target: object | None) -> None:
    wants_cgroup = (
        program.type in _CGROUP_PROGRAMS or program.expected_attach_type is AttachType.LSM_CGROUP
    )
    doing = f"attach {program.name} ({program.type.name}, {program.section}) to {target!r}"
    if wants_cgroup and not isinstance(target, Cgroup):
        raise BpfError(errno.EINVAL, doing, hint="a program of this type attaches to a Cgroup")
    if not wants_cgroup and target is not None:
        raise BpfError(
            errno.EINVAL, doing, hint="a program of this type attaches to what its SEC() names"
        )


def _as_its_section_says(program: Program) -> int:
    doing = f"attach {program.name} ({program.section})"
    return libbpf.call("bpf_program__attach", program.pointer, doing=doing)


def _to_cgroup(
    program: Program,
    cgroup: Cgroup,
    *,
    flags: int = 0,
    relative: Program | Link | None = None,
    expected_revision: int = 0,
) -> int:
    doing = f"attach {program.name} to {cgroup.path}"
    if not (flags or relative or expected_revision):
        return libbpf.call(
            "bpf_program__attach_cgroup", program.pointer, cgroup.fileno(), doing=doing
        )
    options = libbpf.CgroupOptions(
        flags=flags,
        relative_fd=relative.fd if relative else 0,
        expected_revision=expected_revision,
    )
    return libbpf.call(
        "bpf_program__attach_cgroup_opts",
        program.pointer,
        cgroup.fileno(),
        ctypes.byref(options),
        doing=doing,
    )
