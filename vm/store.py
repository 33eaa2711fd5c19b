"""The kernels kept on this machine, in the user's cache.

One directory per kernel, `RELEASE_VERSION`, that appears by renaming once it is complete. Reading
needs no lock; whoever adds one holds the lock, and first sweeps away what an interrupted run left.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from filelock import FileLock, Timeout

from . import image
from .debian import Archive, Package, version_key
from .image import Kernel, KernelFetchError, KernelNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_UNPACKING = ".unpacking-"


def cache_root() -> Path:
    """Return the directory that everything kept between runs is under."""
    named = os.environ.get("BPFLINK_CACHE")
    return Path(named).resolve() if named else platformdirs.user_cache_path("pytest-bpflink")


class Store:
    """Kernels by release, fetched when they are missing.

    May be shared by runs in parallel, and read by users who can't write to it.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_root() / "kernels"

    def kernels(self) -> list[Kernel]:
        """Return what is here, newest version first."""
        entries = [path for path in self.root.glob("[0-9]*_*") if path.is_dir()]
        entries.sort(key=lambda path: version_key(path.name.rpartition("_")[2]), reverse=True)
        return [_read_entry(path) for path in entries]

    def get(self, spec: str, progress: Callable[[str], None]) -> Kernel:
        """Return the newest kernel that matches a release, fetching one only if none is here.

        Raises KernelNotFound, KernelUnusable, KernelFetchError.
        """
        found = self._find(spec)
        if found:
            return found
        self.root.mkdir(parents=True, exist_ok=True)
        with self._locked(progress):
            # Another run may have fetched it while this one waited.
            return self._find(spec) or self._fetch(spec, progress)

    def _find(self, spec: str) -> Kernel | None:
        entries = [path for path in self.root.glob("[0-9]*_*") if path.is_dir()]
        matching = [path for path in entries if matches(spec, *path.name.rsplit("_", 1))]
        if not matching:
            return None
        newest = max(matching, key=lambda path: version_key(path.name.rpartition("_")[2]))
        return replace(_read_entry(newest), spec=spec, id=spec)

    def _locked(self, progress: Callable[[str], None]) -> FileLock:
        lock = FileLock(self.root / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress("waiting for another run that is fetching a kernel")
            return lock
        lock.release()
        return lock

    def _fetch(self, spec: str, progress: Callable[[str], None]) -> Kernel:
        for stale in self.root.glob(f"{_UNPACKING}*"):
            shutil.rmtree(stale)
        archive = Archive(self.root.parent / "apt")
        offered = archive.kernels(lambda text: progress(f"{spec}: {text}"))
        matching = [p for p in offered if matches(spec, p.release, p.version)]
        if not matching:
            raise KernelNotFound(_not_found(spec, offered, self.kernels()))
        package = max(matching, key=lambda p: version_key(p.version))
        parts = archive.parts(package)
        self._check_space(package, parts)
        with tempfile.TemporaryDirectory(prefix=_UNPACKING, dir=self.root) as temporary:
            progress(f"{spec}: fetching Linux {package.upstream} ({_megabytes(parts)})")
            tree = Path(temporary) / "tree"
            tree.mkdir()
            packages = archive.download(parts, Path(temporary))
            progress(f"{spec}: unpacking")
            _unpack(packages, tree)
            missing = image.check(image.read(tree))
            if missing:
                progress(f"{spec}: this kernel has no {', '.join(missing)}; tests will miss it")
            entry = self.root / f"{package.release}_{package.version}"
            tree.rename(entry)
        return replace(_read_entry(entry), spec=spec, id=spec)

    def _check_space(self, package: Package, parts: Iterable[Package]) -> None:
        needed = sum(part.download_size + part.installed_size for part in parts)
        # depmod's indexes, and file sizes rounded up to blocks.
        needed += needed // 10
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise KernelFetchError(
                f"not enough room for Linux {package.upstream}: {needed >> 20} MB are needed in"
                f" {self.root}, {free >> 20} MB are free; make room, or set BPFLINK_CACHE to a"
                " directory on another disk"
            )


def matches(spec: str, release: str, version: str) -> bool:
    """Tell whether a kernel is meant by a SPEC: 6.1, 6.1.176, 6.12.107+deb13, or a full release."""
    upstream = version.rsplit("-", 1)[0]
    return (
        upstream == spec
        # 7.3 also means 7.3~rc7, which sorts before 7.3 and so is taken only while there is no 7.3.
        or upstream.startswith((f"{spec}.", f"{spec}~"))
        or release == spec
        or ("." in spec and not spec.endswith(".0") and release.startswith(f"{spec}-"))
    )


def _read_entry(path: Path) -> Kernel:
    release, _, version = path.name.rpartition("_")
    kernel = image.read(path, spec=release)
    return replace(kernel, version=version.rsplit("-", 1)[0])


def _unpack(packages: Iterable[Path], tree: Path) -> None:
    for package in packages:
        _run(["dpkg-deb", "--extract", str(package), str(tree)])
        package.unlink()
    kernel = image.read(tree)
    if kernel.modules is None:
        raise KernelFetchError(f"the packages of Linux {kernel.release} hold no modules")
    # virtme-ng would do it at each boot: 20 to 40 s for thousands of compressed modules.
    _run(["depmod", "-b", str(kernel.modules), kernel.release])


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise KernelFetchError(f"{command[0]} is needed: apt-get install kmod dpkg") from None
    except subprocess.CalledProcessError as error:
        raise KernelFetchError(f"{command[0]} failed: {error.stderr.strip()}") from None


def _megabytes(parts: Iterable[Package]) -> str:
    return f"{sum(part.download_size for part in parts) / 1e6:.0f} MB"


def _not_found(spec: str, offered: Iterable[Package], stored: Iterable[Kernel]) -> str:
    versions = {package.upstream for package in offered} | {kernel.version for kernel in stored}
    names = ", ".join(sorted(versions, key=version_key)) or "none at all (is there a network?)"
    return f"there is no kernel {spec}; there are: {names}"
