"""What is known of a worker that died: how it ended, and what it and its kernel said last.

Knows the words for signals, statuses and the OOM killer, and what faulthandler writes. `guests` has
the console and the standard error of a guest; `controller.crashes` makes reports.
"""

from __future__ import annotations

import itertools
import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_bpflink.matrix.messages import UNHEARD
from pytest_bpflink.session import pytest_internals
from pytest_bpflink.vm.machines import console

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

# Signals for which faulthandler writes a traceback.
_FAULTS = {signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL}
_FAULT = "Fatal Python error: "
# Of faulthandler's, or of a traceback, which has a comma more and lines of code below.
_FRAME = re.compile(r'  File "(.*)", line (?:\d+|\?\?\?),? in .*')

# Files of the matrix, and of the guest's image.
_OWN_FILES = re.compile(r"/pytest_bpflink/(matrix|session)/|^/bpflink/")

_HEADING = re.compile(r"(?:Current thread|Thread) 0x.*:")

# The C library may say before a fault why it aborts.
_LINES_BEFORE_FAULT = 3
_LONGEST_FAULT = 60
_ERROR_LINES = 10
_CONSOLE_LINES = 40
_EXCEPTION_LINES = 40

# A process that ends closes its connection a moment before it can be waited for, in seconds.
_ENDING = 1.0

_CLOSED = "closed its connection to pytest"
_ADVICE = (
    "The connection is a pair of descriptors: a test that closes or replaces every descriptor must"
    " do so in a process of its own."
)


@dataclass(frozen=True)
class LastWords:
    """The evidence for a death.

    `how` says how the worker ended, as a verb; it is empty if the worker's guest is gone, too, or
    nobody knows. `panic` is the line by which the kernel reported a fatal error. Without `is_clear`
    the kernel may be at fault, even if it reported nothing.
    """

    text: str
    how: str = ""
    panic: str = ""
    is_clear: bool = True

    def __str__(self) -> str:
        return "\n".join(filter(None, [self.how and f"The worker {self.how}.", self.text]))


def in_guest(*, console_tail: str, errors_tail: str, verdict: str) -> LastWords:
    """Return the last words of a guest, or of the worker that the guest has outlived.

    VERDICT is the watchdog's sentence, if the watchdog killed the guest.
    """
    end = None if verdict else console.worker_end(console_tail)
    before = end.before if end else console_tail
    quoted = console.last_lines(before.splitlines(), count=_CONSOLE_LINES)
    panic = console.cause(quoted)
    if end is None:
        said = f"The end of its console:\n{quoted}" if quoted else "Its console says nothing."
        return LastWords("\n".join(filter(None, [verdict, said])), panic=panic)
    kill = console.oom_kill(end.before, end.pid) if end.returncode == -signal.SIGKILL else ""
    paragraphs = [
        kill,
        _ADVICE if end.returncode == UNHEARD else "",
        _last_errors([line for line in errors_tail.splitlines() if line], end.returncode),
        f"The end of the guest's console:\n{quoted}" if panic else "",
    ]
    how = "was killed by the OOM killer" if kill else manner(end.returncode)
    return LastWords("\n".join(filter(None, paragraphs)), how, panic)


def of_process(process: subprocess.Popen[bytes]) -> LastWords:
    """Return how a worker on this host ended; one that only closed its connection is killed."""
    import subprocess

    try:
        returncode = process.wait(_ENDING)
    except subprocess.TimeoutExpired:
        process.kill()
        returncode = UNHEARD
    return LastWords(_ADVICE if returncode == UNHEARD else "", manner(returncode))


def of_exception(text: str) -> LastWords:
    """Return the last words of a worker whose pytest was ended by an exception: its traceback."""
    shown, is_shown = [], True
    for line in text.rstrip().splitlines():
        is_shown = not _is_runners(line) if not line.startswith("   ") else is_shown
        if is_shown:
            shown.append(line)
    return LastWords("\n".join(shown[-_EXCEPTION_LINES:]), "was ended by an error of its pytest")


def of_damage(reason: str) -> LastWords:
    """Return the last words of a worker whose message can't be read, by its fault or a kernel's."""
    return LastWords("", f"sent a damaged message ({reason})", is_clear=False)


def manner(returncode: int) -> str:
    """Return how a worker with this returncode, -N for signal N, ended."""
    if returncode == UNHEARD:
        return _CLOSED
    if returncode >= 0:
        return f"exited with status {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:  # real-time signals have no names
        return f"was killed by signal {-returncode}"


def _last_errors(lines: Sequence[str], returncode: int) -> str:
    """Return faulthandler's traceback without the frames of test runners, or the last lines."""
    faults = [at for at, line in enumerate(lines) if line.startswith(_FAULT)]
    if -returncode in _FAULTS and faults:
        start = max(0, faults[-1] - _LINES_BEFORE_FAULT)
        shown = [line for line in lines[start:] if not _is_runners(line)]
        # A heading without frames is that of a thread of execnet's.
        headings = {line for line, after in itertools.pairwise(shown) if _is_empty(line, after)}
        return "\n".join([line for line in shown if line not in headings][:_LONGEST_FAULT])
    if lines:
        return "\n".join(["The end of its standard error:", *lines[-_ERROR_LINES:]])
    return ""


def _is_runners(line: str) -> bool:
    frame = _FRAME.fullmatch(line)
    return bool(frame and (pytest_internals.is_runner(frame[1]) or _OWN_FILES.search(frame[1])))


def _is_empty(line: str, after: str) -> bool:
    """Whether a line is the heading of a thread that has no frame AFTER it."""
    return bool(_HEADING.fullmatch(line)) and not after.startswith("  ")
