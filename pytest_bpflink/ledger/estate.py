"""Records of the mounts, cgroups and pins that a session made, so that a later one removes them.

Each process that runs tests has an *estate*: a directory below `/run/pytest-bpflink` that is locked
while the process lives. The process makes its BPF FS mounts there, and symbolic links to its cgroup
and to pins outside its mounts. A killed process leaves its estate unlocked; the next session
removes the estate and everything that it names, and nothing else.
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
from pytest_bpflink.vm.host_files import is_the_hosts
from pytest_bpflink.vm.owner_lock import OwnerLock, is_owned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_CGROUP, _PINS = "cgroup", "pins"


class Estate:
    """The estate of this process; removed by `close()`, or by the next session."""

    def __init__(self, directory: Path, lock: OwnerLock) -> None:
        self.directory = directory
        """The directory, in which the process makes its BPF FS mounts."""
        self._lock = lock
        self._pid = os.getpid()

    @classmethod
    def found(cls) -> Self:
        """Make and lock a new estate."""
        estates.ROOT.mkdir(mode=0o700, exist_ok=True)
        with _no_sweep():
            directory = estates.ROOT / f"{os.getpid()}-{secrets.token_hex(4)}"
            directory.mkdir(mode=0o700)
            lock = OwnerLock(directory)
        return cls(directory, lock)

    def make_cgroup(self) -> Path:
        """Make the cgroup in which this process makes its cgroups."""
        from pytest_bpflink.system.cgroup2 import cgroup2_mount

        path = cgroup2_mount() / estates.cgroup_name(self.directory)
        (self.directory / _CGROUP).symlink_to(path)
        path.mkdir()
        return path

    def record_pin(self, path: Path, link_id: int) -> None:
        """Record a pin, so that it is removed if this process is killed.

        A pin in a mount of the estate needs no record.
        """
        if path.absolute().is_relative_to(self.directory):
            return
        pins = self.directory / _PINS
        pins.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (pins / f"{link_id}-{secrets.token_hex(4)}").symlink_to(path.absolute())

    @property
    def is_ours(self) -> bool:
        """Whether this process made the estate: a forked child has its parent's `Estate`, too."""
        return os.getpid() == self._pid

    def close(self) -> None:
        """Remove everything that is left. Raises `ExceptionGroup` with all failures."""
        if not self.is_ours:
            return
        try:
            _undo(self.directory)
            with _no_sweep():
                # While rmtree runs the owner file may be gone, and a sweeper would take the
                # estate for a dead one.
                shutil.rmtree(self.directory)
        finally:
            self._lock.release()


def sweep(complain: Callable[[str], object]) -> list[str]:
    """Remove the estates of dead processes and everything these name; return the estates' names.

    `complain` is called about each estate that can't be removed, which is left to the next sweep.
    A user who may not write into the directory of estates sweeps nothing, and neither does a guest
    that shares this directory with its host.
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
                complain(f"{directory}, left by a killed session, can't be removed: {reasons}")
            else:
                swept.append(directory.name)
    return swept


def remains() -> dict[Path, list[str]]:
    """Return the estates that `sweep` would remove, each with the things that it names."""
    if not _is_ours_to_sweep():
        return {}
    with _no_sweep():
        return {directory: list(_named_by(directory)) for directory in _dead()}


@contextlib.contextmanager
def _no_sweep() -> Iterator[None]:
    """Keep sweepers out: they would take an estate that is just being made for a dead one."""
    root = os.open(estates.ROOT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(root, fcntl.LOCK_EX)
        yield
    finally:
        os.close(root)


def _is_ours_to_sweep() -> bool:
    return os.access(estates.ROOT, os.R_OK | os.W_OK | os.X_OK) and not is_the_hosts(estates.ROOT)


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
    """Remove everything that an estate names.

    A step that fails does not stop the others. Raises `ExceptionGroup` with all failures; the
    caller then keeps the estate as the record of what is left.
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
    # Processes of the dead session are killed. A test may have left this process inside as well.
    if cgroup.procs_below - {os.getpid()}:
        cgroup.kill()
    cgroup.remove()
