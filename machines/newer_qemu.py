"""A newer QEMU than this suite of Debian has: unpacked in the cache, and not installed."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm.cache import cache_part, locked
from pytest_bpflink.vm.kernels.apt import Apt, AptError

from .stage import SessionError

if TYPE_CHECKING:
    from .stage import Stage

NAME = "qemu-system-x86_64"

# With the firmware of bookworm, QEMU 10 waits for 32 s before it boots a kernel.
_PACKAGES = ("qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios")
_SUITE = "bookworm-backports"
_UNFINISHED = ".unpacking-"


def command(stage: Stage, *, release: int) -> list[str]:
    """Return the beginning of a command that runs a QEMU of this major release, or a newer one.

    That is the installed QEMU, if it is new enough. Raises SessionError.
    """
    installed = shutil.which(NAME)
    if installed:
        said = re.search(r"version (\d+)", stage.run(installed, "--version", seconds=20))
        if said and int(said[1]) >= release:
            return [installed]
    key = hashlib.sha256(" ".join([_SUITE, *_PACKAGES]).encode()).hexdigest()[:16]
    root = cache_part("qemu")
    tree = root / f"{_SUITE}-{key}"
    with locked(root, unfinished=_UNFINISHED, waits=lambda: print("waiting for another session")):
        if not tree.is_dir():
            with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=root) as directory:
                _unpack(stage, Path(directory) / "tree")
                (Path(directory) / "tree").rename(tree)
    data = [word for name in ("qemu", "seabios") for word in ("-L", f"{tree}/usr/share/{name}")]
    return [f"{tree}/usr/bin/{NAME}", *data]


def _unpack(stage: Stage, tree: Path) -> None:
    """Download the packages, which use the libraries of the installed QEMU, and unpack them."""
    apt = Apt(stage.directory / "apt", [_SUITE])
    try:
        outdated = apt.update(print)
        if outdated:
            raise SessionError(f"{_SUITE} can't be read: {outdated}")
        for package in apt.download(*(f"{name}/{_SUITE}" for name in _PACKAGES)):
            stage.run("dpkg-deb", "--extract", package, tree, seconds=60)
    except AptError as error:
        raise SessionError(f"no newer QEMU from {_SUITE}: {error}") from error
    apt.forget()
