"""Assertions about what programs under test do to the system: what they hold, and what they leave.

What the `bpf_ledger` fixture gives. Whether a *test* cleans up after itself is `ledger`'s matter.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from pytest_bpflink.introspection import ids
from pytest_bpflink.introspection.descriptors import held_by
from pytest_bpflink.introspection.entries import entry_of
from pytest_bpflink.introspection.holders import (
    CgroupHolder,
    DescriptorHolder,
    ObjectHolder,
    PinHolder,
    holders_of,
)
from pytest_bpflink.system import estates
from pytest_bpflink.system.processes import family

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence

    from pytest_bpflink.introspection.entries import Entry
    from pytest_bpflink.introspection.holders import Holder
    from pytest_bpflink.introspection.ids import Key, Kind


class BpfLedger:
    """What is alive on this kernel, and who holds it: `with bpf_ledger.watch() as watch`."""

    def __init__(self, *, alone: bool) -> None:
        """`alone` says that there is nobody else on this kernel, as in a guest."""
        self._alone = alone

    def alive(self, kind: Kind | None = None) -> tuple[Entry, ...]:
        """Return all links, programs and maps on the system, or those of one kind."""
        kinds = (kind,) if kind else ids.KINDS
        return _entries((each, number) for each in kinds for number in ids.alive(each))

    def held_by(self, pid: int, kind: Kind | None = None) -> tuple[Entry, ...]:
        """Return what a process has open, all or of one kind; nothing of a process that is gone.

        Raises `PermissionError` for a process that this one may not look into.
        """
        keys = dict.fromkeys(key for key, _ in held_by(pid))
        return _entries(key for key in keys if kind in {None, key[0]})

    def assert_gone(self, entries: Iterable[Entry], *, within: float = 1.0) -> None:
        """Assert that the kernel has none of these any more; it takes a while over programs.

        Raises `AssertionError` after `within` seconds, with who holds what is left.
        """
        __tracebackhide__ = True
        _await_end([(entry.kind, entry.id) for entry in entries], within, alone=True)

    @contextlib.contextmanager
    def watch(self) -> Iterator[Watch]:
        """Watch what appears for the length of a `with` block, and let it be judged afterwards."""
        watch = Watch(alone=self._alone)
        try:
            yield watch
        finally:
            watch.end()


class Watch:
    """What appeared during a `with bpf_ledger.watch()` block, less what is other people's.

    That is what a process holds that this one did not start, and on the running kernel what
    somebody keeps where nobody sees it, in a mount of another session.
    """

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone
        self._highest = {kind: max(ids.alive(kind), default=0) for kind in ids.KINDS}
        self._keys: list[Key] | None = None

    def alive(self) -> tuple[Entry, ...]:
        """Return what appeared in the block and is alive now; programs may just be ending."""
        return _entries(_unsettled(self._appeared(), alone=self._alone))

    def assert_nothing_left(self, *, within: float = 1.0) -> None:
        """Assert that the kernel has nothing of it any more.

        Raises `AssertionError` after `within` seconds, with who holds what is left.
        """
        __tracebackhide__ = True
        _await_end(self._appeared(), within, alone=self._alone)

    def end(self) -> None:
        """End the block: what appears from now on is not watched."""
        self._keys = self._appeared()

    def _appeared(self) -> list[Key]:
        if self._keys is not None:
            return self._keys
        return [
            (kind, number) for kind in ids.KINDS for number in ids.alive(kind, self._highest[kind])
        ]


def _entries(keys: Iterable[Key]) -> tuple[Entry, ...]:
    return tuple(entry for entry in map(entry_of, keys) if entry)


def _await_end(keys: Iterable[Key], within: float, *, alone: bool) -> None:
    __tracebackhide__ = True
    deadline = time.monotonic() + within
    left = [key for key in keys if ids.is_alive(*key)]
    while unsettled := _unsettled(left, alone=alone):
        if time.monotonic() > deadline:
            raise AssertionError(f"after {within:g} s there is still {_told(unsettled)}")
        time.sleep(min(0.02, within / 10))
        left = [key for key in unsettled if ids.is_alive(*key)]


def _told(found: Mapping[Key, Sequence[Holder]]) -> str:
    # A program goes with the link that holds it, which is told.
    roots = {
        key: holders
        for key, holders in found.items()
        if not any(isinstance(holder, ObjectHolder) for holder in holders)
    }
    return "\n  and ".join(
        f"{entry_of(key) or key}, held by {', '.join(map(str, holders)) or 'the kernel'}"
        for key, holders in (roots or found).items()
    )


def _unsettled(keys: Iterable[Key], *, alone: bool) -> dict[Key, tuple[Holder, ...]]:
    """Return what is alive of some objects and is no stranger's, with its holders."""
    alive = [key for key in keys if ids.is_alive(*key)]
    found = holders_of(alive) if alive else {}
    if alone:
        return found
    pids = family().pids()
    ours: dict[Key, tuple[Holder, ...]] = {}
    for kind in ids.KINDS:  # links hold programs, and these maps
        for key, holders in found.items():
            if key[0] == kind and _is_ours(key, holders, pids, ours):
                ours[key] = holders
    return ours


def _is_ours(
    key: Key, holders: Collection[Holder], family: Collection[int], ours: Container[Key]
) -> bool:
    if not holders:
        # A link is pinned where it can't be seen; a program may be ending, or be attached.
        return key[0] != "link"
    verdicts = []
    for holder in holders:
        match holder:
            case DescriptorHolder():
                verdicts.append(holder.pid in family)
            case ObjectHolder():
                verdicts.append((holder.kind, holder.id) in ours)
            case CgroupHolder():
                verdicts.append(not estates.is_cgroup_of_another_session(holder.path))
            case PinHolder():
                pass  # a process that holds it too says more
    return any(verdicts) if verdicts else True
