"""Which worker runs which item: those of its kernel, in order, a few at a time.

Knows xdist's scheduler protocol (xdist.scheduler.protocol.Scheduling), and what was seen of each
item so far. Nothing of guests: a worker belongs to the kernel that its spec names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.matrix.controller.xdist_loop import difference

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from xdist.workermanage import WorkerController

    from pytest_bpflink.matrix.controller.fresh_items import FreshItems
    from pytest_bpflink.matrix.controller.item_log import ItemLog


# What the only guest of a kernel holds at most; it is given more when it has half of that.
_MOST_AHEAD = 16


class KernelScheduling:
    """Deals the items of each kernel to the workers of that kernel.

    - Items keep their order. Workers of one kernel take the next item as they get free, so they
      balance; items of one `xdist_group` go to one worker.
    - A worker holds two items, no more: what was sent is run, even after `-x` stopped the others.
      And no less while it lives: a worker begins an item when it knows the next one, or that none
      comes (xdist 3.8: WorkerInteractor.run_one_test), so with one it would wait for ever.
    - The only guest of a kernel holds more where no failure stops the run. Nobody else could run
      it, a guest is killed where other workers are left to run what they have, and this one need
      not wait for each item to be dealt.
    - A kernel's items start when that kernel's workers have collected, whatever the others do.
    - When a worker dies, what it held goes back to the front of the queue. The item that it died
      in is returned by `remove_node` if it was seen to start; if not, it is nobody's fault.
    - Items that run on a kernel of their own wait beside the queues, until they have a worker that
      is there for one of them only. `on_fresh` is called when one may be given a guest; its
      argument is `left_beside_fresh`.
    """

    #: Plugins look for it there, as xdist's own schedulers have it: pytest-rerunfailures does.
    config: pytest.Config

    def __init__(
        self,
        workers: Mapping[str, int],
        *,
        log: ItemLog,
        groups: Mapping[str, str],
        fresh: FreshItems,
        only_item: Callable[[WorkerController], str | None],
        on_collected: Callable[[int], None],
        on_fresh: Callable[[Callable[[str], Iterable[str]]], None],
        ahead: Collection[str] = (),
    ) -> None:
        """ONLY_ITEM tells the one item that a worker is there for, None for ordinary workers.

        AHEAD are the kernels whose only worker may hold more than two items.
        """
        self._ahead = ahead
        self._fresh = fresh
        self._only_item = only_item
        self._on_fresh = on_fresh
        self._workers = workers
        self._log = log
        self._groups = groups
        self._on_collected = on_collected
        self._collections: dict[WorkerController, Sequence[str]] = {}
        self._indices: dict[WorkerController, dict[str, int]] = {}
        self._held: dict[WorkerController, list[str]] = {}
        self._queues: dict[str, list[str]] = {}
        self._group_workers: dict[tuple[str, str], WorkerController] = {}
        self._latest: dict[WorkerController, str] = {}
        self.collected: dict[str, list[str]] = {}

    # What xdist asks.

    @property
    def nodes(self) -> list[WorkerController]:
        """The workers that are ready."""
        return list(self._held)

    @property
    def collection_is_completed(self) -> bool:
        """Whether a kernel can start; `schedule` starts those that can."""
        return any(self._has_collected(kernel) for kernel in self._workers)

    @property
    def tests_finished(self) -> bool:
        """Whether every kernel's items were dealt out and run."""
        return (
            all(kernel in self._queues for kernel in self._workers)
            and not any(self._queues.values())
            and not any(self._held.values())
            and not self._fresh.pending
        )

    @property
    def has_pending(self) -> bool:
        """Whether something was dealt out: xdist then stops showing how many have collected."""
        return bool(self._queues)

    def add_node(self, node: WorkerController) -> None:
        """Take in a worker, before it collects."""
        self._held[node] = []

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        """Take in what a worker collected."""
        kernel = kernel_of(node)
        self._collections[node] = collection
        self._indices[node] = {nodeid: index for index, nodeid in enumerate(collection)}
        if self._only_item(node):
            self._on_collected(self._expected())
            return
        first = self.collected.setdefault(kernel, list(collection))
        if kernel in self._queues:
            self._forget_unknown(kernel)
        else:
            self._report_difference(node, first, collection)
        self._on_collected(self._expected())

    def schedule(self) -> None:
        """Start the kernels that can start, and give something to workers that have nothing."""
        for kernel in self._workers:
            if kernel not in self._queues and self._has_collected(kernel):
                self._queues[kernel] = self._fresh.take_out(kernel, self.collected[kernel])
        self._feed([node for node in self._indices if kernel_of(node) in self._queues])
        self._tell_of_fresh()

    def mark_test_complete(
        self, node: WorkerController, item_index: int, duration: float = 0
    ) -> None:
        """Note that a worker is through with an item, and give it another."""
        del duration
        nodeid = self._collections[node][item_index]
        self._held[node].remove(nodeid)
        self._latest[node] = nodeid
        self._fresh.through(nodeid)
        self._feed([node])
        self._tell_of_fresh()

    def mark_test_pending(self, item: str) -> None:
        """Run an item again: for plugins that rerun what crashed (pytest_handlecrashitem)."""
        if item in self._fresh:
            self._fresh.again(item)
            self._tell_of_fresh()
            return
        kernel = next(kernel for kernel, ids in self.collected.items() if item in ids)
        self._queues[kernel].insert(0, item)
        self._feed([node for node in self._indices if kernel_of(node) == kernel])

    def remove_pending_tests_from_node(
        self, node: WorkerController, indices: Sequence[int]
    ) -> None:
        """Answer to a theft; this scheduler steals nothing."""
        raise NotImplementedError

    def remove_node(self, node: WorkerController) -> str | None:
        """Let a worker go, and return the item that it died in, if it died in one.

        Raises KeyError if the worker never got ready, which xdist expects.
        """
        held = self._held.pop(node)
        self._collections.pop(node, None)
        self._indices.pop(node, None)
        for key in [key for key, worker in self._group_workers.items() if worker is node]:
            del self._group_workers[key]
        crashed = held[0] if held and self._log.is_running(held[0]) else None
        # It may have died after the last words about an item and before saying that it is through.
        left = [id_ for id_ in held if id_ != crashed and not self._log.is_finished(id_)]
        for nodeid in held:
            if nodeid not in left:
                self._fresh.through(nodeid)
        if left and not self._only_item(node):
            kernel = kernel_of(node)
            self._queues[kernel][:0] = left
            self._feed([other for other in self._indices if kernel_of(other) == kernel])
        self._tell_of_fresh()
        return crashed

    # What the controller asks.

    def running(self, node: WorkerController) -> str | None:
        """Return the item that a worker is in, if any."""
        held = self._held.get(node)
        return held[0] if held and self._log.is_running(held[0]) else None

    def latest(self, node: WorkerController) -> str | None:
        """Return the item that a worker was last through with, if any."""
        held = self._held.get(node)
        if held and self._log.is_finished(held[0]):
            return held[0]
        return self._latest.get(node)

    def is_needed(self, node: WorkerController) -> bool:
        """Whether another worker in the place of this one would have an item to run."""
        kernel = kernel_of(node)
        if kernel not in self._queues:
            return True
        only = self._only_item(node)
        if only:
            return not self._log.is_running(only) and not self._log.is_finished(only)
        running = self.running(node)
        held = (id_ for id_ in self._held.get(node, ()) if not self._log.is_finished(id_))
        return bool(self._queues[kernel]) or any(id_ != running for id_ in held)

    def is_waiting(self, kernel: str) -> bool:
        """Whether an item of a kernel waits for a worker."""
        return bool(self._queues.get(kernel))

    def left_beside_fresh(self, kernel: str) -> list[str]:
        """Return the items of a kernel's ordinary workers that are not through."""
        held = [
            nodeid
            for node, ids in self._held.items()
            if kernel_of(node) == kernel
            for nodeid in ids
        ]
        return [*self._queues[kernel], *(nodeid for nodeid in held if nodeid not in self._fresh)]

    # How it does it.

    def _tell_of_fresh(self) -> None:
        if self._fresh.waiting:
            self._on_fresh(self.left_beside_fresh)

    def _expected(self) -> int:
        """Return how many items there are, taking kernels that still collect for the largest."""
        numbers = [len(collection) for collection in self.collected.values()]
        return sum(numbers) + max(numbers) * (len(self._workers) - len(numbers))

    def _has_collected(self, kernel: str) -> bool:
        if kernel in self._queues:
            return True
        return sum(kernel_of(node) == kernel for node in self._indices) >= self._workers[kernel]

    def _feed(self, nodes: Iterable[WorkerController]) -> None:
        """Bring workers to two items each; one apiece first, so that few items are spread."""
        for enough in (1, 2):
            for node in nodes:
                if not node.shutting_down and len(self._held[node]) < enough:
                    self._give(node)
        for node in nodes:
            if not node.shutting_down and kernel_of(node) in self._ahead:
                self._give_ahead(node)

    def _give_ahead(self, node: WorkerController) -> None:
        held = self._held[node]
        if len(held) > _MOST_AHEAD // 2:
            return
        given = []
        while len(held) < _MOST_AHEAD and (nodeid := self._take(node)) is not None:
            held.append(nodeid)
            given.append(self._indices[node][nodeid])
        if given:
            node.send_runtest_some(given)

    def _give(self, node: WorkerController) -> None:
        nodeid = self._take(node)
        if nodeid is None:
            node.shutdown()
            return
        self._held[node].append(nodeid)
        node.send_runtest_some([self._indices[node][nodeid]])

    def _take(self, node: WorkerController) -> str | None:
        """Return the next item that a worker may run, out of its kernel's queue or its only one."""
        only = self._only_item(node)
        if only:
            given = self._held[node] or self._latest.get(node)
            return only if only in self._indices[node] and not given else None
        kernel = kernel_of(node)
        queue = self._queues[kernel]
        for position, nodeid in enumerate(queue):
            group = self._groups.get(nodeid)
            if nodeid not in self._indices[node]:
                continue
            if group is None or self._group_workers.setdefault((kernel, group), node) is node:
                return queue.pop(position)
        return None

    def _forget_unknown(self, kernel: str) -> None:
        """Drop what no living worker of a kernel collected: nobody could run it.

        The controller then misses it among the reports, and says so.
        """
        known: set[str] = set()
        for node, indices in self._indices.items():
            if kernel_of(node) == kernel and not node.shutting_down:
                known |= indices.keys()
        self._queues[kernel] = [nodeid for nodeid in self._queues[kernel] if nodeid in known]

    def _report_difference(
        self, node: WorkerController, first: Sequence[str], collection: Sequence[str]
    ) -> None:
        if set(first) == set(collection):
            return
        first_name = f"the first worker of {kernel_of(node)}"
        text = difference(first, collection, first_name, node.gateway.id)
        node.config.hook.pytest_collectreport(
            report=pytest.CollectReport(node.gateway.id, "failed", text, [])
        )


def kernel_of(node: WorkerController) -> str:
    """Return the id of the kernel that a worker runs on."""
    return str(node.gateway.spec.kernel)
