"""A lock on a directory that ends with the process that owns the directory.

It is a POSIX lock (fcntl(2)) on a file in the directory: children made by fork don't have it, and
the kernel releases it however the process ends.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_NAME = "owner"

# The directories of this process. Closing any descriptor of a file releases all POSIX locks that
# the process has on the file, so `is_owned` must not open the owner files in these.
_own: set[Path] = set()


class OwnerLock:
    """The lock of DIRECTORY by this process, held until `release` or the end of the process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        new = directory / "new"
        self._descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(self._descriptor, f"{os.getpid()}\n".encode())
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The file is locked before it has the name that `is_owned` looks for.
        new.rename(directory / _NAME)
        _own.add(directory)

    def release(self) -> None:
        """Release the lock, as a rule after the directory was removed."""
        _own.discard(self._directory)
        os.close(self._descriptor)


def own_directories() -> set[Path]:
    """Return the directories that this process has locked."""
    return set(_own)


def is_owned(directory: Path) -> bool:
    """Whether the process that owns DIRECTORY is alive.

    Raises FileNotFoundError if the directory never had an owner, else OSError.
    """
    if directory in _own:
        return True
    descriptor = os.open(directory / _NAME, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    finally:
        os.close(descriptor)
    return False
