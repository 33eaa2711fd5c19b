"""Where cgroup2 is mounted, and in which of its cgroups this process is."""

from __future__ import annotations

import errno
import os
from functools import cache
from pathlib import Path

from pytest_bpflink.errors import BpfError
from pytest_bpflink.system import procfs
from pytest_bpflink.system.mountinfo import Mount, mounted


@cache
def cgroup2_mount() -> Path:
    """Return where cgroup2 is mounted: as the unified hierarchy, or as `unified` beside cgroup v1.

    Raises `BpfError` with ENOENT when cgroup2 is not mounted.
    """
    return _hierarchy().path


def own_cgroup() -> Path:
    """Return the cgroup v2 directory that this process is in.

    Raises `BpfError` with ENOENT when the directory is not mounted, as in some containers.
    """
    mount = _hierarchy()
    lines = procfs.read("/proc/self/cgroup").splitlines()
    line = next((line for line in lines if line.startswith(b"0::")), b"0::")
    path = Path(os.fsdecode(line[3:]))
    if ".." in path.parts or not path.is_relative_to(mount.root):
        raise BpfError(
            errno.ENOENT,
            f"find this process's cgroup, {path}",
            hint=f"it is outside of {mount.path}, where {mount.root} is mounted",
        )
    return mount.path / path.relative_to(mount.root)


@cache
def _hierarchy() -> Mount:
    for mount in mounted("cgroup2"):
        return mount
    raise BpfError(
        errno.ENOENT,
        "find the cgroup2 file system",
        hint="it is mounted nowhere: mount -t cgroup2 none /sys/fs/cgroup",
    )
