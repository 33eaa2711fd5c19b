"""`BPF_LINK_CREATE` by hand, with arguments of which libbpf would refuse some itself."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

from pytest_bpflink import Link
from pytest_bpflink.binding.bpf_syscall import bpf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_bpflink import AttachType

_LINK_CREATE = 28  # BPF_LINK_CREATE


class _Iter(ctypes.Structure):
    _fields_ = (("iter_info", ctypes.c_uint64), ("iter_info_len", ctypes.c_uint32))


class _Tracing(ctypes.Structure):
    _fields_ = (("target_btf_id", ctypes.c_uint32), ("cookie", ctypes.c_uint64))


class _PerfEvent(ctypes.Structure):
    _fields_ = (("bpf_cookie", ctypes.c_uint64),)


class _KprobeMulti(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint32),
        ("cnt", ctypes.c_uint32),
        ("syms", ctypes.c_uint64),
        ("addrs", ctypes.c_uint64),
        ("cookies", ctypes.c_uint64),
    )


class _Netfilter(ctypes.Structure):
    _fields_ = (
        ("pf", ctypes.c_uint32),
        ("hooknum", ctypes.c_uint32),
        ("priority", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
    )


class _Order(ctypes.Structure):
    # The same for tcx, netkit and cgroup.
    _fields_ = (("relative_fd", ctypes.c_uint32), ("expected_revision", ctypes.c_uint64))


class _UprobeMulti(ctypes.Structure):
    _fields_ = (
        ("path", ctypes.c_uint64),
        ("offsets", ctypes.c_uint64),
        ("ref_ctr_offsets", ctypes.c_uint64),
        ("cookies", ctypes.c_uint64),
        ("cnt", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("pid", ctypes.c_uint32),
    )


class _TracingMulti(ctypes.Structure):
    _fields_ = (("ids", ctypes.c_uint64), ("cookies", ctypes.c_uint64), ("cnt", ctypes.c_uint32))


class _Detail(ctypes.Union):
    _fields_ = (
        ("target_btf_id", ctypes.c_uint32),
        ("tracing", _Tracing),
        ("iter", _Iter),
        ("perf_event", _PerfEvent),
        ("kprobe_multi", _KprobeMulti),
        ("netfilter", _Netfilter),
        ("order", _Order),
        ("uprobe_multi", _UprobeMulti),
        ("tracing_multi", _TracingMulti),
        # Up to the size of `union bpf_attr` in 5.10: no link type has a field in the last four.
        ("bytes", ctypes.c_uint8 * 104),
    )


class LinkCreate(ctypes.Structure):
    """`link_create` of `union bpf_attr`; `fd` is a program's or a struct_ops map's.

    A field of the link's type is set and read by its path: `iter.iter_info`.
    """

    _fields_ = (
        ("fd", ctypes.c_uint32),
        ("target", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("detail", _Detail),
    )

    def set(self, path: str, value: Any) -> None:
        """Set a field, whose buffer, if it points to one, lives as long as the structure."""
        if isinstance(value, ctypes.Array | ctypes.Structure | ctypes.Union):
            self.__dict__.setdefault("buffers", []).append(value)
            value = ctypes.addressof(value)
        if path == "beyond":
            self.detail.bytes[-1] = value
            return
        *way, last = path.split(".")
        place: Any = self.detail if way or last == "target_btf_id" else self
        for name in way:
            place = getattr(place, name)
        setattr(place, last, value)

    def copy(self) -> LinkCreate:
        """Return the same call, with the same buffers."""
        same = LinkCreate.from_buffer_copy(self)
        same.__dict__["buffers"] = [*self.__dict__.get("buffers", ())]
        return same

    def create(self) -> int:
        """Make the call, and return the link's descriptor. Raises `BpfError`."""
        return bpf(_LINK_CREATE, self, doing="create a link by hand")


def link_create(
    program: int,
    attach_type: AttachType,
    *,
    target: int = 0,
    fields: Mapping[str, Any] | None = None,
) -> Link:
    """Ask for a link to a program, for the caller to destroy. Raises `BpfError`.

    `fields` are those of `LinkCreate.set`, by path.
    """
    call = LinkCreate(program, target, attach_type)
    for path, value in (fields or {}).items():
        call.set(path, value)
    fd = call.create()
    try:
        return Link.from_fd(fd)
    finally:
        os.close(fd)


def texts(*words: str) -> ctypes.Array[Any]:
    """Return an array of C strings."""
    return (ctypes.c_char_p * len(words))(*(word.encode() for word in words))


def numbers(*values: int) -> ctypes.Array[Any]:
    """Return an array of 64-bit numbers."""
    return (ctypes.c_uint64 * len(values))(*values)
