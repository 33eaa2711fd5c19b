"""Which item is blamed for a worker's death, and the report of that item.

Knows in which order xdist (3.8, DSession.worker_errordown) handles a death. `controller` decides
what replaces the worker.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.matrix import messages
from pytest_bpflink.matrix.controller.xdist_loop import (
    CONNECTION_ENDED,
    MissingWorker,
    end_worker,
)
from pytest_bpflink.matrix.guests import last_words
from pytest_bpflink.matrix.guests.last_words import LastWords
from pytest_bpflink.session.pytest_internals import add_to_junit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from execnet import XSpec
    from xdist.workermanage import WorkerController

    from pytest_bpflink.matrix.controller.item_log import ItemLog, Location
    from pytest_bpflink.matrix.controller.scheduling import KernelScheduling
    from pytest_bpflink.matrix.controller.xdist_loop import XdistLoop
    from pytest_bpflink.matrix.guests.guests import Guest
    from pytest_bpflink.session.kernel import MatrixKernel


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
        self._last_words: dict[WorkerController, LastWords] = {}

    def record(self, node: WorkerController, guest: Guest, error: object) -> str:
        """Keep the last words of a dead worker and its guest, before the guest is closed."""
        words = self._last_words[node] = self._words(node, guest, error)
        return str(words)

    def _words(self, node: WorkerController, guest: Guest, error: object) -> LastWords:
        if interrupt := _interruption(node):
            self._loop.stop(f"{guest.name}: {interrupt[0]}")
            return LastWords(interrupt[1], f"was ended by {interrupt[0]}")
        if error == CONNECTION_ENDED:
            process = end_worker(node) if guest.kernel.is_native else None
            return last_words.of_process(process) if process else guest.last_words()
        # Any other error is that of a worker in a guest that runs on, unless the kernel panicked.
        ended = error if isinstance(error, LastWords) else last_words.of_exception(str(error))
        guests = guest.last_words()
        if not guests.panic:
            return ended
        return replace(ended, text=f"{ended.text}\n{guests.text}", panic=guests.panic)

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
            self._describe(report, guest, "after this test")
            self._config.hook.pytest_runtest_logreport(report=report)

    def complete(self, report: pytest.TestReport, guest: Guest) -> None:
        """Add the kernel, the item's phase and the panic to xdist's report of a crash."""
        # xdist 3.8 says "???", which JUnit takes for a failed set-up.
        report.when = self._log.phase(report.nodeid)
        self._describe(report, guest, f"in the {report.when} of this test")

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
        return nodeid in self._bugs and bool(self._last_words[node].panic)

    def _describe(self, report: pytest.TestReport, guest: Guest, where: str) -> None:
        kernel = guest.kernel
        words = self._last_words[report.node]
        report.user_properties = kernel.properties
        add_to_junit(self._config, report)
        report.location = self._log.location(report.nodeid)
        # The first line is what pytest's short summary shows.
        report.longrepr = f"kernel {kernel.id}: {_summary(kernel, words, where)}\n{words.text}"
        if self._is_known(report.nodeid, report.node):
            report.outcome = "skipped"
            report.wasxfail = f"known kernel bug: {self._bugs[report.nodeid]}: {words.panic}"
            # Every report shows the sections of an expected failure; not every one its longrepr.
            report.longrepr, _, console_end = str(report.longrepr).partition("\n")
            report.sections.append(("Console of the guest", console_end))


def _summary(kernel: MatrixKernel, words: LastWords, where: str) -> str:
    if words.how:
        health = "is well" if words.is_clear else "may be the cause"
        if words.panic:
            health = f"reported: {words.panic}"
        return f"the worker {words.how} {where}; the kernel (Linux {kernel.release}) {health}"
    dead = "the worker" if kernel.is_native else "the guest"
    end = f": {words.panic}" if words.panic else "."
    return f"{dead} (Linux {kernel.release}) died {where}{end}"


def _interruption(node: WorkerController) -> tuple[str, str] | None:
    """Return the exception that ended a worker's session, and where it was raised."""
    match getattr(node, "workeroutput", {}).get(messages.INTERRUPTED):
        case (str(exception), str(where)):
            return exception, where
        case _:
            return None
