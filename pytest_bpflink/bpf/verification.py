"""What it cost to verify a program, which the kernel says in its log and nowhere else."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import MapType
from pytest_bpflink.errors import BpfError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.bpf.handles import ObjectHandle, ProgramHandle

_STATS = 4  # BPF_LOG_STATS (5.2)

_TIME = re.compile(r"^verification time (\d+) usec", re.MULTILINE)
_STACK = re.compile(r"^stack depth (\d+(?:\+\d+)*)", re.MULTILINE)
_PROCESSED = re.compile(r"^processed (\d+) insns .*peak_states (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Verification:
    """What it cost to verify a program."""

    insns: int
    """Instructions that the verifier went through; it refuses a million."""
    states: int
    """States of the program that it kept at once, at most."""
    stack_depths: tuple[int, ...]
    """Bytes of stack of the program, and of each of its functions."""
    time: int
    """Microseconds."""


def parse(log: str) -> Verification | None:
    """Read the statistics at the end of a verifier's log; None where it has none."""
    time, stack, processed = (each.search(log) for each in (_TIME, _STACK, _PROCESSED))
    if not processed:
        return None
    depths = tuple(map(int, stack[1].split("+"))) if stack else ()
    insns, states = map(int, processed.groups())
    return Verification(insns, states, depths, int(time[1]) if time else 0)


def ask_for_statistics(program: int, *, doing: str) -> ctypes.Array[ctypes.c_char]:
    """Have the verifier write its statistics when a `struct bpf_program *` is loaded.

    Return the buffer, which must live until then. libbpf then has no log of a refusal.
    """
    log = ctypes.create_string_buffer(1 << 16)
    libbpf.call("bpf_program__set_log_level", program, _STATS, doing=doing)
    libbpf.call("bpf_program__set_log_buf", program, log, len(log), doing=doing)
    return log


def verified_again(owner: ObjectHandle, program: ProgramHandle) -> Verification:
    """Load a copy of a loaded program, on the same maps, and return what its verification cost.

    Raises `BpfError`.
    """
    doing = f"verify program {program.name} again"
    _ = program.fd
    pointer = libbpf.call("bpf_object__open_file", os.fsencode(owner.file), None, doing=doing)
    try:
        _share_maps(owner.pointer, pointer, doing)
        log = _choose_program(pointer, program, doing)
        libbpf.call("bpf_object__load", pointer, doing=doing)
    finally:
        libbpf.call("bpf_object__close", pointer, doing=doing)
    found = parse(log.value.decode(errors="replace"))
    if found is None:
        raise BpfError(errno.ENODATA, doing, hint="the kernel's log has no statistics")
    return found


def _share_maps(owner: int, copy: int, doing: str) -> None:
    """Give a copy of a loaded object the maps of the object, of which it pins none."""
    each = zip(_in("map", owner), _in("map", copy), strict=True)
    for original, other in each:
        libbpf.call("bpf_map__set_pin_path", other, None, doing=doing)
        # Those of struct_ops are made anew: their programs belong to them.
        if libbpf.call("bpf_map__type", original, doing=doing) != MapType.STRUCT_OPS:
            fd = libbpf.call("bpf_map__fd", original, doing=doing)
            libbpf.call("bpf_map__reuse_fd", other, fd, doing=doing)


def _choose_program(copy: int, program: ProgramHandle, doing: str) -> ctypes.Array[ctypes.c_char]:
    """Have a copy of an object load one program only; return the buffer for the verifier's log."""
    for each in _in("program", copy):
        is_it = libbpf.text("bpf_program__name", each) == program.name
        libbpf.call("bpf_program__set_autoload", each, is_it, doing=doing)
        if is_it:
            chosen = each
    attach_type = program.expected_attach_type
    libbpf.call("bpf_program__set_type", chosen, program.type, doing=doing)
    libbpf.call("bpf_program__set_expected_attach_type", chosen, attach_type, doing=doing)
    return ask_for_statistics(chosen, doing=doing)


def _in(kind: str, owner: int) -> Iterator[int]:
    each = None
    while each := libbpf.call(f"bpf_object__next_{kind}", owner, each, doing=f"find {kind}s"):
        yield each
