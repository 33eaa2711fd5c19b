"""Guests that boot while the others go on, and the place that each keeps in xdist's loop."""

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


# Two for each guest that boots at the same time.
_THREADS = 64


class Replacements:
    """Waits for guests to boot, without keeping xdist's loop from the other workers.

    The loop would stand still until a replacement for a dead worker is connected. So it is given a
    place that is no worker, and a call when the guest is up.
    """

    def __init__(self, config: pytest.Config, loop: XdistLoop) -> None:
        self._loop = loop
        self._progress = Progress(config)
        self._threads = futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="replace")

    def await_boot(self, guest: Guest, connect: Callable[[], WorkerController]) -> WorkerController:
        """Return what keeps the place of a worker; its guest was started in the main thread."""
        place = self._loop.place()
        if guest.item is None:
            self._progress.line(f"booting {guest.name} again")

        def wait() -> None:
            ready = self._threads.submit(guest.wait_ready)
            # Nobody waits for it after -x: killed, it is ready at once.
            while futures.wait([ready], timeout=0.1).not_done:
                if self._loop.is_stopping:
                    guest.kill()
            self._loop.call(take_place)

        def take_place() -> None:
            if self._loop.is_ending:
                guest.close()
            else:
                self._loop.join(connect())
            self._loop.leave(place)

        self._threads.submit(wait)
        return place

    def nobody(self) -> WorkerController:
        """Return a place that the loop leaves at once, for a worker that is not needed."""
        place = self._loop.place()
        self._loop.call(lambda: self._loop.leave(place))
        return place

    def close(self) -> None:
        """Wait for the threads; guests that still boot must be killed before."""
        self._threads.shutdown()
