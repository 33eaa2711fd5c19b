"""The directory of everything that is kept between runs: its parts, and the locks on them.

A part counts only if no other user may have written it (`trust`). A temporary directory takes the
place of a part that does not count, or that lacks something and can't be written, for this run and
for its guests.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import shutil
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import platformdirs

from pytest_bpflink.vm.host_files import is_the_hosts
from pytest_bpflink.vm.scratch import Scratch
from pytest_bpflink.vm.trust import distrust, distrust_tree
from pytest_bpflink.vm.whole_file import make_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from filelock import FileLock

# The variable that names the temporary directory to this run's workers, also in guests.
_INSTEAD = "BPFLINK_CACHE_INSTEAD"

# A run that fetches a kernel holds a lock for minutes, over a slow network for longer.
_LOCK_SECONDS = 1800.0

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


def writable(path: Path, *, unless: Callable[[Path], object]) -> Path:
    """Return PATH, or a temporary one in its place if this process can't write to PATH.

    PATH is returned, too, if UNLESS holds of it: what this process needs is kept there. What this
    run's host has made in the temporary place is found by guests, where PATH may be written.
    """
    can_write = _can_write(path)
    if (can_write and _INSTEAD not in os.environ) or unless(path):
        return path
    instead = _instead() / path.name
    return path if can_write and not unless(instead) else instead


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


def recall(file: Path) -> dict[str, Any]:
    """Return the JSON object that is kept in FILE; empty if there is none, or it is damaged.

    The values may be of any type. A file that is not trusted counts as damaged.
    """
    if is_trusted(file):
        # RecursionError: a file of a thousand brackets.
        with suppress(OSError, ValueError, RecursionError):
            known = json.loads(file.read_bytes())
            if isinstance(known, dict):
                return known
    return {}


def is_texts(value: object) -> TypeGuard[list[str]]:
    """Whether a value from `recall` is a list of texts."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def refuse(path: Path, why: str) -> None:
    """Have `refusals` say that a path is not used, and WHY."""
    _refused[f"{path} in the cache is not used, since {why}"] = None


def refusals() -> list[str]:
    """Return a sentence for each path that this process did not use, and why."""
    return list(_refused)


def _believe(path: Path, doubt: str) -> bool:
    if doubt:
        way_out = "remove it, or have it owned by you and written by nobody else"
        refuse(path, f"{doubt}: {way_out}")
    return not doubt


def _can_write(path: Path) -> bool:
    directory = next(each for each in (path, *path.parents) if os.path.isdir(each))
    return os.access(directory, os.W_OK | os.X_OK, effective_ids=True)


@cache
def _instead() -> Path:
    named = os.environ.get(_INSTEAD)
    if named and os.path.isdir(named) and not distrust(Path(named)):
        return Path(named)
    scratch = Scratch()
    atexit.register(scratch.close)
    os.environ[_INSTEAD] = str(scratch.path)
    return scratch.path


def file_lock(path: Path) -> FileLock:
    """Return the lock on a file, for all threads of this process alike."""
    from filelock import FileLock

    # By default filelock keeps the lock's state for each thread: another thread releases nothing.
    return FileLock(path, thread_local=False)


@contextmanager
def held(
    path: Path, *, waits: Callable[[], object] = lambda: None, seconds: float = _LOCK_SECONDS
) -> Iterator[None]:
    """Hold the lock on a file; call WAITS if another run holds it.

    Raises OSError, with ETIMEDOUT if the other run still holds the lock after SECONDS.
    """
    from filelock import Timeout

    lock = file_lock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        waits()
        try:
            lock.acquire(timeout=seconds)
        except Timeout:
            what = f"another run has held this lock for {seconds:.0f} s; end that run"
            raise TimeoutError(errno.ETIMEDOUT, what, str(path)) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked(directory: Path, *, unfinished: str, waits: Callable[[], object]) -> Iterator[None]:
    """Make DIRECTORY, hold its lock, and remove what interrupted runs left in it.

    WAITS is called if another run holds the lock. The names of the directories to remove begin with
    UNFINISHED. Raises OSError.
    """
    make_directory(directory)
    with held(directory / ".lock", waits=waits):
        # A guest's lock does not stop the host's runs.
        for stale in () if is_the_hosts(directory) else directory.glob(f"{unfinished}*"):
            # A child of the dead run may still write there; then the next run removes it.
            shutil.rmtree(stale, ignore_errors=True)
        yield
