"""Perf events, which programs of the type PERF_EVENT attach to."""

from __future__ import annotations

import errno
import os
from typing import Self

from pytest_bpflink.binding.uapi import KernelEnum
from pytest_bpflink.errors import BpfError
from pytest_bpflink.system.perf_events import TYPE_SOFTWARE, Attributes, open_event


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
        attributes = Attributes(type=TYPE_SOFTWARE, config=event, sample_period=period)
        try:
            fd = open_event(attributes, pid=pid)
        except OSError as error:
            raise BpfError(error.errno or 0, f"open perf event {event.name}") from error
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
