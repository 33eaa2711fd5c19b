"""Which programs are attached to a target: `BPF_PROG_QUERY`, and for XDP rtnetlink(7)."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import XdpFlags

if TYPE_CHECKING:
    from pytest_bpflink.binding.uapi import AttachType

USUAL_PROGRAMS = 64
"""The most programs that the kernel attaches to a cgroup, a namespace (sk_lookup) or a device."""


@dataclass(frozen=True)
class Answer:
    """Ids of programs in the order in which they run, and the flags of their attachment."""

    prog_ids: tuple[int, ...]
    attach_flags: int


def prog_query(
    target: int,
    attach_type: AttachType,
    *,
    where: str,
    query_flags: int = 0,
    room: int = USUAL_PROGRAMS,
) -> Answer:
    """Ask which programs are attached to `target`: a descriptor, or the index of a device.

    Raises `BpfError`: EINVAL for an attach type that the kernel lacks, ENOSPC where more than
    `room` programs are attached. `where` names the target in the error.
    """
    ids = (ctypes.c_uint32 * room)()
    count, flags = ctypes.c_uint32(room), ctypes.c_uint32()
    libbpf.call(
        "bpf_prog_query",
        target,
        attach_type,
        query_flags,
        ctypes.byref(flags),
        ids,
        ctypes.byref(count),
        doing=f"ask what is attached to {where} ({attach_type.name})",
    )
    return Answer(tuple(ids[: count.value]), flags.value)


_XDP_MODES = (XdpFlags.SKB_MODE, XdpFlags.DRV_MODE, XdpFlags.HW_MODE)


def xdp_query(ifindex: int, *, where: str) -> tuple[int, ...]:
    """Return the ids of the XDP programs of a device in this thread's namespace.

    Raises `BpfError`. `where` names the device in the error.
    """
    found = (ctypes.c_uint32 * len(_XDP_MODES))()
    for place, mode in enumerate(_XDP_MODES):
        at = ctypes.byref(found, place * ctypes.sizeof(ctypes.c_uint32))
        doing = f"ask what is attached to {where}"
        libbpf.call("bpf_xdp_query_id", ifindex, mode, at, doing=doing)
    return tuple(filter(None, found))
