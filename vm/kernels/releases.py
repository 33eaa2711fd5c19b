"""Chooses the kernels that a SPEC means among known ones; composes the error if it means none.

Knows version numbers only: 6.1 is a series, 6.1.176 an upstream version, 6.1.0-50-amd64 a release.
`store` and `debian` know which kernels there are.
"""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

#: SPECs that choose among series: the newest longterm one, the newest, the oldest.
WORDS = ("lts", "newest", "oldest")

# https://www.kernel.org/category/releases.html in November 2026. A list, since neither a kernel nor
# its package says that it is longterm: kernel.org names a series about once a year, mostly the last
# of the year, after its release. 5.4 and 4.19 have ended, and have few BPF links or none.
LONGTERM = ("5.10", "5.15", "6.1", "6.6", "6.12", "6.18")


class Known(Protocol):
    """A kernel in the store, or in a package that can be fetched."""

    @property
    def release(self) -> str:
        """The kernel's `uname -r`."""

    @property
    def version(self) -> str:
        """The version of the package; `version_key` sorts it."""

    @property
    def upstream(self) -> str:
        """The kernel's own version."""


K = TypeVar("K", bound=Known)


def is_glob(spec: str) -> bool:
    """Whether a SPEC is a pattern, which may name several kernels."""
    return any(character in spec for character in "*?[")


def choose(spec: str, known: Iterable[K]) -> K | None:
    """Return the kernel that a release or a word means: the newest one that matches.

    Among equals the first is chosen. `lts`, `newest` and `oldest` never mean a release candidate.
    """
    if spec not in WORDS:
        return _newest(kernel for kernel in known if matches(spec, kernel))
    finished = [kernel for kernel in known if not _is_candidate(kernel)]
    names = {series(kernel) for kernel in finished}
    if spec == "lts":
        names &= set(LONGTERM)
    if not names:
        return None
    wanted = (min if spec == "oldest" else max)(names, key=version_key)
    return _newest(kernel for kernel in finished if series(kernel) == wanted)


def expand(pattern: str, known: Collection[Known]) -> list[str]:
    """Return the SPECs that a pattern means, the oldest first.

    It means each series that it matches (`6.1*` is 6.1, 6.12, 6.18...), else each upstream version
    (`6.1.*`), else each release (`*+deb13-amd64`). Candidates count where nothing else matches.
    """
    ordered = sorted(known, key=lambda kernel: version_key(kernel.version))
    finished = [kernel for kernel in ordered if not _is_candidate(kernel)]
    for kernels in (finished, ordered):
        for names in (
            [series(kernel) for kernel in kernels],
            [kernel.upstream for kernel in kernels],
            [kernel.release for kernel in kernels],
        ):
            matching = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
            if matching:
                return list(dict.fromkeys(matching))
    return []


def meant(spec: str, known: Iterable[K]) -> list[K]:
    """Return every kernel that a SPEC matches: also the older ones of a series."""
    kernels = list(known)
    if spec in WORDS:
        chosen = choose(spec, kernels)
        return [chosen] if chosen else []
    if is_glob(spec):
        names = expand(spec, kernels)
        return [kernel for kernel in kernels if any(matches(name, kernel) for name in names)]
    return [kernel for kernel in kernels if matches(spec, kernel)]


def matches(spec: str, kernel: Known) -> bool:
    """Whether a SPEC means a kernel: 6.1, 6.1.176, 6.12.107+deb13, or a full release."""
    # 7.3-rc7 is what upstream calls 7.3~rc7.
    spec = re.sub(r"(?<=\d)-rc(?=\d)", "~rc", spec)
    if spec in (kernel.release, kernel.upstream):
        return True
    # 7.3 also means 7.3~rc7, which sorts before 7.3 and so is taken only while there is no 7.3.
    if kernel.upstream.startswith((f"{spec}.", f"{spec}~")):
        return True
    # Debian's 6.1.0-50-amd64 is no 6.1.0: an unfinished release needs to be more than a number.
    return not re.fullmatch(r"[\d.]+", spec) and kernel.release.startswith(f"{spec}-")


def series(kernel: Known) -> str:
    """Return the first two numbers of a kernel's version."""
    return ".".join(re.split(r"[.~]", kernel.upstream)[:2])


def sentence(spec: str, known: Collection[Known], stored: Collection[Known]) -> str:
    """Return the message that no kernel matches SPEC, with the known kernels by series."""
    if not known:
        return f"there is no kernel {spec}; there are none at all (is there a network?)"
    own = [kernel for kernel in known if spec.startswith(f"{series(kernel)}.")]
    if own:
        return f"there is no kernel {spec}; of {series(own[0])} there are: {', '.join(_all(own))}"
    return "\n".join([f"there is no kernel {spec}; there are:", *offer(known, stored)])


def offer(known: Iterable[Known], stored: Iterable[Known]) -> list[str]:
    """Return a line for each series: its newest version, the number of older ones, and notes."""
    by_series = _by_series(known)
    here = {name: _all(kernels) for name, kernels in _by_series(stored).items()}
    lines = []
    for name in sorted(by_series, key=version_key):
        *older, newest = _all(by_series[name])
        notes = [
            f"{len(older)} older" if older else "",
            "longterm" if name in LONGTERM else "",
            f"in the store: {', '.join(here[name])}" if name in here else "",
        ]
        lines.append(f"  {name:<6}{newest:<12}{'; '.join(filter(None, notes))}".rstrip())
    return lines


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


def _newest(kernels: Iterable[K]) -> K | None:
    return max(kernels, key=lambda kernel: version_key(kernel.version), default=None)


def _is_candidate(kernel: Known) -> bool:
    return "~rc" in kernel.upstream


def _by_series(kernels: Iterable[Known]) -> dict[str, list[Known]]:
    found: dict[str, list[Known]] = {}
    for kernel in kernels:
        found.setdefault(series(kernel), []).append(kernel)
    return found


def _all(kernels: Iterable[Known]) -> Sequence[str]:
    """Return the upstream versions, each once, the newest last."""
    return sorted({kernel.upstream for kernel in kernels}, key=version_key)


def _rank(char: str) -> int:
    if char == "~":
        return -1
    return ord(char) if char.isalpha() else ord(char) + 256
