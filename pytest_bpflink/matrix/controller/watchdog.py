"""A deadline for whatever a guest does: one that hangs is asked where it stands, and killed.

Knows what xdist's workers report and are told, and when. What becomes of a dead guest is
`controller`'s.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_bpflink.matrix.controller.xdist_loop import listen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xdist.workermanage import WorkerController

    from pytest_bpflink.session.kernel import MatrixKernel

# As much as `vm.machines` gives an emulated guest to boot.
_TCG_FACTOR = 5


@dataclass(frozen=True)
class Limits:
    """Seconds that a guest may take, under KVM; an emulated guest has five times as much.

    `connecting` begins with execnet's first byte and ends when pytest is configured in the guest.
    `answer` is not scaled: a Python that can still answer does so at once.
    """

    test: float
    connecting: float
    collection: float
    shutdown: float
    answer: float = 5.0

    @classmethod
    def of(cls, test: float) -> Limits:
        """Derive all from --kernel-timeout, so that one number is enough to have patience."""
        return cls(
            test=test,
            connecting=max(60.0, test),
            collection=max(300.0, 5 * test),
            shutdown=max(30.0, test),
        )

    def scaled(self, kernel: MatrixKernel) -> Limits:
        """Return what the guests of this kernel have."""
        if kernel.where != "tcg":
            return self
        return replace(
            self,
            test=self.test * _TCG_FACTOR,
            connecting=self.connecting * _TCG_FACTOR,
            collection=self.collection * _TCG_FACTOR,
            shutdown=self.shutdown * _TCG_FACTOR,
        )


#: Other limits than `Limits.of` gives; tests put theirs here.
LIMITS = pytest.StashKey[Limits]()


class Watched(Protocol):
    """What is needed of a guest; `guests.Guest` is one."""

    kernel: MatrixKernel
    verdict: str

    def kill(self) -> None:
        """End it now."""


@dataclass(eq=False)
class _Watch:
    guest: Watched
    limits: Limits
    doing: str
    seconds: float
    deadline: float | None
    items: int = 0
    """What it was given and is not through with."""
    ask: Callable[[], object] | None = None
    stack: str | None = None


class Watchdog:
    """Kills guests that take too long, from a thread of its own.

    It is fed by the threads that receive what workers say: the main loop stands still while it
    connects to a replacement, and healthy guests were killed for that.
    """

    def __init__(self, limits: Limits | None) -> None:
        self._limits = limits
        self._watches: dict[Watched, _Watch] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def connecting(self, guest: Watched) -> None:
        """Begin to watch a guest that is about to be connected to."""
        if self._limits is None:
            return
        limits = self._limits.scaled(guest.kernel)
        watch = _Watch(guest, limits, "", 0.0, None)
        with self._changed:
            self._watches[guest] = watch
            self._begin(watch, "starting pytest", limits.connecting)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="watchdog")
                self._thread.start()

    def connected(self, guest: Watched, node: WorkerController, ask: Callable[[], object]) -> None:
        """Take the events of a worker; `ask` makes its Python say where it is, to `answered`."""
        watch = self._watches.get(guest)
        if watch is None:
            return
        watch.ask = ask
        listen(node, heard=partial(self._heard, watch, node), told=partial(self._told, watch))

    def answered(self, guest: Watched, stack: str) -> None:
        """Take what a guest's Python says of where it is."""
        with self._changed:
            if guest in self._watches:
                self._watches[guest].stack = stack
                self._changed.notify_all()

    def forget(self, guest: Watched) -> None:
        """Stop watching: it is gone, or will be by other means."""
        with self._changed:
            self._watches.pop(guest, None)

    def stop(self) -> None:
        """Kill nothing any more."""
        with self._changed:
            self._watches.clear()
            self._stopped = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join()

    # What a worker does now, by what it says and is told.

    def _heard(
        self, watch: _Watch, node: WorkerController, event: str, details: dict[str, Any]
    ) -> None:
        with self._changed:
            if event == "workerready":
                self._begin(watch, "collecting tests", watch.limits.collection)
            elif event == "logstart":
                self._begin(watch, details["nodeid"], watch.limits.test)
            elif event == "runtest_protocol_complete":
                watch.items -= 1
                if node.shutting_down:
                    self._begin(watch, "ending", watch.limits.shutdown)
                elif watch.items > 1:
                    self._begin(watch, "beginning a test", watch.limits.test)
                else:
                    # It waits to be told what is next.
                    watch.deadline = None
            elif event == "collectionfinish":
                watch.deadline = None
            elif event in {"workerfinished", "errordown"} and self._is_watched(watch):
                del self._watches[watch.guest]

    def _told(self, watch: _Watch, command: str, *, indices: Sequence[int] = ()) -> None:
        with self._changed:
            watch.items += len(indices)
            if watch.deadline is None and command == "shutdown":
                self._begin(watch, "ending", watch.limits.shutdown)
            elif watch.deadline is None:
                self._begin(watch, "beginning a test", watch.limits.test)

    def _begin(self, watch: _Watch, doing: str, seconds: float) -> None:
        watch.doing, watch.seconds = doing, seconds
        watch.deadline = time.monotonic() + seconds
        self._changed.notify_all()

    # The thread.

    def _run(self) -> None:
        with self._changed:
            while not self._stopped:
                deadlines = [watch.deadline for watch in self._watches.values() if watch.deadline]
                now = time.monotonic()
                if not deadlines or min(deadlines) > now:
                    self._changed.wait(min(deadlines) - now if deadlines else None)
                    continue
                for watch in list(self._watches.values()):
                    if watch.deadline is not None and watch.deadline <= now:
                        self._end(watch, watch.deadline)

    def _end(self, watch: _Watch, deadline: float) -> None:
        """Ask a guest where it stands, and kill it if it still stands there then."""
        watch.stack = None
        # Not while holding the lock that the guest's words have to pass: execnet sends from here,
        # and a guest that hangs may have left the pipe full.
        if watch.ask:
            threading.Thread(target=_suppressing_errors, args=[watch.ask], daemon=True).start()
            self._changed.wait_for(
                lambda: watch.stack is not None or not self._is_due(watch, deadline),
                timeout=watch.limits.answer,
            )
        if not self._is_due(watch, deadline):
            return
        watch.guest.verdict = _verdict(watch)
        del self._watches[watch.guest]
        watch.guest.kill()

    def _is_due(self, watch: _Watch, deadline: float) -> bool:
        return self._is_watched(watch) and watch.deadline == deadline

    def _is_watched(self, watch: _Watch) -> bool:
        return self._watches.get(watch.guest) is watch


def _verdict(watch: _Watch) -> str:
    emulated = watch.guest.kernel.where == "tcg"
    scaled = f", and {_TCG_FACTOR} times as long since it is emulated" if emulated else ""
    killed = (
        f"It was killed {watch.seconds:.0f} s after it began: {watch.doing}"
        f" (--kernel-timeout {watch.limits.test / (_TCG_FACTOR if emulated else 1):g}{scaled})."
    )
    if watch.ask is None:
        return killed
    if watch.stack is None:
        return f"{killed}\nIts Python did not answer when asked where it is."
    return f"{killed}\nIts Python was here:\n{watch.stack}"


def _suppressing_errors(ask: Callable[[], object]) -> None:
    try:
        ask()
    except OSError:
        # The connection is gone, and the worker with it.
        return
