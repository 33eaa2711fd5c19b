"""Processes and small files of procfs, read after each test: no more than has to be."""

from __future__ import annotations

import os

_MOST = 1 << 16
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD

# Those of the kernel's threads that were seen to be some.
_kernels: set[int] = set()


def read(path: str) -> bytes:
    """Return what is in a file, up to 64 KiB. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _MOST)
    finally:
        os.close(fd)


def processes() -> list[int]:
    """Return the processes, in the order of pids, but threads of the kernel's own.

    Those have nothing open, and are most of what an idle system runs. Where they can't be told
    apart they are among the others.
    """
    present = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    return sorted(present - _kernel_threads())


def _kernel_threads() -> set[int]:
    """Return kthreadd's children, but for programs that it starts for the kernel, as modprobe."""
    try:
        children = set(map(int, read("/proc/2/task/2/children").split()))
    except OSError:  # a namespace without kthreadd, or a kernel without CONFIG_PROC_CHILDREN
        children = set()
    _kernels.intersection_update(children)
    _kernels.update(pid for pid in children - _kernels if _is_kernels(pid))
    return _kernels


def _is_kernels(pid: int) -> bool:
    try:
        # The command's name, in parentheses, may have any characters.
        return bool(int(read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[6]) & _KERNEL_THREAD)
    except OSError:  # gone meanwhile
        return False
