"""The kernel's log, `/dev/kmsg`: what was logged since one looked last, and what of it is a splat.

Goes by the kernel's numbers of records, never by clocks. Only the kernel's own words count as
splats: what processes write to `/dev/kmsg` the kernel marks as theirs.
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

# No record is longer (Documentation/ABI/testing/dev-kmsg; EINVAL for a buffer that is too small).
_LONGEST_RECORD = 8192

# Should something fill the log faster than it is read.
_MOST_RECORDS = 20_000

_TRACE_WAIT = 0.05  # seconds for the rest of a trace that another processor is printing


class SplatWarning(UserWarning):
    """The kernel logged a splat while a test ran, with `--bpf-dmesg=warn`."""


@dataclass(frozen=True)
class Line:
    """A line of the kernel's log."""

    number: int
    """The kernel's number of the record that it is of."""
    seconds: float
    """On the kernel's clock, which begins at boot."""
    by_kernel: bool
    """False for what a process wrote."""
    text: str

    def __str__(self) -> str:
        return f"[{self.seconds:12.6f}] {self.text}"


@dataclass(frozen=True)
class Splat:
    """What the kernel says when it has a bug, with the trace that comes with it."""

    number: int
    head: str
    lines: tuple[Line, ...]

    @property
    def pid(self) -> int | None:
        """The process that it happened in, if it says so; interrupts happen in any process."""
        for line in self.lines:
            found = _PID.search(line.text)
            if found:
                return int(found[1] or found[2])
        return None


# Since 6.19 a WARN has the second form in its first line; everything else has the first.
_PID = re.compile(r"\bPID: (\d+)\b|^WARNING: .*, CPU#\d+: .*/(\d+)$")


class KernelLog:
    """A reader, which begins at the end; until `close()`. Each process has a place of its own."""

    def __init__(self) -> None:
        """Open it. Raises `OSError`: EPERM without CAP_SYSLOG, ENOENT in some containers."""
        self._fd = os.open(DEVICE, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)
        self._news = select.poll()
        self._news.register(self._fd, select.POLLIN)

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def read(self) -> list[Line]:
        """Return what was logged since the last time; a line of its own says where some is lost."""
        lines: list[Line] = []
        # Asked four times for each test: no exception is made where there is nothing.
        if not self._news.poll(0):
            return lines
        for _ in range(_MOST_RECORDS):
            try:
                record = os.read(self._fd, _LONGEST_RECORD)
            except BlockingIOError:
                break
            except BrokenPipeError:  # overwritten; reading goes on with the oldest that is left
                lines.append(Line(0, 0, False, "(lines were lost here: the kernel's log was full)"))
            else:
                lines += _parse(record)
        return lines

    def read_rest(self, lines: Sequence[Line]) -> list[Line]:
        """Return the rest of a splat that `lines` end with, as far as it comes soon."""
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
    """Return by which errno the log refuses to be read, empty where it may be."""
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
    """Read a record: `priority,number,microseconds,flags[,...];text`, and keys that nobody asks.

    What is not printable is escaped, a line's end within a record too.
    """
    head, _, rest = record.decode(errors="replace").partition(";")
    priority, number, microseconds, *_ = head.split(",")
    text = _ESCAPED.sub(lambda code: chr(int(code[1], 16)), rest.partition("\n")[0])
    by_kernel = int(priority) >> 3 == _KERNEL_FACILITY
    return [
        Line(int(number), int(microseconds) / 1e6, by_kernel, line) for line in text.split("\n")
    ]
