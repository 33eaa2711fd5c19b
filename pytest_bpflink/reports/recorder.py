"""Takes down what came of each item, from pytest's reports.

Knows pytest's reports. Which kernel an item ran on, and which test it is of, it is told.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import pytest

from pytest_bpflink.reports.results import OUTCOMES, Result, Run, Section, Uncollected
from pytest_bpflink.reports.text import clean, cut, line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_bpflink.reports.results import RunKernel

_PHASES: Final = {"setup": "set-up", "call": "call", "teardown": "teardown"}

# Of one traceback, output or console; enough for every sane one.
_TEXT_LIMIT = 1 << 18

# Where a traceback says what was wrong, if its report doesn't.
_ERROR_LINE = re.compile(r"^E\s+(\S.*)$", re.MULTILINE)


class Recorder:
    """Collects a run, item by item."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._run = Run(config.rootpath.name, datetime.now(UTC))
        self._began = time.monotonic()
        #: Test ids by node id; each kernel's own, since its items are.
        self._tests: dict[tuple[str, str], str] = {}
        #: Kernels by node id of what can't be collected there.
        self._uncollected: dict[str, list[str]] = {}
        self._sections: dict[Section, Section] = {}

    def collected(self, kernel: str, nodeid: str, test: str, *, parametrized: bool) -> None:
        """Take down an item, which test it is of, and whether it is there for each kernel."""
        self._tests[kernel, nodeid] = test
        if not parametrized:
            self._run.run_once.add(test)
        self._result(kernel, nodeid)

    def add(self, report: pytest.TestReport, kernel: str, *, ran: bool) -> None:
        """Take down an outcome, in pytest's own words for it; `ran` is False for a stand-in's."""
        result = self._result(kernel, report.nodeid)
        result.ran = ran
        result.seconds += getattr(report, "duration", 0.0)
        category = self._category(report)
        # A subtest that failed fails its test; no other says anything about it.
        if category not in OUTCOMES or (_is_subtest(report) and not report.failed):
            return
        reason = _reason(report)
        if reason and reason not in result.reason:
            result.reason = "; ".join(filter(None, [result.reason, reason]))
        if report.failed:
            # Of a kernel that does not boot every item says the same: one copy is enough.
            sections = (self._sections.setdefault(each, each) for each in _sections(report))
            result.sections += tuple(each for each in sections if each not in result.sections)
        if OUTCOMES.index(category) < OUTCOMES.index(result.outcome):
            result.outcome = category

    def add_collection(self, report: pytest.CollectReport) -> None:
        """Take down what could not be collected."""
        if report.passed:
            return
        text = _text(report.longrepr)
        outcome = "error" if report.failed else "skipped"
        # Once: xdist 3.8 keeps to itself what another worker said already.
        self._run.uncollected.append(
            Uncollected(clean(report.nodeid), outcome, _reason(report), text)
        )

    def uncollected(self, kernel: str, nodeid: str) -> None:
        """Take down on which kernel something could not be collected."""
        kernels = self._uncollected.setdefault(clean(nodeid), [])
        if kernel not in kernels:
            kernels.append(kernel)

    def run(self, kernels: Sequence[RunKernel], *, exit_status: int = 0, stopped: str = "") -> Run:
        """Return what is known now: a copy, since workers may go on telling."""
        return replace(
            self._run,
            seconds=time.monotonic() - self._began,
            exit_status=exit_status,
            stopped=stopped,
            kernels=kernels,
            uncollected=[
                replace(each, kernels=tuple(self._uncollected.get(each.nodeid, ())))
                for each in self._run.uncollected
            ],
            tests={test: dict(results) for test, results in list(self._run.tests.items())},
        )

    def _category(self, report: pytest.TestReport) -> str:
        status = self._config.hook.pytest_report_teststatus(report=report, config=self._config)
        if status:
            return str(status[0])
        # With -p no:terminal nobody has a word for what is ordinary.
        if report.failed:
            return "failed" if report.when == "call" else "error"
        return report.outcome if report.skipped or report.when == "call" else ""

    def _result(self, kernel: str, nodeid: str) -> Result:
        test = self._tests.get((kernel, nodeid), nodeid)
        return self._run.tests.setdefault(clean(test), {}).setdefault(kernel, Result(nodeid))


def _is_subtest(report: pytest.TestReport) -> bool:
    return isinstance(report, pytest.SubtestReport)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return in one line why a report is not simply of success; empty if it is."""
    if hasattr(report, "wasxfail"):
        return line(report.wasxfail.removeprefix("reason: "))
    longrepr = report.longrepr
    if report.skipped:
        # A path, a line and "Skipped: why".
        text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr or "")
        return line(text.removeprefix("Skipped: "))
    if not report.failed:
        return ""
    crash = getattr(longrepr, "reprcrash", None)
    message = crash.message if crash else str(longrepr or "").strip()
    first = message.partition("\n")[0]
    if not crash and (found := _ERROR_LINE.search(message)):
        first = found[1]
    return line(first)


def _sections(report: pytest.TestReport) -> Iterator[Section]:
    """Return the texts about a failure: the traceback, and what was captured."""
    if report.longrepr:
        what = "Failure in the call" if report.when == "call" else f"Error in the {_phase(report)}"
        yield Section(what, _text(report.longrepr))
    for title, text in report.sections:
        yield Section(line(title), _text(text))


def _text(content: object) -> str:
    # Not the report's longreprtext, which begins with the Python of the worker it is from.
    return cut(clean(str(content)).rstrip(), _TEXT_LIMIT)


def _phase(report: pytest.TestReport) -> str:
    return _PHASES.get(str(report.when), str(report.when))
