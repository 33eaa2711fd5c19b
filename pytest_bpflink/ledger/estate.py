"""Records of the mounts, cgroups and pins that a session made, so that a later one removes them.

Each process that runs tests has an *estate*: a directory below `/run/pytest-bpflink` that is locked
while the process lives. The process makes its BPF FS mounts there, and symbolic links to pins
outside its mounts; its cgroup has the estate's name. A killed process leaves its estate unlocked;
the next session of the same user removes the estate, its cgroup and everything that it names, and
nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
from functools import partial
from typing import TYPE_CHECKING, Self

from pytest_bpflink.system import estates
from pytest_bpflink.vm.host_files import is_the_hosts
from pytest_bpflink.vm.owner_lock import OwnerLock, is_owned
from pytest_bpflink.vm.whole_file import make_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_PINS = "pins"
_TRACE = "trace"

# The link's id, and a number against names that are taken.
_PIN_RECORD = re.compile(r"(\d+)-[0-9a-f]{8}")


class Estate:
    """The estate of this process; removed by `close()`, or by the next session."""

    def __init__(self, directory: Path, lock: OwnerLock) -> None:
        self.directory = directory
        """The directory, in which the process makes its BPF FS mounts."""
        self._lock = lock
        self._pid = os.getpid()

    @classmethod
    def found(cls) -> Self:
        """Make and lock a new estate.

        Raises `PermissionError` if another user may write to the directory of estates.
        """
        with contextlib.suppress(FileExistsError):
            make_directory(estates.ROOT, mode=0o700)
        refusal = estates.refusal()
        if refusal:
            raise PermissionError(f"{refusal}: BPFLINK_RUN_DIRECTORY names another directory")
        with _no_sweep():
            directory = estates.ROOT / estates.new_name()
            directory.mkdir(mode=0o700)
            lock = OwnerLock(directory)
        return cls(directory, lock)

    def make_cgroup(self) -> Path:
        """Make the cgroup in which this process makes its cgroups."""
        path = _cgroup_of(self.directory)
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

    @contextlib.contextmanager
    def trace_instance(self) -> Iterator[Path]:
        """Make an instance of tracefs, and show it for the length of a `with` block.

        It stays until `close()`. Raises `OSError`.
        """
        from pytest_bpflink.system import tracefs

        place = self.directory / _TRACE
        place.mkdir(exist_ok=True)
        with tracefs.mounted(place) as root:
            instance = tracefs.instance(root, _trace_name(self.directory))
            instance.mkdir(exist_ok=True)
            yield instance

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
    """Remove this user's estates of dead processes and what belongs to these; return their names.

    `complain` is called about each estate that can't be removed, which is left to the next sweep.
    Where another user may write to the directory of estates, nothing is removed, nor in a guest
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
            except (ExceptionGroup, OSError) as error:
                reasons = "; ".join(map(str, getattr(error, "exceptions", [error])))
                complain(f"{directory}, left by a killed session, can't be removed: {reasons}")
            else:
                swept.append(directory.name)
    return swept


def remains() -> dict[Path, list[str]]:
    """Return the estates that `sweep` would remove, each with the things that belong to it."""
    if not _is_ours_to_sweep():
        return {}
    with _no_sweep():
        return {directory: list(_named_by(directory)) for directory in _dead()}


@contextlib.contextmanager
def _no_sweep() -> Iterator[None]:
    """Keep sweepers out: they would take an estate that is just being made for a dead one."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    root = os.open(estates.ROOT, flags)
    try:
        fcntl.flock(root, fcntl.LOCK_EX)
        yield
    finally:
        os.close(root)


def _is_ours_to_sweep() -> bool:
    try:
        return not estates.refusal() and not is_the_hosts(estates.ROOT)
    except OSError:
        return False


def _dead() -> Iterator[Path]:
    named = (path for path in sorted(estates.ROOT.iterdir()) if estates.is_name(path.name))
    return (path for path in named if _is_directory(path) and _is_dead(path))


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _named_by(directory: Path) -> Iterator[str]:
    yield from (f"BPF FS {mount}" for mount in _mounts_in(directory))
    yield from (f"pin {path}" for path, _ in _pins_of(directory))
    yield from (f"cgroup {cgroup}" for cgroup in _cgroups_of(directory))
    yield from (
        f"trace instance {estates.cgroup_name(place.parent)}" for place in _trace_of(directory)
    )


def _mounts_in(directory: Path) -> list[Path]:
    from pytest_bpflink.introspection import pins

    return [mount for mount in pins.mounts() if mount.is_relative_to(directory)]


def _pins_of(directory: Path) -> list[tuple[Path, int]]:
    """Return the pins outside the mounts that an estate records, each with its link's id."""
    records = directory / _PINS
    if not _is_directory(records):
        return []
    named = [(record, _PIN_RECORD.fullmatch(record.name)) for record in sorted(records.iterdir())]
    return [(each.readlink(), int(name[1])) for each, name in named if name and each.is_symlink()]


def _cgroup_of(directory: Path) -> Path:
    from pytest_bpflink.system.cgroup2 import cgroup2_mount

    return cgroup2_mount() / estates.cgroup_name(directory)


def _cgroups_of(directory: Path) -> list[Path]:
    """Return the cgroup of an estate, if there is one."""
    from pytest_bpflink.errors import BpfError

    with contextlib.suppress(BpfError):  # cgroup2 is not mounted
        return [path for path in [_cgroup_of(directory)] if path.exists()]
    return []


def _is_dead(directory: Path) -> bool:
    try:
        return not is_owned(directory)
    except FileNotFoundError:
        return True  # killed between making the directory and locking it
    except OSError:
        return False  # its owner file is no file: no session made it


def _undo(directory: Path) -> None:
    """Remove everything that belongs to an estate.

    A step that fails does not stop the others. Raises `ExceptionGroup` with all failures; the
    caller then keeps the estate as the record of what is left.
    """
    from pytest_bpflink.bpf import bpffs
    from pytest_bpflink.bpf.link import remove_pin

    steps: list[Callable[[], object]] = [
        *(partial(remove_pin, path, link_id) for path, link_id in _pins_of(directory)),
        *(partial(bpffs.unmount, mount) for mount in _mounts_in(directory)),
        *(partial(_remove_cgroup, cgroup) for cgroup in _cgroups_of(directory)),
        *(partial(_remove_trace, place) for place in _trace_of(directory)),
    ]
    errors = []
    for step in steps:
        try:
            step()
        except (OSError, AssertionError) as error:
            errors.append(error)
    if errors:
        raise ExceptionGroup(f"{directory} could not be removed", errors)


def _trace_name(directory: Path) -> str:
    return estates.cgroup_name(directory)


def _trace_of(directory: Path) -> list[Path]:
    """Return where an estate mounts tracefs to make a trace instance, if it has made one."""
    return [path for path in [directory / _TRACE] if _is_directory(path)]


def _remove_trace(place: Path) -> None:
    from pytest_bpflink.system import tracefs

    if os.path.ismount(place):  # killed between mounting and unmounting
        from pytest_bpflink.bpf import bpffs

        bpffs.unmount(place)
    try:
        with tracefs.mounted(place) as root, contextlib.suppress(FileNotFoundError):
            tracefs.instance(root, _trace_name(place.parent)).rmdir()
    except OSError as error:
        if error.errno != errno.ENODEV:  # there was never one, in a kernel without tracefs
            raise


def _remove_cgroup(path: Path) -> None:
    from pytest_bpflink.bpf.attaching.cgroup import Cgroup

    cgroup = Cgroup(path)
    if os.getpid() in cgroup.procs_below:  # a test left this process inside
        Cgroup(path.parent).add(os.getpid())
    if cgroup.procs_below:  # processes of the dead session
        cgroup.kill()
    cgroup.remove()
