"""What a session made on the system, named so that a later one can remove it.

Each process that tests has an *estate*: a directory below `/run/pytest-bpflink` that is locked as
long as the process lives, that its BPF FS mounts are in, and in which symbolic links name what it
made elsewhere: its cgroup, and pins outside its own mounts. A process that was killed leaves its
estate unlocked; whoever comes next removes it and all that it names, and nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from functools import partial
from typing import TYPE_CHECKING, Self

from pytest_bpflink.system import estates
from pytest_bpflink.vm.owner_lock import OwnerLock, is_owned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_CGROUP, _PINS = "cgroup", "pins"


class Estate:
    """What this process makes; removed by `close()`, or by the next session."""

    def __init__(self, directory: Path, lock: OwnerLock) -> None:
        self.directory = directory
        """The process's own, for its BPF FS mounts."""
        self._lock = lock
        self._pid = os.getpid()

    @classmethod
    def found(cls) -> Self:
        """Make and lock a new one."""
        estates.ROOT.mkdir(mode=0o700, exist_ok=True)
        with _no_sweep():
            directory = estates.ROOT / f"{os.getpid()}-{secrets.token_hex(4)}"
            directory.mkdir(mode=0o700)
            lock = OwnerLock(directory)
        return cls(directory, lock)

    def make_cgroup(self) -> Path:
        """Make the cgroup that all of this process's are made in."""
        from pytest_bpflink.system.cgroup2 import cgroup2_mount

        path = cgroup2_mount() / estates.cgroup_name(self.directory)
        (self.directory / _CGROUP).symlink_to(path)
        path.mkdir()
        return path

    def record_pin(self, path: Path, link_id: int) -> None:
        """Remember a pin, lest it outlive this process; those in our own mounts need none."""
        if path.absolute().is_relative_to(self.directory):
            return
        pins = self.directory / _PINS
        pins.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (pins / f"{link_id}-{secrets.token_hex(4)}").symlink_to(path.absolute())

    @property
    def is_ours(self) -> bool:
        """Whether this process made it: a child made by fork has all of its parent's objects."""
        return os.getpid() == self._pid

    def close(self) -> None:
        """Remove all that is still there. Raises `ExceptionGroup` with what could not be."""
        if not self.is_ours:
            return
        try:
            _undo(self.directory)
            with _no_sweep():
                # In the middle of it there is no owner any more.
                shutil.rmtree(self.directory)
        finally:
            self._lock.release()


def sweep(complain: Callable[[str], object]) -> list[str]:
    """Remove what dead processes left, and return the names of their estates.

    What can't be removed is complained of, and left to the next sweep. The estates of others than
    this user's are theirs to remove.
    """
    if not _is_ours_to_sweep():
        return []
    swept = []
    with _no_sweep():
        for directory in _dead():
            try:
                _undo(directory)
                shutil.rmtree(directory)
            except ExceptionGroup as error:
                reasons = "; ".join(map(str, error.exceptions))
                complain(f"what a killed session left stays in {directory}: {reasons}")
            else:
                swept.append(directory.name)
    return swept


def remains() -> dict[Path, list[str]]:
    """Return the estates that `sweep` would remove, and what each names."""
    if not _is_ours_to_sweep():
        return {}
    with _no_sweep():
        return {directory: list(_named_by(directory)) for directory in _dead()}


@contextlib.contextmanager
def _no_sweep() -> Iterator[None]:
    """Keep sweepers from taking an estate that is just being founded for a dead one."""
    root = os.open(estates.ROOT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(root, fcntl.LOCK_EX)
        yield
    finally:
        os.close(root)


def _is_ours_to_sweep() -> bool:
    return os.access(estates.ROOT, os.R_OK | os.W_OK | os.X_OK)


def _dead() -> Iterator[Path]:
    return (directory for directory in sorted(estates.ROOT.iterdir()) if _is_dead(directory))


def _named_by(directory: Path) -> Iterator[str]:
    from pytest_bpflink.introspection import pins

    for mount in pins.mounts():
        if mount.is_relative_to(directory):
            yield f"BPF FS {mount}"
    records, cgroup = directory / _PINS, directory / _CGROUP
    for pin in sorted(records.iterdir()) if records.is_dir() else ():
        yield f"pin {pin.readlink()}"
    if cgroup.is_symlink() and cgroup.exists():
        yield f"cgroup {cgroup.readlink()}"


def _is_dead(directory: Path) -> bool:
    try:
        return not is_owned(directory)
    except FileNotFoundError:
        return True  # killed between making the directory and locking it


def _undo(directory: Path) -> None:
    """Remove all that an estate names.

    What can't be removed doesn't keep the rest, but it keeps the record of it. Raises
    `ExceptionGroup`.
    """
    from pytest_bpflink.bpf import bpffs
    from pytest_bpflink.introspection import pins

    records, cgroup = directory / _PINS, directory / _CGROUP
    steps: list[Callable[[], object]] = []
    steps += [partial(_remove_pin, pin) for pin in (records.iterdir() if records.is_dir() else ())]
    steps += [
        partial(bpffs.unmount, mount) for mount in pins.mounts() if mount.is_relative_to(directory)
    ]
    if cgroup.is_symlink() and cgroup.exists():
        steps.append(partial(_remove_cgroup, cgroup.readlink()))
    errors = []
    for step in steps:
        try:
            step()
        except (OSError, AssertionError) as error:
            errors.append(error)
    if errors:
        raise ExceptionGroup(f"{directory} could not be removed", errors)


def _remove_pin(record: Path) -> None:
    from pytest_bpflink.bpf.link import remove_pin

    remove_pin(record.readlink(), int(record.name.partition("-")[0]))


def _remove_cgroup(path: Path) -> None:
    from pytest_bpflink.bpf.cgroup import Cgroup

    cgroup = Cgroup(path)
    # Those of a dead session; this process may be inside itself, having been left there by a test.
    if cgroup.procs_below - {os.getpid()}:
        cgroup.kill()
    cgroup.remove()
