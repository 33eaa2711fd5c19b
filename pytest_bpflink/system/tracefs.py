"""tracefs, and the instances in it: trace buffers, each with a choice of events (4.1)."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import TYPE_CHECKING

from pytest_bpflink.system.libc import libc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MNT_DETACH = 2


@contextlib.contextmanager
def mounted(directory: Path) -> Iterator[Path]:
    """Mount tracefs on a directory for the length of a `with` block.

    Files that are opened in it stay open. Many systems mount tracefs at no place, and some where
    not even root may enter. Raises `OSError`: ENODEV for a kernel without it, EPERM.
    """
    if libc().mount(b"tracefs", os.fsencode(directory), b"tracefs", 0, None):
        number = ctypes.get_errno()
        raise OSError(number, f"tracefs can't be mounted: {os.strerror(number)}")
    try:
        yield directory
    finally:
        libc().umount2(os.fsencode(directory), _MNT_DETACH)


def instance(root: Path, name: str) -> Path:
    """Return the path of an instance, in tracefs as it is mounted on ROOT.

    A directory that is made there makes the instance, and an empty one is removed with it.
    """
    return root / "instances" / name
