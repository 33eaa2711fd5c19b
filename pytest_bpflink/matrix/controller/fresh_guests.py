"""Guests for items that run on a kernel of their own: one each, some at a time.

`fresh_items` knows which items wait; `crashes` reports an item if its guest dies.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pytest_bpflink.matrix.controller.xdist_loop import end_worker, worker_spec
from pytest_bpflink.matrix.guests.capacity import fresh_at_once
from pytest_bpflink.vm.machines.errors import MachineError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable

    from execnet import XSpec
    from xdist.workermanage import WorkerController

    from pytest_bpflink.matrix.controller.fresh_items import FreshItems
    from pytest_bpflink.matrix.controller.xdist_loop import XdistLoop
    from pytest_bpflink.matrix.guests.guests import Guest
    from pytest_bpflink.matrix.messages import FreshItem

    Others = Callable[[str], Iterable[str]]

# After so many guests in a row that could not start, a kernel is not tried again, to save time.
_MOST_FAILURES = 2


class FreshGuests:
    """Gives each of `FreshItems` a guest; the next guests boot while the first are at work.

    Each guest has an xdist worker that collects the item, runs it and ends.
    """

    def __init__(
        self,
        loop: XdistLoop,
        items: FreshItems,
        *,
        memory_mib: int,
        guests: dict[XSpec, Guest],
        new_guest: Callable[[str, str, FreshItem], Guest],
        refuse: Callable[[XSpec, Guest], None],
    ) -> None:
        """MEMORY_MIB is the memory of each guest; each guest is added to GUESTS.

        REFUSE reports the item of a guest that could not start as an error.
        """
        self._loop = loop
        self._items = items
        self._memory_mib = memory_mib
        self._at_once = 0
        self._guests = guests
        self._new_guest = new_guest
        self._report_refusal = refuse
        self._working: dict[XSpec, Guest] = {}
        self._dying: list[subprocess.Popen[bytes] | None] = []
        self._made: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()

    def start(self) -> None:
        """Begin. To be called when all other guests are up, since they take memory, too."""
        self._at_once = fresh_at_once(self._memory_mib)
        self._loop.hide_status(self._working.__contains__)

    def fill(self, others: Others) -> None:
        """Start guests for items that wait, up to the limit; OTHERS as in `FreshItems.take`."""
        while len(self._working) < self._at_once and not self._loop.is_stopping:
            working = Counter(guest.kernel.id for guest in self._working.values())
            taken = self._items.take(others, working)
            if taken is None:
                return
            self._start(*taken)

    def ended(self, node: WorkerController) -> None:
        """Retire a guest that has run its item, or died in it."""
        guest = self._working.pop(node.gateway.spec)
        self._failures[guest.kernel.id] = 0
        guest.retire()
        self._bury(node)

    def _bury(self, node: WorkerController) -> None:
        """Reap the processes of ended connections, without waiting for any.

        execnet 2.1 reaps them at the end of the session: until then each would be a zombie. A
        guest that a proxy on another host reaches has no process here.
        """
        self._dying.append(end_worker(node))
        self._dying = [process for process in self._dying if process and process.poll() is None]

    def refuse(self, spec: XSpec) -> None:
        """Report an item as an error, since its guest could not start."""
        guest = self._working.pop(spec)
        assert guest.item is not None
        self._failures[guest.kernel.id] += 1
        self._report_refusal(spec, guest)
        self._items.through(guest.item.nodeid)

    def _start(self, kernel: str, item: FreshItem) -> None:
        self._made[kernel] += 1
        name = f"{kernel}-fresh{self._made[kernel]}"
        # With execmodel, since NodeManager (xdist 3.8) would replace a spec without it.
        spec = worker_spec(f"execmodel=main_thread_only//popen//id={name}//kernel={kernel}")
        guest = self._guests[spec] = self._working[spec] = self._new_guest(kernel, name, item)
        if self._failures[kernel] >= _MOST_FAILURES:
            guest.give_up(f"kernel {kernel}: {_MOST_FAILURES} guests in a row could not start")
        else:
            try:
                guest.boot()
            except MachineError as error:
                guest.give_up(f"kernel {kernel}: {error}")
        self._loop.start_worker(spec)
