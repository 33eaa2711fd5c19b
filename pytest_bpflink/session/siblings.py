"""Which processes are of other workers of this run, or of other sessions on this kernel."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from pytest_bpflink.session.guest import is_in_guest
from pytest_bpflink.system import estates
from pytest_bpflink.system.processes import parent_of, process_of

if TYPE_CHECKING:
    import pytest

# `PROC_PID_INIT_INO`: the kernel names processes by their pids in the first namespace.
_FIRST_PID_NAMESPACE = "pid:[4026531836]"


def has_siblings(config: pytest.Config) -> bool:
    """Whether this process is one of several that may share a kernel."""
    # Not xdist's variable: a session that a test of a worker starts inherits that.
    return hasattr(config, "workerinput") and not is_in_guest(config)


def is_own(pid: int | None) -> bool:
    """Whether a process, or a thread by its id, is this one or descends from it."""
    return os.getpid() in _ancestry(pid)


def is_siblings(pid: int | None) -> bool:
    """Whether a process or thread is of another worker of this run, or descends from one."""
    ancestry = _ancestry(pid)
    return os.getppid() in ancestry and os.getpid() not in ancestry


def is_of_another_session(tid: int) -> bool:
    """Whether a thread is of another process that runs tests, or of a descendant of one.

    A process that runs tests of BPF has an estate, which is named after it.
    """
    ancestry = _ancestry(tid)
    return os.getpid() not in ancestry and not ancestry.isdisjoint(estates.owners())


def _ancestry(pid: int | None) -> set[int]:
    """Return a process that lives and its ancestors; an empty set if they can't be found."""
    found: set[int] = set()
    if pid is None or os.readlink("/proc/self/ns/pid") != _FIRST_PID_NAMESPACE:
        return found
    with contextlib.suppress(OSError):  # it is gone
        pid = process_of(pid)
        while pid:
            found.add(pid)
            pid = parent_of(pid)
    return found
