"""Perf events, which programs of the type PERF_EVENT attach to."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Self

from pytest_bpflink.binding.uapi import KernelEnum
from pytest_bpflink.errors import BpfError
from pytest_bpflink.system.libc import libc

# perf_event_open(2) has no wrapper in glibc.
_CALL_NUMBERS = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331}
_TYPE_SOFTWARE = 1
_CLOSE_ON_EXEC = 1 << 3


class SoftwareEvent(KernelEnum):
    """`enum perf_sw_ids`: the events that the kernel itself counts."""

    CPU_CLOCK = 0
    TASK_CLOCK = 1
    PAGE_FAULTS = 2
    CONTEXT_SWITCHES = 3
    CPU_MIGRATIONS = 4


class PerfEvent:
    """An open perf event. It lives until `close()`, and longer if a link to it does."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd: int | None = fd
        self._name = name

    @classmethod
    def software(cls, event: SoftwareEvent, *, period: int = 1, pid: int = 0) -> Self:
        """Open a software event of this process (`pid` 0) or of another one, on any processor.

        Each `period`-th occurrence makes an attached program run. Raises `BpfError`.
        """
        attributes = _Attributes(
            type=_TYPE_SOFTWARE, size=ctypes.sizeof(_Attributes), config=event, period=period
        )
        fd = libc().syscall(
            _CALL_NUMBERS[platform.machine()],
            ctypes.byref(attributes),
            *map(ctypes.c_int, (pid, -1, -1)),
            ctypes.c_ulong(_CLOSE_ON_EXEC),
        )
        if fd < 0:
            raise BpfError(ctypes.get_errno(), f"open perf event {event.name}")
        return cls(fd, event.name)

    def fileno(self) -> int:
        """Return the descriptor of the event. Raises `BpfError` with EBADF after `close()`."""
        if self._fd is None:
            raise BpfError(errno.EBADF, f"use perf event {self._name}", hint="it was closed")
        return self._fd

    def close(self) -> None:
        """Close the event; idempotent."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", None) is not None:
            self.close()

    def __repr__(self) -> str:
        return f"<PerfEvent {self._name}{' closed' if self._fd is None else ''}>"


class _Attributes(ctypes.Structure):
    """`struct perf_event_attr` in its first size (2.6.32), which every kernel takes."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
        ("rest", ctypes.c_uint8 * 40),
    )
