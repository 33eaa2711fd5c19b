"""The kernels kept on this machine, in the user's cache.

One directory per kernel, `RELEASE_VERSION`, that appears by renaming once it is complete. Reading
needs no lock; whoever adds one holds the lock, and first sweeps away what an interrupted run left.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from filelock import FileLock, Timeout

from pytest_bpflink.vm import image
from pytest_bpflink.vm.debian import Archive, Package, version_key
from pytest_bpflink.vm.image import Kernel, KernelFetchError, KernelNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

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

    def get(self, spec: str, progress: Callable[[str], None]) -> Kernel:
        """Return the newest kernel that matches a release, fetching one only if none is here.

        Raises KernelNotFound, KernelUnusable, KernelFetchError.
        """
        entry = self._newest(spec)
        if not entry:
            try:
                entry = self._add(spec, progress)
            except OSError as error:
                raise KernelFetchError(
                    f"no kernel {spec} is in {self.root}, and none can be put there:"
                    f" {error.strerror}; BPFLINK_CACHE names another directory"
                ) from error
        return replace(image.read(entry.path, spec=spec), version=entry.upstream)

    def _add(self, spec: str, progress: Callable[[str], None]) -> _Entry:
        self.root.mkdir(parents=True, exist_ok=True)
        with self._locked(progress):
            # Another run may have fetched it while this one waited.
            return self._newest(spec) or self._fetch(spec, progress)

    def _entries(self) -> list[_Entry]:
        paths = [path for path in self.root.glob("[0-9]*_*") if path.is_dir()]
        return [_Entry(path, *path.name.rsplit("_", 1)) for path in paths]

    def _newest(self, spec: str) -> _Entry | None:
        matching = [entry for entry in self._entries() if matches(spec, entry)]
        return max(matching, key=lambda entry: version_key(entry.version), default=None)

    @contextmanager
    def _locked(self, progress: Callable[[str], None]) -> Iterator[None]:
        lock = FileLock(self.root / ".lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            progress("waiting for another run that is fetching a kernel")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _fetch(self, spec: str, progress: Callable[[str], None]) -> _Entry:
        for stale in self.root.glob(f"{_UNPACKING}*"):
            # The dead run's dpkg-deb may still be writing there; then the next run sweeps it.
            shutil.rmtree(stale, ignore_errors=True)
        archive = Archive(self.root.parent / "apt")
        offered = archive.kernels(lambda text: progress(f"{spec}: {text}"))
        matching = [package for package in offered if matches(spec, package)]
        if not matching:
            raise KernelNotFound(_not_found(spec, [*offered, *self._entries()]))
        package = max(matching, key=lambda package: version_key(package.version))
        parts = archive.parts(package)
        self._check_space(package, parts)
        entry = _Entry(
            self.root / f"{package.release}_{package.version}", package.release, package.version
        )
        with tempfile.TemporaryDirectory(prefix=_UNPACKING, dir=self.root) as temporary:
            size = sum(part.download_size for part in parts) / 1e6
            progress(f"{spec}: fetching Linux {package.upstream} ({size:.0f} MB)")
            packages = archive.download(parts, Path(temporary))
            progress(f"{spec}: unpacking")
            tree = Path(temporary) / "tree"
            _unpack(packages, tree)
            missing = image.check(image.read(tree))
            if missing:
                progress(f"{spec}: built without {', '.join(missing)}; what needs it is skipped")
            tree.rename(entry.path)
        return entry

    def _check_space(self, package: Package, parts: Iterable[Package]) -> None:
        needed = sum(part.download_size + part.installed_size for part in parts)
        # depmod's indexes, and file sizes rounded up to blocks.
        needed += needed // 10
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise KernelFetchError(
                f"not enough room for Linux {package.upstream}: {needed >> 20} MiB are needed in"
                f" {self.root}, {free >> 20} MiB are free; make room, or set BPFLINK_CACHE to a"
                " directory on another disk"
            )


@dataclass(frozen=True)
class _Entry:
    """A kernel in the store; release and package version are its directory's name."""

    path: Path
    release: str
    version: str

    @property
    def upstream(self) -> str:
        return self.version.rsplit("-", 1)[0]


def matches(spec: str, kernel: Package | _Entry) -> bool:
    """Tell whether a kernel is meant by a SPEC: 6.1, 6.1.176, 6.12.107+deb13, or a full release."""
    if spec in (kernel.release, kernel.upstream):
        return True
    # 7.3 also means 7.3~rc7, which sorts before 7.3 and so is taken only while there is no 7.3.
    if kernel.upstream.startswith((f"{spec}.", f"{spec}~")):
        return True
    # Debian's 6.1.0-50-amd64 is no 6.1.0: an unfinished release needs to be more than a number.
    return not re.fullmatch(r"[\d.]+", spec) and kernel.release.startswith(f"{spec}-")


def _unpack(packages: Iterable[Path], tree: Path) -> None:
    tree.mkdir()
    for package in packages:
        _run(["dpkg-deb", "--extract", str(package), str(tree)])
    kernel = image.read(tree)
    if kernel.modules is None:
        raise KernelFetchError(f"the packages of Linux {kernel.release} hold no modules")
    # virtme-ng would do it at each boot: 20 to 40 s for thousands of compressed modules.
    _run(["depmod", "-b", str(kernel.modules), kernel.release])


def _run(command: Sequence[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise KernelFetchError(
            f"{command[0]} is needed to unpack kernels: apt-get install kmod dpkg"
        ) from None
    except subprocess.CalledProcessError as error:
        raise KernelFetchError(f"{command[0]} failed: {error.stderr.strip()}") from None


def _not_found(spec: str, known: Iterable[Package | _Entry]) -> str:
    """Say what there is: all of the SPEC's own series, else the newest of each."""
    series: dict[str, str] = {}
    related = []
    for version in sorted({kernel.upstream for kernel in known}, key=version_key):
        name = ".".join(re.split(r"[.~]", version)[:2])
        series[name] = version
        if spec.startswith(f"{name}."):
            related.append(version)
    names = ", ".join(related or series.values()) or "none at all (is there a network?)"
    return f"there is no kernel {spec}; there are: {names}"
