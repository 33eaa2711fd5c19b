"""Attaching to events: functions of the kernel and of programs, tracepoints, perf events.

Before 5.15 libbpf attaches kprobes, uprobes and tracepoints without a BPF link, and returns a
`struct bpf_link *` for the perf event.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink.binding import libbpf, opts
from pytest_bpflink.binding.btf import Kind
from pytest_bpflink.binding.kernel_btf import vmlinux
from pytest_bpflink.binding.uapi import AttachType
from pytest_bpflink.bpf.link import attached, created
from pytest_bpflink.errors import BpfError, NotSupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bpflink.bpf.attaching.perf_event import PerfEvent
    from pytest_bpflink.bpf.handles import ProgramHandle
    from pytest_bpflink.bpf.link import Link


def as_section_says(program: ProgramHandle, _target: None = None) -> Link:
    """Attach to the target that `SEC()` names."""
    return _perf_or_other(program, attach_as_section_says(program), program.name)


def attach_as_section_says(program: ProgramHandle) -> int:
    """Attach, and return the `struct bpf_link *`."""
    doing = f"attach {program.name} ({program.section})"
    try:
        return libbpf.call("bpf_program__attach", program.pointer, doing=doing)
    except BpfError as error:
        if error.errno == errno.EOPNOTSUPP and "/" not in program.section:
            error.hint = "its SEC() names no target, so attach() needs one"
        raise


def to_perf_event(program: ProgramHandle, event: PerfEvent, *, cookie: int = 0) -> Link:
    """Attach to a perf event (5.15).

    Does not call `bpf_program__attach_perf_event()`: a link from there owns the event, and
    `bpf_link__destroy()` disables the event, which stops the program even if others hold the link.
    """
    name = f"{program.name} on {event}"
    fd = libbpf.call(
        "bpf_link_create",
        program.fd,
        event.fileno(),
        AttachType.PERF_EVENT,
        ctypes.byref(opts.PerfEventLinkOptions(bpf_cookie=cookie)),
        doing=f"attach {name}",
    )
    return created(fd, name)


def to_tracepoint(program: ProgramHandle, target: str | None, *, cookie: int = 0) -> Link:
    """Attach to a tracepoint by its name in tracefs, `category:name`; a cookie since 5.15."""
    if target is None and not cookie:
        return as_section_says(program)
    named = target or ":".join(program.section.split("/")[1:])
    category, _, event = named.partition(":")
    name = f"{program.name} on {named}"
    if not event:
        hint = "a tracepoint is named with its category, as sched:sched_switch"
        raise BpfError(errno.EINVAL, f"attach {name}", hint=hint)
    return _with_perf_event(
        program,
        name,
        "bpf_program__attach_tracepoint_opts",
        category.encode(),
        event.encode(),
        ctypes.byref(opts.TracepointOptions(bpf_cookie=cookie)),
    )


def to_raw_tracepoint(program: ProgramHandle, target: str | None) -> Link:
    """Attach to a tracepoint by its name, without a category."""
    if target is None:
        return as_section_says(program)
    name = f"{program.name} on {target}"
    pointer = libbpf.call(
        "bpf_program__attach_raw_tracepoint",
        program.pointer,
        target.encode(),
        doing=f"attach {name}",
    )
    return attached(pointer, name)


def to_probe(
    program: ProgramHandle,
    target: str | Path | None,
    *,
    function: str = "",
    offset: int = 0,
    pid: int = -1,
    retprobe: bool | None = None,
    cookie: int = 0,
) -> Link:
    """Attach a kprobe to a function of the kernel, or a uprobe to a place in a file.

    Without `retprobe` the section decides: it is for `SEC("kretprobe")` and `SEC("uretprobe")`.
    """
    if target is None:
        return as_section_says(program)
    if retprobe is None:
        retprobe = program.section.startswith(("kretprobe", "uretprobe"))
    how: dict[str, Any] = {"offset": offset, "retprobe": retprobe, "cookie": cookie}
    if isinstance(target, Path):
        return _uprobe(program, target, function=function, pid=pid, **how)
    return _kprobe(program, target, **how)


def to_system_call(
    program: ProgramHandle, call: str | None, *, retprobe: bool | None = None, cookie: int = 0
) -> Link:
    """Attach a kprobe to the kernel's function for a system call, as `getpgid` (libbpf 1.0).

    Without `retprobe` the section decides: it is for `SEC("kretsyscall")`.
    """
    if call is None:
        return as_section_says(program)
    if retprobe is None:
        retprobe = program.section.startswith("kretsyscall")
    name = f"{program.name} on system call {call}"
    options = opts.KsyscallOptions(bpf_cookie=cookie, retprobe=retprobe)
    return _with_perf_event(
        program, name, "bpf_program__attach_ksyscall", call.encode(), ctypes.byref(options)
    )


def _kprobe(
    program: ProgramHandle, function: str, *, offset: int, retprobe: bool, cookie: int
) -> Link:
    name = f"{program.name} on {function}+{offset}"
    options = opts.KprobeOptions(offset=offset, retprobe=retprobe, bpf_cookie=cookie)
    return _with_perf_event(
        program, name, "bpf_program__attach_kprobe_opts", function.encode(), ctypes.byref(options)
    )


def _uprobe(
    program: ProgramHandle,
    file: Path,
    *,
    function: str,
    offset: int,
    pid: int,
    retprobe: bool,
    cookie: int,
) -> Link:
    name = f"{program.name} on {file}{':' * bool(function)}{function}+{offset:#x}"
    options = opts.UprobeOptions(
        retprobe=retprobe, bpf_cookie=cookie, func_name=function.encode() or None
    )
    return _with_perf_event(
        program,
        name,
        "bpf_program__attach_uprobe_opts",
        pid,
        os.fsencode(file),
        offset,
        ctypes.byref(options),
    )


def to_kprobe_multi(
    program: ProgramHandle,
    target: str | Sequence[str] | None,
    *,
    retprobe: bool = False,
    cookies: Sequence[int] = (),
) -> Link:
    """Attach to many functions of the kernel, with a cookie for each or none at all."""
    if target is None:
        return as_section_says(program)
    name = f"{program.name} on {target}"
    pattern = target.encode() if isinstance(target, str) else None
    names = () if isinstance(target, str) else tuple(name.encode() for name in target)
    _require_one_each(cookies, names, "function that is named", doing=f"attach {name}")
    symbols = (ctypes.c_char_p * len(names))(*names)
    values = (ctypes.c_uint64 * len(cookies))(*cookies)
    options = opts.KprobeMultiOptions(
        syms=_address(symbols), cookies=_address(values), cnt=len(names), retprobe=retprobe
    )
    pointer = libbpf.call(
        "bpf_program__attach_kprobe_multi_opts",
        program.pointer,
        pattern,
        ctypes.byref(options),
        doing=f"attach {name}",
    )
    return attached(pointer, name)


def to_tracing_multi(
    program: ProgramHandle, target: str | Sequence[str] | None, *, cookies: Sequence[int] = ()
) -> Link:
    """Attach to many functions of the kernel by trampolines (7.2); cookies as for kprobe.multi."""
    if target is None:
        return as_section_says(program)
    name = f"{program.name} on {target}"
    pattern = target.encode() if isinstance(target, str) else None
    names = () if isinstance(target, str) else tuple(target)
    _require_one_each(cookies, names, "function that is named", doing=f"attach {name}")
    ids = (ctypes.c_uint32 * len(names))(*(vmlinux().find(one, Kind.FUNC) for one in names))
    values = (ctypes.c_uint64 * len(cookies))(*cookies)
    options = opts.TracingMultiOptions(ids=_address(ids), cookies=_address(values), cnt=len(names))
    pointer = libbpf.call(
        "bpf_program__attach_tracing_multi",
        program.pointer,
        pattern,
        ctypes.byref(options),
        doing=f"attach {name}",
    )
    return attached(pointer, name)


def to_uprobe_multi(
    program: ProgramHandle,
    file: Path | None,
    *,
    offsets: Sequence[int] = (),
    pid: int = -1,
    retprobe: bool = False,
    cookies: Sequence[int] = (),
) -> Link:
    """Attach to many places of a file, with a cookie for each or none at all."""
    if file is None:
        return as_section_says(program)
    name = f"{program.name} on {file}"
    _require_one_each(cookies, offsets, "offset", doing=f"attach {name}")
    places = (ctypes.c_ulong * len(offsets))(*offsets)
    values = (ctypes.c_uint64 * len(cookies))(*cookies)
    options = opts.UprobeMultiOptions(
        offsets=_address(places), cookies=_address(values), cnt=len(offsets), retprobe=retprobe
    )
    pointer = libbpf.call(
        "bpf_program__attach_uprobe_multi",
        program.pointer,
        pid,
        os.fsencode(file),
        None,
        ctypes.byref(options),
        doing=f"attach {name}",
    )
    return attached(pointer, name)


def _require_one_each(
    cookies: Sequence[int], places: Sequence[object], what: str, *, doing: str
) -> None:
    """Raise `BpfError` unless there is a cookie for each place, or none at all.

    With fewer cookies than places the kernel would read beyond the array.
    """
    if cookies and len(cookies) != len(places):
        hint = f"{len(cookies)} cookies for {len(places)}: there must be one for each {what}"
        raise BpfError(errno.EINVAL, doing, hint=hint)


def _with_perf_event(program: ProgramHandle, name: str, function: str, *arguments: Any) -> Link:
    """Attach by a function of libbpf that makes a perf event, and a link to it where it can."""
    pointer = libbpf.call(function, program.pointer, *arguments, doing=f"attach {name}")
    return _perf_or_other(program, pointer, name)


def _perf_or_other(program: ProgramHandle, pointer: int, name: str) -> Link:
    try:
        return attached(pointer, name)
    except BpfError as error:
        if error.errno != errno.EINVAL or "perf_event" not in error.hint:
            raise
        # Before 5.15 libbpf returns a `struct bpf_link *` for a perf event, without a BPF link.
        raise NotSupported(
            f"attach {name} ({program.section}) by a BPF link",
            since="Linux 5.15",
            here="an older kernel, where libbpf hands out a perf event",
        ) from error


def _address(array: ctypes.Array[Any]) -> int | None:
    return ctypes.addressof(array) if len(array) else None
