"""The root of guests of another architecture: packages of Debian, unpacked and not configured.

Knows which packages a guest needs, and how they are unpacked without running anything of them.
`kernels.apt` fetches them. A root is kept in the cache, for all kernels of its architecture.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm import programs
from pytest_bpflink.vm.cache import cache_root, is_trusted, locked, usable
from pytest_bpflink.vm.image.inventory import ImageError
from pytest_bpflink.vm.kernels.apt import Apt, AptError
from pytest_bpflink.vm.trust import withdraw

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink.vm.architectures import Architecture
    from pytest_bpflink.vm.image.inventory import Inventory

_PACKAGES = (
    "bash",
    "busybox-static",
    "coreutils",
    "dash",
    "findutils",
    "grep",
    "iproute2",
    "kmod",
    "libbpf1",
    # asm/ptrace.h and others, for BPF programs that the host compiles.
    "linux-libc-dev",
    "mount",
    "procps",
    "python3",
    "sed",
    "util-linux",
)

# The suite with a Python that reads the host's compiled modules, by the tag in their names.
_SUITES = {"cpython-311": "bookworm", "cpython-313": "trixie"}
_ANY_SUITE = "trixie"
# Architectures that the older suites have not.
_FIRST_SUITES = {"riscv64": "trixie"}

_UNUSED_SECONDS = 30 * 86400.0

_UNFINISHED = ".unfinished-"

# Documentation takes a third of the room. Python's own tests are never run.
_LEFT_OUT = ("./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./usr/share/info/*")
_NOT_COMPILED = r"/(test|tests|idlelib|lib2to3|turtledemo|ensurepip)/"

# What maintainer scripts and an installer would have written.
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
}
_EMPTY = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var/tmp")
# tar would replace these links by directories, for packages have files in /bin and /lib.
_MERGED = ("bin", "lib", "sbin")


@dataclass(frozen=True)
class Root:
    """An unpacked root, and the Python in it.

    `python` and `library` are paths in the root, of the program and of its standard library; `tag`
    is in the names of its compiled modules. `digest` is a digest of the packages' names and
    versions.
    """

    path: Path
    python: str
    library: str
    tag: str
    digest: str


def find(architecture: Architecture, inventory: Inventory, progress: Callable[[str], None]) -> Root:
    """Return the root for an architecture, made if it is missing.

    Its Python is of the same minor version as the host's in INVENTORY, if a suite has such a one.
    Raises ImageError.
    """
    tag = inventory.tag
    suite = _FIRST_SUITES.get(architecture.name) or _SUITES.get(tag, _ANY_SUITE)
    roots = usable(cache_root() / "guest-roots")
    place = roots / f"{architecture.name}-{suite}-{_digest(*_PACKAGES)[:8]}"
    if found := _read(place):
        return found
    waiting = "waiting for another run that is fetching a root"
    try:
        with locked(roots, unfinished=_UNFINISHED, waits=lambda: progress(waiting)):
            found = _read(place)
            if found is None:
                _forget_unused(roots)
                _make(place, architecture, suite, progress)
                found = _read(place)
                if found and found.tag == tag:
                    _compile(found, inventory.python)
    except (AptError, OSError, subprocess.SubprocessError) as error:
        raise ImageError(f"there is no root for {architecture.name} guests: {error}") from None
    assert found, "it was just made"
    return found


def _read(place: Path) -> Root | None:
    """Return the root in a directory; None if there is none that can be trusted."""
    listing = place / "packages"
    if not (listing.exists() and is_trusted(listing)):
        return None
    # `_forget_unused` takes this for the time of the last use.
    with suppress(OSError):  # of a cache that this user can only read
        os.utime(listing)
    root = place / "root"
    library = next(root.glob("usr/lib/python3.*/os.py")).parent
    return Root(
        path=root,
        python=f"/usr/bin/{library.name}",
        library=f"/{library.relative_to(root)}",
        tag=f"cpython-{library.name.removeprefix('python').replace('.', '')}",
        digest=_digest(listing.read_text()),
    )


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _forget_unused(roots: Path) -> None:
    for listing in roots.glob("*/packages"):
        if time.time() - listing.stat().st_mtime > _UNUSED_SECONDS:
            shutil.rmtree(listing.parent)


def _make(
    place: Path, architecture: Architecture, suite: str, progress: Callable[[str], None]
) -> None:
    progress(f"fetching the root of {architecture.name} guests, 25 MB of {suite}")
    # It stays until all is unpacked: another run continues a download that was cut off.
    directory = usable(cache_root() / f"apt-{architecture.name}-{suite}")
    apt = Apt(directory, (suite, f"{suite}-security"), arch=architecture.name)
    apt.update(progress)
    wanted = sorted(apt.closure(*_PACKAGES))
    packages = apt.download(*wanted)
    progress(f"unpacking the root of {architecture.name} guests")
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=place.parent) as temporary:
        new = Path(temporary) / "new"
        root = new / "root"
        for name in ("usr/bin", "usr/lib", "usr/sbin", *_EMPTY):
            (root / name).mkdir(parents=True)
        for name in _MERGED:
            (root / name).symlink_to(f"usr/{name}")
        for package in packages:
            _unpack(package, root)
        for name, text in _FILES.items():
            (root / name).write_text(text)
        # The scripts of dash make this link in Debian 12.
        shell = root / "usr/bin/sh"
        if not shell.is_symlink():
            shell.symlink_to("dash")
        (new / "packages").write_text("\n".join(wanted))
        withdraw(new)
        if place.exists():
            place.rename(Path(temporary) / "replaced")
        new.rename(place)
    shutil.rmtree(directory)


def _unpack(package: Path, root: Path) -> None:
    """Unpack a package's files. Nothing of it is run, neither by dpkg nor by its scripts."""
    script = (
        'dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink --no-same-owner -C "$2"'
    )
    left_out = shlex.join(f"--exclude={pattern}" for pattern in _LEFT_OUT)
    done = programs.run(["sh", "-c", f"{script} {left_out}", "sh", str(package), str(root)])
    if done.returncode:
        raise AptError(f"{package.name} can't be unpacked: {done.stderr.strip()}")


def _compile(root: Root, python: str) -> None:
    """Have a PYTHON of the host compile the root's modules, which takes an emulated one minutes.

    Guests find the files as they are (PEP 552), so the compiled ones are not checked against them.
    """
    library = f"{root.path}{root.library}"
    how = ("-q", "-j", "0", "--invalidation-mode", "unchecked-hash", "-x", _NOT_COMPILED)
    names = ("-s", str(root.path), "-p", "/")
    programs.run([python, "-m", "compileall", *how, *names, library])
