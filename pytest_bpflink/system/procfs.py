"""Processes and small files of procfs, read in few system calls, since each test reads them."""

from __future__ import annotations

import os

_MOST = 1 << 16
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD

# Pids of kernel threads, which are looked at once.
_known_kernel_threads: set[int] = set()


def read(path: str) -> bytes:
    """Return the content of a file, up to 64 KiB. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _MOST)
    finally:
        os.close(fd)


def processes() -> list[int]:
    """Return the pids of all processes but kernel threads, in ascending order.

    Kernel threads have no files open, and are most of the processes of an idle system. Where they
    can't be recognised they are included.
    """
    present = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    return sorted(present - _kernel_threads())


def _kernel_threads() -> set[int]:
    """Return kthreadd's children, without the programs that the kernel runs, such as modprobe."""
    try:
        children = set(map(int, read("/proc/2/task/2/children").split()))
    except OSError:  # a namespace without kthreadd, or a kernel without CONFIG_PROC_CHILDREN
        children = set()
    _known_kernel_threads.intersection_update(children)
    _known_kernel_threads.update(
        pid for pid in children - _known_kernel_threads if _is_kernel_thread(pid)
    )
    return _known_kernel_threads


def _is_kernel_thread(pid: int) -> bool:
    try:
        # The command's name, in parentheses, may have any characters.
        return bool(int(read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[6]) & _KERNEL_THREAD)
    except OSError:  # the process has ended
        return False
