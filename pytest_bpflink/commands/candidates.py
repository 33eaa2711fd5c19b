"""The kernels from one to another, of those that can be had: what `bisect` searches.

Knows releases only; which there are, the store and the packages tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bpflink.vm.kernels import KernelError, KernelNotFound, Store, releases
from pytest_bpflink.vm.kernels.releases import version_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_bpflink.vm.kernels.releases import Known


def between(first: str, last: str, *, stored: bool, progress: Callable[[str], None]) -> list[str]:
    """Return the SPECs from FIRST to LAST, both included, the oldest first.

    That is one for each series, and for each release where both are of one series. Raises
    KernelError.
    """
    store = Store()
    known = store.kernels() if stored else store.known("*", progress)
    return of(known, first, last, stored=store.kernels())


def of(known: Sequence[Known], first: str, last: str, *, stored: Sequence[Known]) -> list[str]:
    """As `between`, of these kernels."""
    low, high = (_meant(spec, known, stored) for spec in (first, last))
    if version_key(low.version) > version_key(high.version):
        raise KernelError(f"{first} is newer than {last}: write {last}..{first}")
    if releases.series(low) == releases.series(high):
        named = {
            kernel.upstream: kernel.upstream
            for kernel in sorted(known, key=lambda kernel: version_key(kernel.version))
            if version_key(low.version) <= version_key(kernel.version) <= version_key(high.version)
        }
    else:
        ends = releases.series(low), releases.series(high)
        # Of a series the one that --kernel takes; an end may be named more exactly.
        named = {
            name: name
            for name in sorted({releases.series(kernel) for kernel in known}, key=version_key)
            if version_key(ends[0]) <= version_key(name) <= version_key(ends[1])
        }
        named |= {
            end: spec
            for end, spec in zip(ends, (first, last), strict=True)
            if spec not in releases.WORDS
        }
    specs = list(named.values())
    if len(specs) < 2:
        raise KernelError(
            f"there is one kernel from {first} to {last}, {specs[0]}: a search needs two or more"
            " ('bpflink kernels list --offered' shows what can be had)"
        )
    return specs


def _meant(spec: str, known: Sequence[Known], stored: Sequence[Known]) -> Known:
    chosen = releases.choose(spec, known)
    if chosen is None:
        raise KernelNotFound(releases.sentence(spec, known, stored))
    return chosen
