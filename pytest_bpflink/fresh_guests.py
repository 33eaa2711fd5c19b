"""Guests for items that run on a kernel of their own: one each, some at a time.

Knows how workers are added to xdist's loop (3.8, DSession) while it runs. The items are
`fresh_items`', their guests `guests`', and what is said of the dead is `crashes`'.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from execnet import XSpec

from pytest_bpflink.vm.machines.errors import MachineError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable

    from xdist.dsession import DSession
    from xdist.workermanage import WorkerController

    from pytest_bpflink.fresh_items import FreshItem, FreshItems
    from pytest_bpflink.guests import Guest

# A kernel that can't be had so often in a row is not tried again: each try takes its time.
_MOST_FAILURES = 2


class FreshGuests:
    """Gives each item that wants it a guest, the next ones while the first are at work.

    Such a guest is an xdist worker that collects its item, runs it and ends.
    """

    def __init__(
        self,
        session: DSession,
        items: FreshItems,
        *,
        at_once: int,
        guests: dict[XSpec, Guest],
        new_guest: Callable[[str, str, FreshItem], Guest],
        join: Callable[[WorkerController], None],
        refuse: Callable[[XSpec, Guest], None],
        others: Callable[[str], Iterable[str]],
    ) -> None:
        """AT_ONCE is how many there are at most, of all kernels; OTHERS as in `FreshItems.take`.

        GUESTS is where they are added, JOIN has xdist wait for them, and REFUSE reports an item as
        an error where no guest can be had for it.
        """
        self._session = session
        self._items = items
        self._at_once = at_once
        self._guests = guests
        self._new_guest = new_guest
        self._join = join
        self._report_refusal = refuse
        self._others = others
        self._working: dict[XSpec, Guest] = {}
        self._dying: list[subprocess.Popen[bytes] | None] = []
        self._made: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._hide_from_status_line()

    def fill(self) -> None:
        """Start guests for items that wait, as many as may be."""
        while len(self._working) < self._at_once and not self._session.shouldstop:
            working = Counter(guest.kernel.id for guest in self._working.values())
            taken = self._items.take(self._others, working)
            if taken is None:
                return
            self._start(*taken)

    def ended(self, node: WorkerController) -> None:
        """Let a guest go that has run its item, or died of it."""
        guest = self._working.pop(node.gateway.spec)
        self._failures[guest.kernel.id] = 0
        guest.retire()
        # Its process and pipes are no use any more; xdist would keep them up to the end.
        node.gateway.exit()
        self._bury(node)

    def _bury(self, node: WorkerController) -> None:
        """Wait for the processes of guests that are gone, without waiting for any.

        execnet 2.1 does so at the end of the session: up to then each would be a zombie. Where a
        proxy on another host reaches the guest there is none here.
        """
        self._dying.append(getattr(node.gateway._io, "popen", None))  # noqa: SLF001
        self._dying = [process for process in self._dying if process and process.poll() is None]

    def refuse(self, spec: XSpec) -> None:
        """Report an item as an error, since no guest can be had for it."""
        guest = self._working.pop(spec)
        assert guest.item is not None
        self._failures[guest.kernel.id] += 1
        self._report_refusal(spec, guest)
        self._items.through(guest.item.nodeid)

    def _start(self, kernel: str, item: FreshItem) -> None:
        self._made[kernel] += 1
        name = f"{kernel}-fresh{self._made[kernel]}"
        # As NodeManager (xdist 3.8) writes it, which else would make another of it.
        spec = XSpec(f"execmodel=main_thread_only//popen//id={name}//kernel={kernel}")
        guest = self._guests[spec] = self._working[spec] = self._new_guest(kernel, name, item)
        if self._failures[kernel] >= _MOST_FAILURES:
            guest.give_up(f"kernel {kernel}: {_MOST_FAILURES} guests in a row could not be had")
        else:
            try:
                guest.boot()
            except MachineError as error:
                guest.give_up(f"kernel {kernel}: {error}")
        manager = self._session.nodemanager
        assert manager is not None
        self._join(manager.setup_node(spec, self._session.queue.put))

    def _hide_from_status_line(self) -> None:
        """Keep xdist from saying how many workers are up, in the midst of a line of results."""
        reporter = self._session.config.pluginmanager.get_plugin("terminaldistreporter")
        if reporter is None:
            return
        set_status = reporter.setstatus

        def setstatus(spec: XSpec, *status: Any, **more: Any) -> None:
            if spec not in self._working:
                set_status(spec, *status, **more)

        reporter.setstatus = setstatus
