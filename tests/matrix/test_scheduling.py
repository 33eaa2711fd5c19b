"""The scheduler's promises, without xdist around it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_bpflink.matrix.controller.fresh_items import FreshItems
from pytest_bpflink.matrix.controller.item_log import ItemLog
from pytest_bpflink.matrix.controller.scheduling import KernelScheduling
from pytest_bpflink.matrix.messages import FreshItem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

LOCATION = ("file.py", 1, "item")


class Worker:
    """A worker as the scheduler sees it: the items it holds, and whether it will get no more."""

    def __init__(self, kernel: str, name: str = "", *, only: str | None = None) -> None:
        self.only = only
        self.gateway = SimpleNamespace(spec=SimpleNamespace(kernel=kernel), id=name or kernel)
        self.config = SimpleNamespace(hook=SimpleNamespace(pytest_collectreport=self.complain))
        self.sent: list[int] = []
        self.shutting_down = False
        self.complaints: list[pytest.CollectReport] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        assert not self.shutting_down
        self.sent += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    def complain(self, report: pytest.CollectReport) -> None:
        self.complaints.append(report)


class Run:
    """A scheduler, and the calls that xdist makes."""

    def __init__(
        self, *workers: Worker, groups: dict[str, str] | None = None, ahead: tuple[str, ...] = ()
    ) -> None:
        self.log = ItemLog()
        self.expected: list[int] = []
        self.lost: list[tuple[Sequence[str], str]] = []
        self.fresh = FreshItems(groups or {})
        self.taken: list[tuple[str, str]] = []
        kernels = [worker.gateway.spec.kernel for worker in workers]
        self.scheduling: Any = KernelScheduling(
            {kernel: kernels.count(kernel) for kernel in kernels},
            log=self.log,
            groups=groups or {},
            fresh=self.fresh,
            only_item=lambda node: getattr(node, "only", None),
            on_collected=self.expected.append,
            on_lost=lambda _, lost, text: self.lost.append((lost, text)),
            on_fresh=self._give_guest,
            ahead=ahead,
        )
        for worker in workers:
            self.scheduling.add_node(cast("Any", worker))

    def add_fresh(self, nodeid: str) -> None:
        self.fresh.add(FreshItem(nodeid, None, LOCATION))

    def _give_guest(self, others: Callable[[str], Iterable[str]]) -> None:
        taken = self.fresh.take(others, {})
        if taken:
            self.taken.append((taken[0], taken[1].nodeid))

    def collect(self, worker: Worker, items: list[str]) -> None:
        self.scheduling.add_node_collection(worker, items)
        if self.scheduling.collection_is_completed:
            self.scheduling.schedule()

    def start(self, worker: Worker) -> None:
        """Begin a worker's next item."""
        assert len(worker.sent) > 1 or worker.shutting_down, "it would wait for ever"
        self.log.started(self.next(worker), LOCATION)

    def run(self, worker: Worker) -> str:
        """Let a worker run its next item, and return it."""
        self.start(worker)
        item = self.next(worker)
        self.log.finished(item)
        self.scheduling.mark_test_complete(worker, worker.sent.pop(0))
        return item

    def run_all(self, worker: Worker) -> list[str]:
        done = []
        while worker.sent:
            done.append(self.run(worker))
        return done

    def next(self, worker: Worker) -> str:
        item: str = self.scheduling._collections[worker][worker.sent[0]]
        return item


def test_a_worker_gets_the_items_of_its_kernel_in_order() -> None:
    old, new = Worker("6.1"), Worker("7.2")
    run = Run(old, new)

    run.collect(old, ["a[6.1]", "b[6.1]", "c[6.1]"])
    run.collect(new, ["a[7.2]", "c[7.2]"])

    assert run.run_all(old) == ["a[6.1]", "b[6.1]", "c[6.1]"]
    assert run.run_all(new) == ["a[7.2]", "c[7.2]"]
    assert run.scheduling.tests_finished


def test_a_worker_holds_two_items_so_that_the_rest_can_be_called_off() -> None:
    worker = Worker("6.1")
    run = Run(worker)

    run.collect(worker, list("abcde"))
    assert worker.sent == [0, 1]
    run.run(worker)
    assert worker.sent == [1, 2]


def test_the_only_guest_of_a_kernel_never_waits_for_an_item() -> None:
    guest, native = Worker("6.1"), Worker("native")
    run = Run(guest, native, ahead=("6.1",))
    items = [str(number) for number in range(100)]

    run.collect(guest, items)
    run.collect(native, items)

    for number in range(90):
        assert 8 <= len(guest.sent) <= 16
        assert run.run(guest) == items[number]
    assert run.run_all(guest) == items[90:]
    assert guest.shutting_down
    assert native.sent == [0, 1]


def test_what_a_dead_guest_was_given_ahead_is_run_in_order() -> None:
    guest, fresh = Worker("6.1"), Worker("6.1")
    run = Run(guest, ahead=("6.1",))
    items = [str(number) for number in range(30)]
    run.collect(guest, items)
    run.run(guest)
    run.start(guest)

    assert run.scheduling.remove_node(guest) == "1"
    run.scheduling.add_node(fresh)
    run.collect(fresh, items)

    assert run.run_all(fresh) == items[2:]
    assert run.scheduling.tests_finished


@pytest.mark.parametrize("number", range(6))
def test_a_live_worker_never_holds_one_item(number: int) -> None:
    first, second = Worker("6.1", "1"), Worker("6.1", "2")
    run = Run(first, second)
    items = [str(index) for index in range(number)]

    run.collect(first, items)
    run.collect(second, items)

    assert sorted(run.run_all(first) + run.run_all(second)) == items
    assert first.shutting_down
    assert second.shutting_down
    assert run.scheduling.tests_finished


def test_few_items_are_spread_over_workers() -> None:
    workers = [Worker("native", str(index)) for index in range(3)]
    run = Run(*workers)

    for worker in workers:
        run.collect(worker, list("abcd"))

    assert [worker.sent for worker in workers] == [[0, 3], [1], [2]]


def test_a_kernel_starts_without_waiting_for_the_others() -> None:
    native, guest = Worker("native"), Worker("6.1")
    run = Run(native, guest)

    run.collect(native, list("ab"))

    assert run.run_all(native) == ["a", "b"]
    assert run.scheduling.has_pending
    assert not run.scheduling.tests_finished
    run.collect(guest, [])
    assert run.scheduling.tests_finished


def test_the_number_of_items_is_guessed_until_all_have_collected() -> None:
    native, guest = Worker("native"), Worker("6.1")
    run = Run(native, guest)

    run.collect(native, list("abc"))
    run.collect(guest, list("ab"))

    assert run.expected == [6, 5]


def test_a_group_stays_with_one_worker() -> None:
    first, second = Worker("native", "1"), Worker("native", "2")
    run = Run(first, second, groups={"b": "g", "c": "g", "d": "g"})

    run.collect(first, list("abcd"))
    run.collect(second, list("abcd"))

    assert run.run_all(first) == ["a"]
    assert run.run_all(second) == ["b", "c", "d"]


def test_what_a_dead_worker_held_goes_to_the_next_but_the_item_it_died_in() -> None:
    worker, fresh = Worker("6.1"), Worker("6.1")
    run = Run(worker)
    run.collect(worker, list("abcd"))
    run.run(worker)
    run.start(worker)

    assert run.scheduling.is_needed(worker)
    assert run.scheduling.running(worker) == "b"
    assert run.scheduling.remove_node(worker) == "b"
    assert not run.scheduling.tests_finished
    run.scheduling.add_node(fresh)
    run.collect(fresh, list("abcd"))

    assert run.run_all(fresh) == ["c", "d"]
    assert run.scheduling.tests_finished


def test_no_item_is_blamed_that_was_not_seen_to_start() -> None:
    worker, fresh = Worker("6.1"), Worker("6.1")
    run = Run(worker)
    run.collect(worker, list("abc"))
    run.run(worker)

    assert run.scheduling.latest(worker) == "a"
    assert run.scheduling.remove_node(worker) is None
    run.scheduling.add_node(fresh)
    run.collect(fresh, list("abc"))

    assert run.run_all(fresh) == ["b", "c"]


def test_a_worker_that_dies_right_after_an_item_neither_repeats_nor_fails_it() -> None:
    worker, fresh = Worker("6.1"), Worker("6.1")
    run = Run(worker)
    run.collect(worker, list("abc"))
    run.start(worker)
    run.log.finished("a")

    assert run.scheduling.running(worker) is None
    assert run.scheduling.latest(worker) == "a"
    assert run.scheduling.remove_node(worker) is None
    run.scheduling.add_node(fresh)
    run.collect(fresh, list("abc"))

    assert run.run_all(fresh) == ["b", "c"]


def test_no_worker_is_needed_after_a_death_in_the_last_item() -> None:
    worker = Worker("6.1")
    run = Run(worker)
    run.collect(worker, ["a"])
    run.start(worker)

    assert not run.scheduling.is_needed(worker)
    assert run.scheduling.remove_node(worker) == "a"
    assert run.scheduling.tests_finished


def test_a_worker_that_dies_in_collection_is_needed() -> None:
    worker = Worker("6.1")

    assert Run(worker).scheduling.is_needed(worker)


def test_a_group_of_a_dead_worker_finds_another() -> None:
    worker, fresh = Worker("6.1"), Worker("6.1")
    run = Run(worker, groups=dict.fromkeys("abc", "g"))
    run.collect(worker, list("abc"))
    run.start(worker)
    run.scheduling.remove_node(worker)

    run.scheduling.add_node(fresh)
    run.collect(fresh, list("abc"))

    assert run.run_all(fresh) == ["b", "c"]


def test_an_item_that_no_worker_knows_any_more_does_not_hold_up_the_end() -> None:
    worker, fresh = Worker("6.1"), Worker("6.1")
    run = Run(worker)
    run.collect(worker, list("abc"))
    run.start(worker)
    run.scheduling.remove_node(worker)

    run.scheduling.add_node(fresh)
    run.collect(fresh, ["c"])

    assert run.run_all(fresh) == ["c"]
    assert run.scheduling.tests_finished
    assert run.scheduling.collected == {"6.1": ["a", "b", "c"]}


def test_workers_of_one_kernel_that_collect_different_items_are_a_collection_error() -> None:
    first, second = Worker("native", "1"), Worker("native", "2")
    run = Run(first, second)

    run.collect(first, ["a", "b"])
    run.collect(second, ["b", "a"])
    assert not second.complaints
    third = Worker("native", "3")
    run = Run(first, third)
    run.collect(first, ["a", "b"])
    run.collect(third, ["a"])

    assert [report.outcome for report in third.complaints] == ["failed"]


def test_a_plugin_may_have_a_crashed_item_run_again() -> None:
    worker, fresh = Worker("6.1"), Worker("6.1")
    run = Run(worker)
    run.collect(worker, ["a"])
    run.start(worker)
    run.scheduling.remove_node(worker)
    run.scheduling.mark_test_pending("a")

    run.scheduling.add_node(fresh)
    run.collect(fresh, ["a"])

    assert run.run_all(fresh) == ["a"]


def test_a_worker_that_never_got_ready_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Run(Worker("6.1")).scheduling.remove_node(Worker("6.1"))


# Items on fresh kernels


def test_a_fresh_item_waits_for_a_worker_that_runs_it_only() -> None:
    worker, own = Worker("6.1"), Worker("6.1", only="b")
    run = Run(worker)
    run.add_fresh("b")
    run.collect(worker, list("abc"))

    assert run.run_all(worker) == ["a", "c"]
    assert worker.shutting_down
    assert run.taken == [("6.1", "b")]
    assert not run.scheduling.tests_finished
    run.scheduling.add_node(own)
    run.collect(own, ["b"])

    assert own.shutting_down
    assert run.run_all(own) == ["b"]
    assert run.scheduling.tests_finished
    assert run.scheduling.collected == {"6.1": ["a", "b", "c"]}
    assert run.expected[-1] == 3


def test_a_fresh_item_stays_with_its_guest_until_it_was_begun() -> None:
    worker, own, again = Worker("6.1"), Worker("6.1", only="b"), Worker("6.1", only="b")
    run = Run(worker)
    run.add_fresh("b")
    run.collect(worker, list("ab"))
    run.run_all(worker)
    run.scheduling.add_node(own)
    run.collect(own, ["b"])

    assert run.scheduling.is_needed(own)
    assert run.scheduling.remove_node(own) is None
    assert not run.scheduling.tests_finished
    run.scheduling.add_node(again)
    run.collect(again, ["b"])
    run.start(again)

    assert not run.scheduling.is_needed(again)
    assert run.scheduling.remove_node(again) == "b"
    assert run.scheduling.tests_finished


def test_a_worker_that_did_not_find_its_item_is_let_go() -> None:
    worker, own = Worker("6.1"), Worker("6.1", only="b")
    run = Run(worker)
    run.add_fresh("b")
    run.collect(worker, list("ab"))
    run.run_all(worker)
    run.scheduling.add_node(own)

    run.collect(own, [])

    assert own.shutting_down
    assert not own.sent
    assert run.scheduling.is_needed(own)


def test_a_fresh_item_waits_for_the_others_of_its_group() -> None:
    worker = Worker("6.1")
    run = Run(worker, groups=dict.fromkeys("bcd", "g"))
    run.add_fresh("b")
    run.add_fresh("d")
    run.collect(worker, list("abcd"))

    assert run.run(worker) == "a"
    assert not run.taken
    assert run.run(worker) == "c"
    assert run.taken == [("6.1", "b")]
    own = Worker("6.1", only="b")
    run.scheduling.add_node(own)
    run.collect(own, ["b"])
    assert run.run(own) == "b"

    assert run.taken == [("6.1", "b"), ("6.1", "d")]


def test_a_crashed_fresh_item_may_run_again() -> None:
    worker, own = Worker("6.1"), Worker("6.1", only="a")
    run = Run(worker)
    run.add_fresh("a")
    run.collect(worker, ["a"])
    run.scheduling.add_node(own)
    run.collect(own, ["a"])
    run.start(own)
    run.scheduling.remove_node(own)

    run.scheduling.mark_test_pending("a")

    assert run.taken == [("6.1", "a")] * 2
    assert not run.scheduling.tests_finished
