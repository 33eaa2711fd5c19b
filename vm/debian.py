"""Kernels in Debian's packages: which there are, what they are made of, and fetching them.

Works through apt with a private directory: the host's own mirror, proxy settings and keyring, but
more suites than the host has, and none of the host's package state. What is done with a package
once it is here is `store`'s business.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm.image import KernelFetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
)
_SECURITY_SUITES = ("bullseye-security", "bookworm-security", "trixie-security")

_FRESH_SECONDS = 3600


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
                "there is no apt on this host to fetch kernels with: give the path of a kernel"
                " (an image, an unpacked package, or a build tree)"
            )
        self._directory = directory

    def kernels(self, progress: Callable[[str], None]) -> list[Package]:
        """Return the plain kernels on offer, in no order; reads the network once an hour."""
        self._update(progress)
        names = self._apt("apt-cache", "search", "--names-only", "^linux-image-[0-9]").splitlines()
        plain = {name.split()[0] for name in names if is_plain(name.split()[0], architecture())}
        if not plain:
            return []
        packages = parse_packages(self._apt("apt-cache", "show", *sorted(plain)))
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
            shown = parse_packages(self._apt("apt-cache", "show", f"{name}={kernel.version}"))
            parts.append(shown[0])
            wanted.extend(shown[0].locked)
        return parts

    def download(self, packages: Iterable[Package], directory: Path) -> list[Path]:
        """Download packages into DIRECTORY; apt checks signatures and hashes, and resumes."""
        named = [f"{package.name}={package.version}" for package in packages]
        self._apt("apt-get", "download", *named, cwd=directory)
        return sorted(directory.glob("*.deb"))

    def _update(self, progress: Callable[[str], None]) -> None:
        stamp = self._directory / "updated"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < _FRESH_SECONDS:
            return
        progress("reading the lists of packages (about 50 MB)")
        for part in ("state/lists/partial", "cache/archives/partial"):
            (self._directory / part).mkdir(parents=True, exist_ok=True)
        (self._directory / "status").touch()
        (self._directory / "sources.list").write_text(sources(host_sources()))
        (self._directory / "apt.conf").write_text(_configuration(self._directory))
        done = self._run("apt-get", "update")
        # What could not be read is missed later, if it is: a mirror need not carry each suite.
        if done.returncode == 0 and "Failed to fetch" not in done.stderr:
            stamp.touch()

    def _apt(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        done = self._run(program, *arguments, cwd=cwd)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            raise KernelFetchError(
                f"{program} {arguments[0]} failed; is there a network? {' '.join(said)}"
            )
        return done.stdout

    def _run(
        self, program: str, *arguments: str, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        # Given on the command line the configuration comes after the host's, and wins.
        command = [program, "--config-file", str(self._directory / "apt.conf"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


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


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """Yield the paragraphs of a deb822 text; continuation lines are left out."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        fields = re.findall(r"^([A-Za-z0-9-]+): *(.*)$", paragraph, re.MULTILINE)
        if fields:
            yield dict(fields)


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


def host_sources() -> list[dict[str, str]]:
    """Return the host's own package sources, as apt describes them."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    return list(stanzas(listed.stdout))


def sources(host: list[dict[str, str]]) -> str:
    """Return the list of sources to read: the host's own mirrors, with more suites.

    Raises KernelFetchError if none of them is a mirror of Debian.
    """
    lines = [
        f"deb {_keyring_option(mirror)}{mirror['Repo-URI']} {suite} main\n"
        for suites in (_SUITES, _SECURITY_SUITES)
        for mirror in _mirrors(host, of=suites)[:1]
        for suite in suites
    ]
    if not lines:
        raise KernelFetchError(
            "this host's apt knows no Debian mirror to fetch kernels from: give the path of a"
            " kernel (an image, an unpacked package, or a build tree)"
        )
    return "".join(lines)


def _mirrors(host: list[dict[str, str]], *, of: tuple[str, ...]) -> list[dict[str, str]]:
    names = (*of, "stable-security") if of is _SECURITY_SUITES else (*of, "stable", "testing")
    return [
        source
        for source in host
        if source.get("Component") == "main" and source.get("Release") in names
    ]


def _keyring_option(source: dict[str, str]) -> str:
    named = source.get("Signed-By", "")
    # It may also hold the key itself, which does not fit on one line.
    if not named.startswith("/"):
        found = sorted(Path("/usr/share/keyrings").glob("debian-archive-keyring.*"))
        named = str(found[0]) if found else ""
    return f"[signed-by={named}] " if named else ""


def _configuration(directory: Path) -> str:
    # As root apt would drop to its own user, who can't read a private directory. The host's hooks
    # after an update (desktop notifiers, caches) are not for this one.
    return f"""\
Dir::State "{directory}/state";
Dir::State::status "{directory}/status";
Dir::Cache "{directory}/cache";
Dir::Etc::sourcelist "{directory}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Acquire::Languages "none";
APT::Sandbox::User "root";
#clear APT::Update;
"""
