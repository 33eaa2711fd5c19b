"""Connects xdist to a worker: to the current machine of the worker's guest, or to its next one.

`guests` boots the machines; `replacements` keeps a worker's place in xdist's loop meanwhile.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from execnet import XSpec
    from xdist.workermanage import WorkerController

    from pytest_bpflink.matrix.controller.replacements import Replacements
    from pytest_bpflink.matrix.controller.watchdog import Watchdog
    from pytest_bpflink.matrix.controller.xdist_loop import XdistLoop
    from pytest_bpflink.matrix.guests.guests import Guest


class Connections:
    """Connects to workers; if a connection fails, the worker's guest gets another machine."""

    def __init__(
        self,
        loop: XdistLoop,
        guests: Mapping[XSpec, Guest],
        *,
        replacements: Replacements,
        watchdog: Watchdog,
        is_needed: Callable[[Guest], bool],
        refuse: Callable[[XSpec], None],
    ) -> None:
        """IS_NEEDED(guest): whether a retired guest has items again.

        REFUSE(spec): report the guest's only item as an error, because it could not boot.
        """
        self._loop = loop
        self._guests = guests
        self._replacements = replacements
        self._watchdog = watchdog
        self._is_needed = is_needed
        self._refuse = refuse

    def connect(self, spec: XSpec, putevent: Any) -> WorkerController:
        """Connect to a worker, or return a placeholder until its guest is up."""
        guest = self._guests[spec]
        if guest.retired:
            if not self._is_needed(guest):
                return self._replacements.nobody()
            guest.recall("A plugin runs the item again that it died in last.")
        if guest.booting:
            return self._replacements.await_boot(guest, partial(self.connect, spec, putevent))
        while True:
            if guest.item and guest.stand_in:
                self._refuse(spec)
                return self._replacements.nobody()
            # execnet's group takes each id once. To a replacement xdist has given the id "gw0".
            spec.id, spec.python = guest.next_worker_id(), guest.python
            spec.via = guest.via
            if guest.is_machine:
                self._watchdog.connecting(guest)
            try:
                return self._loop.set_up(spec, putevent)
            except (OSError, EOFError, AssertionError) as error:
                self._watchdog.forget(guest)
                if guest.stand_in:
                    raise
                words = guest.last_words()
                guest.replace(f"It could not be connected to: {error!r}. {words}")
                guest.wait_ready()
