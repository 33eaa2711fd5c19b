"""A deadline for each step of a guest: a guest that hangs is asked for its stack, and killed.

Knows the events and commands of xdist's workers. `controller` decides what replaces a dead guest.
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

# The factor that `vm.machines` uses for the boot of an emulated guest.
_TCG_FACTOR = 5


@dataclass(frozen=True)
class Limits:
    """Seconds that a guest may take, under KVM; an emulated guest has five times as much.

    `connecting` ends when pytest is configured in the guest. `answer` is
    not scaled: a guest that can still send its stack does so at once.
    """

    test: float
    connecting: float
    collection: float
    shutdown: float
    answer: float = 5.0

    @classmethod
    def of(cls, test: float) -> Limits:
        """Derive all limits from --kernel-timeout, so that one option is enough."""
        return cls(
            test=test,
            connecting=max(60.0, test),
            collection=max(300.0, 5 * test),
            shutdown=max(30.0, test),
        )

    def scaled(self, kernel: MatrixKernel) -> Limits:
        """Return the limits of this kernel's guests."""
        if kernel.where != "tcg":
            return self
        return replace(
            self,
            test=self.test * _TCG_FACTOR,
            connecting=self.connecting * _TCG_FACTOR,
            collection=self.collection * _TCG_FACTOR,
            shutdown=self.shutdown * _TCG_FACTOR,
        )


#: Limits to use instead of `Limits.of`; tests set them.
LIMITS = pytest.StashKey[Limits]()


class Watched(Protocol):
    """The parts of a guest that the watchdog uses; `guests.Guest` has them."""

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
    """The number of items that the worker holds."""
    ask: Callable[[], object] | None = None
    stack: str | None = None


class Watchdog:
    """Kills guests that take too long, in a thread of its own.

    It hears events in the threads that receive them, not in xdist's loop: the loop stands still
    while it connects to a replacement, and healthy guests would be killed.
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
        """Hear the events of a worker; `ask` makes its Python send a stack, for `answered`."""
        watch = self._watches.get(guest)
        if watch is None:
            return
        watch.ask = ask
        listen(node, heard=partial(self._heard, watch, node), sent=partial(self._sent, watch))

    def answered(self, guest: Watched, stack: str) -> None:
        """Take the stack that a guest's Python sent."""
        with self._changed:
            if guest in self._watches:
                self._watches[guest].stack = stack
                self._changed.notify_all()

    def forget(self, guest: Watched) -> None:
        """Stop watching a guest that is gone, or that others will end."""
        with self._changed:
            self._watches.pop(guest, None)

    def stop(self) -> None:
        """Stop watching all guests, for good."""
        with self._changed:
            self._watches.clear()
            self._stopped = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join()

    # The step that a worker is in, by its events and the commands sent to it.

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
                    # The worker waits for the next command.
                    watch.deadline = None
            elif event == "collectionfinish":
                watch.deadline = None
            elif event in {"workerfinished", "errordown"} and self._is_watched(watch):
                del self._watches[watch.guest]

    def _sent(self, watch: _Watch, command: str, *, indices: Sequence[int] = ()) -> None:
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
        """Ask a guest for its stack, and kill the guest unless it has gone on meanwhile."""
        watch.stack = None
        # In a thread, since execnet sends in the caller's thread and a guest that hangs may have
        # left the pipe full. This thread holds the lock that `answered` needs, until it waits.
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
