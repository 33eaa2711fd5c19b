"""Probes of links to events: functions, tracepoints, perf events, iterators.

The event of most is a call of getpgid(2), which calls security_task_getpgid() in the kernel.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf, opts
from pytest_bpflink.binding.btf import Kind
from pytest_bpflink.binding.kernel_btf import vmlinux
from pytest_bpflink.binding.uapi import AttachType, LinkType, ProgType
from pytest_bpflink.bpf.attaching.perf_event import PerfEvent, SoftwareEvent
from pytest_bpflink.bpf.link import created
from pytest_bpflink.features.probes.program import Loaded, linked, loaded, require_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink.bpf.link import Link

_FUNCTION = "security_task_getpgid"


def _ask() -> None:
    os.getpgid(os.getpid())  # for pid 0 the kernel does not call security_task_getpgid()


def _open(program: Loaded, name: bytes | None = None) -> Link:
    """`BPF_RAW_TRACEPOINT_OPEN`, which makes links to raw tracepoints and trampolines."""
    doing = f"attach a program for {AttachType(program.attach_type).name}"
    fd = libbpf.call("bpf_raw_tracepoint_open", name, program.fd, doing=doing)
    return created(fd, "probe")


def raw_tracepoint() -> None:
    """Probe a program on a raw tracepoint."""
    with (
        loaded(ProgType.RAW_TRACEPOINT, AttachType(0)) as program,
        _open(program, b"sys_enter") as link,
    ):
        require_run(program, link, LinkType.RAW_TRACEPOINT, _ask)


def tracing(
    attach_type: AttachType,
    *,
    target: tuple[str, Kind] = (_FUNCTION, Kind.FUNC),
    program_type: ProgType = ProgType.TRACING,
    link_type: LinkType = LinkType.TRACING,
) -> Callable[[], None]:
    """Return the probe of a program that is loaded for its target (fentry, LSM, tp_btf)."""

    def probe() -> None:
        btf_id = vmlinux().find(*target)
        with (
            loaded(program_type, attach_type, returns=0, btf_id=btf_id) as program,
            _open(program) as link,
        ):
            require_run(program, link, link_type, _ask)

    return probe


def tracing_multi(attach_type: AttachType) -> Callable[[], None]:
    """Return the probe of a program on many functions, by trampolines."""

    def probe() -> None:
        libbpf.require("bpf_program__attach_tracing_multi")
        ids = (ctypes.c_uint32 * 1)(vmlinux().find(_FUNCTION, Kind.FUNC))
        options = opts.TracingMultiLinkOptions(ids=ctypes.addressof(ids), cnt=1)
        with (
            loaded(ProgType.TRACING, attach_type, returns=0) as program,
            linked(program.fd, 0, attach_type, options) as link,
        ):
            require_run(program, link, LinkType.TRACING_MULTI, _ask)

    return probe


def kprobe_multi(attach_type: AttachType, *, libbpf_with: str) -> Callable[[], None]:
    """Return the probe of a program on many functions, by fprobe.

    `libbpf_with` is a function that the oldest libbpf with such links has, and older ones lack.
    """

    def probe() -> None:
        libbpf.require(libbpf_with)
        names = (ctypes.c_char_p * 1)(_FUNCTION.encode())
        options = opts.KprobeMultiLinkOptions(cnt=1, syms=ctypes.addressof(names))
        with (
            loaded(ProgType.KPROBE, attach_type, returns=0) as program,
            linked(program.fd, 0, attach_type, options) as link,
        ):
            require_run(program, link, LinkType.KPROBE_MULTI, _ask)

    return probe


def uprobe_multi(attach_type: AttachType, *, libbpf_with: str) -> Callable[[], None]:
    """Return the probe of a program on places of a file: of libbpf.so, which this process runs."""

    def probe() -> None:
        libbpf.require(libbpf_with)
        file, offset = _place_of(libbpf.address("libbpf_version_string"))
        offsets = (ctypes.c_ulong * 1)(offset)
        options = opts.UprobeMultiLinkOptions(
            cnt=1, path=os.fsencode(file), offsets=ctypes.addressof(offsets), pid=os.getpid()
        )
        with (
            loaded(ProgType.KPROBE, attach_type, returns=0) as program,
            linked(program.fd, 0, attach_type, options) as link,
        ):
            require_run(program, link, LinkType.UPROBE_MULTI, libbpf.version)

    return probe


def perf_event() -> None:
    """Probe a program on a perf event."""
    with (
        loaded(ProgType.PERF_EVENT, AttachType(0)) as program,
        PerfEvent.software(SoftwareEvent.PAGE_FAULTS) as event,
        linked(program.fd, event.fileno(), AttachType.PERF_EVENT) as link,
    ):
        require_run(program, link, LinkType.PERF_EVENT, _fault_pages)


def iterator() -> None:
    """Probe an iterator, over tasks."""
    btf_id = vmlinux().find("bpf_iter_task", Kind.FUNC)
    attach_type = AttachType.TRACE_ITER
    with (
        loaded(ProgType.TRACING, attach_type, returns=0, btf_id=btf_id) as program,
        linked(program.fd, 0, attach_type) as link,
    ):

        def read() -> None:
            fd = libbpf.call("bpf_iter_create", link.fd, doing="make an iterator")
            with open(fd, "rb") as file:
                file.read()

        require_run(program, link, LinkType.ITER, read)


def _fault_pages() -> None:
    with mmap.mmap(-1, 64 * mmap.PAGESIZE) as fresh:
        for page in range(0, len(fresh), mmap.PAGESIZE):
            fresh[page] = 1


def _place_of(address: int) -> tuple[Path, int]:
    """Return the file that is mapped at an address of this process, and the offset in the file."""
    with open("/proc/self/maps", encoding="utf-8") as lines:
        for line in lines:
            span, _, offset, _, _, *name = line.split(maxsplit=5)
            start, end = (int(part, 16) for part in span.split("-"))
            if start <= address < end and name:
                return Path(name[0].strip()), address - start + int(offset, 16)
    raise LookupError(f"nothing is mapped at {address:#x}")


EFFECTS: dict[AttachType, Callable[[], None]] = {
    AttachType.TRACE_RAW_TP: tracing(
        AttachType.TRACE_RAW_TP,
        target=("btf_trace_sys_enter", Kind.TYPEDEF),
        link_type=LinkType.RAW_TRACEPOINT,
    ),
    AttachType.TRACE_FENTRY: tracing(AttachType.TRACE_FENTRY),
    AttachType.TRACE_FEXIT: tracing(AttachType.TRACE_FEXIT),
    AttachType.MODIFY_RETURN: tracing(AttachType.MODIFY_RETURN),
    AttachType.LSM_MAC: tracing(
        AttachType.LSM_MAC,
        target=("bpf_lsm_task_getpgid", Kind.FUNC),
        program_type=ProgType.LSM,
    ),
    AttachType.TRACE_FSESSION: tracing(AttachType.TRACE_FSESSION),
    AttachType.TRACE_ITER: iterator,
    AttachType.PERF_EVENT: perf_event,
    AttachType.TRACE_FENTRY_MULTI: tracing_multi(AttachType.TRACE_FENTRY_MULTI),
    AttachType.TRACE_FEXIT_MULTI: tracing_multi(AttachType.TRACE_FEXIT_MULTI),
    AttachType.TRACE_FSESSION_MULTI: tracing_multi(AttachType.TRACE_FSESSION_MULTI),
    AttachType.TRACE_KPROBE_MULTI: kprobe_multi(
        AttachType.TRACE_KPROBE_MULTI, libbpf_with="bpf_program__attach_kprobe_multi_opts"
    ),
    # Sessions came with libbpf 1.5 (kprobes) and 1.6 (uprobes), and so did these functions.
    AttachType.TRACE_KPROBE_SESSION: kprobe_multi(
        AttachType.TRACE_KPROBE_SESSION, libbpf_with="bpf_program__attach_sockmap"
    ),
    AttachType.TRACE_UPROBE_MULTI: uprobe_multi(
        AttachType.TRACE_UPROBE_MULTI, libbpf_with="bpf_program__attach_uprobe_multi"
    ),
    AttachType.TRACE_UPROBE_SESSION: uprobe_multi(
        AttachType.TRACE_UPROBE_SESSION, libbpf_with="bpf_program__attach_cgroup_opts"
    ),
}
"""Probes by attach type that see a program run."""
