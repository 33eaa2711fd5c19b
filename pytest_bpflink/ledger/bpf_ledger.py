"""Assertions about the BPF objects of processes under test: which they hold, and which they leave.

The `bpf_ledger` fixture gives a `BpfLedger`. Whether a *test* cleans up is judged by `ledger`.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from pytest_bpflink.introspection import ids
from pytest_bpflink.introspection.attachments import CgroupHolder
from pytest_bpflink.introspection.descriptors import held_by
from pytest_bpflink.introspection.entries import entries_of, entry_of
from pytest_bpflink.introspection.holders import (
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
    """The BPF objects on this kernel, and their holders; `watch()` follows objects that appear."""

    def __init__(self, *, alone: bool) -> None:
        """`alone`: nobody else uses this kernel, as in a guest."""
        self._alone = alone

    def alive(self, kind: Kind | None = None) -> tuple[Entry, ...]:
        """Return all links, programs and maps on the system, or those of one kind."""
        kinds = (kind,) if kind else ids.KINDS
        return entries_of((each, number) for each in kinds for number in ids.alive(each))

    def held_by(self, pid: int, kind: Kind | None = None) -> tuple[Entry, ...]:
        """Return the objects that a process has open, all or of one kind; none if it is gone.

        Raises `PermissionError` for a process that this one may not look into.
        """
        keys = dict.fromkeys(key for key, _ in held_by(pid))
        return entries_of(key for key in keys if kind in {None, key[0]})

    def assert_gone(self, entries: Iterable[Entry], *, within: float = 1.0) -> None:
        """Assert that none of these objects exists any more; programs go some time after their use.

        Raises `AssertionError` after `within` seconds, with the objects left and their holders.
        """
        __tracebackhide__ = True
        _await_end([(entry.kind, entry.id) for entry in entries], within, alone=True)

    @contextlib.contextmanager
    def watch(self) -> Iterator[Watch]:
        """Watch which objects appear during a `with` block; the `Watch` judges them afterwards."""
        watch = Watch(alone=self._alone)
        try:
            yield watch
        finally:
            watch.end()


class Watch:
    """The objects that appeared during a `with bpf_ledger.watch()` block, except strangers'.

    Strangers are processes that this one did not start and other sessions; in a guest there are
    none. A link without a visible holder is a stranger's: another session's mounts can't be seen.
    """

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone
        self._highest = {kind: max(ids.alive(kind), default=0) for kind in ids.KINDS}
        self._keys: list[Key] | None = None

    def alive(self) -> tuple[Entry, ...]:
        """Return the objects of the block that are alive now; programs may just be ending."""
        return entries_of(_unsettled(self._appeared(), alone=self._alone))

    def assert_nothing_left(self, *, within: float = 1.0) -> None:
        """Assert that no object of the block exists any more.

        Raises `AssertionError` after `within` seconds, with the objects left and their holders.
        """
        __tracebackhide__ = True
        _await_end(self._appeared(), within, alone=self._alone)

    def end(self) -> None:
        """End the block: objects that appear from now on are not watched."""
        self._keys = self._appeared()

    def _appeared(self) -> list[Key]:
        if self._keys is not None:
            return self._keys
        return [
            (kind, number) for kind in ids.KINDS for number in ids.alive(kind, self._highest[kind])
        ]


def _await_end(keys: Iterable[Key], within: float, *, alone: bool) -> None:
    __tracebackhide__ = True
    deadline = time.monotonic() + within
    left = [key for key in keys if ids.is_alive(*key)]
    while unsettled := _unsettled(left, alone=alone):
        if time.monotonic() > deadline:
            raise AssertionError(f"after {within:g} s there is still {_described(unsettled)}")
        time.sleep(min(0.02, within / 10))
        left = [key for key in unsettled if ids.is_alive(*key)]


def _described(found: Mapping[Key, Sequence[Holder]]) -> str:
    # An object that another object holds goes with it, so the other one is named.
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
    """Return the live objects that are no stranger's, with their holders."""
    alive = [key for key in keys if ids.is_alive(*key)]
    found = holders_of(alive) if alive else {}
    if alone:
        return found
    pids = family().pids()
    ours: dict[Key, tuple[Holder, ...]] = {}
    for kind in ids.KINDS:  # in this order: links hold programs, and programs hold maps
        for key, holders in found.items():
            if key[0] == kind and _is_ours(key, holders, pids, ours):
                ours[key] = holders
    return ours


def _is_ours(
    key: Key, holders: Collection[Holder], family: Collection[int], ours: Container[Key]
) -> bool:
    if not holders:
        # A link is pinned in a mount that can't be seen; a program may be ending, or be attached.
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
                pass  # a process that holds the object, too, says more
    return any(verdicts) if verdicts else True
