"""The .deb files of a kernel: which of a directory's belong to it, and how they are unpacked.

dpkg-deb unpacks them: no program of a package is run. `debian` downloads such files.
"""

from __future__ import annotations

import hashlib
import re
import stat
from typing import TYPE_CHECKING

from pytest_bpflink.vm import programs
from pytest_bpflink.vm.kernels.kernel import (
    Kernel,
    KernelFetchError,
    KernelNotFound,
    KernelUnusable,
    read_kernel,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

# What holds no part of a kernel that a guest needs: headers, tools, debugging symbols, and packages
# that only name the newest kernel.
_PART = re.compile(r"linux-(image|binary|base|modules)(-[a-z]+)*-\d(?!.*-dbg(sym)?$).*")
_IMAGE = re.compile(r"linux-image-(?:unsigned-)?(\d.*?)(?:-unsigned)?")

_TOGETHER = (
    "put all packages of this kernel (image, modules, modules-extra) into one directory, and give"
    " its path"
)


def given(path: Path) -> list[Path]:
    """Return the .deb files of the kernel that PATH is one of, or holds; empty if there are none.

    Raises KernelNotFound if PATH holds the packages of several kernels, KernelUnusable if one is
    damaged, and KernelFetchError without dpkg.
    """
    if path.is_file():
        return [path] if path.suffix == ".deb" else []
    named = {file: _name(file) for file in sorted(path.glob("linux-*.deb"))}
    parts = [file for file, name in named.items() if _PART.fullmatch(name)]
    images = [_IMAGE.fullmatch(named[file]) for file in parts]
    releases = sorted({image[1] for image in images if image})
    if len(releases) > 1:
        raise KernelNotFound(
            f"{path} holds the packages of {len(releases)} kernels, {', '.join(releases)}: give"
            " each a directory of its own"
        )
    return parts


def digest(files: Iterable[Path]) -> str:
    """Return what differs if the content of one of these files does. Raises OSError."""
    digests = []
    for file in files:
        with file.open("rb") as content:
            digests.append(hashlib.file_digest(content, "sha256").hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def extract(files: Iterable[Path], tree: Path) -> None:
    """Unpack packages into TREE, in which all users may read what this user may.

    Raises KernelUnusable for a damaged package, KernelFetchError, and OSError.
    """
    for file in files:
        done = _run(["dpkg-deb", "--extract", str(file), str(tree)])
        if done:
            raise KernelUnusable(f"{file} is damaged, or no package: {done}")
    # Only root may read Ubuntu's images. Who shares a cache must.
    for file in tree.glob("boot/*"):
        mode = file.lstat().st_mode
        if stat.S_ISREG(mode):
            file.chmod(stat.S_IMODE(mode) | 0o444)


def index(kernel: Kernel) -> None:
    """Make the indexes of a kernel's modules. Raises KernelFetchError, and OSError."""
    # Otherwise virtme-ng runs depmod at each boot: 20 to 40 s for thousands of compressed modules.
    failure = _run(["depmod", "-b", str(kernel.modules), kernel.release])
    if failure:
        raise KernelFetchError(f"depmod failed: {failure}")


def read(path: Path, tree: Path) -> Kernel:
    """Return the kernel in TREE, to which the packages of PATH were unpacked.

    Raises KernelNotFound, and KernelUnusable if its modules are not there.
    """
    try:
        kernel = read_kernel(tree)
    except KernelNotFound:
        raise KernelNotFound(
            f"{path} holds no kernel: expected boot/vmlinuz-RELEASE or"
            " usr/lib/modules/RELEASE/vmlinuz in the packages"
        ) from None
    # Whose modules are in a package of their own has its configuration there, too.
    if kernel.modules is None and ("m" in kernel.config.values() or not kernel.config):
        raise KernelUnusable(
            f"{path} has Linux {kernel.release}, but its modules are missing: {_TOGETHER}"
        )
    return kernel


def _name(file: Path) -> str:
    shown = ["dpkg-deb", "--field", str(file), "Package"]
    try:
        done = programs.run(shown)
    except FileNotFoundError as error:
        raise _missing(error) from None
    if done.returncode:
        raise KernelUnusable(f"{file} is damaged, or no package: {done.stderr.strip()}")
    return done.stdout.strip()


def _run(command: Sequence[str]) -> str:
    """Run a program, and return what it says if it fails."""
    try:
        done = programs.run(command)
    except FileNotFoundError as error:
        raise _missing(error) from None
    return (done.stderr.strip() or f"status {done.returncode}") if done.returncode else ""


def _missing(error: FileNotFoundError) -> KernelFetchError:
    return KernelFetchError(
        f"{error.filename} is needed to unpack kernels: apt-get install kmod dpkg"
    )
