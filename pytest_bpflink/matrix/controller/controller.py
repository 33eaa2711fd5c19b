"""The controller of a run with guests: an xdist worker per kernel, and what becomes of each.

Knows xdist's hooks, and the order in which xdist calls them when a worker dies. `guests` boots and
replaces machines, `connections` connects to them, `scheduling` deals items. `items` and `worker`
run in the workers.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink.building import answering
from pytest_bpflink.matrix import messages, port_relay
from pytest_bpflink.matrix.controller import preparing
from pytest_bpflink.matrix.controller.connections import Connections
from pytest_bpflink.matrix.controller.crashes import Crashes
from pytest_bpflink.matrix.controller.fresh_guests import FreshGuests
from pytest_bpflink.matrix.controller.fresh_items import FreshItems
from pytest_bpflink.matrix.controller.item_log import ItemLog, Location
from pytest_bpflink.matrix.controller.replacements import Replacements
from pytest_bpflink.matrix.controller.scheduling import KernelScheduling
from pytest_bpflink.matrix.controller.wanted_kernels import WantedKernels
from pytest_bpflink.matrix.controller.watchdog import LIMITS, Limits, Watchdog
from pytest_bpflink.matrix.controller.xdist_loop import (
    HostConnection,
    XdistLoop,
    count_collected,
    declare_dead,
    receive_by,
)
from pytest_bpflink.matrix.event_packing import unpacking
from pytest_bpflink.matrix.guests import boots, last_words
from pytest_bpflink.matrix.guests.guests import Guest, GuestFactory
from pytest_bpflink.matrix.messages import Assignment, ItemFacts, said
from pytest_bpflink.matrix.plain_values import DamagedError
from pytest_bpflink.reports.kernel_report import KernelReport
from pytest_bpflink.reports.results import RunKernel
from pytest_bpflink.session.terminal import Progress
from pytest_bpflink.vm.machines.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from execnet import Channel, XSpec
    from xdist.workermanage import WorkerController

    from pytest_bpflink.session.kernel import MatrixKernel


class LostItems(Exception):  # noqa: N818 - named for what happened, as KeyboardInterrupt is
    """Items were collected and never reported: a defect of this plugin, and never a green run."""


class MatrixController:
    """Boots guests, deals items, replaces dead guests, and checks that each item was reported."""

    def __init__(
        self,
        config: pytest.Config,
        kernels: Sequence[MatrixKernel],
        *,
        restarts: int,
        bounded: str,
    ) -> None:
        """BOUNDED is a sentence for the header if memory bounds the number of guests, else ""."""
        self._config = config
        self._bounded = bounded
        self._loop = XdistLoop(config)
        self._factory = GuestFactory(config, restarts=restarts, connect=HostConnection)
        self._kernels = WantedKernels(kernels, self._factory)
        # Keyed by spec: a replacement has the spec of the worker that it replaces.
        self._guests: dict[XSpec, Guest] = {}
        # The workers that were no stand-ins when they started: a guest may become one later.
        self._runs_items: set[WorkerController] = set()
        self._log = ItemLog()
        self._bugs: dict[str, str] = {}
        self._crashes = Crashes(config, self._loop, self._log, self._bugs)
        limits = config.stash.get(LIMITS, None) or Limits.of(config.option.kernel_timeout)
        self._watchdog = Watchdog(limits if limits.test else None)
        self._replacements = Replacements(config, self._loop)
        self._groups: dict[str, str] = {}
        self._fresh_items = FreshItems(self._groups)
        self._fresh_guests = FreshGuests(
            self._loop,
            self._fresh_items,
            memory_mib=config.option.kernel_memory,
            guests=self._guests,
            new_guest=self._kernels.guest,
            refuse=self._crashes.refuse,
        )
        self._workers: Counter[str] = Counter()
        self._ahead: set[str] = set()
        self._scheduling = KernelScheduling(
            self._workers,
            log=self._log,
            groups=self._groups,
            fresh=self._fresh_items,
            only_item=self._only_item,
            on_collected=self._count_collected,
            on_lost=self._report_lost,
            on_fresh=self._fresh_guests.fill,
            ahead=self._ahead,
        )
        self._scheduling.config = config
        self._connections = Connections(
            self._loop,
            self._guests,
            replacements=self._replacements,
            watchdog=self._watchdog,
            is_needed=self._is_needed_again,
            refuse=self._fresh_guests.refuse,
        )
        self.report = KernelReport(config, self._run_kernels, table=True)
        #: Whether some tests run on this kernel, and not in a guest.
        self.runs_natively = any(kernel.is_native for kernel in kernels)
        self._session: pytest.Session | None = None
        self._progress = Progress(config)

    # Before anything runs.

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Find the kernels, before the header names them."""
        self._session = session
        self._kernels.find(self._config, self._progress)
        if self._kernels.packed:
            preparing.refuse_unsent(self._config, self._kernels.packed)

    def pytest_report_header(self) -> list[str]:
        """Return a line per kernel."""
        lines = [f"kernel {kernel}" for kernel in self._kernels]
        return [*lines, self._bounded] if self._bounded else lines

    def pytest_xdist_setupnodes(self, specs: Sequence[XSpec]) -> None:
        """Boot all guests side by side, before xdist connects to one after the other."""
        for spec in specs:
            self._guests[spec] = self._kernels.guest(str(spec.kernel), str(spec.id))
        guests = [guest for guest in self._guests.values() if guest.is_machine]
        if guests:
            self._boot(guests)
        self._workers.update(guest.kernel.id for guest in self._guests.values())
        self._ahead |= self._dealt_ahead()
        self._fresh_guests.start()
        self._loop.connect_by(self._connections.connect)

    def _boot(self, guests: Sequence[Guest]) -> None:
        files = preparing.files_of(self._config)
        sources = preparing.prepare(self._config, files, self._progress)
        self._factory.compile_elsewhere(sources, self._kernels.libbpfs(self._config))
        rewrite = partial(preparing.rewrite_tests, self._config, files)
        if self._kernels.packed:
            # Their guests are sent the rewritten modules.
            rewrite()
        try:
            boots.side_by_side(guests, self._progress, meanwhile=rewrite)
        except MachineError as error:
            if len(guests) == len(self._guests):
                raise pytest.UsageError(f"--kernel {error}") from None

    @pytest.hookimpl(trylast=True)
    def pytest_configure_node(self, node: WorkerController) -> None:
        """Give a worker its `Assignment`, and receive its messages."""
        guest = self._guests[node.gateway.spec]
        channel = node.gateway.newchannel()
        channel.setcallback(partial(self._hear, node, guest, channel))
        damaged = partial(self._end_damaged, node)
        receive_by(node, partial(unpacking, damaged=damaged))
        self._watchdog.connected(guest, node, ask=partial(channel.send, "where"))
        assignment = Assignment(
            kernels=tuple(self._kernels),
            kernel=guest.kernel,
            libbpf=guest.kernel.libbpf or self._config.option.bpf_libbpf,
            stand_in=guest.stand_in,
            item=guest.item,
            channel=channel,
            relay=port_relay.connect(node) if guest.is_machine else None,
        )
        assignment.give(node)
        if guest.stand_in is None:
            self._runs_items.add(node)

    def _end_damaged(self, node: WorkerController, reason: str) -> None:
        declare_dead(node, last_words.of_damage(reason))

    def _hear(
        self, node: WorkerController, guest: Guest, channel: Channel, message: object
    ) -> None:
        """Take a message that is not xdist's; `ItemFacts` come before the worker's collection."""
        try:
            subject, content = said(message)
        except DamagedError as error:
            self._end_damaged(node, str(error))
            return
        if subject == "stack":
            self._watchdog.answered(guest, content)
        elif subject == "compile":
            number, request = content
            answer = answering.answer(request, partial(self._kernels.made, guest.kernel))
            channel.send((number, answer and tuple(answer)))
        elif subject == "printed":
            self._progress.printed(f"[{guest.name}] {content}")
        elif subject == "uncollected":
            self.report.uncollected(guest.kernel.id, content)
        elif subject == "refused":
            self._loop.call(partial(self._report_refusal, node, content))
        else:
            self._take_description(guest.kernel, content)

    def _report_refusal(self, node: WorkerController, reason: str) -> None:
        """Let the run fail by a worker that collected nothing, which xdist takes for its end."""
        kernel = self._guests[node.gateway.spec].kernel
        report = pytest.CollectReport(node.gateway.id, "failed", f"{kernel.id}: {reason}", [])
        self._config.hook.pytest_collectreport(report=report)
        self._scheduling.refused(node)

    def _take_description(self, kernel: MatrixKernel, items: dict[str, ItemFacts]) -> None:
        known = self._scheduling.collected.get(kernel.id)
        for nodeid, facts in items.items():
            if known is not None and nodeid not in known:
                # A replaced worker's: the scheduler deals no item that the first has not collected.
                continue
            if facts.group is not None:
                self._groups[nodeid] = facts.group
            if facts.fresh:
                self._fresh_items.add(facts.fresh)
            if facts.bug is not None:
                self._bugs[nodeid] = facts.bug
            self.report.collected(kernel.id, nodeid, facts.test, parametrized=facts.parametrized)

    # While it runs.

    def pytest_xdist_make_scheduler(self) -> KernelScheduling:
        """Deal items by kernel, whatever --dist says."""
        return self._scheduling

    def _dealt_ahead(self) -> set[str]:
        """Return the kernels that have one guest, where no --maxfail can stop the run early."""
        if self._config.option.maxfail:
            return set()
        machines = (guest.kernel.id for guest in self._guests.values() if guest.is_machine)
        return {kernel for kernel in machines if self._workers[kernel] == 1}

    def _report_lost(self, node: WorkerController, nodeids: Sequence[str], reason: str) -> None:
        spec = node.gateway.spec
        for nodeid in nodeids:
            self._crashes.report_lost(spec, self._guests[spec], nodeid, reason)

    def _only_item(self, node: WorkerController) -> str | None:
        item = self._guests[node.gateway.spec].item
        return item and item.nodeid

    def _count_collected(self, number: int) -> None:
        assert self._session is not None
        count_collected(self._session, number)

    def pytest_runtest_logstart(self, nodeid: str, location: Location) -> None:
        """Note which item is running."""
        self._log.started(nodeid, location)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome of an item's phase, and the phase that follows."""
        self._log.phase_ended(report)
        kernel = self._guests[report.node.gateway.spec].kernel
        self.report.add(report, kernel.id, ran=report.node in self._runs_items)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Note that an item is not running any more."""
        self._log.finished(nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Raise LostItems unless every item that was collected was reported."""
        # -x, --maxfail and Ctrl-C leave xdist's loop by an exception: then items may be missing.
        result = yield
        lost = {
            kernel: missing
            for kernel, collected in self._scheduling.collected.items()
            if (missing := [nodeid for nodeid in collected if nodeid not in self._log.reported])
        }
        if lost:
            raise LostItems(f"collected, but never reported: {lost}")
        return result

    # When a worker is gone. xdist 3.8, DSession.worker_errordown: pytest_testnodedown,
    # Scheduling.remove_node, pytest_handlecrashitem, then a replacement with the same spec.

    def pytest_testnodedown(self, node: WorkerController, error: object | None) -> None:
        """Decide what takes the place of a worker that died."""
        guest = self._guests[node.gateway.spec]
        if error is None:
            self._go_on_after(node, guest)
            return
        if guest.stand_in:
            # After this hook xdist takes back its items.
            self._loop.call(partial(self._report_refusal, node, f"{guest.stand_in}\n{error}"))
            guest.retire()
            return
        self._watchdog.forget(guest)
        last_words = self._crashes.record(node, guest, error)
        self._crashes.blame(node, guest, self._scheduling)
        if not self._is_over(node):
            guest.replace(last_words)
        elif guest.item:
            self._fresh_guests.ended(node)
        else:
            guest.retire()

    def _go_on_after(self, node: WorkerController, guest: Guest) -> None:
        """Boot another guest if a worker that ended by itself has left items."""
        output: dict[str, Any] = node.workeroutput
        ended_after = output.get(messages.ENDED_AFTER)
        if output["exitstatus"] == pytest.ExitCode.INTERRUPTED:
            return  # xdist (3.8) calls pytest_testnodedown again, with an error
        # xdist (3.8) stops the session for these after this hook.
        stopped = output["shouldstop"] or output["shouldfail"]
        is_over = stopped or self._is_over(node)
        if ended_after and not guest.item:
            test, what = ended_after
            follows = "" if is_over else "; the next tests get a fresh guest"
            self._progress.line(f"\n{guest.name}: {test} {what}{follows}")
        if is_over and guest.item:
            self._fresh_guests.ended(node)
        if is_over or not (ended_after or guest.item):
            return
        if guest.item:
            # pytest did not find the item by its argument; the next worker collects all items.
            guest.item = guest.item._replace(argument=None)
            guest.replace(f"{guest.item.nodeid} was not collected in a guest of its own.")
        else:
            guest.renew()
        self._loop.start_worker(node.gateway.spec)

    def pytest_handlecrashitem(self, report: pytest.TestReport) -> None:
        """Add the kernel, the phase and the console's end to the report of a crash."""
        node: WorkerController = report.node
        self._crashes.complete(report, self._guests[node.gateway.spec])

    def _is_needed_again(self, guest: Guest) -> bool:
        is_over = self._loop.is_stopping or guest.item or guest.stand_in
        return not is_over and self._scheduling.is_waiting(guest.kernel.id)

    def _is_over(self, node: WorkerController) -> bool:
        return self._loop.is_stopping or not self._scheduling.is_needed(node)

    # At the end.

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """End all guests, even if they still run items, as after Ctrl-C."""
        self._watchdog.stop()
        # Before xdist waits 10 s for workers that may hang.
        for guest in self._guests.values():
            guest.end()

    def _run_kernels(self) -> list[RunKernel]:
        """Return each kernel for the report, with its guests' boot time, losses and problem."""
        rows = []
        for kernel in self._kernels:
            guests = [guest for guest in self._guests.values() if guest.kernel.id == kernel.id]
            boots = [guest.boot_seconds for guest in guests if guest.boot_seconds]
            problems = (guest.stand_in for guest in guests if guest.stand_in)
            rows.append(
                RunKernel(
                    kernel,
                    boot_seconds=max(boots, default=None),
                    guests_lost=sum(guest.died for guest in guests),
                    problem=next(problems, None) or "",
                )
            )
        return rows

    def pytest_unconfigure(self) -> None:
        """Leave nothing of the guests behind, also when the session did not start."""
        self._watchdog.stop()
        for guest in self._guests.values():
            guest.end()
        self._replacements.close()
        for guest in self._guests.values():
            guest.close()
        self._factory.close()
