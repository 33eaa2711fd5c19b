"""The directory of everything that is kept between runs, and the locks on its parts."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def cache_root() -> Path:
    """Return the user's cache directory of this project, or the one that `BPFLINK_CACHE` names."""
    named = os.environ.get("BPFLINK_CACHE")
    return Path(named).resolve() if named else platformdirs.user_cache_path("pytest-bpflink")


@contextmanager
def locked(directory: Path, *, unfinished: str, waits: Callable[[], object]) -> Iterator[None]:
    """Make DIRECTORY, hold its lock, and remove what interrupted runs left in it.

    WAITS is called if another run holds the lock. The names of the directories to remove begin with
    UNFINISHED. Raises OSError.
    """
    from filelock import FileLock, Timeout

    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        waits()
        lock.acquire()
    try:
        for stale in directory.glob(f"{unfinished}*"):
            # A child of the dead run may still write there; then the next run removes it.
            shutil.rmtree(stale, ignore_errors=True)
        yield
    finally:
        lock.release()
