"""Which item is blamed for a worker's death, and the report of that item.

Knows in which order xdist (3.8, DSession.worker_errordown) handles a death. `controller` decides
what replaces the worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.matrix.controller.xdist_loop import MissingWorker
from pytest_bpflink.session.pytest_internals import add_to_junit
from pytest_bpflink.vm.machines import console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from execnet import XSpec
    from xdist.workermanage import WorkerController

    from pytest_bpflink.matrix.controller.item_log import ItemLog, Location
    from pytest_bpflink.matrix.controller.scheduling import KernelScheduling
    from pytest_bpflink.matrix.controller.xdist_loop import XdistLoop
    from pytest_bpflink.matrix.guests.guests import Guest


class Crashes:
    """Makes the reports of the items that workers died in or after."""

    def __init__(
        self, config: pytest.Config, loop: XdistLoop, log: ItemLog, bugs: Mapping[str, str]
    ) -> None:
        """BUGS has the items that are known to crash kernels, each with the source of its bug."""
        self._loop = loop
        self._bugs = bugs
        self._config = config
        self._log = log
        self._last_words: dict[WorkerController, str] = {}

    def record(self, node: WorkerController, guest: Guest, error: object) -> str:
        """Keep the last words of a dead worker and its guest, before the guest is closed."""
        # xdist gives this error if the connection ended without another error.
        cause = "" if error == "Not properly terminated" else f"{error}\n"
        self._last_words[node] = cause + guest.last_words()
        return self._last_words[node]

    def blame(self, node: WorkerController, guest: Guest, scheduling: KernelScheduling) -> None:
        """Fail the item that a worker died after; xdist reports an item that a worker died in.

        Between two items, the teardown of the first one is blamed, or its effect on the kernel.
        """
        running, latest = scheduling.running(node), scheduling.latest(node)
        if running is None and latest is None:
            return
        if not self._is_known(running or latest, node):
            self._loop.count_failure()
        if running is None and latest is not None:
            report = pytest.TestReport(
                latest, self._log.location(latest), {}, "failed", None, "teardown"
            )
            report.node = node  # type: ignore[attr-defined]
            self._describe(report, guest, "died after this test")
            self._config.hook.pytest_runtest_logreport(report=report)

    def complete(self, report: pytest.TestReport, guest: Guest) -> None:
        """Add the kernel, the item's phase and the panic to xdist's report of a crash."""
        # xdist 3.8 says "???", which JUnit takes for a failed set-up.
        report.when = self._log.phase(report.nodeid)
        self._describe(report, guest, f"died in the {report.when} of this test")

    def refuse(self, spec: XSpec, guest: Guest) -> None:
        """Report the only item of a guest that could not start as an error in its set-up."""
        assert guest.item is not None
        self._report_error(spec, guest, guest.item.nodeid, guest.item.location, guest.stand_in)

    def report_lost(self, spec: XSpec, guest: Guest, nodeid: str, reason: str) -> None:
        """Report an item that no worker can run any more as an error in its set-up."""
        kernel = f"kernel {guest.kernel.id}: not run, since "
        self._report_error(spec, guest, nodeid, self._log.location(nodeid), kernel + reason)

    def _report_error(
        self, spec: XSpec, guest: Guest, nodeid: str, location: Location, reason: str | None
    ) -> None:
        node = MissingWorker(spec, guest.name)
        self._loop.count_failure()
        for when, failure in (("setup", reason), ("teardown", None)):
            report = pytest.TestReport(
                nodeid,
                location,
                {},
                "failed" if failure else "passed",
                failure,
                when,  # type: ignore[arg-type]
                user_properties=guest.kernel.properties,
            )
            report.node = node  # type: ignore[attr-defined]
            self._config.hook.pytest_runtest_logreport(report=report)

    def _is_known(self, nodeid: str | None, node: WorkerController) -> bool:
        """Whether an item is marked kernel_bug, and the console shows a cause of the death."""
        return nodeid in self._bugs and bool(console.cause(self._last_words[node]))

    def _describe(self, report: pytest.TestReport, guest: Guest, what: str) -> None:
        kernel = guest.kernel
        worker = "the worker" if kernel.is_native else "the guest"
        last_words = self._last_words[report.node]
        # pytest's short summary shows the first line.
        panic = console.cause(last_words)
        report.user_properties = kernel.properties
        add_to_junit(self._config, report)
        report.location = self._log.location(report.nodeid)
        report.longrepr = (
            f"kernel {kernel.id}: {worker} (Linux {kernel.release}) {what}"
            f"{f': {panic}' if panic else '.'}\n{last_words}"
        )
        if self._is_known(report.nodeid, report.node):
            report.outcome = "skipped"
            report.wasxfail = f"known kernel bug: {self._bugs[report.nodeid]}: {panic}"
            # Every report shows the sections of an expected failure; not every one its longrepr.
            report.longrepr, _, console_end = str(report.longrepr).partition("\n")
            report.sections.append(("Console of the guest", console_end))
