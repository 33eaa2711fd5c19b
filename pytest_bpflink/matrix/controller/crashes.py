"""Whom a worker's death is put down to, and what the report of it says.

Knows the order in which xdist (3.8, DSession.worker_errordown) tells of a death. What takes the
place of the dead is `controller`'s to decide.
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

    from pytest_bpflink.matrix.controller.item_log import ItemLog
    from pytest_bpflink.matrix.controller.scheduling import KernelScheduling
    from pytest_bpflink.matrix.controller.xdist_loop import XdistLoop
    from pytest_bpflink.matrix.guests.guests import Guest


class Crashes:
    """Makes the reports of the items that workers died in or after."""

    def __init__(
        self, config: pytest.Config, loop: XdistLoop, log: ItemLog, bugs: Mapping[str, str]
    ) -> None:
        """BUGS are the items that are known to crash kernels, with the source that says so."""
        self._loop = loop
        self._bugs = bugs
        self._config = config
        self._log = log
        self._last_words: dict[WorkerController, str] = {}

    def record(self, node: WorkerController, guest: Guest, error: object) -> str:
        """Keep what a dead worker and its guest said last, before the guest is cleared away."""
        # What xdist says when the connection just ended.
        cause = "" if error == "Not properly terminated" else f"{error}\n"
        self._last_words[node] = cause + guest.last_words()
        return self._last_words[node]

    def blame(self, node: WorkerController, guest: Guest, scheduling: KernelScheduling) -> None:
        """Fail the item that a worker died after; the one that it died in is left to xdist.

        Between two items it is the teardown of the one before, or what that set off in the kernel.
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
        """Say in xdist's report of a crash which kernel it was, how far it came, and its panic."""
        # xdist 3.8 says "???", which JUnit takes for a failed set-up.
        report.when = self._log.phase(report.nodeid)
        self._describe(report, guest, f"died in the {report.when} of this test")

    def refuse(self, spec: XSpec, guest: Guest) -> None:
        """Report the only item of a guest that can't be had as an error in its set-up."""
        assert guest.item is not None
        nodeid = guest.item.nodeid
        node = MissingWorker(spec, guest.name)
        self._loop.count_failure()
        for when, failure in (("setup", guest.stand_in), ("teardown", None)):
            report = pytest.TestReport(
                nodeid,
                guest.item.location,
                {},
                "failed" if failure else "passed",
                failure,
                when,  # type: ignore[arg-type]
                user_properties=guest.kernel.properties,
            )
            report.node = node  # type: ignore[attr-defined]
            self._config.hook.pytest_runtest_logreport(report=report)

    def _is_known(self, nodeid: str | None, node: WorkerController) -> bool:
        """Whether a death is what the mark of an item foretold."""
        return nodeid in self._bugs and bool(console.cause(self._last_words[node]))

    def _describe(self, report: pytest.TestReport, guest: Guest, what: str) -> None:
        kernel = guest.kernel
        worker = "the worker" if kernel.is_native else "the guest"
        last_words = self._last_words[report.node]
        # The first line is what pytest's short summary shows.
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
            # Of an expected failure only the sections are shown by every report that there is.
            report.longrepr, _, console_end = str(report.longrepr).partition("\n")
            report.sections.append(("Console of the guest", console_end))
