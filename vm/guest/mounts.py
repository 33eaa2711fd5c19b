"""The mounts of our own guests: the file systems that every system has, and the host's root.

Knows mount(2). `agent` chooses the time: 9p can't be saved, all else is mounted before the save.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Any

_ROOT = "/bpflink/root"
_HOST = "/bpflink/host"
_WRITTEN = "/bpflink/written"
_MAPPED = "/bpflink/mapped"
_HOSTS_ROOT = "/bpflink/hosts-root"

# The host's files don't change while a test runs, so the guest may cache them.
_CACHED = "trans=virtio,version=9p2000.L,cache=loose,access=any,msize=262144"

# These are mounted before the guest is saved, and moved to the host's root after it is restored.
MOVED = ("/proc", "/sys", "/dev", "/run")
_FILESYSTEMS = (
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("tmpfs", "/run", "mode=755"),
    ("tmpfs", "/dev/shm", "mode=1777"),  # noqa: S108
    ("devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666"),
    ("mqueue", "/dev/mqueue", ""),
    ("cgroup2", "/sys/fs/cgroup", ""),
    ("bpf", "/sys/fs/bpf", "mode=700"),
    ("securityfs", "/sys/kernel/security", ""),
    ("tracefs", "/sys/kernel/tracing", ""),
    ("debugfs", "/sys/kernel/debug", ""),
)
_LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
}

# Each tmpfs with its size, in percent of the memory that is available when all is imported. The
# rest is for the worker and its tests.
_SHARES = {_WRITTEN: 60, "/dev/shm": 15, "/run": 5}  # noqa: S108

# linux/mount.h
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_MOVE = 1, 32, 4096, 8192

_libc = ctypes.CDLL(None, use_errno=True)


def mount_own() -> None:
    """Mount the file systems that every system has."""
    for kind, target, options in _FILESYSTEMS:
        # A kernel may lack one, and then its directory in sysfs; tests that need it are skipped.
        with contextlib.suppress(OSError):
            Path(target).mkdir(parents=True, exist_ok=True)
            _mount(kind, target, kind, options=options)
    for link, target in _LINKS.items():
        with contextlib.suppress(FileExistsError):
            Path(link).symlink_to(target)


def prepare_root(libraries: list[str], directories: dict[str, list[int]]) -> None:
    """Prepare the overlay's upper layers; the host's root is mounted after the guest is restored.

    This Python has LIBRARIES of the image mapped. One layer puts these files over the host's, which
    have the same content, for a uprobe on a library's path must meet the file that is mapped.
    DIRECTORIES are the libraries', with mode and owner.
    """
    for directory in (_HOST, _ROOT, _WRITTEN, _MAPPED):
        Path(directory).mkdir(parents=True)
    # The uppermost layer, which takes the writes to the host's root.
    _mount("tmpfs", _WRITTEN, "tmpfs", options="mode=755")
    _limit()
    for name in ("upper", "work"):
        (Path(_WRITTEN) / name).mkdir()
    # A directory in several layers has mode and owner of the uppermost. If the uppermost layer has
    # it already, `show` need not wait milliseconds for the kernel to copy it up.
    for directory, (mode, user, group) in sorted(directories.items()):
        for layer in (_MAPPED, f"{_WRITTEN}/upper"):
            place = Path(f"{layer}{directory}")
            place.mkdir(exist_ok=True)
            os.chown(place, user, group)
            place.chmod(mode)
    for library in libraries:
        os.link(library, f"{_MAPPED}{library}")


def keep_image() -> None:
    """Make the files of the image, where it is packed, the overlay's lower layer."""
    for top in Path("/").iterdir():
        if str(top) not in (*MOVED, "/bpflink"):
            top.rename(f"{_HOST}/{top.name}")


def mapped(pid: int) -> tuple[list[str], dict[str, list[int]]]:
    """Return the files that a process has mapped, and the directories above, for `prepare_root`."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count("/")}
    libraries = sorted(path for path in paths if os.path.isfile(path))
    above = {str(parent) for path in libraries for parent in Path(path).parents}
    return libraries, {directory: [0o755, 0, 0] for directory in above}


def change_root(visible: list[str], host: dict[str, Any] | None, *, packed: bool) -> None:
    """Make the host's root, under the overlay in memory, the root of PID 1 and of kernel threads.

    The kernel runs modprobe in this root, too. VISIBLE are paths of the host to show although they
    lie below a mount of the guest. With HOST the root is not the host's, which `show_host` adds. If
    the root is PACKED, `keep_image` has put it there.
    """
    if not packed:
        _mount("/dev/root", _HOST, "9p", _MS_RDONLY, _CACHED)
    layers = f"lowerdir={_MAPPED}:{_HOST},upperdir={_WRITTEN}/upper,workdir={_WRITTEN}/work"
    # Without redirect_dir, rename(2) of a directory of the host is EXDEV.
    _mount("overlay", _ROOT, "overlay", options=f"{layers},redirect_dir=on")
    if host:
        show_host(**host)
    covered = [path for path in visible if path.startswith(tuple(f"{top}/" for top in MOVED))]
    kept = {path: os.open(f"{_ROOT}{path}", os.O_PATH | os.O_CLOEXEC) for path in covered}
    for top in MOVED:
        _move(top, f"{_ROOT}{top}")
    os.chdir(_ROOT)
    _mount(".", "/", None, _MS_MOVE)
    os.chroot(".")
    os.chdir("/")
    for path, descriptor in kept.items():
        Path(path).mkdir(parents=True, exist_ok=True)
        _mount(f"/proc/self/fd/{descriptor}", path, None, _MS_BIND)
        os.close(descriptor)


def show_host(
    tag: str,
    directories: list[str],
    library: tuple[str, str],
    python: tuple[str, str],
    sites: list[str],
) -> None:
    """Show directories of the host at their paths in a root that is not the host's.

    LIBRARY is the root's standard library, and the path of the host's, where the controller's
    sys.path leads. PYTHON is the root's Python and the path of the host's. SITES are for `worker`.
    """
    del sites
    Path(_HOSTS_ROOT).mkdir()
    _mount(tag, _HOSTS_ROOT, "9p", _MS_RDONLY, _CACHED)
    for number, directory in enumerate(directories):
        layers = Path(_WRITTEN, str(number))
        for name in ("upper", "work"):
            (layers / name).mkdir(parents=True)
        target = f"{_ROOT}{directory}"
        Path(target).mkdir(parents=True, exist_ok=True)
        # A path with a colon would be two layers.
        os.chdir(f"{_HOSTS_ROOT}{directory}")
        written = f"upperdir={layers}/upper,workdir={layers}/work"
        _mount("overlay", target, "overlay", options=f"lowerdir=.,{written},redirect_dir=on")
    own, place = library
    if own != place:
        Path(f"{_ROOT}{place}").mkdir(parents=True, exist_ok=True)
        _mount(f"{_ROOT}{own}", f"{_ROOT}{place}", None, _MS_BIND)
    if python:
        own, place = python
        Path(f"{_ROOT}{place}").unlink()
        Path(f"{_ROOT}{place}").symlink_to(own)
        # A virtual environment has its packages in a directory with the version of its Python.
        names = [os.path.basename(each) for each in library]
        with contextlib.suppress(FileExistsError):
            Path(f"{_ROOT}{place}").parent.parent.joinpath("lib", names[0]).symlink_to(names[1])


def share(tag: str, directory: str) -> None:
    """Mount the writable directory of the host at its path there; the guest caches none of it."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    options = "trans=virtio,version=9p2000.L,access=any,msize=262144"
    _mount(tag, directory, "9p", 0, options)


def show(path: str, place: str) -> None:
    """Show a file or directory of the host at PLACE, too."""
    try:
        os.symlink(path, place)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(place))
        os.symlink(path, place)
    except FileExistsError:
        if not os.path.samefile(path, place):
            _mount(path, place, None, _MS_BIND)


def _limit() -> None:
    """Limit each tmpfs, so that files get ENOSPC before a process is killed for their memory."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    for place, percent in _SHARES.items():
        _mount("tmpfs", place, None, _MS_REMOUNT, f"size={available * percent // 100}k")


def _move(top: str, target: str) -> None:
    try:
        _mount(top, target, None, _MS_MOVE)
    except FileNotFoundError:
        Path(target).mkdir()
        _mount(top, target, None, _MS_MOVE)


def _mount(source: str, target: str, kind: str | None, flags: int = 0, options: str = "") -> None:
    arguments = [value and os.fsencode(value) for value in (source, target, kind)]
    if _libc.mount(*arguments, ctypes.c_ulong(flags), os.fsencode(options) or None):
        code = ctypes.get_errno()
        raise OSError(code, f"{os.strerror(code)}: mounting {source} on {target}")
