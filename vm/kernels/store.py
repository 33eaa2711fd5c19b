"""The kernels kept on this machine, in the user's cache.

Each kernel has a directory, which is renamed to `RELEASE_VERSION` once it is complete. A kernel
that another user may have written is not used, and is fetched again. Reading takes no lock. Adding
and removing hold the lock, and first remove what interrupted runs left.
`stored` describes one kernel; `releases` chooses the kernel that a SPEC means.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm import architectures
from pytest_bpflink.vm.cache import cache_root, is_trusted_tree, locked, refuse, usable
from pytest_bpflink.vm.kernels import packages, releases, sources
from pytest_bpflink.vm.kernels.kernel import (
    Gone,
    Kernel,
    KernelError,
    KernelFetchError,
    KernelNotFound,
    Unreachable,
    check_kernel,
    read_kernel,
)
from pytest_bpflink.vm.kernels.stored import Stored
from pytest_bpflink.vm.trust import withdraw

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from contextlib import AbstractContextManager

    from pytest_bpflink.vm.kernels.debian import Archive, Package
    from pytest_bpflink.vm.kernels.sources import Source

# Begins the names of directories that are being unpacked or removed.
_UNFINISHED = ".unfinished-"
_DAY = 24 * 3600

# The only architecture that there was once: its directories have no name of an architecture.
_FIRST = "amd64"


class Store:
    """Kernels by release, fetched when they are missing.

    ARCH is Debian's name of their architecture, by default this machine's. A store may be shared by
    runs in parallel, and read by users who can't write to it.
    """

    def __init__(
        self, root: Path | None = None, *, arch: str = "", added: Sequence[str] = ()
    ) -> None:
        """ADDED are deb lines, beside those in the file that `BPFLINK_KERNEL_SOURCES` names."""
        self.arch = arch or architectures.own()
        # Hosts of several architectures may share a cache.
        suffix = "" if self.arch == _FIRST else f"-{self.arch}"
        self.root = usable(root or cache_root() / f"kernels{suffix}")
        self._apt = usable(self.root.parent / ("apt" if root else f"apt{suffix}"))
        self._lines = added
        self._kernels: dict[Path, Kernel | None] = {}

    def kernels(self) -> list[Stored]:
        """Return the kernels in the store, the oldest first."""
        paths = [path for path in self.root.glob("[0-9]*_*") if path.is_dir()]
        stored = [Stored(path, *path.name.rsplit("_", 1)) for path in paths]
        return sorted(stored, key=lambda kernel: releases.version_key(kernel.version))

    def get(self, spec: str, progress: Callable[[str], None]) -> Kernel:
        """Return the newest kernel that a release or a word means.

        A release is fetched only if no kernel in the store matches: from the distribution's
        packages or, if none of them matches, from the sources. A word chooses among the store and
        all packages, or without a network among the store.

        Raises KernelNotFound, KernelUnusable, KernelFetchError.
        """
        if spec in releases.WORDS:
            return self._obtain(spec, progress)
        stored = self._choose(spec, self.kernels())
        # Another run may remove the kernel at this moment.
        return (stored and self._read(stored, spec)) or self._obtain(spec, progress)

    def known(self, spec: str, progress: Callable[[str], None]) -> list[Stored | Package]:
        """Return the kernels that a SPEC can choose from, in the store and in packages.

        If nothing can be fetched, only the store counts; if it is empty, raises KernelFetchError.
        """
        try:
            with self._writing(progress):
                return self._all(spec, self._archives(), progress)
        except (Unreachable, OSError) as error:
            stored = self.kernels()
            if not stored:
                raise self._unfetched(spec, error) from error
            progress(f"{spec}: {self._why(error)}; it is looked for in the store alone")
            return [*stored]

    def of_sources(
        self, progress: Callable[[str], None]
    ) -> list[tuple[Source, list[Package], str]]:
        """Return each source with its kernels, and why they are not up to date, if they are not.

        Raises KernelFetchError without apt, and if the store can't be written to.
        """
        found = []
        try:
            with self._writing(progress):
                for archive in self._archives():
                    if archive.source:
                        kernels = archive.kernels(progress)
                        found.append((archive.source, kernels, archive.outdated))
        except OSError as error:
            raise KernelFetchError(self._why(error)) from error
        return found

    def remove(self, kernel: Stored) -> bool:
        """Remove a kernel unless a process uses it; return whether it was removed.

        Raises KernelError if it can't be removed.
        """
        try:
            with self._writing(_silent):
                return self._remove(kernel)
        except OSError as error:
            raise KernelError(f"{kernel.path} can't be removed: {error.strerror}") from error

    def prune(self, *, unused_days: float = 30, keep: Collection[str] = ()) -> list[Stored]:
        """Remove and return the kernels not used for UNUSED_DAYS; remove partial downloads too.

        Kernels in use stay, and kernels that a SPEC of KEEP matches. Raises KernelError if the
        store can't be changed.
        """
        limit = time.time() - unused_days * _DAY
        try:
            with self._writing(_silent):
                with suppress(Unreachable):  # no apt, no downloads
                    self._distribution().forget()
                sources.tidy(self._added, unused_since=limit)
                stored = self.kernels()
                kept = [kernel for spec in keep for kernel in releases.meant(spec, stored)]
                old = [kernel for kernel in stored if kernel.used <= limit and kernel not in kept]
                return [kernel for kernel in old if self._remove(kernel)]
        except OSError as error:
            raise KernelError(f"{self.root} can't be pruned: {error.strerror}") from error

    def _obtain(self, spec: str, progress: Callable[[str], None]) -> Kernel:
        try:
            with self._writing(progress):
                return self._fetch_unless_here(spec, progress)
        except (Unreachable, OSError) as error:
            chosen = self._choose(spec, self.kernels())
            kernel = self._read(chosen, spec) if chosen else None
            if kernel is None or _is_full(error):
                raise self._unfetched(spec, error) from error
            progress(f"{spec}: {self._why(error)}; in the store it is Linux {kernel.version}")
            return kernel

    def _fetch_unless_here(self, spec: str, progress: Callable[[str], None]) -> Kernel:
        # Another run may have fetched the kernel while this one waited for the lock.
        stored = None if spec in releases.WORDS else self._choose(spec, self.kernels())
        if stored is None:
            archives = self._archives()
            known = self._all(spec, archives, progress)
            if self._choose(spec, known) is None:
                raise KernelNotFound(releases.sentence(spec, known, self.kernels()))
            stored = self._fetch_chosen(spec, known, archives, progress)
        kernel = self._read(stored, spec)
        assert kernel is not None, "it is not removed without the lock"
        return kernel

    def _fetch_chosen(
        self,
        spec: str,
        known: list[Stored | Package],
        archives: Sequence[Archive],
        progress: Callable[[str], None],
    ) -> Stored:
        """Fetch the kernel that a SPEC means; if the mirror has not what it lists, the next."""
        gone: Gone | None = None
        while chosen := self._choose(spec, known):
            if isinstance(chosen, Stored):
                return chosen
            try:
                archive = next(each for each in archives if chosen in each)
                return self._fetch(spec, chosen, archive, progress)
            except Gone as error:
                gone = gone or error
                progress(f"{spec}: the mirror lists Linux {chosen.upstream}, and does not have it")
                known.remove(chosen)
        assert gone, "one was chosen"
        raise gone

    def _read(self, stored: Stored, spec: str) -> Kernel | None:
        """Return a kernel with its lease; None if the kernel was removed, or is not usable."""
        lease = stored.lease()
        if lease is None:
            return None
        kernel = self._usable(stored.path)
        return kernel and replace(kernel, spec=spec, id=spec, version=stored.upstream, lease=lease)

    def _choose(self, spec: str, kernels: Iterable[releases.K]) -> releases.K | None:
        """Return what `releases.choose` does, but no kernel that is damaged or not trusted."""
        chosen = releases.choose(spec, left := [*kernels])
        while isinstance(chosen, Stored) and not self._usable(chosen.path):
            left.remove(chosen)
            chosen = releases.choose(spec, left)
        return chosen

    def _usable(self, path: Path) -> Kernel | None:
        """Return the kernel in a directory; None if it is damaged or not trusted."""
        # To look at each file of a kernel takes 20 ms.
        if path not in self._kernels:
            self._kernels[path] = self._whole(path) if is_trusted_tree(path) else None
        return self._kernels[path]

    def _whole(self, path: Path) -> Kernel | None:
        """Return the kernel in a directory; None if it can't have been unpacked as it is."""
        try:
            kernel = read_kernel(path, arch=self.arch)
            check_kernel(kernel)
        except KernelError as error:
            refuse(path, str(error))
            return None
        return kernel

    def _all(
        self, spec: str, archives: Sequence[Archive], progress: Callable[[str], None]
    ) -> list[Stored | Package]:
        stored = self.kernels()
        # The store's come first, for `releases.choose` takes the first among equals.
        known: list[Stored | Package] = [*stored]
        chooses = spec in releases.WORDS or releases.is_glob(spec)
        failures: list[str] = []
        for archive in archives:
            try:
                offered = archive.kernels(lambda text: progress(f"{spec}: {text}"))
                outdated = archive.outdated
            except Unreachable as error:
                offered, outdated = [], str(error)
            if outdated and (not offered or (chooses and stored)):
                failures.append(outdated)
                continue
            if outdated:
                progress(f"{spec}: {outdated}; the lists that were read earlier count")
            known += offered
            if not chooses and self._choose(spec, known):
                break
        else:
            if failures and not (chooses and known):
                raise Unreachable("; ".join(failures))
        if failures:
            left = "in the store alone" if known == stored else "among the other kernels"
            progress(f"{spec}: {'; '.join(failures)}; it is looked for {left}")
        return known

    def _archives(self) -> list[Archive]:
        """Return the distribution's packages, and then the sources'."""
        from pytest_bpflink.vm.kernels.debian import Archive

        # The lines name archives of this machine's architecture.
        lines = self._lines if self.arch == architectures.own() else None
        configured = () if lines is None else sources.configured(lines)
        added = [Archive(self._added / source.digest, source) for source in configured]
        return [self._distribution(), *added]

    def _distribution(self) -> Archive:
        from pytest_bpflink.vm.kernels.debian import Archive

        return Archive(self._apt, arch="" if self.arch == architectures.own() else self.arch)

    @property
    def _added(self) -> Path:
        return usable(self.root.parent / "apt") / "added"

    def _why(self, error: Exception) -> str:
        if isinstance(error, OSError):
            return f"{self.root} can't be written to ({error.strerror})"
        return str(error)

    def _unfetched(self, spec: str, error: Exception) -> KernelFetchError:
        here = ", ".join(kernel.upstream for kernel in self.kernels())
        has = f"has {here}" if here else "is empty"
        way_out = "; BPFLINK_CACHE names another directory" if isinstance(error, OSError) else ""
        return KernelFetchError(
            f"there is no kernel {spec} in the store, which {has}, and none can be fetched:"
            f" {self._why(error)}{way_out}"
        )

    def _writing(self, progress: Callable[[str], None]) -> AbstractContextManager[None]:
        """Hold the store's lock, and first remove what interrupted runs left."""
        waiting = "waiting for another run that is fetching a kernel"
        return locked(self.root, unfinished=_UNFINISHED, waits=lambda: progress(waiting))

    def _fetch(
        self, spec: str, package: Package, archive: Archive, progress: Callable[[str], None]
    ) -> Stored:
        parts = archive.parts(package)
        self._check_space(package, parts)
        size = sum(part.download_size for part in parts) / 1e6
        progress(f"{spec}: fetching Linux {package.upstream} ({size:.0f} MB)")
        try:
            files = archive.download(parts)
            progress(f"{spec}: unpacking")
            stored = self._unpack(package, files)
        except Unreachable:
            # The partial download stays, and the next run continues it.
            raise
        except Exception:
            archive.forget()
            raise
        archive.forget()
        missing = check_kernel(read_kernel(stored.path, arch=self.arch))
        if missing:
            progress(f"{spec}: built without {', '.join(missing)}; what needs it is skipped")
        return stored

    def _unpack(self, package: Package, files: Iterable[Path]) -> Stored:
        name = f"{package.release}_{package.version}"
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=self.root) as temporary:
            tree = Path(temporary) / "tree"
            tree.mkdir()
            packages.extract(files, tree)
            kernel = read_kernel(tree, arch=self.arch)
            if kernel.modules is None:
                raise KernelFetchError(f"the packages of Linux {kernel.release} hold no modules")
            packages.index(kernel)
            check_kernel(kernel)
            withdraw(tree)
            # A kernel of this name that is damaged or not trusted.
            with suppress(FileNotFoundError):
                (self.root / name).rename(Path(temporary) / "replaced")
            tree.rename(self.root / name)
            self._kernels.pop(self.root / name, None)
        return Stored(self.root / name, package.release, package.version)

    def _remove(self, kernel: Stored) -> bool:
        with kernel.unused() as unused:
            if unused:
                doomed = kernel.path.rename(self.root / f"{_UNFINISHED}{kernel.path.name}")
                shutil.rmtree(doomed)
        return unused

    def _check_space(self, package: Package, parts: Iterable[Package]) -> None:
        needed = sum(part.download_size + part.installed_size for part in parts)
        # A tenth more, for depmod's indexes and for sizes that are rounded up to blocks.
        needed += needed // 10
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise KernelFetchError(
                f"not enough room for Linux {package.upstream}: {needed >> 20} MiB are needed in"
                f" {self.root}, {free >> 20} MiB are free; make room (bpflink kernels prune), or"
                " set BPFLINK_CACHE to a directory on another disk"
            )


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def _silent(_text: str) -> None:
    pass
