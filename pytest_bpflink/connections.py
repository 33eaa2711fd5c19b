"""How xdist connects to a worker: to the machine that its guest has by then, or to another one.

Knows xdist's `NodeManager` (3.8), which has no hook around the connecting: an exception there is an
internal error that ends the run for all kernels.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from execnet import XSpec
    from xdist.workermanage import NodeManager, WorkerController

    from pytest_bpflink.guests import Guest
    from pytest_bpflink.replacements import Replacements
    from pytest_bpflink.watchdog import Watchdog


class Connections:
    """Gives a worker that can't be connected to another guest, at the start and later."""

    def __init__(
        self,
        guests: Mapping[XSpec, Guest],
        *,
        replacements: Replacements,
        watchdog: Watchdog,
        is_needed: Callable[[Guest], bool],
        refuse: Callable[[XSpec], None],
    ) -> None:
        """IS_NEEDED tells of a guest that was retired, REFUSE reports that none can be had."""
        self._guests = guests
        self._replacements = replacements
        self._watchdog = watchdog
        self._is_needed = is_needed
        self._refuse = refuse

    def wrap(self, manager: NodeManager) -> None:
        """Come between xdist and the workers that it sets up, and tears down at the end."""
        self._set_up, tear_down = manager.setup_node, manager.teardown_nodes

        def teardown_nodes() -> None:
            # execnet 2.1 fails to end a worker whose proxy on another host is gone by then.
            with suppress(OSError):
                tear_down()

        manager.setup_node = self._connect  # type: ignore[method-assign]
        manager.teardown_nodes = teardown_nodes  # type: ignore[method-assign]

    def _connect(self, spec: XSpec, putevent: Any) -> WorkerController:
        guest = self._guests[spec]
        if guest.retired:
            if not self._is_needed(guest):
                return self._replacements.nobody()
            guest.recall("The item that it died in last was to run again.")
        if guest.booting:
            return self._replacements.await_boot(guest, partial(self._connect, spec, putevent))
        while True:
            if guest.item and guest.stand_in:
                self._refuse(spec)
                return self._replacements.nobody()
            # An id is used once in execnet's group; for a replacement xdist took "gw0".
            spec.id, spec.python = guest.next_worker_id(), guest.python
            spec.via = guest.via
            if guest.is_machine:
                self._watchdog.connecting(guest)
            try:
                return self._set_up(spec, putevent)
            except (OSError, EOFError, AssertionError) as error:
                self._watchdog.forget(guest)
                if guest.stand_in:
                    raise
                words = guest.last_words()
                guest.replace(f"It could not be connected to: {error!r}. {words}")
                guest.wait_ready()
