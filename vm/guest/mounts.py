"""What a guest of ours has mounted: a system's own file systems, and the host's root.

Knows mount(2). When what is mounted is `agent`'s business: 9p can't be saved, all else is mounted
before.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

_ROOT = "/bpflink/root"
_HOST = "/bpflink/host"
_WRITTEN = "/bpflink/written"
_MAPPED = "/bpflink/mapped"

# Mounted before the guest is saved, and moved to the host's root as they are.
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

# linux/mount.h
_MS_RDONLY, _MS_BIND, _MS_MOVE = 1, 4096, 8192

_libc = ctypes.CDLL(None, use_errno=True)


def mount_own() -> None:
    """Mount what each system has of its own."""
    for kind, target, options in _FILESYSTEMS:
        Path(target).mkdir(parents=True, exist_ok=True)
        # What a kernel lacks, tests of it skip.
        with contextlib.suppress(OSError):
            _mount(kind, target, kind, options=options)
    for link, target in _LINKS.items():
        with contextlib.suppress(FileExistsError):
            Path(link).symlink_to(target)


def prepare_root(libraries: list[str], directories: dict[str, list[int]]) -> None:
    """Make what lies over the host's root, as far as that goes without it.

    What this Python has mapped are the image's LIBRARIES: they lie over the host's, which are the
    same, since a uprobe is attached to a file and not to its content. DIRECTORIES are those they
    are in, with mode and owner.
    """
    for directory in (_HOST, _ROOT, _WRITTEN, _MAPPED):
        Path(directory).mkdir(parents=True)
    # What is written to the host's root goes here.
    _mount("tmpfs", _WRITTEN, "tmpfs", options="size=75%,mode=755")
    for name in ("upper", "work"):
        (Path(_WRITTEN) / name).mkdir()
    # A directory that is in several layers has mode and owner of the uppermost. Those that are in
    # this one need not be copied to it, which takes milliseconds, before modules are put below.
    for directory, (mode, user, group) in sorted(directories.items()):
        for layer in (_MAPPED, f"{_WRITTEN}/upper"):
            place = Path(f"{layer}{directory}")
            place.mkdir(exist_ok=True)
            os.chown(place, user, group)
            place.chmod(mode)
    for library in libraries:
        os.link(library, f"{_MAPPED}{library}")


def change_root(visible: list[str]) -> None:
    """Make the host's root, with what is written in memory over it, the root of all processes.

    Kernel threads share PID 1's root, so modprobe is run in it too.
    """
    # The host's files don't change while a test runs, so that the guest may keep what it read.
    options = "trans=virtio,version=9p2000.L,cache=loose,access=any,msize=262144"
    _mount("/dev/root", _HOST, "9p", _MS_RDONLY, options)
    layers = f"lowerdir={_MAPPED}:{_HOST},upperdir={_WRITTEN}/upper,workdir={_WRITTEN}/work"
    _mount("overlay", _ROOT, "overlay", options=layers)
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


def share(tag: str, directory: str) -> None:
    """Mount the host's directory that is shared writably, at its own path; nothing is kept back."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    options = "trans=virtio,version=9p2000.L,access=any,msize=262144"
    _mount(tag, directory, "9p", 0, options)


def show_modules(modules: str) -> None:
    """Put the directory of this kernel's modules where modprobe looks for it."""
    place = f"/lib/modules/{os.uname().release}"
    try:
        os.symlink(modules, place)
    except FileNotFoundError:
        os.makedirs("/lib/modules")
        os.symlink(modules, place)
    except FileExistsError:
        if not os.path.samefile(modules, place):
            _mount(modules, place, None, _MS_BIND)


def _move(top: str, target: str) -> None:
    try:
        _mount(top, target, None, _MS_MOVE)
    except FileNotFoundError:
        Path(target).mkdir()
        _mount(top, target, None, _MS_MOVE)


def _mount(source: str, target: str, kind: str | None, flags: int = 0, options: str = "") -> None:
    arguments = [value and value.encode() for value in (source, target, kind)]
    if _libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None):
        code = ctypes.get_errno()
        raise OSError(code, f"{os.strerror(code)}: mounting {source} on {target}")
