"""The directory of everything that is kept between runs: its parts, and the locks on them.

A part counts only if no other user may have written it (`trust`). A temporary directory takes the
place of a part that does not count, for this run and for its guests.
"""

from __future__ import annotations

import atexit
import os
import shutil
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from pytest_bpflink.vm.scratch import Scratch
from pytest_bpflink.vm.trust import distrust, distrust_tree
from pytest_bpflink.vm.whole_file import make_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The variable that names the temporary directory to this run's workers, also in guests.
_INSTEAD = "BPFLINK_CACHE_INSTEAD"

# The sentences of `refusals`.
_refused: dict[str, None] = {}


def cache_root() -> Path:
    """Return the user's cache directory of this project, or the one that `BPFLINK_CACHE` names."""
    named = os.environ.get("BPFLINK_CACHE")
    return Path(named).absolute() if named else platformdirs.user_cache_path("pytest-bpflink")


def cache_part(name: str) -> Path:
    """Return the path of a part of the cache, which may not exist yet."""
    return usable(cache_root() / name)


def usable(path: Path) -> Path:
    """Return PATH, or a temporary one in its place if others may have written PATH."""
    return path if is_trusted(path) else _instead() / path.name


def cache_part_whole(name: str) -> Path:
    """Return `cache_part`, or a temporary path if others may have written anything in the part."""
    path = cache_root() / name
    return path if is_trusted_tree(path) else _instead() / name


def is_trusted(path: Path) -> bool:
    """Whether nobody but this user and root may have written a path; `refusals` says if not."""
    return _believe(path, distrust(path))


def is_trusted_tree(path: Path) -> bool:
    """Whether `is_trusted` holds for a directory and for everything in it."""
    return _believe(path, distrust_tree(path))


def refusals() -> list[str]:
    """Return a sentence for each path that this process did not use, and why."""
    return list(_refused)


def _believe(path: Path, doubt: str) -> bool:
    if doubt:
        way_out = "remove it, or have it owned by you and written by nobody else"
        _refused[f"{path} in the cache is not used, since {doubt}: {way_out}"] = None
    return not doubt


@cache
def _instead() -> Path:
    named = Path(os.environ.get(_INSTEAD, "/nowhere"))
    if named.is_dir() and not distrust(named):
        return named
    scratch = Scratch()
    atexit.register(scratch.close)
    os.environ[_INSTEAD] = str(scratch.path)
    return scratch.path


@contextmanager
def locked(directory: Path, *, unfinished: str, waits: Callable[[], object]) -> Iterator[None]:
    """Make DIRECTORY, hold its lock, and remove what interrupted runs left in it.

    WAITS is called if another run holds the lock. The names of the directories to remove begin with
    UNFINISHED. Raises OSError.
    """
    from filelock import FileLock, Timeout

    make_directory(directory)
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
