"""What programs print by `bpf_printk`, read from a trace instance of its own.

`bpf_trace_printk()` fires the tracepoint `bpf_trace:bpf_trace_printk` (5.9). Each instance in which
this event is enabled has the text, and a reader of one takes nothing from another, nor from
`/sys/kernel/tracing/trace_pipe`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_EVENT = "events/bpf_trace/bpf_trace_printk/enable"

# trace_pipe gives a page at most.
_MOST_BYTES = 65536

# Ends a reading where programs print faster than it reads.
_MOST_READS = 10_000

# `comm-pid [cpu] flags seconds: bpf_trace_printk: text`; a text may have several lines.
_LINE = re.compile(r".*-(\d+) +\[\d+\] .*?(\d+\.\d+): bpf_trace_printk: (.*)")
_LOST = re.compile(r"CPU:\d+ \[LOST (.*) EVENTS\]")


@dataclass
class Printed:
    """A text that a program has printed."""

    seconds: float
    """Time on the clock of the trace, which begins at boot."""
    tid: int
    """The thread in which the program ran, which may have nothing to do with it."""
    text: str

    def __str__(self) -> str:
        return f"[{self.seconds:12.6f}] {self.text}"


class BpfTrace:
    """What programs on this kernel print by `bpf_printk` while a test runs."""

    def __init__(self, instance: Path, *, is_anothers: Callable[[int], bool]) -> None:
        """Enable the event in a fresh instance. `is_anothers` says which threads to leave out.

        Raises `OSError`.
        """
        (instance / _EVENT).write_text("1")
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        self._pipe: int | None = os.open(instance / "trace_pipe", flags)
        self._is_anothers = is_anothers
        self._printed: list[Printed] = []

    @property
    def lines(self) -> list[str]:
        """What was printed since the test began, a text for each `bpf_printk`, without line end.

        It has the texts of all programs on this kernel, except those that ran in a process of
        another session, or of another worker of this run. Where texts were overwritten before they
        were read, one says so.
        """
        return [each.text for each in self.printed]

    @property
    def printed(self) -> list[Printed]:
        """What was printed since the test began, with times."""
        self._read()
        return list(self._printed)

    def clear(self) -> None:
        """Forget what was printed until now."""
        self._read()
        self._printed.clear()

    def close(self) -> None:
        """Close the instance, which can then be removed; idempotent."""
        if self._pipe is not None:
            pipe, self._pipe = self._pipe, None
            os.close(pipe)

    def __repr__(self) -> str:
        return f"<BpfTrace{' closed' if self._pipe is None else ''}>"

    def _read(self) -> None:
        for _ in range(_MOST_READS):
            try:
                text = os.read(self._pipe, _MOST_BYTES) if self._pipe is not None else b""
            except BlockingIOError:
                return
            if not text:
                return
            new = parse(text.decode(errors="replace"))
            self._printed += (each for each in new if not self._is_anothers(each.tid))


def parse(text: str) -> list[Printed]:
    """Read the lines of a `trace_pipe`."""
    found: list[Printed] = []
    for line in text.splitlines():
        begin, lost = _LINE.fullmatch(line), _LOST.fullmatch(line)
        if begin:
            found.append(Printed(float(begin[2]), int(begin[1]), begin[3]))
        elif lost:
            # Not of any thread: 0 is the idle task.
            found.append(Printed(0.0, 0, f"({lost[1]} texts were lost here)"))
        elif found and line:
            found[-1].text += f"\n{line}"
    return found
