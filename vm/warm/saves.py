"""Saved guests on disk: found by key, made under a lock, checked before use, pruned.

A save is a directory, renamed to its key once it is complete. It holds the guest's memory, which
QEMU maps copy-on-write and nobody writes to again, its devices' state, and a description with their
digests. It names no command; `kept_blueprint` keeps that of its machine. Only the owner can read a
save, for it holds a kernel's memory; a save that another user may have written is none. `save_key`
computes the key; `warm` saves and restores guests.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_bpflink.vm.cache import file_lock, is_trusted_tree, recall
from pytest_bpflink.vm.identity import identity
from pytest_bpflink.vm.whole_file import make_directory, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from filelock import FileLock

_MEMORY, _STATE, _DESCRIPTION = "memory", "state", "save.json"
_SAVING = ".saving-"

# Bytes for the state of the devices, which takes 0.6 MB with Linux 7.2.
_STATE_ROOM = 16 << 20

# FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE (linux/falloc.h).
_PUNCH_HOLE = 0x03

_DAY = 86400.0

# Bytes of a guest's memory that are read at once; a multiple of a page.
_BLOCK = 1 << 16
_ZEROS = bytes(_BLOCK)


class SaveError(Exception):
    """A guest can't be saved; the message says why."""


@dataclass(frozen=True)
class Save:
    """A saved guest: the files with its memory and its devices' state.

    `mapped` says whether QEMU maps the memory from its file; if not, the state holds the memory.
    """

    directory: Path
    mapped: bool

    @property
    def memory(self) -> Path:
        """The guest's memory. Map it privately; once saved it is never written."""
        return self.directory / _MEMORY

    @property
    def state(self) -> Path:
        """The file that QEMU's migration wrote."""
        return self.directory / _STATE


class Saves:
    """The saves of one user, below ROOT. Sessions in parallel share them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # An older release let others read it. OSError: it is root's, or none, or read-only.
        with contextlib.suppress(OSError):
            if root.stat().st_mode & 0o077:
                root.chmod(0o700)

    def find(self, key: str) -> Save | None:
        """Return the save with this key; None if there is none, or it is damaged or not trusted.

        A memory that was not written to since it was saved counts as whole, and is not read.
        """
        save, description = self._described(key)
        try:
            if save is None or not _is_whole(save, description):
                return None
        except OSError:
            return None
        # `kept` takes this for the time of the last use.
        with contextlib.suppress(OSError):
            os.utime(save.directory / _DESCRIPTION)
        return save

    def is_whole(self, key: str) -> bool:
        """Whether there is a save with this key that is not damaged; all of it is read."""
        save, description = self._described(key)
        with contextlib.suppress(OSError):
            return save is not None and _is_whole(save, description | {"unchanged": None})
        return False

    def _described(self, key: str) -> tuple[Save | None, dict[str, Any]]:
        directory = self.root / key
        if not is_trusted_tree(directory):
            return None, {}
        description = recall(directory / _DESCRIPTION)
        mapped = description.get("mapped")
        return (Save(directory, mapped) if isinstance(mapped, bool) else None), description

    def lock(self, key: str) -> FileLock:
        """Return the lock that whoever makes or discards this save must hold.

        One thread may take it and another release it. Don't wait for it: to make a save takes long.
        """
        make_directory(self.root, mode=0o700)
        return file_lock(self.root / f".{key}.lock")

    @contextmanager
    def making(self, key: str, *, room: int) -> Iterator[Path]:
        """Yield a directory to save into; the caller must hold the lock. Raises SaveError.

        ROOM is the most that the guest's memory may take, in bytes. It is reserved, since other
        runs may save guests at the same time; `keep` digs holes where pages are zero.
        """
        for stale in self.root.glob(f"{_SAVING}{key}-*"):
            shutil.rmtree(stale, ignore_errors=True)
        free = shutil.disk_usage(self.root).free
        try:
            if free < room + _STATE_ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            temporary = tempfile.TemporaryDirectory(
                prefix=f"{_SAVING}{key}-", dir=self.root, ignore_cleanup_errors=True
            )
        except OSError as error:
            raise self._unsaved(error, room=room, free=free) from None
        with temporary as name:
            made = self.root / name
            try:
                _reserve(made / _MEMORY, room)
            except OSError as error:
                raise self._unsaved(error, room=room, free=free) from None
            yield made

    def _unsaved(self, error: OSError, *, room: int, free: int) -> SaveError:
        if error.errno == errno.ENOSPC:
            needed = room + _STATE_ROOM
            return SaveError(
                f"{needed >> 20} MiB are needed to save a guest in {self.root}, {free >> 20} MiB"
                " are free"
            )
        return SaveError(f"{self.root} can't be written: {error.strerror}")

    def keep(self, key: str, made: Path, *, mapped: bool) -> Save:
        """Make the directory MADE the save of this key; the caller must hold the lock.

        Raises OSError.
        """
        save = Save(made, mapped)
        if mapped:
            _sync(save.memory)
            _release(save.memory)
            _dig_holes(save.memory)
            _sync(save.memory)
        _sync(save.state)
        for file in made.iterdir():
            file.chmod(0o600)
        description = {
            "mapped": mapped,
            "state": _digest(save.state),
            "memory": _digest(save.memory) if mapped else "",
            "unchanged": identity(save.memory) if mapped else [],
        }
        write_whole(made / _DESCRIPTION, json.dumps(description).encode())
        self.discard(key)
        # The TemporaryDirectory of `making` then finds nothing to remove.
        made.rename(self.root / key)
        return Save(self.root / key, mapped)

    def discard(self, key: str) -> None:
        """Remove a save; the caller must hold the lock. Guests that run on it keep their memory."""
        with contextlib.suppress(FileNotFoundError):
            doomed = self.root / f"{_SAVING}{key}-{os.getpid()}-old"
            (self.root / key).rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def prune(self, *, days: float = 30.0, size: int = 5_000_000_000) -> list[str]:
        """Remove saves not used for DAYS, then the least recently used above SIZE bytes in all.

        Return the keys of the removed saves. Guests that run on them are not disturbed: files are
        unlinked, never truncated. What killed runs left is removed, too.
        """
        from filelock import Timeout

        for remains in self.remains():
            shutil.rmtree(remains, ignore_errors=True)
        removed = []
        for key in self.unused(days=days, size=size):
            # If another run holds the lock, it is making this save anew.
            with contextlib.suppress(Timeout), self.lock(key).acquire(blocking=False):
                self.discard(key)
                removed.append(key)
        return removed

    def unused(self, *, days: float = 30.0, size: int = 5_000_000_000) -> dict[str, int]:
        """Return the keys of the saves that `prune` would remove, with their sizes in bytes."""
        found, total = {}, 0
        for key, (used, taken) in self.kept().items():
            total += taken
            if time.time() - used > days * _DAY or total > size:
                found[key] = taken
        return found

    def remains(self) -> dict[Path, int]:
        """Return the directories that killed runs left while saving, with their sizes in bytes."""
        from filelock import Timeout

        found = {}
        for directory in sorted(self.root.glob(f"{_SAVING}*")):
            key = directory.name.removeprefix(_SAVING).partition("-")[0]
            # If another run holds the lock, it is saving there.
            with contextlib.suppress(OSError, Timeout), self.lock(key).acquire(blocking=False):
                found[directory] = _size(directory)
        return found

    def kept(self) -> dict[str, tuple[float, int]]:
        """Return all saves by key, with the time of the last use and the size in bytes.

        The most recently used one comes first.
        """
        found = {}
        for description in self.root.glob(f"[!.]*/{_DESCRIPTION}"):
            with contextlib.suppress(FileNotFoundError):  # discarded meanwhile
                taken = _size(description.parent)
                found[description.parent.name] = description.stat().st_mtime, taken
        return dict(sorted(found.items(), key=lambda item: item[1], reverse=True))


def _is_whole(save: Save, description: dict[str, Any]) -> bool:
    if _digest(save.state) != description.get("state"):
        return False
    if not save.mapped or identity(save.memory) == description.get("unchanged"):
        return True
    # The file may be a copy, as from a cache of CI: compare its content. A copy may have zeros in
    # place of holes, and so take as much room as the guest has memory.
    _dig_holes(save.memory)
    if _digest(save.memory) != description.get("memory"):
        return False
    description["unchanged"] = identity(save.memory)
    # The cache may be one that this user can't write to.
    with contextlib.suppress(OSError):
        write_whole(save.directory / _DESCRIPTION, json.dumps(description).encode())
    return True


def _digest(file: Path) -> str:
    """Return a digest of a file's content. Holes count as zeros, and are not read."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        descriptor, end = opened.fileno(), opened.seek(0, os.SEEK_END)
        digest.update(str(end).encode())
        at = 0
        while at < end:
            try:
                at = os.lseek(descriptor, at, os.SEEK_DATA)
            except OSError:  # ENXIO: a hole up to the end
                break
            hole = os.lseek(descriptor, at, os.SEEK_HOLE)
            # The file system chooses where holes begin and end: take whole blocks, and skip zeros.
            for block in range(at // _BLOCK, -(-hole // _BLOCK)):
                data = os.pread(descriptor, _BLOCK, block * _BLOCK)
                if data != _ZEROS[: len(data)]:
                    digest.update(f"{block}\0".encode() + data)
            at = -(-hole // _BLOCK) * _BLOCK
    return digest.hexdigest()


def _size(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


def _reserve(file: Path, size: int) -> None:
    """Make a file with room on the disk for SIZE bytes. Raises OSError if there is not as much."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _fallocate(descriptor, 0, 0, size)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:  # as of ZFS and older NFS
            raise
    finally:
        os.close(descriptor)


def _release(file: Path) -> None:
    """Give back the room that was reserved for a file and not written to.

    SEEK_HOLE takes it for holes, so that `fallocate --dig-holes` passes it over.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        at, end = 0, os.fstat(descriptor).st_size
        while at < end:
            try:
                data = os.lseek(descriptor, at, os.SEEK_DATA)
            except OSError:  # ENXIO: a hole up to the end
                data = end
            if data > at:
                _fallocate(descriptor, _PUNCH_HOLE, at, data - at)
            at = os.lseek(descriptor, data, os.SEEK_HOLE) if data < end else end
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
    finally:
        os.close(descriptor)


def _fallocate(descriptor: int, mode: int, start: int, length: int) -> None:
    import ctypes

    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if call(descriptor, mode, start, length):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _dig_holes(file: Path) -> None:
    # If this fails the file takes as much room as the guest has memory, and works as well.
    with contextlib.suppress(FileNotFoundError):
        subprocess.run(["fallocate", "--dig-holes", file], check=False, capture_output=True)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
