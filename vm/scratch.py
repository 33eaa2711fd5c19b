"""Temporary directories that do not outlive their process for long.

A process that is killed removes nothing. Each directory has an owner lock; `sweep` removes the
directories whose owner is dead.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm.owner_lock import OwnerLock, is_owned

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_PREFIX = "bpflink-"


class Scratch:
    """A directory of this process's own, for its user alone; removed by `close()`, or by `sweep`.

    It is in the system's directory for temporary files (`TMPDIR`). Raises OSError.
    """

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix=_PREFIX)
        top = Path(self._temporary.name)
        self._lock: OwnerLock | None = OwnerLock(top)
        # Apart from the owner file: whoever uses it may name files as they like.
        self.path = top / "files"
        """Absolute."""
        self.path.mkdir(mode=0o700)

    def close(self) -> None:
        """Remove it with all that is in it; again is nothing."""
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
    """Remove what dead processes of this user left, and return what it was."""
    swept = dead()
    for directory in swept:
        shutil.rmtree(directory, ignore_errors=True)
    return swept


def dead() -> list[Path]:
    """Return the directories that dead processes of this user left."""
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        named = [entry for entry in entries if entry.name.startswith(_PREFIX)]
        return sorted(Path(entry.path) for entry in named if _is_dead(entry))
    return []


def _is_dead(entry: os.DirEntry[str]) -> bool:
    try:
        about = entry.stat(follow_symlinks=False)
        # Others' are theirs to remove, and anyone may take any name in a directory for all.
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
            return False
        # A directory without an owner file is not a Scratch.
        return not is_owned(Path(entry.path))
    except OSError:
        return False
