"""What compiling keeps between runs, and removes once it was not used for long.

An entry of a part of the cache is a directory, whose time of change is that of its last use. An
entry that is removed while it is wanted is only made anew.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import time
from typing import TYPE_CHECKING, Final

from pytest_bpflink.vm.cache import cache_part

if TYPE_CHECKING:
    from pathlib import Path

#: The parts of the cache with such entries, and what these are.
PARTS: Final = {
    "objects": "compiled programs",
    "sources": "programs from the text of tests",
    "sent": "programs that guests sent",
}

DAYS: Final = 30.0

_DAY = 86400.0
_REMOVED = ".removed-"


def note_use(entry: Path) -> None:
    """Note that an entry is used; once a day, which is exact enough."""
    with contextlib.suppress(OSError):  # there is none, or this user can only read the cache
        if time.time() - entry.stat().st_mtime > _DAY:
            os.utime(entry)


def unused(part: str, *, days: float = DAYS) -> list[Path]:
    """Return the entries of a part that were not used for DAYS, and remains of removing others."""
    return [each for each in _entries(cache_part(part)) if _is_unused(each, days)]


def size(entry: Path) -> int:
    """Return the bytes that an entry takes on the disk."""
    taken = 0
    with contextlib.suppress(OSError):  # another run removes it
        for each in entry.rglob("*"):
            taken += each.lstat().st_blocks * 512
    return taken


def prune(*, days: float = DAYS) -> None:
    """Remove all entries that were not used for DAYS, as far as they can be removed."""
    for part in PARTS:
        for entry in unused(part, days=days):
            with contextlib.suppress(OSError):
                _remove(entry, days)


@functools.cache
def prune_once() -> None:
    """Remove unused entries, once in a process: to look through all of them takes a while."""
    prune()


def _entries(part: Path) -> list[Path]:
    try:
        return sorted(each for each in part.iterdir() if each.is_dir() and not each.is_symlink())
    except OSError:
        return []


def _is_unused(entry: Path, days: float) -> bool:
    with contextlib.suppress(OSError):
        return time.time() - entry.stat().st_mtime > days * _DAY
    return False


def _remove(entry: Path, days: float) -> None:
    # Nobody finds an entry of which a part is removed already.
    doomed = entry
    if not entry.name.startswith(_REMOVED):
        doomed = entry.with_name(f"{_REMOVED}{entry.name}")
        if not _is_unused(entry, days):
            return
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(doomed)
        entry.rename(doomed)
    shutil.rmtree(doomed)
