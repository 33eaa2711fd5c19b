"""The ledger: which links, programs and maps appeared while a test ran, and which of them are left.

The caller reports when a test or a wider fixture begins and ends; ids show which objects appeared
in between. Only this session's objects can be leaks: objects that the project's API made, that this
process or a descendant holds, or that are pinned in the session's mounts. In a guest, which nobody
else uses, every object is the session's.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_bpflink.errors import BpfError
from pytest_bpflink.introspection import ids, pins
from pytest_bpflink.introspection.attachments import Places, attachable, attachments, everywhere
from pytest_bpflink.introspection.descriptors import held_by
from pytest_bpflink.introspection.entries import entry_of
from pytest_bpflink.introspection.holders import DescriptorHolder, ObjectHolder, holders_of
from pytest_bpflink.system import estates, namespaces
from pytest_bpflink.system.cgroup2 import cgroup2_mount
from pytest_bpflink.system.processes import family

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from pytest_bpflink.introspection.entries import Entry
    from pytest_bpflink.introspection.holders import Holder
    from pytest_bpflink.introspection.ids import Key

_GRACE = 0.1  # seconds; objects end a moment after their holder, such as a child just killed

# Seconds. Programs and maps without holders end after grace periods of RCU: up to 283 ms on an idle
# 6.18.
_DRAIN = 1.0


class LeakWarning(UserWarning):
    """A test left links, programs or maps behind, with `--bpf-leaks=warn`."""


@dataclass(eq=False)
class Owner:
    """A test or a fixture, which owns the objects that appear while it runs."""

    name: str
    item: Any
    """The caller's object for the test or fixture."""
    keys: list[Key] = field(default_factory=list)
    """The objects that appeared while it ran, and are not judged yet."""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Leak:
    """An object that outlived its owner, and its holders."""

    owner: Owner
    entry: Entry
    holders: tuple[Holder, ...]

    def __str__(self) -> str:
        # As a rule a program that is attached where holders can't be found, say to a socket.
        held = ", ".join(map(str, self.holders)) or "the kernel: no process, no pin, no cgroup"
        return f"{self.owner} left {self.entry}, held by {held}"


@dataclass(frozen=True)
class _Later:
    """An object that is to be judged later."""

    owner: Owner
    key: Key
    made_here: bool
    due: float


@dataclass(frozen=True)
class _Found:
    """The objects left of an owner.

    They are held, attached without a link, perhaps just draining, or held by wider fixtures.
    """

    held: list[Key]
    attached: list[Key]
    draining: list[Key]
    with_elders: list[Key]

    @property
    def left(self) -> list[Key]:
        """The objects that don't end by themselves."""
        return [*self.held, *self.attached]


class Ledger:
    """Follows which objects appear on the system while tests run, until `close()`."""

    def __init__(self, *, alone: bool, places: Collection[Path] = ()) -> None:
        """Begin. `alone`: all objects are this session's. `places`: directories of its files.

        Raises `BpfError` without the privilege to enumerate objects.
        """
        self._alone = alone
        self._places = places
        self._pid = os.getpid()
        self._highest = dict.fromkeys(ids.KINDS, 0)
        # Objects that this session held while their owner ran.
        self._seen: set[Key] = set()
        self._later: list[_Later] = []
        # Processes that lived before the present test began.
        self._elders: set[int] = set()
        self._undo = contextlib.ExitStack()
        self._made = self._undo.enter_context(ids.noting())
        self._family = family()
        self.advance(None)

    def close(self) -> None:
        """Stop."""
        self._undo.close()

    # Which owner runs.

    def advance(self, owner: Owner | None) -> None:
        """Give the objects that appeared since the last call to an owner, or to nobody."""
        for kind in ids.KINDS:
            for number in ids.alive(kind, self._highest[kind]):
                self._highest[kind] = number
                if owner:
                    owner.keys.append((kind, number))

    def begin(self) -> None:
        """A test begins: objects that appeared since the last test belong to nobody.

        Processes that already live belong to wider fixtures, not to this test. Objects that they
        open while the test runs may be meant to outlive it.
        """
        self.advance(None)
        self._elders = self._family.known - {self._pid}

    def wider_began(self) -> None:
        """A fixture of wider scope is set up: its processes do not belong to the test either."""
        self._elders = self._family.pids() - {self._pid}

    def look(self, owner: Owner) -> None:
        """Note which objects of an owner this session holds, while its fixtures still hold them."""
        if self._alone:
            return  # all objects are this session's, whoever holds them
        self.advance(owner)
        if owner.keys:
            self._seen.update(set(owner.keys).intersection(self._held(owner.keys)))

    # Which objects are left.

    def judge(self, owner: Owner, *, forgive_self: bool = False) -> list[Leak]:
        """Return the leaks of an owner after its fixtures are torn down.

        Programs and maps that may be draining are judged later. With `forgive_self` this process's
        own descriptors do not count.
        """
        self.advance(owner)
        appeared, owner.keys = owner.keys, []
        if self._is_forked:
            return []
        # Most tests leave nothing: holders are searched only for objects that are left.
        keys = [key for key in appeared if ids.is_alive(*key)]
        leaks = self._judge(owner, keys, forgive_self=forgive_self) if keys else []
        self._forget(appeared)
        return leaks

    def _forget(self, keys: list[Key]) -> None:
        self._made.difference_update(keys)
        self._seen.difference_update(keys)

    def _judge(self, owner: Owner, keys: list[Key], *, forgive_self: bool) -> list[Leak]:
        found = self._look_at(keys, forgive_self=forgive_self)
        if found.left:
            gc.collect()  # a reference cycle, say of an exception, may still hold objects
            found = self._wait_for(found, forgive_self=forgive_self)
        leaks = self._leaks([(owner, key, key in self._made) for key in found.left])
        drained = time.monotonic() + _DRAIN
        # Where there are leaks, the draining objects are taken for objects that the leaks hold.
        later = dict.fromkeys(found.draining if not leaks else (), drained)
        later |= dict.fromkeys(found.with_elders, math.inf)
        for key, due in later.items():
            self._later.append(_Later(owner, key, key in self._made, due))
        return leaks

    def judge_attachments(self, owner: Owner, *, forgive_self: bool = False) -> list[Leak]:
        """Return the leaks of an owner that only the target of an attachment keeps.

        To be called before a wider fixture ends, which may have the target; and then `settle`.
        """
        # Many fixtures may end one after the other: what is gone is not asked for again.
        alive = [key for key in owner.keys if ids.is_alive(*key)]
        if len(alive) < len(owner.keys):
            self._forget([*set(owner.keys).difference(alive)])
            owner.keys = alive
        programs = [key for key in alive if key[0] == "program"]
        if not programs or self._is_forked:
            return []
        deadline = time.monotonic() + _GRACE
        while True:
            found = self._look_at(programs, forgive_self=forgive_self)
            if not found.attached or time.monotonic() > deadline:
                break
            time.sleep(_GRACE / 20)
        # Some targets can't be asked: sockmaps before 5.17.
        types = attachable(number for _, number in found.draining)
        due = time.monotonic() + _DRAIN
        later = [key for key in found.draining if key[1] in types]
        self._later += [_Later(owner, key, key in self._made, due) for key in later]
        owner.keys = [key for key in owner.keys if key not in {*found.attached, *later}]
        return self._leaks([(owner, key, key in self._made) for key in found.attached])

    def judge_pins(self, owner: Owner) -> list[Leak]:
        """Return the leaks of an owner that are pinned in this session's mounts.

        To be called before a wider fixture ends, which may have the mount.
        """
        alive = [key for key in owner.keys if ids.is_alive(*key)]
        if not alive or self._is_forked:
            return []
        pinned = self._pinned().intersection(alive)
        owner.keys = [key for key in owner.keys if key not in pinned]
        return self._leaks([(owner, key, key in self._made) for key in sorted(pinned)])

    def settle(self) -> list[Leak]:
        """Wait for draining programs that may be attached without a link, and return the leaks."""
        types = attachable(each.key[1] for each in self._later if each.key[0] == "program")
        draining = {("program", number) for number in types}
        settling = [each for each in self._later if each.key in draining and each.due < math.inf]
        while settling and max(each.due for each in settling) > time.monotonic():
            time.sleep(_DRAIN / 200)
            settling = [each for each in settling if ids.is_alive(*each.key)]
        self._later = [each for each in self._later if each not in settling]
        return self._leaks([(each.owner, each.key, each.made_here) for each in settling])

    def overdue(self) -> list[Leak]:
        """Return the objects that had the time to drain and still exist."""
        return self._take(before=time.monotonic())

    def finish(self) -> list[Leak]:
        """Return the leaks at the end, when fixtures are torn down, after the time to drain."""
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
        """Give the objects that are left some time to end after all."""
        deadline = time.monotonic() + _GRACE
        while True:
            again = self._look_at(found.left, forgive_self=forgive_self)
            found = _Found(
                again.held,
                again.attached,
                [*found.draining, *again.draining],
                [*found.with_elders, *again.with_elders],
            )
            if not found.left or time.monotonic() > deadline:
                return found
            time.sleep(_GRACE / 20)

    def _look_at(self, keys: Collection[Key], *, forgive_self: bool) -> _Found:
        """Find this session's objects among `keys`, by the way in which they are left."""
        found = _Found([], [], [], [])
        held, pinned = self._held(keys), self._pinned()
        loose = []
        for key in keys:
            holding = held.get(key, set())
            if forgive_self:
                holding -= {self._pid}
            if key in pinned or holding - self._elders:
                found.held.append(key)
            elif holding:
                found.with_elders.append(key)
            elif ids.is_alive(*key):
                loose.append(key)
        found.attached.extend(self._attached(loose))
        for key in loose:
            if key not in held and key not in found.attached and self._is_ours(key):
                (found.held if key[0] == "link" else found.draining).append(key)
        return found

    def _attached(self, loose: Iterable[Key]) -> list[Key]:
        """Return the programs that are attached without a link, as far as they are this session's.

        A program that is attached to one of the session's own targets is the session's.
        """
        programs = attachable(number for kind, number in loose if kind == "program")
        attached = {number for number, _ in attachments(programs, self._own_places)}
        ours = {
            number: kind
            for number, kind in programs.items()
            if number not in attached and self._is_ours(("program", number))
        }
        attached |= {number for number, _ in attachments(ours, everywhere)}
        return [("program", number) for number in sorted(attached)]

    def _own_places(self) -> Places:
        """Return the places that only this session uses, as a rule."""
        pids = self._family.pids()
        netns = {ino: path for pid in pids for ino, path in namespaces.held_by(pid)}
        netns.pop(os.stat(namespaces.OWN).st_ino, None)
        cgroups: list[Path] = []
        with contextlib.suppress(BpfError):  # cgroup2 is not mounted
            cgroups = [cgroup2_mount() / estates.cgroup_name(each) for each in estates.own()]
        return Places(tuple(cgroups), netns, pids, self._own_mounts())

    def _is_ours(self, key: Key) -> bool:
        return self._alone or key in self._made or key in self._seen

    def _held(self, keys: Collection[Key]) -> dict[Key, set[int]]:
        """Return the objects that the family holds, of the same kinds as `keys`, with the pids."""
        kinds = {kind for kind, _ in keys}
        held: dict[Key, set[int]] = {}
        for pid in self._family.pids():
            with contextlib.suppress(PermissionError):
                for key, _ in held_by(pid, kinds):
                    held.setdefault(key, set()).add(pid)
        return held

    def _own_mounts(self) -> list[Path]:
        own = (*estates.own(), *self._places)
        return [mount for mount in pins.mounts() if any(map(mount.is_relative_to, own))]

    def _pinned(self) -> set[Key]:
        return {key for mount in self._own_mounts() for key, _ in pins.pinned_in(mount)}

    def _leaks(self, suspects: Iterable[tuple[Owner, Key, bool]]) -> list[Leak]:
        alive = [each for each in suspects if ids.is_alive(*each[1])]
        if not alive or self._is_forked:
            return []
        found = holders_of(key for _, key, _ in alive)
        leaks = []
        for owner, key, made_here in alive:
            entry, holders = entry_of(key), found[key]
            # An object that another object holds goes with it.
            if any(isinstance(holder, ObjectHolder) for holder in holders) or entry is None:
                continue
            if made_here or not self._is_strangers(holders):
                leaks.append(Leak(owner, entry, holders))
        return leaks

    @property
    def _is_forked(self) -> bool:
        """Whether this is a forked child of the process that runs tests, leaving through pytest."""
        return os.getpid() != self._pid

    def _is_strangers(self, holders: Iterable[Holder]) -> bool:
        pids = {holder.pid for holder in holders if isinstance(holder, DescriptorHolder)}
        return bool(pids) and not pids & self._family.pids()
