"""Temporary directories that do not outlive their process for long.

A process that is killed removes nothing. Each directory has an owner lock; `sweep` removes the
directories whose owner is dead. In a guest it removes none that the guest shares with its host.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm.host_files import is_the_hosts
from pytest_bpflink.vm.owner_lock import OwnerLock, is_owned

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_PREFIX = "bpflink-"
# The host would take a guest's directory for a dead process's, since it does not see its lock.
_PREFIX_IN_GUEST = "guest-bpflink-"


class Scratch:
    """A temporary directory (in `TMPDIR`) that only its user can read; `close()` removes it.

    If its process dies before, a later `sweep()` removes it. Raises OSError.
    """

    def __init__(self) -> None:
        shared = is_the_hosts(Path(tempfile.gettempdir()))
        self._temporary = tempfile.TemporaryDirectory(
            prefix=_PREFIX_IN_GUEST if shared else _PREFIX
        )
        top = Path(self._temporary.name)
        self._lock: OwnerLock | None = OwnerLock(top)
        # A subdirectory, so that no name in it can meet that of the owner file.
        self.path = top / "files"
        """The absolute path of the directory."""
        self.path.mkdir(mode=0o700)

    def close(self) -> None:
        """Remove the directory and all that is in it; a second call does nothing."""
        if self._lock:
            self._temporary.cleanup()
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def sweep() -> list[Path]:
    """Remove and return the directories that dead processes of this user left."""
    swept = dead()
    for directory in swept:
        shutil.rmtree(directory, ignore_errors=True)
    return swept


def dead() -> list[Path]:
    """Return the directories that dead processes of this user left."""
    temporary = Path(tempfile.gettempdir())
    with contextlib.suppress(OSError):
        if is_the_hosts(temporary):
            return []
        with os.scandir(temporary) as entries:
            named = [entry for entry in entries if entry.name.startswith(_PREFIX)]
            return sorted(Path(entry.path) for entry in named if _is_dead(entry))
    return []


def _is_dead(entry: os.DirEntry[str]) -> bool:
    try:
        about = entry.stat(follow_symlinks=False)
        # Other users remove theirs; and in /tmp anyone may make a file or link with such a name.
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
            return False
        # A directory without an owner file is not a Scratch.
        return not is_owned(Path(entry.path))
    except OSError:
        return False
