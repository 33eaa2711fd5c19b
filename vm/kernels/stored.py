"""One kernel in the store: what it is, how large, when it was used last, whether it is in use.

Kernels in use are locked with flock(2) on their directories, which also users who can only read may
do, and which ends with the process. Adding and removing is `store`'s business.
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
        # Whoever removes it locks it, renames it, and only then lets go.
        if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
            raise FileNotFoundError(f"{path} was replaced")


@dataclass(frozen=True)
class Stored:
    """A kernel in the store; release and package version are its directory's name."""

    path: Path
    release: str
    version: str

    @property
    def upstream(self) -> str:
        """The kernel's own version: 6.1.176 in 6.1.176-1."""
        return self.version.rsplit("-", 1)[0]

    @property
    def used(self) -> float:
        """When it was used last, in seconds since 1970."""
        return self.path.stat().st_mtime

    @property
    def size(self) -> int:
        """What it takes on the disk, in bytes."""
        return sum(
            os.lstat(os.path.join(directory, name)).st_blocks * 512
            for directory, _, names in os.walk(self.path)
            for name in names
        )

    def lease(self) -> Lease | None:
        """Use it now, and keep it from being removed; None if it was removed already."""
        try:
            lease = Lease(self.path)
        except FileNotFoundError:
            return None
        # Whose store it is need not be ours.
        with suppress(OSError):
            os.utime(self.path)
        return lease

    @contextmanager
    def unused(self) -> Iterator[bool]:
        """Keep it from being used, and tell whether that could be done."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(descriptor)
