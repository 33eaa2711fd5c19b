"""Waits for guests that boot during the run, each with a placeholder in xdist's loop."""

from __future__ import annotations

from concurrent import futures
from typing import TYPE_CHECKING

from pytest_bpflink.session.terminal import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    from xdist.workermanage import WorkerController

    from pytest_bpflink.matrix.controller.xdist_loop import XdistLoop
    from pytest_bpflink.matrix.guests.guests import Guest


# Two threads for each guest that boots at the same time.
_THREADS = 64


class Replacements:
    """Waits for guests to boot, while xdist's loop serves the other workers.

    The loop would stand still until the replacement of a dead worker is connected. So the loop gets
    a placeholder at once, and a call that connects the worker when its guest is up.
    """

    def __init__(self, config: pytest.Config, loop: XdistLoop) -> None:
        self._loop = loop
        self._progress = Progress(config)
        self._threads = futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="replace")

    def await_boot(self, guest: Guest, connect: Callable[[], WorkerController]) -> WorkerController:
        """Return a placeholder for a worker; the main thread has started to boot its guest."""
        place = self._loop.place()
        if guest.item is None:
            self._progress.line(f"booting {guest.name} again")

        ready = self._threads.submit(guest.wait_ready)

        def wait() -> None:
            # After -x nobody needs the guest: `kill` ends the wait for it.
            while futures.wait([ready], timeout=0.1).not_done:
                if self._loop.is_stopping:
                    guest.kill()
            self._loop.call(take_place)

        def take_place() -> None:
            ready.result()  # it raises what `wait_ready` raised: a bug
            if self._loop.is_ending:
                guest.close()
            else:
                self._loop.join(connect())
            self._loop.leave(place)

        self._threads.submit(wait)
        return place

    def nobody(self) -> WorkerController:
        """Return a placeholder that leaves the loop at once, for a worker that is not needed."""
        place = self._loop.place()
        self._loop.call(lambda: self._loop.leave(place))
        return place

    def close(self) -> None:
        """Wait for the threads; guests that still boot must be killed before."""
        self._threads.shutdown()
