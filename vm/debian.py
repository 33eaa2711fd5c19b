"""Kernels in Debian's packages: which there are, what they are made of, and fetching them.

Reads more suites than the host has, through `apt`. What is done with a package once it is here is
`store`'s business.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_bpflink.vm.apt import Apt, AptError, stanzas
from pytest_bpflink.vm.image import KernelFetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

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

_WAY_OUT = "give the path of a kernel (an image, an unpacked package, or a build tree)"


@dataclass(frozen=True)
class Package:
    """A binary package; sizes are in bytes. `locked` are its dependencies on the same version."""

    name: str
    version: str
    download_size: int
    installed_size: int
    locked: tuple[str, ...]

    @property
    def release(self) -> str:
        """What `uname -r` says on the kernel in this package."""
        return self.name.removeprefix("linux-image-")

    @property
    def upstream(self) -> str:
        """The kernel's own version: 6.1.176 in 6.1.176-1."""
        return self.version.rsplit("-", 1)[0]


class Archive:
    """The distribution's packages, seen through an apt directory of our own.

    Not safe for use by two processes at once: hold the store's lock.
    """

    def __init__(self, directory: Path) -> None:
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise KernelFetchError(
                f"there is no apt on this host to fetch kernels with: {_WAY_OUT}"
            )
        self._apt = Apt(directory, _SUITES)

    def kernels(self, progress: Callable[[str], None]) -> list[Package]:
        """Return the plain kernels on offer, in no order; reads the network once an hour."""
        try:
            self._apt.update(progress)
        except AptError as error:
            raise KernelFetchError(f"{error} to fetch kernels from: {_WAY_OUT}") from error
        names = self._output(
            "apt-cache", "search", "--names-only", "^linux-image-[0-9]"
        ).splitlines()
        plain = {name.split()[0] for name in names if is_plain(name.split()[0], architecture())}
        if not plain:
            return []
        packages = parse_packages(self._output("apt-cache", "show", *sorted(plain)))
        return [package for package in packages if not _is_meta(package)]

    def parts(self, kernel: Package) -> list[Package]:
        """Return the packages that make up a kernel: itself and what it depends on by version.

        From Linux 6.19 on, `linux-image-*` is a shell and the image and modules are in packages
        that it depends on with `(= version)`: those are built together with it.
        """
        parts = [kernel]
        wanted = list(kernel.locked)
        while wanted:
            name = wanted.pop()
            if any(part.name == name for part in parts):
                continue
            shown = parse_packages(self._output("apt-cache", "show", f"{name}={kernel.version}"))
            parts.append(shown[0])
            wanted.extend(shown[0].locked)
        return parts

    def download(self, packages: Iterable[Package], directory: Path) -> list[Path]:
        """Download packages into DIRECTORY; apt checks signatures and hashes, and resumes."""
        named = [f"{package.name}={package.version}" for package in packages]
        self._output("apt-get", "download", *named, cwd=directory)
        return sorted(directory.glob("*.deb"))

    def _output(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        try:
            return self._apt.output(program, *arguments, cwd=cwd)
        except AptError as error:
            raise KernelFetchError(str(error)) from error


def architecture() -> str:
    """Return Debian's name of this machine's architecture."""
    return subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()


def is_plain(name: str, arch: str) -> bool:
    """Tell whether a package is a kernel of the plain, signed flavour.

    Cloud kernels are built without 9p, which guests reach the host's root by; realtime ones behave
    otherwise than what people run; `-unsigned` and `-dbg` are the same kernel once more.
    """
    flavour = re.fullmatch(rf"linux-image-\d[^-]*((?:-[^-]+)*)-{re.escape(arch)}", name)
    return flavour is not None and not {"cloud", "rt"} & set(flavour[1].split("-"))


def parse_packages(text: str) -> list[Package]:
    """Read the output of `apt-cache show`."""
    packages = []
    for stanza in stanzas(text):
        version = stanza["Version"]
        locked = re.findall(
            rf"([a-z0-9][a-z0-9+.-]+) \(= {re.escape(version)}\)", stanza.get("Depends", "")
        )
        packages.append(
            Package(
                name=stanza["Package"],
                version=version,
                download_size=int(stanza["Size"]),
                installed_size=int(stanza["Installed-Size"]) * 1024,
                locked=tuple(locked),
            )
        )
    return packages


def version_key(version: str) -> tuple[tuple[tuple[tuple[int, ...], int], ...], ...]:
    """Return a key that sorts versions as dpkg does (deb-version(7)), epochs aside."""
    upstream, _, revision = version.rpartition("-") if "-" in version else (version, "", "")
    return tuple(
        tuple(
            ((*map(_rank, text), 0), int(number or 0))
            for text, number in re.findall(r"(\D*)(\d*)", part)
        )
        for part in (upstream, revision)
    )


def _rank(char: str) -> int:
    if char == "~":
        return -1
    return ord(char) if char.isalpha() else ord(char) + 256


def _is_meta(package: Package) -> bool:
    return any(name.startswith("linux-image-") for name in package.locked)
