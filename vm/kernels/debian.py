"""Kernels in packages of Debian and Ubuntu: lists them, finds the parts of each, downloads them.

Reads more suites of Debian than the host has, or one of the user's `sources`, through `apt`.
`store` unpacks and keeps the packages.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_bpflink.vm.cache import is_texts, recall
from pytest_bpflink.vm.kernels.apt import Apt, AptError, NoMirror, stanzas
from pytest_bpflink.vm.kernels.kernel import Gone, Unreachable
from pytest_bpflink.vm.kernels.sources import SourceApt
from pytest_bpflink.vm.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pytest_bpflink.vm.kernels.sources import Source

# From the oldest with a kernel that has BPF links to the newest.
_SUITES = (
    "bullseye",
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
    "forky",
    "sid",
    "experimental",
    "bullseye-security",
    "bookworm-security",
    "trixie-security",
)

# What apt says of a package that the mirror lists and does not have, over http and as a file.
_NOT_THERE = re.compile(r" 404 |File not found")

_WAY_OUT = "give the path of a kernel (an image, an unpacked package, or a build tree)"
_OWN_ARCHIVE = ", or name this host's own archive in bpflink_kernel_sources: "


@dataclass(frozen=True)
class Package:
    """A binary package; sizes are in bytes. `locked` names dependencies of exactly its version."""

    name: str
    version: str
    download_size: int
    installed_size: int
    locked: tuple[str, ...]

    @property
    def release(self) -> str:
        """The release, `uname -r`, of the kernel in this package."""
        return self.name.removeprefix("linux-image-").removeprefix("unsigned-")

    @property
    def upstream(self) -> str:
        """The kernel's own version: 6.1.176 in 6.1.176-1."""
        return self.version.rsplit("-", 1)[0]


_Packages = dict[tuple[str, str], Package]


class Archive:
    """Debian's packages, or those of a user's source, read through an apt directory of our own.

    They are of the architecture ARCH, by default this machine's.

    Not safe for use by two processes at once: hold the store's lock.
    """

    def __init__(self, directory: Path, source: Source | None = None, *, arch: str = "") -> None:
        self.source = source
        #: Why the lists of packages are not up to date, in one phrase; empty if they are.
        self.outdated = ""
        self._known = directory / "packages.json"
        self._packages: _Packages = {}
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise Unreachable(f"there is no apt on this host to fetch kernels with: {_WAY_OUT}")
        self._arch = arch
        self._apt = SourceApt(directory, source) if source else Apt(directory, _SUITES, arch=arch)

    def kernels(self, progress: Callable[[str], None]) -> list[Package]:
        """Return the plain kernels in the lists of packages, in no order.

        The lists are read at most once an hour. If that fails, the lists that were read last count.
        Raises Unreachable.
        """
        try:
            self.outdated = self._apt.update(progress)
        except NoMirror as error:
            way_out = f"{_WAY_OUT}{_OWN_ARCHIVE}{error.own}" if error.own else _WAY_OUT
            raise Unreachable(f"{error} to fetch kernels from: {way_out}") from error
        except AptError as error:
            raise Unreachable(f"{error} to fetch kernels from: {_WAY_OUT}") from error
        self._packages = self._read_packages()
        return [
            package
            for package in self._packages.values()
            if package.name.startswith("linux-image-") and self._is_complete(package)
        ]

    def __contains__(self, kernel: object) -> bool:
        """Whether a kernel is one of this archive's."""
        return (
            isinstance(kernel, Package)
            and self._packages.get((kernel.name, kernel.version)) == kernel
        )

    def parts(self, kernel: Package) -> list[Package]:
        """Return the packages that make up a kernel: itself and what it depends on by version.

        From Linux 6.19 on, Debian's `linux-image-*` is empty. Image and modules are in packages
        that are built with it, on which it depends with `(= version)`. Ubuntu has some of the
        modules in `linux-modules-extra-*`, on which the kernel does not depend.
        """
        parts = {kernel.name: kernel}
        extra = self._packages.get((_extra(kernel), kernel.version))
        if extra:
            parts[extra.name] = extra
        wanted = list(kernel.locked)
        while wanted:
            name = wanted.pop()
            part = self._packages.get((name, kernel.version))
            if part and name not in parts:
                parts[name] = part
                wanted.extend(part.locked)
        return [*parts.values()]

    def _is_complete(self, kernel: Package) -> bool:
        """Whether all parts of a kernel are there: suites keep images without their other packages.

        In November 2026 trixie-backports has no modules for its 6.19, 7.0 and 7.1. Its 6.18 lacks
        only `linux-base-*`, which holds the config and indexes, and no part of the kernel.
        """
        parts = self.parts(kernel)
        needed = {name for part in parts for name in part.locked}
        missing = needed - {part.name for part in parts}
        return all(name.startswith("linux-base-") for name in missing)

    def _read_packages(self) -> _Packages:
        """Return the packages of kernels, and those they are locked to, by name and version."""
        # apt-cache takes seconds, for it reads the lists of all suites each time.
        updated = self._apt.updated
        packages = self._recall(updated)
        if packages is None:
            packages = self._search()
            if updated is not None:
                values = [asdict(package) for package in packages]
                known = json.dumps({"updated": updated, "packages": values})
                write_whole(self._known, known.encode())
        return {(package.name, package.version): package for package in packages}

    def _recall(self, updated: float | None) -> list[Package] | None:
        known = recall(self._known)
        if updated is None or known.get("updated") != updated:
            return None
        try:
            return [_package(**values) for values in known["packages"]]
        except (LookupError, TypeError):
            return None

    def _search(self) -> list[Package]:
        found = self._output("apt-cache", "search", "--names-only", "^linux-[a-z]+(-[a-z]+)?-[0-9]")
        there = {line.split()[0] for line in found.splitlines()}
        shown = plain(there, self._arch or architecture())
        packages: list[Package] = []
        names = shown
        while names:
            packages += parse_packages(self._output("apt-cache", "show", *sorted(names)))
            packages = [package for package in packages if not _is_meta(package)]
            wanted = {name for package in packages for name in package.locked}
            wanted |= {_extra(package) for package in packages}
            names = (wanted & there) - shown
            shown |= names
        return packages

    def download(self, packages: Iterable[Package]) -> list[Path]:
        """Download packages, or continue a download; call `forget` once they are used."""
        try:
            return self._apt.download(
                *(f"{package.name}={package.version}" for package in packages)
            )
        except AptError as error:
            kind = Gone if _NOT_THERE.search(str(error)) else Unreachable
            raise kind(str(error)) from error

    def forget(self) -> None:
        """Remove the downloaded files, whether complete or partial."""
        self._apt.forget()

    def _output(self, program: str, *arguments: str) -> str:
        try:
            return self._apt.output(program, *arguments)
        except AptError as error:
            raise Unreachable(str(error)) from error


def architecture() -> str:
    """Return Debian's name of this machine's architecture."""
    return subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()


def plain(names: Iterable[str], arch: str) -> set[str]:
    """Return the packages that hold kernels of the plain flavour.

    They are Debian's, else Ubuntu's `generic`, else those of someone who builds one flavour. Of a
    kernel that is there twice, it is the signed one.
    """
    all_names = set(names)
    for is_one in (partial(is_plain, arch=arch), _is_generic, _is_usual):
        found = {name for name in all_names if is_one(name)}
        if found:
            return {name for name in found if _signed(name) == name or _signed(name) not in found}
    return set()


def is_plain(name: str, arch: str) -> bool:
    """Whether a package is a kernel of Debian's plain, signed flavour.

    Cloud kernels lack 9p, through which guests see the host's root; realtime kernels behave unlike
    the kernels that people run; `-unsigned` and `-dbg` packages hold the same kernel once more.
    """
    flavour = re.fullmatch(rf"linux-image-\d[^-]*((?:-[^-]+)*)-{re.escape(arch)}", name)
    return flavour is not None and not {"cloud", "rt"} & set(flavour[1].split("-"))


def _is_generic(name: str) -> bool:
    return re.fullmatch(r"linux-image-(unsigned-)?\d.*-generic", name) is not None


def _is_usual(name: str) -> bool:
    named = re.fullmatch(r"linux-image-(?:unsigned-)?\d([^-]*(?:-[^-]+)*)", name)
    return named is not None and not {"cloud", "rt", "dbg", "dbgsym"} & set(named[1].split("-"))


def _signed(name: str) -> str:
    return name.replace("linux-image-unsigned-", "linux-image-")


def _extra(kernel: Package) -> str:
    return f"linux-modules-extra-{kernel.release}"


def parse_packages(text: str) -> list[Package]:
    """Read the output of `apt-cache show`."""
    packages = []
    for stanza in stanzas(text):
        version, depends = stanza["Version"], stanza.get("Depends", "")
        locked = re.findall(rf"([a-z0-9][a-z0-9+.-]+) \(= {re.escape(version)}\)", depends)
        # Ubuntu's depend on their modules by name, which has the release in it.
        named = re.findall(r"linux-modules-\d[a-z0-9+.~-]*", depends)
        packages.append(
            Package(
                name=stanza["Package"],
                version=version,
                download_size=int(stanza["Size"]),
                installed_size=int(stanza["Installed-Size"]) * 1024,
                locked=tuple(dict.fromkeys([*locked, *named])),
            )
        )
    return packages


def _is_meta(package: Package) -> bool:
    return any(name.startswith("linux-image-") for name in package.locked)


def _package(
    *, name: Any, version: Any, download_size: Any, installed_size: Any, locked: Any
) -> Package:
    """Return a package of which all was kept. Raises TypeError if a value is of another type."""
    sizes = isinstance(download_size, int) and isinstance(installed_size, int)
    if not (sizes and is_texts([name, version]) and is_texts(locked)):
        raise TypeError
    return Package(name, version, download_size, installed_size, tuple(locked))
