"""Which processes are this one's: itself, and those that it started, directly or not."""

from __future__ import annotations

import contextlib
import os
import secrets
from functools import cache
from pathlib import Path

from pytest_bpflink.system import procfs

_VARIABLE = "BPFLINK_FAMILY"

# Kernel threads, which have no environment, are kthreadd's; it and init are nobody's.
_PARENTS_OF_THE_KERNELS = {0, 2}


class Family:
    """A process and its descendants, daemons that went their own way included.

    What it starts inherits a variable of the environment, by which a daemon is known whose parents
    are gone. One that was given another environment, too, is a stranger unless it was seen before.
    """

    def __init__(self) -> None:
        self._token = f"{os.getpid()}-{secrets.token_hex(8)}"
        # A session in a test of another one: its processes are of both.
        os.environ[_VARIABLE] = f"{os.environ.get(_VARIABLE, '')}:{self._token}"
        self._known = {os.getpid(): True, 0: False}
        self._latest = b""
        self._blank: set[int] = set()

    def pids(self) -> set[int]:
        """Return those that live now, and perhaps some that have just ended.

        Only processes that are new since the last time cost.
        """
        latest = _latest_pid()
        if latest == self._latest:
            return self.known
        present = {int(name) for name in os.listdir("/proc") if name.isdigit()} | {0}
        self._known = {pid: ours for pid, ours in self._known.items() if pid in present}
        before = set(self._blank)
        for pid in present:
            self._is_ours(pid)
        self._latest = latest if self._blank == before else b""
        self._blank &= present
        return self.known

    @property
    def known(self) -> set[int]:
        """Return those that lived when `pids()` last looked."""
        return {pid for pid, ours in self._known.items() if ours}

    def _is_ours(self, pid: int) -> bool:
        if pid not in self._known:
            with contextlib.suppress(OSError):  # gone meanwhile, or not to be looked into
                parent = parent_of(pid)
                if self._is_ours(parent):
                    self._known[pid] = True
                    return True
                environment = _environment(pid)
                if not environment and parent not in _PARENTS_OF_THE_KERNELS and self._asks(pid):
                    return False
                self._known[pid] = self._token.encode() in environment
        return self._known.get(pid, False)

    def _asks(self, pid: int) -> bool:
        """Whether to ask once more: a process has no environment for a moment, within execve."""
        if pid in self._blank:
            return False
        self._blank.add(pid)
        return True


def _latest_pid() -> bytes:
    """Return the last process or thread that was started, in this namespace."""
    return procfs.read("/proc/loadavg").split()[-1]


def _environment(pid: int) -> bytes:
    """Return the environment that a process was started with; empty of the kernel's own threads."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except ProcessLookupError:  # a thread of the kernel's, on kernels of 2025 and later
        return b""


def parent_of(pid: int) -> int:
    """Return the process that a process is a child of, 0 for none. Raises `OSError`."""
    # The command's name, in parentheses, may have any characters.
    return int(procfs.read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[1])


@cache
def family() -> Family:
    """Return this process's own."""
    return Family()
