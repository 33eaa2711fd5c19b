"""The kernels that `bisect` searches: those from one kernel to another, in the store or packaged.

Knows releases only. The store lists the kernels.
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

    There is one SPEC for each series or, if FIRST and LAST are of one series, one for each release.
    Raises KernelError.
    """
    store = Store()
    known = store.kernels() if stored else store.known("*", progress)
    return of(known, first, last, stored=store.kernels())


def of(known: Sequence[Known], first: str, last: str, *, stored: Sequence[Known]) -> list[str]:
    """Choose as `between` does among the kernels KNOWN; an error also lists the STORED ones."""
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
        # A series means the kernel that --kernel takes for it; FIRST and LAST may be more exact.
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
            " ('bpflink kernels list --offered' shows all that can be fetched)"
        )
    return specs


def _meant(spec: str, known: Sequence[Known], stored: Sequence[Known]) -> Known:
    chosen = releases.choose(spec, known)
    if chosen is None:
        raise KernelNotFound(releases.sentence(spec, known, stored))
    return chosen
