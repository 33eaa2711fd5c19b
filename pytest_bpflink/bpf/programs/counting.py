"""How often a program ran, and how long that took: `BPF_ENABLE_STATS`."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import BpfProgInfo
from pytest_bpflink.errors import BpfError

if TYPE_CHECKING:
    from pytest_bpflink.bpf.handles import LoadedProgramHandle

_RUN_TIME = 0  # BPF_STATS_RUN_TIME


@dataclass(frozen=True)
class _Counts:
    count: int
    time: int
    recursion_misses: int


class Runs:
    """The runs of a program since the beginning of a `with` block, and until its end."""

    def __init__(self, program: LoadedProgramHandle) -> None:
        self._program = program
        self._doing = f"count runs of program {program.name}"
        self._fd: int | None = None
        self._before: _Counts | None = None
        self._last: _Counts | None = None

    @property
    def count(self) -> int:
        """How often the program ran, on all processors."""
        return self._since_begin().count

    @property
    def time(self) -> int:
        """Nanoseconds that these runs took, in sum."""
        return self._since_begin().time

    @property
    def recursion_misses(self) -> int:
        """How often the kernel left a run out, since the program ran already on the processor.

        Counted since Linux 5.12 (fentry and its like), 6.1 and 6.7 (kprobes and others); before, 0.
        """
        return self._since_begin().recursion_misses

    def __enter__(self) -> Self:
        self._fd = libbpf.call("bpf_enable_stats", _RUN_TIME, doing=self._doing)
        self._last = None
        try:
            self._before = self._counts()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._last = self._counts()
        finally:
            self._stop()

    def __del__(self) -> None:
        if getattr(self, "_fd", None) is not None:
            self._stop()

    def __repr__(self) -> str:
        state = "not begun" if self._before is None else f"{self.count} in {self.time} ns"
        return f"<Runs of {self._program.name}: {state}>"

    def _stop(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def _since_begin(self) -> _Counts:
        if self._before is None:
            raise BpfError(errno.EINVAL, self._doing, hint="write: with program.counting() as runs")
        now = self._last or self._counts()
        return _Counts(
            now.count - self._before.count,
            now.time - self._before.time,
            now.recursion_misses - self._before.recursion_misses,
        )

    def _counts(self) -> _Counts:
        info = libbpf.read_info(self._program.fd, BpfProgInfo, doing=self._doing)
        return _Counts(info.run_cnt, info.run_time_ns, info.recursion_misses)
