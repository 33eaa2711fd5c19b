"""The kernel's log, `/dev/kmsg`: the lines logged since the last reading, and the splats in them.

Goes by the kernel's numbers of records, never by clocks. Only lines of the kernel itself count as
splats: the kernel marks the lines that processes write to `/dev/kmsg`.
"""

from __future__ import annotations

import os
import re
import select
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.errors import errno_name
from pytest_bpflink.vm.machines import console

if TYPE_CHECKING:
    from collections.abc import Sequence

DEVICE = Path("/dev/kmsg")

# No record is longer (Documentation/ABI/testing/dev-kmsg; a smaller buffer gives EINVAL).
_LONGEST_RECORD = 8192

# Ends a reading where something fills the log faster than it is read.
_MOST_RECORDS = 20_000

_TRACE_WAIT = 0.05  # seconds for the rest of a trace that another processor is printing


class SplatWarning(UserWarning):
    """The kernel logged a splat while a test ran, with `--bpf-dmesg=warn`."""


@dataclass(frozen=True)
class Line:
    """A line of the kernel's log."""

    number: int
    """The kernel's number of the record that has the line."""
    seconds: float
    """Time on the kernel's clock, which begins at boot."""
    by_kernel: bool
    """False for a line that a process wrote."""
    text: str

    def __str__(self) -> str:
        return f"[{self.seconds:12.6f}] {self.text}"


@dataclass(frozen=True)
class Splat:
    """The kernel's report of a bug in itself, such as a WARNING or an oops, with the trace."""

    number: int
    head: str
    lines: tuple[Line, ...]

    @property
    def pid(self) -> int | None:
        """The process that the splat names, if any; an interrupt may have come in any process."""
        for line in self.lines:
            found = _PID.search(line.text)
            if found:
                return int(found[1] or found[2])
        return None


# A WARN since 6.19 has the second form, in its first line; every other splat has the first.
_PID = re.compile(r"\bPID: (\d+)\b|^WARNING: .*, CPU#\d+: .*/(\d+)$")


class KernelLog:
    """A reader of the lines that are logged from now on, until `close()`.

    Each reader has its own position in the log.
    """

    def __init__(self) -> None:
        """Open the log. Raises `OSError`: EPERM without CAP_SYSLOG, ENOENT in some containers."""
        self._fd = os.open(DEVICE, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)
        self._news = select.poll()
        self._news.register(self._fd, select.POLLIN)

    def close(self) -> None:
        """Close the log."""
        os.close(self._fd)

    def read(self) -> list[Line]:
        """Return the lines logged since the last reading; one of them says where lines are lost."""
        lines: list[Line] = []
        # Called four times for each test: poll() saves an exception where nothing was logged.
        if not self._news.poll(0):
            return lines
        for _ in range(_MOST_RECORDS):
            try:
                record = os.read(self._fd, _LONGEST_RECORD)
            except BlockingIOError:
                break
            except BrokenPipeError:  # records were overwritten; the next is the oldest one left
                lines.append(Line(0, 0, False, "(lines were lost here: the kernel's log was full)"))
            else:
                lines += _parse(record)
        return lines

    def read_rest(self, lines: Sequence[Line]) -> list[Line]:
        """Return the rest of a splat that `lines` end with, as far as it is logged within 50 ms."""
        rest: list[Line] = []
        deadline = time.monotonic() + _TRACE_WAIT
        while time.monotonic() < deadline:
            text = [line.text for line in (*lines, *rest) if line.by_kernel]
            if not any(part.stop == len(text) for part in console.splats(text)):
                break
            if console.is_end(text[-1]):
                break
            time.sleep(_TRACE_WAIT / 10)
            rest += self.read()
        return rest


def unreadable() -> str:
    """Return the name of the errno with which opening the log fails; empty where it succeeds."""
    try:
        KernelLog().close()
    except OSError as error:
        return errno_name(error.errno or 0)
    return ""


def splats(lines: Sequence[Line]) -> list[Splat]:
    """Find the splats among lines of the kernel's log."""
    own = [line for line in lines if line.by_kernel]
    text = [line.text for line in own]
    found = []
    for part in console.splats(text):
        whole = tuple(own[part.start : part.stop])
        head = next(line for line in whole if console.is_splat(line.text))
        found.append(Splat(head.number, head.text, whole))
    return found


_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")
_KERNEL_FACILITY = 0


def _parse(record: bytes) -> list[Line]:
    """Read a record: `priority,number,microseconds,flags[,...];text`, then keys, which are skipped.

    Unprintable characters are escaped, line ends within a record too.
    """
    head, _, rest = record.decode(errors="replace").partition(";")
    priority, number, microseconds, *_ = head.split(",")
    text = _ESCAPED.sub(lambda code: chr(int(code[1], 16)), rest.partition("\n")[0])
    by_kernel = int(priority) >> 3 == _KERNEL_FACILITY
    return [
        Line(int(number), int(microseconds) / 1e6, by_kernel, line) for line in text.split("\n")
    ]
