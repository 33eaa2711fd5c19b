"""Temporary directories that do not outlive their process for long.

A process that is killed removes nothing. Each directory has an owner file, which is locked as long
as its process lives; `sweep` removes the directories whose owner is unlocked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_PREFIX = "bpflink-"
_OWNER = "owner"

# Those of this very process. Looking at their locks would lose them: a POSIX lock goes with the
# first descriptor of its file that is closed.
_own: set[str] = set()


class Scratch:
    """A directory of this process's own, for its user alone; removed by `close()`, or by `sweep`.

    It is in the system's directory for temporary files (`TMPDIR`). Raises OSError.
    """

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix=_PREFIX)
        _own.add(self._temporary.name)
        top = Path(self._temporary.name)
        # Locked before it has the name that sweepers look for. A POSIX lock ends with the process,
        # and children made by fork don't have it.
        self._lock = os.open(top / "new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (top / "new").rename(top / _OWNER)
        # Apart from the owner file: whoever uses it may name files as they like.
        self.path = top / "files"
        """Absolute."""
        self.path.mkdir(mode=0o700)

    def close(self) -> None:
        """Remove it with all that is in it; again is nothing."""
        if self._temporary.name in _own:
            self._temporary.cleanup()
            _own.discard(self._temporary.name)
            os.close(self._lock)

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
    """Remove what dead processes of this user left, and return what it was."""
    swept = dead()
    for directory in swept:
        shutil.rmtree(directory, ignore_errors=True)
    return swept


def dead() -> list[Path]:
    """Return the directories that dead processes of this user left."""
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        named = [entry for entry in entries if entry.name.startswith(_PREFIX)]
        return sorted(
            Path(entry.path) for entry in named if entry.path not in _own and _is_dead(entry)
        )
    return []


def _is_dead(entry: os.DirEntry[str]) -> bool:
    try:
        about = entry.stat(follow_symlinks=False)
        # Others' are theirs to remove, and anyone may take any name in a directory for all.
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
            return False
        # What has no owner file is not one of these.
        owner = os.open(Path(entry.path, _OWNER), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.lockf(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(owner)
    return True
