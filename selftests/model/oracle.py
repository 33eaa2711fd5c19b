"""What a link is: what its holders, its program, its target and its pins do to it, step by step.

Each method is a step of a life. It returns `OK` or the errno that the kernel answers, and changes
what the oracle says: which links are alive and who holds them, which programs run and how often.
How types differ stands in the rows of the conformance suite, how kernels differ stands here.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from pytest_bpflink.selftests.conformance.outcomes import OK

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from pytest_bpflink import KernelInfo
    from pytest_bpflink.selftests.conformance.row import Row

FIRST, SECOND = "first", "second"
"""The programs of a hook."""

Pins: TypeAlias = "dict[str, Link]"
"""A BPF FS: the links in it by the names of their pins. A bind mount shows the same BPF FS."""


@dataclass(eq=False)
class Link:
    """A link ties a program to a hook. It lives as long as something holds it."""

    hook: str
    program: str
    attached: bool = True
    holders: set[Hashable] = field(default_factory=set)
    was_pinned: bool = False


@dataclass
class Handle:
    """A descriptor in this process, and the pin that it was opened from or pinned at."""

    link: Link
    pin: tuple[str, str] | None = None


class Oracle:
    """Predicts each step of a life. Handles, processes and mounts are told by their names."""

    def __init__(self, kernel: KernelInfo, rows: Mapping[str, Row]) -> None:
        self.kernel = kernel
        self.rows = rows
        self.links: dict[str, Link] = {}  # by the handle that attached them
        self.handles: dict[str, Handle] = {}
        self.processes: dict[str, list[Link]] = {}
        self.messages: list[Link] = []
        self.mounts: dict[str, Pins] = {"bpffs": {}}
        self.legacy: dict[str, list[str]] = {}
        self.ended: set[str] = set()  # hooks whose target is gone
        self.left: set[str] = set()  # cgroups that the process has left
        self.spent: set[tuple[str, str]] = set()  # programs that were attached once
        self.is_late = False
        """Whether the kernel may finish the last step after it has returned."""

    # Attaching.

    def attach(self, handle: str, hook: str, program: str) -> int:
        """Attach a program: the descriptor that this returns is the first holder of the link."""
        row, beside = self.rows[hook], self._programs(hook)
        if row.again_later(self.kernel) and (hook, program) in self.spent:
            return row.again_later(self.kernel)
        is_refused = program in beside or (row.alone and beside)
        if is_refused and row.again(self.kernel) != OK:
            return row.again(self.kernel)
        self.spent.add((hook, program))
        self.links[handle] = Link(hook, program)
        return self._hold(handle, self.links[handle])

    def add(self, hook: str, program: str) -> int:
        """Attach a program to a cgroup without a link, beside links: once for each program."""
        if program in self.legacy.setdefault(hook, []):
            return errno.EINVAL
        self.legacy[hook].append(program)
        return OK

    def take(self, hook: str, program: str) -> int:
        """Detach a program that was attached without a link: one that a link has is not found."""
        if program not in self.legacy.get(hook, []):
            return errno.ENOENT
        self.legacy[hook].remove(program)
        return OK

    # Holding: descriptors here, in other processes and in flight, and pins.

    def destroy(self, handle: str) -> int:
        """Close a descriptor. The link ends at once; on 5.10 later, if it was ever pinned."""
        link = self.handles.pop(handle).link
        self._release(handle, link, is_late=link.was_pinned and self.kernel.version < (5, 11))
        return OK

    def dup(self, handle: str, of: str) -> int:
        """Duplicate a descriptor."""
        return self._hold(handle, self.handles[of].link)

    def by_id(self, handle: str, maker: str) -> int:
        """Open a link by its id, which is never given to another link."""
        link = self.links[maker]
        return self._hold(handle, link) if link.holders else errno.ENOENT

    def fork(self, process: str, handles: Iterable[str]) -> int:
        """Fork: the child holds what its descriptors refer to."""
        self.processes[process] = [self.handles[each].link for each in handles]
        for link in self.processes[process]:
            link.holders.add(process)
        return OK

    def kill(self, process: str) -> int:
        """Kill a process, whose descriptors go with it."""
        for link in self.processes.pop(process):
            self._release(process, link, is_late=link.was_pinned and self.kernel.version < (5, 11))
        return OK

    def send(self, handle: str) -> int:
        """Send a descriptor over a socket: it holds the link while nobody has received it."""
        link = self.handles[handle].link
        self.messages.append(link)
        link.holders.add("socket")
        return OK

    def receive(self, handle: str) -> int:
        """Receive the descriptor that was sent first."""
        link = self.messages.pop(0)
        self._hold(handle, link)
        if link not in self.messages:
            self._release("socket", link)
        return OK

    def hang_up(self) -> int:
        """Close the socket, and with it all descriptors in flight."""
        messages, self.messages = self.messages, []
        for link in messages:
            self._release("socket", link, is_late=True)
        return OK

    def pin(self, handle: str, mount: str, name: str) -> int:
        """Pin a link: a file of a BPF FS holds it. A handle of libbpf has one pin at most."""
        held = self.handles[handle]
        if held.pin:
            return errno.EBUSY
        if mount not in self.mounts:
            return errno.EINVAL
        if name in self.mounts[mount]:
            return errno.EEXIST
        held.pin = mount, name
        held.link.was_pinned = True
        self.mounts[mount][name] = held.link
        held.link.holders.add((id(self.mounts[mount]), name))
        return OK

    def open(self, handle: str, mount: str, name: str) -> int:
        """Open a pin."""
        link = self.mounts.get(mount, {}).get(name)
        return self._hold(handle, link, pin=(mount, name)) if link else errno.ENOENT

    def unpin(self, handle: str) -> int:
        """Unlink the file at which a handle is pinned, whichever link is now pinned there."""
        held = self.handles[handle]
        if not held.pin:
            return errno.EINVAL
        if refused := self.unlink(*held.pin):
            return refused
        held.pin = None
        return OK

    def unlink(self, mount: str, name: str) -> int:
        """Unlink a pin. If that was the last holder, the kernel may end the link later."""
        pins = self.mounts.get(mount, {})
        if name not in pins:
            return errno.ENOENT
        self._release((id(pins), name), pins.pop(name), is_late=True)
        return OK

    def bind(self) -> int:
        """Mount the BPF FS at a second place, with the same pins."""
        self.mounts["elsewhere"] = self.mounts["bpffs"]
        return OK

    def unmount(self, mount: str) -> int:
        """Unmount a BPF FS. Its pins go when it is mounted nowhere else."""
        pins = self.mounts.pop(mount)
        if not any(other is pins for other in self.mounts.values()):
            for name, link in pins.items():
                self._release((id(pins), name), link, is_late=True)
        return OK

    def mount(self) -> int:
        """Mount a new BPF FS, which is empty."""
        self.mounts["bpffs"] = {}
        return OK

    # Changing.

    def update(self, handle: str, new: str, old: str | None = None) -> int:
        """Replace the program, with `old` only if that is the present one (compare-exchange)."""
        link = self.handles[handle].link
        row = self.rows[link.hook]
        if row.update != OK:
            return row.update
        mistakes = {errno.ENOLINK: not link.attached, errno.EPERM: old not in {None, link.program}}
        for mistake in row.precedence:
            if mistakes.get(mistake):
                return mistake
        others = [each for each in self._links(link.hook) if each is not link]
        if row.distinct and new != link.program and any(each.program == new for each in others):
            return row.again(self.kernel)
        link.program = new
        return OK

    def detach(self, handle: str) -> int:
        """Take the program off the hook, whoever holds the link; a second time does nothing."""
        link = self.handles[handle].link
        if self.rows[link.hook].detach == OK:
            link.attached = False
        return self.rows[link.hook].detach

    def end(self, hook: str) -> int:
        """End the target: some milliseconds later its links are detached, and live on."""
        self.ended.add(hook)
        self.is_late = True
        for link in self._links(hook):
            link.attached = False
        self.legacy.pop(hook, None)
        return OK

    def leave(self, hook: str) -> int:
        """Leave a cgroup: its programs don't run for the process."""
        self.left.add(hook)
        return OK

    def enter(self, hook: str) -> int:
        """Enter it again."""
        self.left.remove(hook)
        return OK

    # What can be seen after each step.

    def alive(self) -> list[str]:
        """Return the links whose ids are alive: those that something holds."""
        return [maker for maker, link in self.links.items() if link.holders]

    def runs(self, hook: str) -> tuple[int, int]:
        """Return how often each program runs for one event: once for each attachment."""
        programs = [] if hook in self.left else self._programs(hook)
        return programs.count(FIRST), programs.count(SECOND)

    def info(self, handle: str) -> tuple[str, bool]:
        """Return which program a link's info names, and whether it names the target."""
        link = self.handles[handle].link
        return link.program, link.attached or not self.rows[link.hook].detached

    def _links(self, hook: str) -> list[Link]:
        links = self.links.values()
        return [each for each in links if each.hook == hook and each.attached and each.holders]

    def _programs(self, hook: str) -> list[str]:
        return [*(link.program for link in self._links(hook)), *self.legacy.get(hook, [])]

    def _hold(self, handle: str, link: Link, *, pin: tuple[str, str] | None = None) -> int:
        self.handles[handle] = Handle(link, pin)
        link.holders.add(handle)
        return OK

    def _release(self, holder: Hashable, link: Link, *, is_late: bool = False) -> None:
        link.holders.discard(holder)
        self.is_late |= is_late and not link.holders
