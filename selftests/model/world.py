"""The kernel's side of a life: hooks, processes, a socket and BPF FS mounts, all by public API.

A step is a line of Python that a test might have, and runs as such: what is printed is what ran.
The stages of the conformance suite attach programs and make them run.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import socket
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import (
    AttachFlags,
    BpfError,
    BpfFs,
    Cgroup,
    Link,
    Program,
    eventually,
    link_ids,
)
from pytest_bpflink.selftests.conformance.checks import exists
from pytest_bpflink.selftests.conformance.fixtures import make_stage
from pytest_bpflink.selftests.conformance.outcomes import OK
from pytest_bpflink.selftests.conformance.rows import ROWS
from pytest_bpflink.selftests.conformance.stages import InCgroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from types import CodeType

    from pytest_bpflink import KernelInfo
    from pytest_bpflink.selftests.conformance.row import Row

_MS_BIND = 4096
_TAINTED = Path("/proc/sys/kernel/tainted")

NAMES = ("x", "y")
"""Names of pins."""


class Hook:
    """A hook of one row: a target of its own, and the row's two programs.

    The programs are loaded once for many lives. With `own_programs` they are loaded for this life,
    after which they must be gone as its links are: nothing but the life may hold them.
    """

    def __init__(self, row: Row, request: pytest.FixtureRequest, *, own_programs: bool) -> None:
        self.row = row
        self._has_own_programs = own_programs
        self._kernel: KernelInfo = request.getfixturevalue("bpf_kernel")
        self._stage = make_stage(row, request)
        if own_programs:
            self._stage.renew()
        self._is_fresh = True
        self._ended = False
        self._has_left = False
        self._facts = dict(row.info(self._stage))
        self._programs = {self.first.id: "first", self.second.id: "second"}
        self._stage.trigger()  # opens the sockets that it keeps

    @property
    def first(self) -> Program:
        """The first program."""
        return self._program(self._stage.first)

    @property
    def second(self) -> Program:
        """The program that a link is updated to."""
        return self._program(self._stage.second)

    def attach(self, program: Program) -> Link:
        """Attach a program to the target. The caller destroys the link."""
        self._is_fresh = False
        return self._stage.attach(program, by=Program.attach)

    def add(self, program: Program) -> None:
        """Attach a program to the cgroup without a link."""
        self._cgroup.attach(program, AttachFlags.ALLOW_MULTI)

    def take(self, program: Program) -> None:
        """Detach a program that `add()` attached."""
        self._cgroup.detach(program)

    def enter(self) -> None:
        """Move the process into the cgroup."""
        self._in_cgroup.enter()
        self._has_left = False

    def leave(self) -> None:
        """Move the process out of the cgroup."""
        self._in_cgroup.leave()
        self._has_left = True

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Leave the cgroup, if this is one and the process is inside, for a `with` block."""
        if self._has_left or self._ended or not isinstance(self._stage, InCgroup):
            yield
            return
        self._stage.leave()
        try:
            yield
        finally:
            self._stage.enter()

    def evacuate(self, pid: int) -> None:
        """Move a child out of the cgroup, so that it does not keep it."""
        if isinstance(self._stage, InCgroup) and not self._ended:
            Cgroup(self._cgroup.path.parent).add(pid)

    def end(self) -> None:
        """End the target: remove the cgroup or the device, or close the namespace."""
        _patiently(self._stage.end_target)
        self._ended = True

    def runs(self) -> tuple[int, int]:
        """Trigger the hook once, and say how often each program ran: 1 for any number but 0.

        The exact number is known for hooks that see packets and nothing else.
        """
        before = self._stage.counts()
        self._stage.trigger()
        first, second = (now - then for now, then in zip(self._stage.counts(), before, strict=True))
        return (first, second) if self.row.counts_packets else (min(first, 1), min(second, 1))

    def info(self, link: Link) -> tuple[object, object]:
        """Return which program a link's info names, and whether it names the target."""
        info = vars(link.info)
        program = self._programs.get(info["prog_id"], info["prog_id"])
        if self._kernel.version < self.row.info_since:
            return program, True
        seen = {name: info[name] for name in self._facts}
        known = [True] if seen == self._facts else []
        if self.row.detached and all(
            info[name] == zero for name, zero in self.row.detached.items()
        ):
            known.append(False)
        return program, known[0] if known else seen

    def close(self) -> bool:
        """End a life, and say whether another one can have the hook.

        Raises `AssertionError` if programs of this life alone are not gone after a second.
        """
        is_spent = not self._is_fresh and self.row.again_later(self._kernel) != OK
        if not (self._ended or self._has_own_programs or is_spent):
            if isinstance(self._stage, InCgroup):
                for program in (self.first, self.second):
                    with contextlib.suppress(BpfError):
                        self.take(program)
                if self._has_left:
                    self.enter()
            return True
        programs = [*self._programs]
        self._stage.close()
        if self._has_own_programs:
            eventually(
                lambda: not any(exists("prog", each) for each in programs),
                what=f"the programs {programs} end with their last link",
            )
        return False

    def discard(self) -> None:
        """Undo what the hook made, before the test's end."""
        self._stage.close()

    @property
    def _in_cgroup(self) -> InCgroup:
        assert isinstance(self._stage, InCgroup)
        return self._stage

    @property
    def _cgroup(self) -> Cgroup:
        return self._in_cgroup.target

    def _program(self, one: object) -> Program:
        assert isinstance(one, Program)
        return one


class World:
    """All that a life may need, and nothing of it left when the life has ended."""

    def __init__(self, request: pytest.FixtureRequest, directory: Path) -> None:
        self._request = request
        self.bpffs, self.elsewhere = directory / "bpffs", directory / "elsewhere"
        for each in (self.bpffs, self.elsewhere):
            each.mkdir()
        self._mounts: dict[Path, BpfFs] = {}
        self._hooks: dict[str, Hook] = {}
        self._processes: set[int] = set()
        self._in_flight = 0
        self._known = max(link_ids(), default=0)
        self._tainted = _TAINTED.read_text()
        self.names: dict[str, Any] = {}
        self.is_logged = False
        """Whether each step is written to the kernel's log before it is done."""
        self.mount()

    def hook(self, row_id: str, *, own_programs: bool = False) -> Hook:
        """Return the hook of a row, made anew if its last life has used it up."""
        if own_programs and row_id in self._hooks:
            self._hooks.pop(row_id).discard()
        if row_id not in self._hooks:
            row = next(row for row in ROWS if row.id == row_id)
            with self._outside():
                self._hooks[row_id] = Hook(row, self._request, own_programs=own_programs)
        return self._hooks[row_id]

    def begin(self) -> None:
        """Begin a life, whose steps then make their variables."""
        self.names = {"world": self, "Link": Link}

    def run(self, step: str) -> int:
        """Run a step, and return 0 or the errno that it raised."""
        if self.is_logged:
            self.log(step)
        try:
            exec(_compiled(step, "exec"), self.names)  # noqa: S102 - the machine's own lines
        except OSError as error:
            return error.errno or -1
        return 0

    def value(self, expression: str) -> object:
        """Return what can be seen of the kernel, as an expression says it."""
        return eval(_compiled(expression, "eval"), self.names)  # noqa: S307 - as above

    def log(self, text: str) -> None:
        """Write a line to the kernel's log, whose end a report quotes if the guest dies."""
        with contextlib.suppress(OSError):  # a parameter of the kernel has set it
            Path("/proc/sys/kernel/printk_devkmsg").write_text("on")
        Path("/dev/kmsg").write_text(f"<4>{text}\n")

    def fork(self, *links: Link) -> int:
        """Fork a child that holds links and does nothing, and return its pid."""
        keep = sorted(link.fd for link in links)
        ready, said = os.pipe()
        child = os.fork()
        if not child:
            _hold(keep, said)
        os.close(said)
        os.read(ready, 1)
        os.close(ready)
        self._processes.add(child)
        for hook in self._hooks.values():
            hook.evacuate(child)
        return child

    def kill(self, pid: int) -> None:
        """Kill a child, and wait for it."""
        self._processes.remove(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    @cached_property
    def _socket(self) -> tuple[socket.socket, socket.socket]:
        with self._outside():
            return socket.socketpair()

    @contextlib.contextmanager
    def _outside(self) -> Iterator[None]:
        """Be in none of the hooks' cgroups: a socket made in one keeps it attached to its links."""
        with contextlib.ExitStack() as undo:
            for hook in self._hooks.values():
                undo.enter_context(hook.outside())
            yield

    def send(self, link: Link) -> None:
        """Send a link's descriptor over a socket."""
        self._in_flight += 1
        socket.send_fds(self._socket[0], [b"l"], [link.fd])

    def receive(self) -> Link:
        """Receive the descriptor that was sent first."""
        _, (fd, *_), _, _ = socket.recv_fds(self._socket[1], 1, 1)
        self._in_flight -= 1
        link = Link.from_fd(fd)
        os.close(fd)
        return link

    def hang_up(self) -> None:
        """Close both ends of the socket."""
        self._in_flight = 0
        for end in self.__dict__.pop("_socket", ()):
            end.close()

    def mount(self) -> None:
        """Mount a new BPF FS at `bpffs`."""
        self._mounts[self.bpffs] = BpfFs.mount(self.bpffs)

    def bind(self) -> None:
        """Mount the BPF FS at `elsewhere`, too."""
        here, there = os.fsencode(self.bpffs), os.fsencode(self.elsewhere)
        if ctypes.CDLL(None).mount(here, there, None, _MS_BIND, None):
            raise AssertionError("the BPF FS can't be mounted at a second place")
        self._mounts[self.elsewhere] = BpfFs(self.elsewhere)

    def unmount(self, mount: Path) -> None:
        """Unmount the BPF FS at a place."""
        self._mounts.pop(mount).unmount()

    def alive(self) -> set[int]:
        """Return the ids of all links that were made in this life and are alive."""
        return set(link_ids(self._known))

    def end(self, *links: Link) -> None:
        """End the life: release what holds links, these handles too, and see that none is alive."""
        for link in (*links, *self.names.values()):
            if isinstance(link, Link):
                link.destroy()
        for child in tuple(self._processes):
            self.kill(child)
        if self._in_flight:
            self.hang_up()
        if self.elsewhere in self._mounts:
            self.unmount(self.elsewhere)
        if self.bpffs not in self._mounts:
            self.mount()
        for name in NAMES:
            (self.bpffs / name).unlink(missing_ok=True)
        self.names = {}
        try:
            eventually(lambda: not self.alive(), what="all links end with their last holder")
            for name in tuple(self._hooks):
                hook = self._hooks.pop(name)
                if hook.close():
                    self._hooks[name] = hook
            tainted = _TAINTED.read_text()
            assert tainted == self._tainted, f"the kernel is tainted: {tainted}"
        finally:
            # Whatever stays is not blamed on later lives.
            self._known = max(link_ids(), default=0)
            self._tainted = _TAINTED.read_text()

    def close(self) -> None:
        """Leave nothing."""
        self.end()
        self.hang_up()
        for mount in tuple(self._mounts):
            self.unmount(mount)


@cache
def _compiled(code: str, mode: str) -> CodeType:
    return compile(code, "<life of a link>", mode)


def _hold(keep: list[int], said: int) -> None:
    """In a child: close all descriptors but these, and wait to be killed."""
    try:
        start = 3
        for fd in sorted([*keep, said]):
            os.closerange(start, fd)
            start = fd + 1
        os.closerange(start, 65536)
        os.write(said, b"!")
        while True:
            signal.pause()
    finally:
        os._exit(1)


def _patiently(do: Callable[[], object]) -> None:
    """Remove a cgroup, which is busy for a moment after its last process has left (7.2)."""

    def done() -> bool:
        try:
            do()
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    eventually(done, what="the target can be removed")


def refused(number: int) -> AbstractContextManager[object]:
    """Expect a step to raise an errno."""
    return pytest.raises(OSError, check=lambda error: error.errno == number)
