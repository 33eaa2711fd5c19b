"""Which processes belong to this one: its family, which is the process and its descendants."""

from __future__ import annotations

import contextlib
import os
import secrets
from functools import cache
from pathlib import Path

from pytest_bpflink.system import procfs

_VARIABLE = "BPFLINK_FAMILY"

# Kernel threads have no environment; their parent is kthreadd (2), whose parent, like init's, is 0.
_PARENTS_OF_KERNEL_THREADS = {0, 2}


class Family:
    """The process itself and its descendants, daemons included.

    Descendants inherit an environment variable, by which a daemon is recognised after its parents
    have ended. A daemon that was started with another environment counts as a stranger, unless
    `pids()` saw it while its parents lived.
    """

    def __init__(self) -> None:
        self._token = f"{os.getpid()}-{secrets.token_hex(8)}"
        # Processes of a session that a test of another session runs belong to both.
        os.environ[_VARIABLE] = f"{os.environ.get(_VARIABLE, '')}:{self._token}"
        self._known = {os.getpid(): True, 0: False}
        self._latest = b""
        self._blank: set[int] = set()

    def pids(self) -> set[int]:
        """Return the pids of the family's live processes, and perhaps of some that have just ended.

        Only processes that were started since the last call are looked at.
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
        """The answer of the last `pids()`."""
        return {pid for pid, ours in self._known.items() if ours}

    def _is_ours(self, pid: int) -> bool:
        if pid not in self._known:
            with contextlib.suppress(OSError):  # the process has ended, or may not be looked into
                parent = parent_of(pid)
                if self._is_ours(parent):
                    self._known[pid] = True
                    return True
                environment = _environment(pid)
                is_user_process = parent not in _PARENTS_OF_KERNEL_THREADS
                if not environment and is_user_process and self._looks_again(pid):
                    return False
                self._known[pid] = self._token.encode() in environment
        return self._known.get(pid, False)

    def _looks_again(self, pid: int) -> bool:
        """Whether to look once more: within execve a process has no environment for a moment."""
        if pid in self._blank:
            return False
        self._blank.add(pid)
        return True


def _latest_pid() -> bytes:
    """Return the pid of the last process or thread started in this pid namespace."""
    return procfs.read("/proc/loadavg").split()[-1]


def _environment(pid: int) -> bytes:
    """Return the environment with which a process was started; empty for a kernel thread."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except ProcessLookupError:  # a kernel thread, on kernels of 2025 and later
        return b""


def parent_of(pid: int) -> int:
    """Return the pid of a process's parent, 0 for none. Raises `OSError`."""
    # The command's name, in parentheses, may have any characters.
    return int(procfs.read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[1])


def process_of(thread: int) -> int:
    """Return the pid of the process that a thread is of. Raises `OSError`."""
    status = procfs.read(f"/proc/{thread}/status")
    return int(status.partition(b"\nTgid:")[2].split(maxsplit=1)[0])


@cache
def family() -> Family:
    """Return the family of this process."""
    return Family()
