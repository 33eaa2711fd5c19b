"""apt with a private directory: the host's own mirror, proxies and keyring, but other suites.

The host's package state is neither read nor changed. `debian` chooses the packages.
"""

from __future__ import annotations

import platform
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pytest_bpflink.vm import programs
from pytest_bpflink.vm.cache import is_trusted
from pytest_bpflink.vm.whole_file import make_directory, write_whole

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Sequence

_RELEASES = ("bullseye", "bookworm", "trixie", "forky", "sid", "experimental")
_ALIASES = ("oldoldstable", "oldstable", "stable", "testing", "unstable")

_KEYRINGS = Path("/usr/share/keyrings")

_FRESH_SECONDS = 3600

# `apt-get download` starts over each time; apt-helper continues a partial download.
_HELPER = Path("/usr/lib/apt/apt-helper")

# apt continues a partial file only if its time is that of the file on the server. apt's http sets
# the time when it gets SIGTERM, but not when it finds apt-helper dead: so apt-helper ignores
# SIGTERM.
_DEAF_TO_TERM = ("sh", "-c", 'trap "" TERM; exec "$@"', "sh")


# What apt says of signatures, keys and keyrings. apt 3 verifies with sqv, which speaks of OpenPGP.
_DISTRUST = re.compile(
    r"GPG error|OpenPGP|[Ss]ignatures? (?:couldn't|were|verification)|is not signed|unauthenticated"
    r"|is expired|is not valid yet"
)


# The list of architectures is cleared, since a file of apt's adds to the host's list.
_ARCHITECTURE = """\
APT::Architecture "{0}";
#clear APT::Architectures;
APT::Architectures {{ "{0}"; }};
"""


class AptError(Exception):
    """apt is missing, knows no Debian mirror, or failed; the message says which."""


class NoMirror(AptError):  # noqa: N818 (reads as what happened)
    """The host's apt knows no Debian mirror; `own` is a deb line for an archive that it knows."""

    def __init__(self, own: str, *, is_empty: bool) -> None:
        # Without their lists, apt names no archives.
        unread = "has read no lists of packages yet (apt-get update), and " if is_empty else ""
        super().__init__(f"this host's apt {unread}knows no Debian mirror")
        self.own = own


class Apt:
    """apt-get and apt-cache with a directory and a list of suites of our own.

    `arch` is the architecture of the packages, by default this machine's. `kind` is `deb` for
    binary packages, `deb-src` for sources. Not safe for use by two processes at once: hold a lock.
    If the disk is full, methods raise OSError with ENOSPC.
    """

    # The files that apt reads of ours, with `_contents`.
    own_files: tuple[str, ...] = ("sources.list", "apt.conf", "status")

    def __init__(
        self,
        directory: Path,
        suites: Sequence[str],
        *,
        arch: str = "",
        kind: Literal["deb", "deb-src"] = "deb",
    ) -> None:
        self._directory = directory
        self._suites = suites
        self._arch = arch
        self._kind = kind

    def update(self, progress: Callable[[str], None]) -> str:
        """Read the lists of packages, at most once an hour; return why they are not up to date.

        The reason is one phrase, empty if they are up to date. Without a network, or with a
        signature that apt rejects, the lists that were read earlier stay. Raises AptError.
        """
        if not shutil.which("apt-get"):
            raise AptError("there is no apt on this host")
        stamp = self._directory / "updated"
        ours = [self._directory / name for name in self.own_files]
        age = time.time() - stamp.stat().st_mtime if stamp.exists() else -1.0
        # A stamp from the future has another clock's time.
        if 0 <= age < _FRESH_SECONDS and all(map(is_trusted, ours)):
            return ""
        progress("reading the lists of packages")
        for part in ("state/lists/partial", "cache/archives/partial"):
            make_directory(self._directory / part)
        for file, content in zip(ours, self._contents(), strict=True):
            write_whole(file, content)
        # Without a network, pauses before retries would take 9 s; failing at once takes 0.1 s.
        done = self._run("apt-get", "-o", "Acquire::Retries::Delay=false", "update")
        complaint = self._complaint(done.stderr)
        if not complaint:
            stamp.touch()
        return complaint

    def output(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        """Run apt-get or apt-cache and return what it prints. Raises AptError."""
        done = self._run(program, *arguments, cwd=cwd)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            what = f"{Path(program).name} {arguments[0]}"
            question = "" if distrust(done.stderr) else " is there a network?"
            raise AptError(f"{what} failed;{question} {' '.join(said)}")
        return done.stdout

    @property
    def updated(self) -> float | None:
        """When the lists were read last, in seconds since 1970."""
        stamp = self._directory / "updated"
        return stamp.stat().st_mtime if stamp.exists() else None

    def download(self, *packages: str) -> list[Path]:
        """Download packages, `NAME=VERSION`, and return their files; call `forget` afterwards.

        apt checks signatures and hashes. Any later process can continue a download that was cut
        off. Raises AptError.
        """
        make_directory(self._archives)
        # Not in _archives: apt-get leaves out files that its working directory has already.
        listed = self.output("apt-get", "download", "--print-uris", *packages, cwd=self._directory)
        wanted = re.findall(r"^'(.+)' (\S+) \d+ (\S+)$", listed, re.MULTILINE)
        files = [self._archives / file for _, file, _ in wanted]
        if _HELPER.exists():
            # apt prints spaces as they are. apt-helper quotes a URI that has one, and by that what
            # apt has quoted already, such as "+", once more.
            quoted = [(uri.replace(" ", "%20"), *others) for uri, *others in wanted]
            self._continue([word for triple in quoted for word in triple])
        else:
            self.forget()
        # `apt-get download` accepts these files, and checks the signatures of the lists.
        self.output("apt-get", "download", *packages, cwd=self._archives)
        return files

    def closure(self, *packages: str) -> list[str]:
        """Return packages and all that they depend on, each as `NAME=VERSION`. Raises AptError."""
        wish = ("install", "--simulate", "--no-install-recommends", *packages)
        installed = re.findall(r"^Inst (\S+) \((\S+) ", self.output("apt-get", *wish), re.MULTILINE)
        return [f"{name}={version}" for name, version in installed]

    def forget(self) -> None:
        """Remove the downloaded files, whether complete or partial."""
        for path in self._archives.glob("*.deb*"):
            path.unlink()

    def _continue(self, triples: Sequence[str]) -> None:
        """Download files, each by its URI, name and hash, from where they were cut off."""
        try:
            self.output(str(_HELPER), "download-file", *triples, cwd=self._archives)
        except AptError as error:
            if "Hash Sum mismatch" not in str(error):
                raise
            # The partial file may have been the beginning of another file; apt has removed it.
            self.output(str(_HELPER), "download-file", *triples, cwd=self._archives)

    def _contents(self) -> tuple[bytes, ...]:
        """Return what is in each of `own_files`. Raises AptError."""
        listed = sources(host_sources(), self._suites, kind=self._kind)
        return listed.encode(), configuration(self._directory, self._arch).encode(), b""

    def _complaint(self, errors: str) -> str:
        """Return in one phrase why the update with these errors failed; empty if it did not."""
        if not any(map(_is_failure, errors.splitlines())):
            return ""
        said = distrust(errors)
        if said:
            return f"apt rejects the mirror's signature or this host's keyring ({said})"
        return "there is no network"

    @property
    def _archives(self) -> Path:
        return self._directory / "cache/archives"

    def _run(
        self, program: str, *arguments: str, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        # apt reads --config-file after the host's configuration, so it wins.
        command = [program, "--config-file", str(self._directory / "apt.conf"), *arguments]
        if program == str(_HELPER):
            command = [*_DEAF_TO_TERM, *command]
        return programs.run(command, cwd=cwd)


def distrust(errors: str) -> str:
    """Return what apt says of a signature or key that it rejects; empty if it rejects none."""
    found = next(filter(_DISTRUST.search, errors.splitlines()), "")
    # What precedes in a line says only that the older lists stay.
    return re.sub(r"^[WE]: (.*GPG error: )?", "", found)


def _is_failure(line: str) -> bool:
    """Whether a line of an update reports that an existing list could not be read.

    A suite that the mirror does not carry is no failure.
    """
    if line.startswith(("E: Some index files", "W: Some index files")):
        return False
    absent = ("404  Not Found", "File not found", "does not have a Release file")
    # If the mirror has another key, and lacks one of the suites, apt prints no other line.
    kept = "The repository is not updated"
    failed = line.startswith("E:") or "Failed to fetch" in line or kept in line
    return failed and not any(reason in line for reason in absent)


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """Yield the paragraphs of a deb822 text; continuation lines are left out."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        fields = re.findall(r"^([A-Za-z0-9-]+): *(.*)$", paragraph, re.MULTILINE)
        if fields:
            yield dict(fields)


def host_sources() -> list[dict[str, str]]:
    """Return the host's own package sources, as apt describes them."""
    listed = programs.run(["apt-get", "indextargets", "Created-By: Packages"])
    return list(stanzas(listed.stdout))


def sources(host: list[dict[str, str]], suites: Sequence[str], *, kind: str) -> str:
    """Return the list of sources to read: the host's own mirrors, with other suites.

    Raises NoMirror if none of them is a mirror of Debian.
    """
    mirrors = {security: _mirror(host, security=security) for security in (False, True)}
    lines = [
        f"{kind} {_keyring_option(mirror)}{mirror['Repo-URI']} {suite} main\n"
        for suite in suites
        if (mirror := mirrors[suite.endswith("-security")])
    ]
    if not lines:
        raise NoMirror(_own_line(host), is_empty=not host)
    return "".join(lines)


def _mirror(host: list[dict[str, str]], *, security: bool) -> dict[str, str] | None:
    for source in host:
        name, _, suffix = source.get("Release", "").partition("-")
        if (
            name in _RELEASES + _ALIASES
            and source.get("Component") == "main"
            and (suffix == "security") is security
        ):
            return source
    return None


def _own_line(host: list[dict[str, str]]) -> str:
    """Return a deb line for the archive of this host's distribution; empty if apt knows none."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return ""
    for source in host:
        if source.get("Component") == "main" and source.get("Origin", "").lower() == release["ID"]:
            keyring = _keyring(source, release["ID"]) or "KEYRING"
            return f"deb [signed-by={keyring}] {source['Repo-URI']} {source['Release']} main"
    return ""


def _keyring_option(source: dict[str, str]) -> str:
    keyring = _keyring(source, "debian")
    return f"[signed-by={keyring}] " if keyring else ""


def _keyring(source: dict[str, str], distribution: str) -> str:
    """Return the path of the keyring for a source, or else for a distribution; empty for neither.

    apt 2.6 does not tell Signed-By, which may also hold the key itself.
    """
    named = source.get("Signed-By", "")
    found = sorted(_KEYRINGS.glob(f"{distribution}-archive-keyring.*"))
    return named if named.startswith("/") else str(found[0]) if found else ""


def configuration(directory: Path, arch: str = "") -> str:
    """Return the settings of an apt that works in DIRECTORY, for packages of ARCH."""
    # As root apt would switch to the user _apt, who can't read a private directory. The host's
    # hooks after an update (desktop notifiers, caches) must not run.
    return f"""\
{_ARCHITECTURE.format(arch) if arch else ""}\
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
