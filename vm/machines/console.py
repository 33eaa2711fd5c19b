"""Reads a kernel's console or log: finds panics and warnings in it, and returns its end.

Also finds the line by which PID 1 of a guest says how the worker ended.
"""

from __future__ import annotations

import functools
import os
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# Colours and cursor movements of the firmware (ECMA-48), and carriage returns.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_c]|[\r\x00-\x08\x0b-\x1f\x7f]")

_FATAL = re.compile(
    r"Kernel panic|\bOops\b|BUG:|kernel BUG at|general protection fault|Unable to handle kernel"
)

# Lines that no healthy kernel prints: WARN and most of lockdep ("WARNING: CPU: 0 PID: 7 at
# file:12", since 6.19 "WARNING: file:12 at function, CPU#0: comm/7"), BUG with KASAN, KFENCE and
# soft lockups, the rest of lockdep, RCU stalls, UBSAN.
_SPLAT = re.compile(
    rf"^WARNING: |{_FATAL.pattern}|UBSAN: |INFO: (?:rcu_\w+ (?:self-)?detected|trying to register"
    r"|possible |inconsistent |suspicious )"
)

# A process that was killed for a fault of its program.
_OF_A_PROCESS = re.compile(r"^traps: ")

# Lines of the message of WARN(condition, message), which stands before "WARNING:".
_LONGEST_MESSAGE = 5

_CUT = "------------[ cut here ]------------"
_END = re.compile(r"---\[ end (?:trace|Kernel panic)|^------------\[ cut here \]------------$")

# The time of a line and, with CONFIG_PRINTK_CALLER, the thread or processor that printed it.
_TIME = re.compile(r"^\[ *\d+\.\d+\](\[ *[TC]\d+\])? ")

# `_announce` in guest/agent.py and guest/plain.sh print it.
_WORKER_END = re.compile(
    r"bpflink: worker ([1-9]\d{0,9}) ended (?:by signal ([1-9]\d?)|with status (\d{1,3}))"
)

# `_print_on_console` in guest/agent.py and `lacks` in guest/plain.sh print it.
_LACKING = re.compile(r"bpflink: this kernel lacks ((?:CONFIG_\w+ ?)+)")

# What busybox's mount says of it in virtme-ng's initramfs.
_SIGNS_OF_LACKING = {
    r"mounting /dev/root on /newroot/? failed: No such device": ("CONFIG_9P_FS",),
    r"mounting /dev/root on /newroot/? failed: Invalid argument": ("CONFIG_NET_9P_VIRTIO",),
    r"mounting /dev/root on /newroot/? failed: No such file": ("CONFIG_VIRTIO_PCI",),
}

_TAIL_BYTES = 1 << 18

# Lines of an oops with registers, trace, and the panic after it; a report of lockdep is as long.
_LONGEST_TRACE = 200


def lines(path: Path) -> list[str]:
    """Return the lines of a console file, without control sequences; none if it can't be read."""
    try:
        with open(path, "rb", opener=_not_following) as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    stripped = (_CONTROL.sub("", line).rstrip() for line in text.split("\n"))
    return [line for line in stripped if line]


def _not_following(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def tail(path: Path, *, count: int) -> str:
    """Return the `last_lines` of a console file."""
    return last_lines(lines(path), count=count)


def last_lines(text: Sequence[str], *, count: int) -> str:
    """Return the last COUNT lines of a console, or all from the first oops on."""
    first = next((index for index, line in enumerate(text) if _FATAL.search(line)), len(text))
    start = max(min(first, len(text) - count), len(text) - max(count, _LONGEST_TRACE), 0)
    return "\n".join(text[start:])


def cause(text: str) -> str:
    """Return the first line in TEXT that reports a fatal error, without its time; else empty."""
    first = next((line for line in text.splitlines() if _FATAL.search(line)), "")
    return _TIME.sub("", first)


class WorkerEnd(NamedTuple):
    """How a guest's worker ended, with a returncode as subprocess has it: -N for signal N.

    `before` is the console up to then. A plain guest's PID 1 may be killed while the guest powers
    off, which the kernel calls a panic (virtme-ng 1.42, Linux 7.2).
    """

    pid: int
    returncode: int
    before: str


def worker_end(text: str) -> WorkerEnd | None:
    """Return how the worker ended, if the guest outlived the worker; else None."""
    lines = text.splitlines()
    for at, line in reversed([*enumerate(lines)]):
        if found := _WORKER_END.fullmatch(_TIME.sub("", line)):
            pid, signal, status = found.groups()
            returncode = -int(signal) if signal else int(status)
            return WorkerEnd(int(pid), returncode, "\n".join(lines[:at]))
    return None


def lacking(text: Sequence[str]) -> tuple[str, ...]:
    """Return the options (CONFIG_*) without which a guest's kernel could not go on booting."""
    for line in map(functools.partial(_TIME.sub, ""), text):
        if found := _LACKING.fullmatch(line):
            return tuple(found[1].split())
        for sign, options in _SIGNS_OF_LACKING.items():
            if re.search(sign, line):
                return options
    return ()


def oom_kill(text: str, pid: int) -> str:
    """Return the line, without its time, by which the OOM killer killed a process; else empty."""
    killed = re.compile(rf"(?:Memory cgroup out|Out) of memory.*: Killed process {pid} \(.*")
    told = (_TIME.sub("", line) for line in text.splitlines())
    return next((line for line in told if killed.fullmatch(line)), "")


def splats(text: Sequence[str]) -> Iterator[range]:
    """Yield the ranges of lines of a kernel's log that are splats, each with its trace.

    A splat reports a bug in the kernel: WARNING, BUG, oops, lockdep, KASAN, RCU stall. The lines
    in TEXT have no times.
    """
    end = 0
    for index, line in enumerate(text):
        if index < end or not is_splat(line):
            continue
        before = range(max(end, index - _LONGEST_MESSAGE), index)
        start = next((at for at in before if text[at] == _CUT), index)
        last = min(len(text), start + _LONGEST_TRACE)
        ends = (at for at in range(index, last) if _END.search(text[at]))
        end = next(ends, last - 1)
        end += text[end] != _CUT  # _CUT begins the next splat
        yield range(start, end)


def is_splat(line: str) -> bool:
    """Whether a line of a kernel's log, without its time, begins a splat."""
    return bool(_SPLAT.search(line)) and not _OF_A_PROCESS.match(line)


def is_end(line: str) -> bool:
    """Whether a line of a kernel's log, without its time, ends a splat."""
    return bool(_END.search(line))
