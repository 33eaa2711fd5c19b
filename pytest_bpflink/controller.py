"""The controller of a run with guests: an xdist worker per kernel, and what becomes of each.

Knows xdist's hooks, and the order it calls them in when a worker dies. Guests are `guests`',
dealing out items is `scheduling`'s, collection and the workers' half are `matrix`'s.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import boots, libbpf_axis, preparing, relay, taint
from pytest_bpflink.crashes import Crashes
from pytest_bpflink.fresh_guests import FreshGuests
from pytest_bpflink.fresh_items import FreshItem, FreshItems
from pytest_bpflink.guests import Guest, GuestFactory
from pytest_bpflink.matrix_worker import ItemFacts
from pytest_bpflink.packing import ReportPacking
from pytest_bpflink.replacements import Replacements
from pytest_bpflink.report import KernelReport, Progress
from pytest_bpflink.reports.results import RunKernel
from pytest_bpflink.scheduling import ItemLog, KernelScheduling, Location
from pytest_bpflink.vm.kernels import KernelError
from pytest_bpflink.vm.machine import MachineError
from pytest_bpflink.watchdog import LIMITS, Limits, Watchdog

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from execnet import XSpec
    from xdist.dsession import DSession
    from xdist.workermanage import NodeManager, WorkerController

    from pytest_bpflink.matrix import MatrixKernel
    from pytest_bpflink.vm.accel import Acceleration
    from pytest_bpflink.vm.kernels import Kernel


class LostItems(Exception):  # noqa: N818 - named for what happened, as KeyboardInterrupt is
    """Items were collected and never reported: a defect of this plugin, and never a green run."""


def configure(config: pytest.Config, kernels: Sequence[MatrixKernel]) -> None:
    """Make xdist start a worker per kernel. Called before xdist looks at its options.

    Raises UsageError for options that can't work with guests.
    """
    option = config.option
    if option.usepdb:
        raise pytest.UsageError("--pdb can't reach into a guest: use it with --kernel native alone")
    if option.tx and not option.numprocesses:
        raise pytest.UsageError("--tx: --kernel starts the workers itself; drop --tx")
    if option.dist == "each":
        raise pytest.UsageError("--dist=each: --kernel runs each test on every kernel; drop it")
    # -n is the number of native workers: nothing is left for it without `native`, and -n 0, which
    # people have in addopts, can't switch guests off.
    native_workers = len(option.tx) or 1
    guests, bounded = boots.affordable_workers(
        option.kernel_workers,
        kernels=sum(not kernel.is_native for kernel in kernels),
        memory_mib=option.kernel_memory,
    )
    option.tx = [
        f"popen//id={worker}//kernel={kernel.id}"
        for kernel in kernels
        for worker in _worker_ids(kernel, native_workers if kernel.is_native else guests)
    ]
    if option.kernel_host:
        from pytest_bpflink import hosts

        if option.kernel_rw:
            raise pytest.UsageError("--kernel-rw: guests on a --kernel-host can't reach this host")
        option.px = [*option.px, *hosts.proxies(option.kernel_host)]
    option.dist = "load"
    controller = MatrixController(config, kernels, bounded=bounded)
    # Restarts are bounded per worker: xdist's bound is for all together, and loses items silently.
    option.maxworkerrestart = str(sys.maxsize)
    config.pluginmanager.register(controller, "bpflink-controller")
    config.pluginmanager.register(ReportPacking(), "bpflink-ReportPacking")
    config.pluginmanager.register(controller.report, "bpflink-report")


def _worker_ids(kernel: MatrixKernel, workers: int) -> list[str]:
    if workers == 1:
        return [kernel.id]
    return [f"{kernel.id}-{number}" for number in range(1, workers + 1)]


class MatrixController:
    """Boots guests, deals their items, replaces the dead, and counts that nothing got lost."""

    def __init__(
        self, config: pytest.Config, kernels: Sequence[MatrixKernel], *, bounded: str
    ) -> None:
        self._config = config
        self._bounded = bounded
        self._kernels = list(kernels)
        self._found: dict[str, tuple[Kernel, Acceleration]] = {}
        # By spec: why it can't be used.
        self._unusable: dict[str, str] = {}
        self._factory = GuestFactory(config)
        # Keyed by spec: a replacement has the spec of the worker that it replaces.
        self._guests: dict[XSpec, Guest] = {}
        self._log = ItemLog()
        self._bugs: dict[str, str] = {}
        self._crashes = Crashes(config, self._log, self._bugs)
        limits = config.stash.get(LIMITS, None) or Limits.of(config.option.kernel_timeout)
        self._watchdog = Watchdog(limits if limits.test else None)
        self._replacements = Replacements(config)
        self._groups: dict[str, str] = {}
        self._fresh_items = FreshItems(self._groups)
        self._fresh_guests: FreshGuests
        self.report = KernelReport(config, self._run_kernels, table=True)
        self._session: pytest.Session | None = None
        self._scheduling: KernelScheduling | None = None
        self._progress = Progress(config)

    # Before anything runs.

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Find the kernels, before the header names them."""
        self._session = session
        for index, kernel in enumerate(self._kernels):
            if not kernel.is_native:
                self._kernels[index] = self._find(kernel)
        if all(kernel.spec in self._unusable for kernel in self._kernels):
            reasons = [f"--kernel {spec}: {reason}" for spec, reason in self._unusable.items()]
            raise pytest.UsageError("\n".join(reasons))
        _, directory = libbpf_axis.asked_for(self._config)
        self._kernels = libbpf_axis.find(self._kernels, self._progress, directory=directory)
        self._progress.done()

    def _find(self, kernel: MatrixKernel) -> MatrixKernel:
        machines = self._factory.machines
        if kernel.spec not in self._found | self._unusable:
            try:
                found = machines.find(kernel.spec, self._progress)
                self._found[kernel.spec] = found, machines.acceleration(found)
            except KernelError as error:
                # The others are still worth their run; this one's items are errors that say why.
                self._unusable[kernel.spec] = str(error)
            except MachineError as error:
                raise pytest.UsageError(f"--kernel {kernel.spec}: {error}") from None
        if kernel.spec in self._unusable:
            return replace(kernel, reason=f"can't be used: {self._unusable[kernel.spec]}")
        found, acceleration = self._found[kernel.spec]
        return replace(
            kernel,
            release=found.release,
            version=found.version or None,
            where="kvm" if acceleration.kvm else "tcg",
            reason=acceleration.reason,
        )

    def pytest_report_header(self) -> list[str]:
        """Return a line per kernel."""
        lines = [f"kernel {kernel}" for kernel in self._kernels]
        return [*lines, self._bounded] if self._bounded else lines

    def pytest_xdist_setupnodes(self, specs: Sequence[XSpec]) -> None:
        """Boot all guests side by side, before xdist connects to one after the other."""
        kernels = {kernel.id: kernel for kernel in self._kernels}
        for spec in specs:
            self._guests[spec] = self._new_guest(kernels[str(spec.kernel)], str(spec.id))
        guests = [guest for guest in self._guests.values() if guest.is_machine]
        if guests:
            sources = preparing.prepare(self._config, self._progress)
            self._factory.compile_elsewhere(sources)
        try:
            boots.side_by_side(guests, self._progress)
        except MachineError as error:
            raise pytest.UsageError(f"--kernel {error}") from None
        manager = self._dsession.nodemanager
        assert manager is not None
        self._wrap_setup(manager)

    def _new_guest(self, kernel: MatrixKernel, name: str) -> Guest:
        if kernel.is_native:
            return self._factory.native(kernel, name=name)
        if kernel.spec in self._unusable:
            guest = self._factory.native(kernel, name=name)
            guest.give_up(f"--kernel {kernel.spec}: {self._unusable[kernel.spec]}")
            return guest
        return self._factory.guest(kernel, self._found[kernel.spec][0], name=name)

    def _wrap_setup(self, manager: NodeManager) -> None:
        """Give a worker that can't be connected to another guest, at the start and later.

        And let a run end in good order whose worker can't be reached at the end.

        xdist 3.8 has no hook around `NodeManager.setup_node`, and an exception from it is an
        internal error that ends the run for all kernels.
        """
        set_up = manager.setup_node

        def setup_node(spec: XSpec, putevent: Any) -> WorkerController:
            guest = self._guests[spec]
            if guest.retired:
                if self._dsession.shouldstop or guest.item or not self._waits_for(guest):
                    return self._replacements.nobody()
                guest.recall("The item that it died in last was to run again.")
            if guest.booting:
                return self._replacements.await_boot(guest, partial(setup_node, spec, putevent))
            while True:
                if guest.item and guest.stand_in:
                    self._fresh_guests.refuse(spec)
                    return self._replacements.nobody()
                # An id is used once in execnet's group; for a replacement xdist took "gw0".
                spec.id, spec.python = guest.next_worker_id(), guest.python
                spec.via = guest.via
                if guest.is_machine:
                    self._watchdog.connecting(guest)
                try:
                    return set_up(spec, putevent)
                except (OSError, EOFError, AssertionError) as error:
                    self._watchdog.forget(guest)
                    if guest.stand_in:
                        raise
                    words = guest.last_words()
                    guest.replace(f"It could not be connected to: {error!r}. {words}")
                    guest.wait_ready()

        tear_down = manager.teardown_nodes

        def teardown_nodes() -> None:
            # execnet 2.1 fails to end a worker whose proxy on another host is gone by then.
            with suppress(OSError):
                tear_down()

        manager.setup_node = setup_node  # type: ignore[method-assign]
        manager.teardown_nodes = teardown_nodes  # type: ignore[method-assign]

    @pytest.hookimpl(trylast=True)
    def pytest_configure_node(self, node: WorkerController) -> None:
        """Tell a worker which kernels there are, and which one is its own."""
        guest = self._guests[node.gateway.spec]
        channel = node.gateway.newchannel()
        channel.setcallback(partial(self._hear, guest))
        self._watchdog.connected(guest, node, ask=partial(channel.send, "where"))
        node.workerinput["bpflink_kernels"] = [asdict(kernel) for kernel in self._kernels]
        node.workerinput["bpflink_kernel"] = asdict(guest.kernel)
        node.workerinput["bpflink_libbpf"] = guest.kernel.libbpf or self._config.option.bpf_libbpf
        node.workerinput["bpflink_stand_in"] = guest.stand_in
        node.workerinput["bpflink_item"] = guest.item and tuple(guest.item)
        node.workerinput["bpflink_channel"] = channel
        if guest.is_machine:
            relay.offer(node)

    def _hear(self, guest: Guest, message: tuple[str, Any]) -> None:
        """Take what a worker says beside xdist's channel; of its items before their collection."""
        subject, content = message
        if subject == "stack":
            self._watchdog.answered(guest, content)
        elif subject == "printed":
            self._progress.line(f"[{guest.name}] {content}")
        elif subject == "uncollected":
            self.report.uncollected(guest.kernel.id, content)
        else:
            self._take_description(guest.kernel, content)

    def _take_description(self, kernel: MatrixKernel, items: dict[str, tuple[Any, ...]]) -> None:
        for nodeid, described in items.items():
            facts = ItemFacts(*described)
            if facts.group is not None:
                self._groups[nodeid] = facts.group
            if facts.fresh:
                self._fresh_items.add(FreshItem(*facts.fresh))
            if facts.bug is not None:
                self._bugs[nodeid] = facts.bug
            self.report.collected(kernel.id, nodeid, facts.test, parametrized=facts.parametrized)

    # While it runs.

    def pytest_xdist_make_scheduler(self) -> KernelScheduling:
        """Deal items by kernel, whatever --dist says."""
        self._scheduling = KernelScheduling(
            Counter(guest.kernel.id for guest in self._guests.values()),
            log=self._log,
            groups=self._groups,
            fresh=self._fresh_items,
            only_item=self._only_item,
            on_collected=self._count_collected,
            # It is there by then.
            on_fresh=lambda: self._fresh_guests.fill(),  # noqa: PLW0108
        )
        self._fresh_guests = FreshGuests(
            self._dsession,
            self._fresh_items,
            at_once=boots.fresh_at_once(self._config.option.kernel_memory),
            guests=self._guests,
            new_guest=self._new_fresh_guest,
            join=self._replacements.join,
            refuse=self._crashes.refuse,
            others=self._scheduling.left_beside_fresh,
        )
        self._scheduling.config = self._config
        return self._scheduling

    def _only_item(self, node: WorkerController) -> str | None:
        item = self._guests[node.gateway.spec].item
        return item and item.nodeid

    def _new_fresh_guest(self, kernel_id: str, name: str, item: FreshItem) -> Guest:
        kernel = next(kernel for kernel in self._kernels if kernel.id == kernel_id)
        return self._factory.fresh_guest(kernel, self._found[kernel.spec][0], name=name, item=item)

    def _count_collected(self, number: int) -> None:
        # xdist 3.8 sets it to what the last worker collected, which may be nothing: "no tests ran".
        assert self._session is not None
        self._session.testscollected = number

    def pytest_runtest_logstart(self, nodeid: str, location: Location) -> None:
        """Note which item is running."""
        self._log.started(nodeid, location)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what came of an item, and in which phase it is now."""
        self._log.phase_ended(report)
        # Not whether the guest is a stand-in by now: it becomes one when its last item kills it.
        ran = report.node.workerinput["bpflink_stand_in"] is None
        kernel = self._guests[report.node.gateway.spec].kernel
        self.report.add(report, kernel.id, ran=ran)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Note that an item is not running any more."""
        self._log.finished(nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Raise LostItems unless every item that was collected was reported."""
        # -x, --maxfail and Ctrl-C leave xdist's loop by an exception: then items may be missing.
        result = yield
        assert self._scheduling is not None
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
            raise RuntimeError(f"the stand-in for kernel {guest.kernel.id} died: {error}")
        self._watchdog.forget(guest)
        last_words = self._crashes.record(node, guest, error)
        assert self._scheduling is not None
        self._crashes.blame(node, guest, self._scheduling)
        if not self._is_over(node):
            guest.replace(last_words)
        elif guest.item:
            self._fresh_guests.ended(node)
        else:
            guest.retire()

    def _go_on_after(self, node: WorkerController, guest: Guest) -> None:
        """Boot another guest for what a worker left that ended by itself."""
        output: dict[str, Any] = node.workeroutput
        tainted = output.get(taint.OUTPUT)
        # A session that is interrupted has to end; its workers are told later.
        stopped = output["shouldstop"] or output["shouldfail"] or output["exitstatus"] == 2
        is_over = stopped or self._is_over(node)
        if tainted and not guest.item:
            test, flags = tainted
            follows = "" if is_over else "; what follows gets a fresh guest"
            self._progress.line(f"\n{guest.name}: {test} left the kernel tainted: {flags}{follows}")
        if is_over and guest.item:
            self._fresh_guests.ended(node)
        if is_over or not (tainted or guest.item):
            return
        if guest.item:
            # It could not be told from its node id; among all that is collected it is found.
            guest.item = guest.item._replace(argument=None)
            guest.replace(f"{guest.item.nodeid} was not collected in a guest of its own.")
        else:
            guest.renew()
        manager = self._dsession.nodemanager
        assert manager is not None
        self._replacements.join(manager.setup_node(node.gateway.spec, self._dsession.queue.put))

    def pytest_handlecrashitem(self, report: pytest.TestReport) -> None:
        """Say which kernel an item's worker had, how far it came, and what the console says."""
        node: WorkerController = report.node
        self._crashes.complete(report, self._guests[node.gateway.spec])

    def _waits_for(self, guest: Guest) -> bool:
        assert self._scheduling is not None
        return self._scheduling.is_waiting(guest.kernel.id)

    def _is_over(self, node: WorkerController) -> bool:
        assert self._scheduling is not None
        return bool(self._dsession.shouldstop) or not self._scheduling.is_needed(node)

    # At the end.

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """End the guests, also those that a Ctrl-C found at work."""
        self._watchdog.stop()
        # Before xdist waits 10 s for workers that may hang.
        for guest in self._guests.values():
            guest.kill()

    def _run_kernels(self) -> list[RunKernel]:
        """Return the kernels, and how their guests fared, for the report."""
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
            guest.kill()
        self._replacements.close()
        for guest in self._guests.values():
            guest.close()
        self._factory.close()

    @property
    def _dsession(self) -> DSession:
        session: DSession | None = self._config.pluginmanager.get_plugin("dsession")
        assert session is not None
        return session
