"""bpf(2) itself, for commands that the libbpf of many systems does not know."""

from __future__ import annotations

import ctypes
import errno
import os
import platform

from pytest_bpflink.errors import BpfError, NotSupported
from pytest_bpflink.system.libc import libc

_CALL_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}

_PROG_STREAM_READ_BY_FD = 37


class _StreamRead(ctypes.Structure):
    """The part `prog_stream_read` of `union bpf_attr`."""

    _fields_ = (
        ("stream_buf", ctypes.c_uint64),
        ("stream_buf_len", ctypes.c_uint32),
        ("stream_id", ctypes.c_uint32),
        ("prog_fd", ctypes.c_uint32),
    )


def bpf(command: int, attributes: ctypes.Structure, *, doing: str) -> int:
    """Make the system call with a part of `union bpf_attr`, and return its result.

    Raises `BpfError`.
    """
    result: int = libc().syscall(
        _CALL_NUMBERS[platform.machine()],
        command,
        ctypes.byref(attributes),
        ctypes.c_uint(ctypes.sizeof(attributes)),
    )
    if result < 0:
        raise BpfError(ctypes.get_errno(), doing)
    return result


def read_stream(program: int, stream: int, *, doing: str) -> bytes:
    """`BPF_PROG_STREAM_READ_BY_FD`: take all that is in a stream of a program (6.17).

    Raises `NotSupported`, `BpfError`.
    """
    buffer = ctypes.create_string_buffer(65536)
    attributes = _StreamRead(ctypes.addressof(buffer), len(buffer), stream, program)
    taken = b""
    while True:
        try:
            length = bpf(_PROG_STREAM_READ_BY_FD, attributes, doing=doing)
        except BpfError as error:
            if error.errno != errno.EINVAL:
                raise
            here = f"Linux {os.uname().release}"
            raise NotSupported(doing, since="Linux 6.17", here=here) from error
        if not length:
            return taken
        taken += buffer.raw[:length]
