"""Archives of packages that users add: deb lines, each with the keyring that verifies it.

Knows the form of a deb line, and apt's complaints about one archive. `debian` lists the kernels in
an archive, and `store` fetches them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm.kernels.apt import Apt, configuration, distrust
from pytest_bpflink.vm.kernels.kernel import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterable

VARIABLE = "BPFLINK_KERNEL_SOURCES"
"""The variable that names a file with a deb line for each source."""

_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<what>\w[\w+-]*:\S+\s.*)")

# Options that can't weaken the check of the signature.
_OPTIONS = ("signed-by", "check-valid-until", "check-date", "arch")

_FORM = "deb [signed-by=KEYRING] URI SUITE COMPONENT..."

# An exported key begins with a packet, the first bit of which is set (RFC 9580, 4.2).
_PACKET = 0x80
_ARMOR = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"

# What apt prints of lists that it could not read, beside signatures.
_FAILURES = re.compile(r"^[EW]: (.*Failed to fetch.*|.*doesn't have the component.*)|^E: (.*)")


class SourceError(KernelError):
    """A source can't be used as it is written; the message says how to write it."""


@dataclass(frozen=True)
class Source:
    """An archive of packages, `URI SUITE COMPONENT...`, and the keyring that verifies it.

    `options` are those of its deb line but signed-by.
    """

    what: str
    options: str
    keyring: Path

    @property
    def name(self) -> str:
        """URI and suite, without a password."""
        uri, suite = self.what.split()[:2]
        return f"{re.sub('//[^/@]*@', '//', uri)} {suite}"

    @property
    def line(self) -> str:
        """The deb line without its keyring."""
        return f"deb [{self.options}] {self.what}" if self.options else f"deb {self.what}"

    @property
    def whole_line(self) -> str:
        """The deb line with the absolute path of its keyring."""
        options = f"{self.options} signed-by={self.keyring}".strip()
        return f"deb [{options}] {self.what}"

    @property
    def digest(self) -> str:
        """A name for what was read with this line and these keys."""
        return hashlib.sha256(self.line.encode() + self.keyring.read_bytes()).hexdigest()[:16]


def parse(line: str, directory: Path) -> Source:
    """Return the source that a deb line describes; a keyring is relative to DIRECTORY.

    Raises SourceError.
    """
    found = _LINE.fullmatch(line.strip())
    suite, *components = found["what"].split()[1:] if found else [""]
    # A suite that ends with a slash is a directory, and has no components.
    if not found or suite.endswith("/") is bool(components):
        raise SourceError(f"{line.strip()!r} is no source of kernels: write {_FORM}")
    source = Source(found["what"], "", directory)
    options = _options(source.name, found["options"] or "")
    keyring = options.pop("signed-by", "")
    if not keyring:
        raise SourceError(
            f"{source.name}: its deb line names no keyring, so nothing can be verified: write"
            f" {_FORM}"
        )
    return replace(
        source,
        options=" ".join(f"{option}={value}" for option, value in options.items()),
        keyring=_checked(source.name, directory / os.path.expanduser(keyring)),
    )


def configured(lines: Iterable[str] = ()) -> list[Source]:
    """Return the sources in deb lines, and in the file that `BPFLINK_KERNEL_SOURCES` names.

    Raises SourceError.
    """
    found = [parse(line, Path.cwd()) for line in lines]
    named = os.environ.get(VARIABLE)
    if named:
        file = Path(named).absolute()
        try:
            written = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise SourceError(f"{VARIABLE}: {file} can't be read ({why})") from None
        stripped = [line.strip() for line in written]
        found += [
            parse(line, file.parent) for line in stripped if line and not line.startswith("#")
        ]
    return list(dict.fromkeys(found))


def tidy(directory: Path, *, unused_since: float) -> None:
    """Remove partial downloads below DIRECTORY, and the lists of sources that nobody reads.

    DIRECTORY has a directory for each `Source.digest`. UNUSED_SINCE is in seconds since 1970.
    """
    for each in directory.glob("*"):
        stamp = each / "updated"
        if (stamp if stamp.exists() else each).stat().st_mtime <= unused_since:
            shutil.rmtree(each)
        for part in each.glob("cache/archives/*.deb*"):
            part.unlink()


class SourceApt(Apt):
    """apt for one source: it trusts the keys of this source, and no others of this host."""

    def __init__(self, directory: Path, source: Source) -> None:
        super().__init__(directory, ())
        self._source = source
        self._keys = source.keyring.read_bytes()
        # apt tells from the name of a keyring whether it is armored.
        ending = "asc" if self._keys.startswith(_ARMOR) else "gpg"
        self.own_files = (*Apt.own_files, f"keys/source.{ending}")

    def _contents(self) -> tuple[bytes, ...]:
        # signed-by would split a path at its commas and spaces.
        trusted = (
            f'Dir::Etc::trusted "/dev/null";\nDir::Etc::trustedparts "{self._directory}/keys";\n'
        )
        settings = configuration(self._directory) + trusted
        return f"{self._source.line}\n".encode(), settings.encode(), b"", self._keys

    def _complaint(self, errors: str) -> str:
        said = distrust(errors)
        if "is expired" in said:
            return (
                f"{self._source.name}: its list of packages has expired; an archive of the past"
                f" needs check-valid-until=no in the brackets of its deb line ({said})"
            )
        if said:
            return f"{self._source.name}: {self._source.keyring} does not verify it ({said})"
        failures = filter(None, map(_FAILURES.match, errors.splitlines()))
        found = next((failure[1] or failure[2] for failure in failures), "")
        return found and f"{self._source.name}: {found}"


def _options(name: str, text: str) -> dict[str, str]:
    # A path of a keyring may hold spaces.
    parts = [part.partition("=") for part in re.split(r"\s+(?=[a-z-]+=)", text.strip()) if part]
    for option, _, value in parts:
        if option not in _OPTIONS or not value:
            raise SourceError(
                f"{name}: the option {option!r} of its deb line is not one of"
                f" {', '.join(_OPTIONS)}: kernels are taken from verified archives only"
            )
    return {option: value for option, _, value in parts}


def _checked(name: str, keyring: Path) -> Path:
    try:
        with keyring.open("rb") as file:
            head = file.read(len(_ARMOR))
    except OSError as error:
        raise SourceError(
            f"{name}: its keyring {keyring} can't be read ({error.strerror})"
        ) from None
    if head != _ARMOR and not (head and head[0] & _PACKET):
        raise SourceError(
            f"{name}: {keyring} is no keyring that apt reads: write one by gpg --export KEY"
        )
    return keyring
