"""Deals the items of each kernel to the kernel's workers, in order, a few at a time.

Knows xdist's scheduler protocol (xdist.scheduler.protocol.Scheduling) and the `ItemLog`. Knows
nothing of guests: a worker belongs to the kernel that its spec names.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from xdist.workermanage import WorkerController

    from pytest_bpflink.matrix.controller.fresh_items import FreshItems
    from pytest_bpflink.matrix.controller.item_log import ItemLog


# Items that the only guest of a kernel holds at most; it gets more when half of them are left.
_MOST_AHEAD = 16

# The ids that an error names of those that only one worker has collected.
_MOST_SHOWN = 5


class KernelScheduling:
    """Deals the items of each kernel to the workers of that kernel.

    - Items keep their order. Workers of one kernel take the next item as they get free, so they
      balance; items of one `xdist_group` go to one worker.
    - A worker holds two items. It gets no more, since it runs all items that it was sent, even
      after `-x` stopped the run. It gets no fewer, since a worker begins an item only when it knows
      the next one, or that none comes (xdist 3.8: WorkerInteractor.run_one_test).
    - If a kernel has one guest and no failure stops the run, that guest is given up to 16 items at
      once: no other worker could run them, and it then need not wait for each to be sent.
    - A kernel's items start when that kernel's workers have collected; other kernels may lag.
    - When a worker dies, its unfinished items go back to the front of the queue, except the item
      that was seen to start: `remove_node` returns that item, as the one that the worker died in.
    - If the worker that replaces a dead one collects other ids, `on_lost` is called with the items
      that no worker can run any more, and the reason.
    - Items that run on a kernel of their own (`FreshItems`) are in no queue. Each waits for a
      worker that runs only this item. `on_fresh` is called when an item may get a guest; its
      argument is `left_beside_fresh`.
    """

    #: Plugins such as pytest-rerunfailures read it, since xdist's own schedulers have it.
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
        on_lost: Callable[[WorkerController, Sequence[str], str], None],
        on_fresh: Callable[[Callable[[str], Iterable[str]]], None],
        ahead: Collection[str] = (),
    ) -> None:
        """ONLY_ITEM(node) is the only item that a worker is for, None for ordinary workers.

        AHEAD has the kernels with one worker, which may hold more than two items.
        """
        self._ahead = ahead
        self._fresh = fresh
        self._only_item = only_item
        self._on_lost = on_lost
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
        self._refusals: Counter[str] = Counter()
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
        """Whether a kernel has started: xdist then stops showing how many workers collected."""
        return bool(self._queues)

    def add_node(self, node: WorkerController) -> None:
        """Take in a worker, before it collects."""
        self._held[node] = []

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        """Take in a worker's collection."""
        kernel = kernel_of(node)
        self._collections[node] = collection
        self._indices[node] = {nodeid: index for index, nodeid in enumerate(collection)}
        if self._only_item(node):
            self._on_collected(self._expected())
            return
        first = self.collected.setdefault(kernel, list(collection))
        if kernel in self._queues:
            lost = self._forget_unknown(kernel)
            if lost:
                self._on_lost(node, lost, _difference(node, first, collection))
        else:
            self._report_difference(node, first, collection)
        self._on_collected(self._expected())

    def schedule(self) -> None:
        """Start the kernels that can start, and give items to workers that have none."""
        for kernel in self._workers:
            if kernel not in self._queues and self._has_collected(kernel):
                self._queues[kernel] = self._fresh.take_out(
                    kernel, self.collected.setdefault(kernel, [])
                )
        self._feed([node for node in self._indices if kernel_of(node) in self._queues])
        self._tell_of_fresh()

    def mark_test_complete(
        self, node: WorkerController, item_index: int, duration: float = 0
    ) -> None:
        """Note that a worker has finished an item, and give it another."""
        del duration
        nodeid = self._collections[node][item_index]
        self._held[node].remove(nodeid)
        self._latest[node] = nodeid
        self._fresh.through(nodeid)
        self._feed([node])
        self._tell_of_fresh()

    def mark_test_pending(self, item: str) -> None:
        """Run an item again: for plugins that rerun crashed items (pytest_handlecrashitem)."""
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
        """Never called: this scheduler takes no items back from workers."""
        raise NotImplementedError

    def remove_node(self, node: WorkerController) -> str | None:
        """Forget a worker, and return the item that it died in, if it died in one.

        Raises KeyError if the worker never got ready, which xdist expects.
        """
        held = self._held.pop(node)
        self._collections.pop(node, None)
        self._indices.pop(node, None)
        for key in [key for key, worker in self._group_workers.items() if worker is node]:
            del self._group_workers[key]
        crashed = held[0] if held and self._log.is_running(held[0]) else None
        # The worker may have died between an item's logfinish and runtest_protocol_complete.
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

    def refused(self, node: WorkerController) -> None:
        """Wait for no collection of a worker whose pytest refuses to collect."""
        kernel = kernel_of(node)
        self._refusals[kernel] += 1
        if kernel in self._queues and (lost := self._forget_unknown(kernel)):
            self._on_lost(node, lost, "no worker is left")
        if self.collection_is_completed:
            self.schedule()

    def running(self, node: WorkerController) -> str | None:
        """Return the item that a worker is in, if any."""
        held = self._held.get(node)
        return held[0] if held and self._log.is_running(held[0]) else None

    def latest(self, node: WorkerController) -> str | None:
        """Return the item that a worker has finished last, if any."""
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
        """Return the unfinished items of a kernel's ordinary workers."""
        held = [
            nodeid
            for node, ids in self._held.items()
            if kernel_of(node) == kernel
            for nodeid in ids
        ]
        return [*self._queues[kernel], *(nodeid for nodeid in held if nodeid not in self._fresh)]

    # Dealing.

    def _tell_of_fresh(self) -> None:
        if self._fresh.waiting:
            self._on_fresh(self.left_beside_fresh)

    def _expected(self) -> int:
        """Return the number of items; a kernel that still collects counts like the largest one."""
        numbers = [len(collection) for collection in self.collected.values()]
        return sum(numbers) + max(numbers) * (len(self._workers) - len(numbers))

    def _has_collected(self, kernel: str) -> bool:
        if kernel in self._queues:
            return True
        collected = sum(kernel_of(node) == kernel for node in self._indices)
        return collected + self._refusals[kernel] >= self._workers[kernel]

    def _feed(self, nodes: Iterable[WorkerController]) -> None:
        """Bring workers to two items each; first to one each, so that few items are spread."""
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
        """Return the next item that a worker may run: from its kernel's queue, or its only item."""
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

    def _forget_unknown(self, kernel: str) -> list[str]:
        """Drop and return the items that no living worker of a kernel has collected."""
        known: set[str] = set()
        for node, indices in self._indices.items():
            if kernel_of(node) == kernel and not node.shutting_down:
                known |= indices.keys()
        lost = [nodeid for nodeid in self._queues[kernel] if nodeid not in known]
        self._queues[kernel] = [nodeid for nodeid in self._queues[kernel] if nodeid in known]
        return lost

    def _report_difference(
        self, node: WorkerController, first: Sequence[str], collection: Sequence[str]
    ) -> None:
        if set(first) == set(collection):
            return
        text = _difference(node, first, collection)
        node.config.hook.pytest_collectreport(
            report=pytest.CollectReport(node.gateway.id, "failed", text, [])
        )


def _difference(node: WorkerController, first: Sequence[str], collection: Sequence[str]) -> str:
    """Return the ids that only one of two workers has collected, and the usual cause."""
    ids = f"other ids than the first worker of {kernel_of(node)}"
    lines = [f"{node.gateway.id} collected {ids}: random values or a set in parametrize?"]
    for name, collected, others in (
        ("the first worker", first, {*collection}),
        (node.gateway.id, collection, {*first}),
    ):
        only = [nodeid for nodeid in collected if nodeid not in others]
        lines += [f"only {name} has {nodeid}" for nodeid in only[:_MOST_SHOWN]]
        if only[_MOST_SHOWN:]:
            lines.append(f"and {len(only) - _MOST_SHOWN} more")
    return "\n".join(lines)


def kernel_of(node: WorkerController) -> str:
    """Return the id of the kernel that a worker runs on."""
    return str(node.gateway.spec.kernel)
