"""Loading a probe's program of two instructions, and counting its runs by kernel statistics."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf, opts
from pytest_bpflink.binding.uapi import AttachType, BpfProgInfo, LinkType, MapType, ProgType
from pytest_bpflink.bpf.link import created
from pytest_bpflink.errors import BpfError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink.bpf.link import Link

_INSTRUCTION = struct.Struct("=BBhi")
_SLEEPABLE = 1 << 4  # BPF_F_SLEEPABLE
_EXIT = _INSTRUCTION.pack(0x95, 0, 0, 0)


def returning(number: int) -> bytes:
    """Return the instructions that move a number into R0, the result, and exit."""
    return _INSTRUCTION.pack(0xB7, 0, 0, number) + _EXIT


def calling(helper: int) -> bytes:
    """Return the instructions that call a helper, without setting its arguments, and exit."""
    return _INSTRUCTION.pack(0x85, 0, 0, helper) + _EXIT


def load(
    kind: ProgType,
    attach_type: int,
    code: bytes,
    *,
    btf_id: int = 0,
    log: ctypes.Array[ctypes.c_char] | None = None,
) -> int:
    """Load a program for an attach type, or for a member of a struct_ops; return its descriptor.

    `btf_id` is the BTF id of the target, for types that are loaded for one. Raises `BpfError`.
    """
    given = opts.ProgLoadOptions(expected_attach_type=attach_type, attach_btf_id=btf_id)
    if kind is ProgType.SYSCALL:
        given.prog_flags = _SLEEPABLE  # SYSCALL programs must be
    if log is not None:
        given.log_level, given.log_size, given.log_buf = 1, len(log), ctypes.addressof(log)
    what = "" if kind is ProgType.STRUCT_OPS else f" for {AttachType(attach_type).name}"
    return libbpf.call(
        "bpf_prog_load",
        kind,
        b"probe",
        b"GPL",
        code,
        len(code) // _INSTRUCTION.size,
        ctypes.byref(given),
        doing=f"load a program of type {kind.name}{what}",
    )


class Loaded:
    """A program in the kernel."""

    def __init__(self, fd: int, attach_type: int) -> None:
        self.fd = fd
        self.attach_type = attach_type

    @property
    def runs(self) -> int:
        """How often the program ran while the kernel kept statistics, as in `loaded()`."""
        return int(libbpf.read_info(self.fd, BpfProgInfo, doing="count runs").run_cnt)


@contextlib.contextmanager
def uncounted(
    kind: ProgType, attach_type: int, *, returns: int = 1, btf_id: int = 0
) -> Iterator[Loaded]:
    """Load a program that returns a number; its runs are not counted."""
    fd = load(kind, attach_type, returning(returns), btf_id=btf_id)
    try:
        yield Loaded(fd, attach_type)
    finally:
        os.close(fd)


@contextlib.contextmanager
def loaded(
    kind: ProgType, attach_type: int, *, returns: int = 1, btf_id: int = 0
) -> Iterator[Loaded]:
    """Load a program that returns a number, and have its runs counted."""
    # Turning statistics on makes the kernel patch its code, and turning them off once more.
    statistics = libbpf.call("bpf_enable_stats", 0, doing="count the runs of programs (5.8)")
    try:
        with uncounted(kind, attach_type, returns=returns, btf_id=btf_id) as program:
            yield program
    finally:
        os.close(statistics)


@contextlib.contextmanager
def new_map(
    kind: MapType, *, key: int = 4, value: int = 4, options: opts.MapCreateOptions | None = None
) -> Iterator[int]:
    """Make a map of one entry, and give its descriptor."""
    given = ctypes.byref(options) if options else None
    doing = f"make a map of type {kind.name}"
    fd = libbpf.call("bpf_map_create", kind, b"probe", key, value, 1, given, doing=doing)
    try:
        yield fd
    finally:
        os.close(fd)


def linked(
    fd: int, target: int, attach_type: AttachType, options: opts.Options | None = None
) -> Link:
    """Make a link of a program, or of a struct_ops map, which the caller destroys."""
    given = ctypes.byref(options) if options else None
    doing = f"make a link of {attach_type.name}"
    return created(
        libbpf.call("bpf_link_create", fd, target, attach_type, given, doing=doing), "probe"
    )


def require_run(program: Loaded, link: Link, kind: LinkType, trigger: Callable[[], object]) -> None:
    """Raise `BpfError` where a link is of another type, or its program does not run."""
    before = program.runs
    trigger()
    info = link.info
    if info.type is not kind or program.runs == before:
        raise BpfError(
            errno.EOPNOTSUPP,
            f"run a program by a link of type {kind.name}",
            hint=f"the link is of type {info.type.name}, the program ran {program.runs} times",
        )
