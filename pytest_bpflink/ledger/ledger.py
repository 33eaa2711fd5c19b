"""The ledger: which links, programs and maps came to be in whose time, and what is left of them.

It is told when a test or a wider fixture begins and ends, and sees by ids what appeared in between.
Of that only what is this session's is ever called a leak: what the project's own API made, what
this process or one that it started holds, what is pinned in the session's own mounts; in a guest,
where nobody else is, everything. What strangers hold is theirs.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_bpflink.introspection import ids, pins
from pytest_bpflink.introspection.descriptors import held_by
from pytest_bpflink.introspection.entries import entry_of
from pytest_bpflink.introspection.holders import DescriptorHolder, ObjectHolder, cgroups, holders_of
from pytest_bpflink.system import estates
from pytest_bpflink.system.processes import family

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from pytest_bpflink.introspection.entries import Entry
    from pytest_bpflink.introspection.holders import Holder
    from pytest_bpflink.introspection.ids import Key

_GRACE = 0.1  # seconds, for what ends a moment after its holder: a child that was just killed

# Programs and maps that nothing holds any more end after grace periods of RCU: up to 283 ms on an
# idle 6.18.
_DRAIN = 1.0


class LeakWarning(UserWarning):
    """A test left links, programs or maps behind, with `--bpf-leaks=warn`."""


@dataclass(eq=False)
class Owner:
    """A test or a fixture, in whose time objects appear."""

    name: str
    item: Any
    """Whatever the caller knows it by."""
    keys: list[Key] = field(default_factory=list)
    """What appeared in its time and is not judged yet."""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Leak:
    """Something that outlived its owner, and who holds it."""

    owner: Owner
    entry: Entry
    holders: tuple[Holder, ...]

    def __str__(self) -> str:
        # Attached without a link, as a rule, to what can't be looked through.
        held = ", ".join(map(str, self.holders)) or "the kernel: no process, no pin, no cgroup"
        return f"{self.owner} left {self.entry}, held by {held}"


@dataclass(frozen=True)
class _Later:
    """What is to be judged later."""

    owner: Owner
    key: Key
    made_here: bool
    due: float


@dataclass(frozen=True)
class _Found:
    """What is left of an owner's: for sure, perhaps just draining, and with wider fixtures."""

    left: list[Key]
    draining: list[Key]
    with_elders: list[Key]


class Ledger:
    """Follows what appears on the system while tests run; until `close()`."""

    def __init__(self, *, alone: bool, places: Collection[Path] = ()) -> None:
        """Begin. `alone` says that everything here is this session's, `places` where its files are.

        Raises `BpfError` without the privilege to enumerate objects.
        """
        self._alone = alone
        self._places = places
        self._pid = os.getpid()
        self._highest = dict.fromkeys(ids.KINDS, 0)
        # What was in the hands of this session while its owner's time ran.
        self._seen: set[Key] = set()
        self._later: list[_Later] = []
        self._elders: set[int] = set()
        self._undo = contextlib.ExitStack()
        self._made = self._undo.enter_context(ids.noting())
        self._family = family()
        self.advance(None)

    def close(self) -> None:
        """Stop."""
        self._undo.close()

    # Whose time it is.

    def advance(self, owner: Owner | None) -> None:
        """Put down what appeared since the last time to an owner, or to nobody."""
        for kind in ids.KINDS:
            for number in ids.alive(kind, self._highest[kind]):
                self._highest[kind] = number
                if owner:
                    owner.keys.append((kind, number))

    def begin(self) -> None:
        """A test begins: what appeared meanwhile is nobody's, what lives by now is not the test's.

        A process that lived before belongs to a wider fixture. What it comes to hold while a test
        runs may be meant to outlive that test.
        """
        self.advance(None)
        self._elders = self._family.known - {self._pid}

    def wider_began(self) -> None:
        """A fixture of wider scope is set up: its processes are not the test's either."""
        self._elders = self._family.pids() - {self._pid}

    def look(self, owner: Owner) -> None:
        """Note what of an owner's is in this session's hands, while its fixtures still hold it."""
        if self._alone:
            return  # it is this session's, whoever holds it
        self.advance(owner)
        if owner.keys:
            self._seen.update(set(owner.keys).intersection(self._held(owner.keys)))

    # What is left.

    def judge(self, owner: Owner, *, forgive_self: bool = False) -> list[Leak]:
        """Return what an owner left, whose fixtures are done. Programs and maps may drain yet.

        With `forgive_self` this process may still hold things.
        """
        self.advance(owner)
        appeared, owner.keys = owner.keys, []
        if self._is_forked:
            return []
        # Most tests leave nothing. Only where one did is it worth looking who holds what.
        keys = [key for key in appeared if ids.is_listed(*key)]
        leaks = self._judge(owner, keys, forgive_self=forgive_self) if keys else []
        self._made.difference_update(appeared)
        self._seen.difference_update(appeared)
        return leaks

    def _judge(self, owner: Owner, keys: list[Key], *, forgive_self: bool) -> list[Leak]:
        found = self._look_at(keys, forgive_self=forgive_self)
        if found.left:
            gc.collect()  # a cycle with an exception in it, say, may hold what the test let go
            found = self._wait_for(found, forgive_self=forgive_self)
        attached = self._attached(found.draining)
        leaks = self._leaks([(owner, key, key in self._made) for key in (*found.left, *attached)])
        drained = time.monotonic() + _DRAIN
        # What leaked objects hold drains with them.
        later = dict.fromkeys(found.draining if not leaks else (), drained)
        later |= dict.fromkeys(found.with_elders, math.inf)
        for key, due in later.items():
            self._later.append(_Later(owner, key, key in self._made, due))
        return leaks

    def overdue(self) -> list[Leak]:
        """Return what had time to drain and is still there."""
        return self._take(before=time.monotonic())

    def finish(self) -> list[Leak]:
        """Return what is left at the end, after the time to drain, when all fixtures are done."""
        deadline = time.monotonic() + _DRAIN
        while self._later and time.monotonic() < deadline:
            self._later = [each for each in self._later if ids.is_alive(*each.key)]
            if all(each.due < time.monotonic() for each in self._later):
                break
            time.sleep(_DRAIN / 100)
        return self._take(before=math.inf)

    def _take(self, *, before: float) -> list[Leak]:
        due = [each for each in self._later if each.due <= before]
        self._later = [each for each in self._later if each.due > before]
        return self._leaks([(each.owner, each.key, each.made_here) for each in due])

    def _wait_for(self, found: _Found, *, forgive_self: bool) -> _Found:
        """Give what is left the time to end after all."""
        deadline = time.monotonic() + _GRACE
        while True:
            again = self._look_at(found.left, forgive_self=forgive_self)
            found = _Found(
                again.left,
                [*found.draining, *again.draining],
                [*found.with_elders, *again.with_elders],
            )
            if not found.left or time.monotonic() > deadline:
                return found
            time.sleep(_GRACE / 20)

    def _look_at(self, keys: Collection[Key], *, forgive_self: bool) -> _Found:
        """Find this session's among some objects."""
        found = _Found([], [], [])
        held, pinned = self._held(keys), self._pinned()
        for key in keys:
            holding = held.get(key, set())
            if forgive_self:
                holding -= {self._pid}
            if key in pinned or holding - self._elders:
                found.left.append(key)
            elif holding:
                found.with_elders.append(key)
            elif key not in held and self._is_ours(key) and ids.is_alive(*key):
                (found.left if key[0] == "link" else found.draining).append(key)
        return found

    def _attached(self, draining: Iterable[Key]) -> list[Key]:
        """Return the programs that are attached to a cgroup without a link, to stay."""
        # Of the few that this process attached so, or pinned.
        programs = {number for kind, number in draining if (kind, number) in self._made}
        return sorted({key for key, _ in cgroups(programs)}) if programs else []

    def _is_ours(self, key: Key) -> bool:
        return self._alone or key in self._made or key in self._seen

    def _held(self, keys: Collection[Key]) -> dict[Key, set[int]]:
        """Return who in the family holds what, of the kinds of some objects."""
        kinds = {kind for kind, _ in keys}
        held: dict[Key, set[int]] = {}
        for pid in self._family.pids():
            with contextlib.suppress(PermissionError):
                for key, _ in held_by(pid, kinds):
                    held.setdefault(key, set()).add(pid)
        return held

    def _pinned(self) -> set[Key]:
        own = (*estates.own(), *self._places)
        mounts = [mount for mount in pins.mounts() if any(map(mount.is_relative_to, own))]
        return {key for mount in mounts for key, _ in pins.pinned_in(mount)}

    def _leaks(self, suspects: Iterable[tuple[Owner, Key, bool]]) -> list[Leak]:
        alive = [each for each in suspects if ids.is_alive(*each[1])]
        if not alive or self._is_forked:
            return []
        found = holders_of(key for _, key, _ in alive)
        leaks = []
        for owner, key, made_here in alive:
            entry, holders = entry_of(key), found[key]
            # What another object holds is that object's matter.
            if any(isinstance(holder, ObjectHolder) for holder in holders) or entry is None:
                continue
            if made_here or not self._is_strangers(holders):
                leaks.append(Leak(owner, entry, holders))
        return leaks

    @property
    def _is_forked(self) -> bool:
        """Whether this is a child of the process that tests, on its way out through pytest."""
        return os.getpid() != self._pid

    def _is_strangers(self, holders: Iterable[Holder]) -> bool:
        pids = {holder.pid for holder in holders if isinstance(holder, DescriptorHolder)}
        return bool(pids) and not pids & self._family.pids()
