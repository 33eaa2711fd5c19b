"""One kernel that is kept: its size, its last use, and whether it is in use.

A kernel in use is locked by flock(2) on its directory: users who can only read may take this lock,
and it ends with the process. `store` and `unpacked` add
and remove kernels.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Lease:
    """Keeps a kernel in the store, as long as this object and this process exist."""

    def __init__(self, path: Path) -> None:
        """Raise OSError if there is no such kernel any more."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        # A process that removes a kernel locks its directory, renames it, and then unlocks it: this
        # descriptor may be that directory's.
        if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
            raise FileNotFoundError(f"{path} was replaced")


@dataclass(frozen=True)
class Kept:
    """The directory of a kernel that is kept."""

    path: Path

    @property
    def used(self) -> float:
        """The time of the last use, in seconds since 1970."""
        return self.path.stat().st_mtime

    @property
    def size(self) -> int:
        """The space that it takes on the disk, in bytes."""
        return sum(
            os.lstat(os.path.join(directory, name)).st_blocks * 512
            for directory, _, names in os.walk(self.path)
            for name in names
        )

    def lease(self) -> Lease | None:
        """Return a lease, and note this use of the kernel; None if the kernel was removed."""
        try:
            lease = Lease(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        # The store may belong to another user.
        with suppress(OSError):
            os.utime(self.path)
        return lease

    @contextmanager
    def unused(self) -> Iterator[bool]:
        """Yield whether nobody uses the kernel; if so, nobody can use it until the block ends."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class Stored(Kept):
    """A kernel in the store; release and package version are its directory's name."""

    release: str
    version: str

    @property
    def upstream(self) -> str:
        """The kernel's own version: 6.1.176 in 6.1.176-1."""
        return self.version.rsplit("-", 1)[0]
