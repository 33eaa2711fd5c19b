"""perf_event_open(2), which has no wrapper in glibc."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any

from pytest_bpflink.system.libc import libc

TYPE_SOFTWARE = 1
"""`PERF_TYPE_SOFTWARE`: the event is one that the kernel itself counts."""

_CALL_NUMBERS = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331}
_CLOSE_ON_EXEC = 1 << 3


class Attributes(ctypes.Structure):
    """`struct perf_event_attr` as far as `clockid`, which Linux 4.1 and later take."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags_before", ctypes.c_uint64, 25),
        ("use_clockid", ctypes.c_uint64, 1),
        ("flags_after", ctypes.c_uint64, 38),
        ("wakeup_events", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("config1", ctypes.c_uint64),
        ("config2", ctypes.c_uint64),
        ("branch_sample_type", ctypes.c_uint64),
        ("sample_regs_user", ctypes.c_uint64),
        ("sample_stack_user", ctypes.c_uint32),
        ("clockid", ctypes.c_int32),
    )

    def __init__(self, **fields: Any) -> None:
        super().__init__(size=ctypes.sizeof(self), **fields)


def open_event(attributes: Attributes, *, pid: int = -1, cpu: int = -1) -> int:
    """Return a descriptor of a perf event of a process, on one processor or on any (-1).

    Raises `OSError`: ENODEV for a processor that is offline, EACCES and EPERM without CAP_PERFMON.
    """
    fd: int = libc().syscall(
        _CALL_NUMBERS[platform.machine()],
        ctypes.byref(attributes),
        *map(ctypes.c_int, (pid, cpu, -1)),
        ctypes.c_ulong(_CLOSE_ON_EXEC),
    )
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return fd
