"""The names of functions and events that links are attached to.

Knows BTF ids, addresses of the kernel's functions, and perf events. Other targets of links are in
`targets`.
"""

from __future__ import annotations

import contextlib
import ctypes
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.kernel_btf import types_of, vmlinux
from pytest_bpflink.binding.uapi import AttachType, BpfBtfInfo, BpfProgInfo, PerfEventType
from pytest_bpflink.bpf.attaching.perf_event import SoftwareEvent
from pytest_bpflink.errors import BpfError
from pytest_bpflink.introspection import ids

if TYPE_CHECKING:
    from pytest_bpflink.introspection import linkinfo

_MOST_NAMED = 3

_KPROBES = {PerfEventType.KPROBE, PerfEventType.KRETPROBE}
_UPROBES = {PerfEventType.UPROBE, PerfEventType.URETPROBE}

# linux/perf_event.h
_PERF_KINDS = ("hardware", "software", "tracepoint", "cache", "raw", "breakpoint")
_PERF_SOFTWARE = 1

# A function that is called indirectly begins with ENDBR64, and is traced after this instruction.
_AFTER_ENDBR = 4

_NAME_BYTES = 64  # MODULE_NAME_LEN


class Functions:
    """Names functions of the kernel, of its modules and of BPF programs, as they are loaded now."""

    def traced(self, info: linkinfo.TracingLinkInfo) -> str:
        """Say what a TRACING link traces, and how."""
        how = info.attach_type
        # EXT programs have no attach type: it is 0, the number of CGROUP_INET_INGRESS.
        replaces = how is AttachType.CGROUP_INET_INGRESS
        way = "freplace" if replaces else how.name.lower()
        return f"{self._function(info, replaces=replaces)} ({way})"

    def probed(self, info: linkinfo.KprobeMultiLinkInfo) -> str:
        """Say which functions of the kernel a KPROBE_MULTI link is on."""
        names = [self._at(address) for address in info.addrs[:_MOST_NAMED]]
        return _list(names, info.count) or "kernel functions"  # before 6.6

    def traced_many(self, info: linkinfo.TracingMultiLinkInfo) -> str:
        """Say which functions a TRACING_MULTI link is on."""
        first = info.ids[:_MOST_NAMED]
        names = [_of_kernel(info.btf_obj_id, number) or f"type {number}" for number in first]
        return _list(names, info.count) or "kernel functions"  # before 7.3

    def _function(self, info: linkinfo.TracingLinkInfo, *, replaces: bool) -> str:
        if not info.target_btf_id:
            return "a BPF function" if replaces else "a kernel function"  # before 5.13
        name = None if replaces else _of_kernel(info.target_obj_id, info.target_btf_id)
        name = name or _of_program(info.target_obj_id, info.target_btf_id)
        return name or f"BTF {info.target_obj_id}, type {info.target_btf_id}"

    def _at(self, address: int) -> str:
        for start in (address, address - _AFTER_ENDBR):
            at = self._symbols.find(f"\n{start:016x} ".encode())
            if at >= 0:
                line = self._symbols[at + 1 : self._symbols.find(b"\n", at + 1)].decode()
                # ffffffff81000000 T name	[module]
                return " ".join(line.split()[2:])
        return f"{address:#x}"

    @cached_property
    def _symbols(self) -> bytes:
        with contextlib.suppress(OSError), open("/proc/kallsyms", "rb") as symbols:
            return b"\n" + symbols.read()
        return b""


def event(info: linkinfo.PerfEventLinkInfo) -> str:
    """Say what a perf event is."""
    kind = info.event_type.name.lower()
    if info.event_type in _KPROBES:
        place = info.name or f"{info.address:#x}"
        return f"{kind} {place}{f'+{info.offset:#x}' if info.offset else ''}"
    if info.event_type in _UPROBES:
        return f"{kind} {info.name}+{info.offset:#x}"
    if info.event_type == PerfEventType.TRACEPOINT:
        return f"tracepoint {info.name}"
    if info.event_type != PerfEventType.EVENT:
        return "a perf event"  # before 6.6
    if info.perf_type == _PERF_SOFTWARE:
        return f"software event {SoftwareEvent(info.config).name.lower()}"
    known = info.perf_type < len(_PERF_KINDS)
    return f"{_PERF_KINDS[info.perf_type] if known else 'perf'} event {info.config:#x}"


def places(info: linkinfo.UprobeMultiLinkInfo) -> str:
    """Say where in which file a UPROBE_MULTI link is."""
    offsets = [f"{offset:#x}" for offset in info.offsets[:_MOST_NAMED]]
    return f"{info.path}+{_list(offsets, info.count)}" if info.path else "a file"  # before 6.8


def _list(first: list[str], count: int) -> str:
    more = f" and {count - len(first)} more" if count > len(first) else ""
    return f"{', '.join(first)}{more}"


def _of_kernel(btf_id: int, type_id: int) -> str | None:
    """Name a function of the kernel or of a module; None where the BTF is a program's, or gone."""
    module = _module(btf_id)
    if module is None:
        return None
    with contextlib.suppress(BpfError):
        if module == "vmlinux":
            return vmlinux().name(type_id)
        with types_of(btf_id, after=vmlinux()) as types:
            return f"{types.name(type_id)} [{module}]"
    return None


def _of_program(program_id: int, type_id: int) -> str | None:
    with contextlib.suppress(BpfError):
        with ids.opened("program", program_id) as fd:
            program = libbpf.read_info(fd, BpfProgInfo, doing=f"look at program {program_id}")
        with types_of(program.btf_id) as types:
            name = program.name.decode(errors="replace")
            return f"{types.name(type_id)} of program {program_id} {name}"
    return None


def _module(btf_id: int) -> str | None:
    """Return the module whose BTF this is, or "vmlinux"; None where it is a program's or gone."""
    name = ctypes.create_string_buffer(_NAME_BYTES)
    asked = BpfBtfInfo(name=ctypes.addressof(name), name_len=_NAME_BYTES)
    with contextlib.suppress(BpfError), ids.opened("btf", btf_id) as fd:
        if libbpf.refresh_info(fd, asked, doing=f"look at BTF {btf_id}").kernel_btf:
            return name.value.decode()
    return None
