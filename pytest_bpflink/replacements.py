"""Guests that boot while the others go on: what holds a worker's place in xdist until it is there.

Knows xdist's loop (3.8, DSession), which has no notion of a worker that is not connected yet.
"""

from __future__ import annotations

from concurrent import futures
from typing import TYPE_CHECKING, cast

from pytest_bpflink.terminal import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    from xdist.dsession import DSession
    from xdist.workermanage import WorkerController

    from pytest_bpflink.guests import Guest


# Two for each guest that boots at the same time.
_THREADS = 64


class _Place:
    """Among xdist's active workers, it keeps the loop running."""


class Replacements:
    """Waits for guests to boot, without keeping xdist's main loop from the other workers.

    The loop would stand still until a replacement for a dead worker is connected. So it is given
    something that is no worker, and an event of ours when the guest is up.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._progress = Progress(config)
        self._threads = futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="replace")

    def await_boot(self, guest: Guest, connect: Callable[[], WorkerController]) -> WorkerController:
        """Return what keeps the place of a worker; its guest was started in the main thread."""
        session = self._session
        # DSession.loop_once calls the method that is called worker_ and the event's name.
        session.worker_bpflink_booted = self._take_place  # type: ignore[attr-defined]
        place = cast("WorkerController", _Place())
        if guest.item is None:
            self._progress.line(f"booting {guest.name} again")

        def wait() -> None:
            ready = self._threads.submit(guest.wait_ready)
            # Nobody waits for it after -x: killed, it is ready at once.
            while futures.wait([ready], timeout=0.1).not_done:
                if session.shouldstop:
                    guest.kill()
            session.queue.put(
                ("bpflink_booted", {"place": place, "guest": guest, "connect": connect})
            )

        self._threads.submit(wait)
        return place

    def join(self, worker: WorkerController) -> None:
        """Have xdist's loop go on until this worker is gone, too."""
        self._session._active_nodes.add(worker)  # noqa: SLF001

    def nobody(self) -> WorkerController:
        """Return what takes a worker's place where none is needed, for as long as xdist wants."""
        session = self._session
        session.worker_bpflink_nobody = self._leave  # type: ignore[attr-defined]
        place = cast("WorkerController", _Place())
        session.queue.put(("bpflink_nobody", {"place": place}))
        return place

    def close(self) -> None:
        """Wait for the threads; guests that still boot must be killed before."""
        self._threads.shutdown()

    def _take_place(
        self, place: WorkerController, guest: Guest, connect: Callable[[], WorkerController]
    ) -> None:
        session = self._session
        if session.shouldstop or session.shuttingdown:
            guest.close()
        else:
            self.join(connect())
        self._leave(place)

    def _leave(self, place: WorkerController) -> None:
        self._session._active_nodes.remove(place)  # noqa: SLF001

    @property
    def _session(self) -> DSession:
        session: DSession | None = self._config.pluginmanager.get_plugin("dsession")
        assert session is not None
        return session
