"""Records the outcome of each item.

Knows pytest's reports. The caller names the kernel and the test of each item.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import pytest

from pytest_bpflink.reports.results import (
    ATTRIBUTE,
    OUTCOMES,
    Cost,
    Program,
    Result,
    Run,
    Section,
    Uncollected,
)
from pytest_bpflink.reports.text import clean, cut, line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_bpflink.reports.results import RunKernel

_PHASES: Final = {"setup": "set-up", "call": "call", "teardown": "teardown"}

# Characters of one traceback, output or console.
_TEXT_LIMIT = 1 << 18

# The line with the error in a traceback, for a report that does not have the error itself.
_ERROR_LINE = re.compile(r"^E\s+(\S.*)$", re.MULTILINE)


class Recorder:
    """Collects a run, item by item."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._run = Run(config.rootpath.name, datetime.now(UTC))
        self._began = time.monotonic()
        #: Test ids by kernel and node id.
        self._tests: dict[tuple[str, str], str] = {}
        #: By node id of a file, the kernels on which it can't be collected.
        self._uncollected: dict[str, list[str]] = {}
        self._sections: dict[Section, Section] = {}

    def collected(self, kernel: str, nodeid: str, test: str, *, parametrized: bool) -> None:
        """Record an item, its test, and whether the test has an item for each kernel."""
        self._tests[kernel, nodeid] = test
        if not parametrized:
            self._run.run_once.add(test)
        self._result(kernel, nodeid)

    def add(self, report: pytest.TestReport, kernel: str, *, ran: bool) -> None:
        """Record an outcome by pytest's category; `ran` is False for a stand-in's report."""
        self._add_costs(report, kernel)
        result = self._result(kernel, report.nodeid)
        result.ran = ran
        result.seconds += getattr(report, "duration", 0.0)
        category = self._category(report)
        # A failed subtest fails its test; other subtests do not decide its outcome.
        if category not in OUTCOMES or (_is_subtest(report) and not report.failed):
            return
        reason = _reason(report)
        if reason and reason not in result.reason:
            result.reason = "; ".join(filter(None, [result.reason, reason]))
        if report.failed:
            # All items of a kernel that does not boot have the same text: one copy is enough.
            sections = (self._sections.setdefault(each, each) for each in _sections(report))
            result.sections += tuple(each for each in sections if each not in result.sections)
        if OUTCOMES.index(category) < OUTCOMES.index(result.outcome):
            result.outcome = category

    def add_collection(self, report: pytest.CollectReport) -> None:
        """Record a file that could not be collected."""
        if report.passed:
            return
        text = _text(report.longrepr)
        outcome = "error" if report.failed else "skipped"
        # Once for all workers: xdist 3.8 drops a report that another worker has sent already.
        self._run.uncollected.append(
            Uncollected(clean(report.nodeid), outcome, _reason(report), text)
        )

    def uncollected(self, kernel: str, nodeid: str) -> None:
        """Record a kernel on which a file could not be collected."""
        kernels = self._uncollected.setdefault(clean(nodeid), [])
        if kernel not in kernels:
            kernels.append(kernel)

    def run(self, kernels: Sequence[RunKernel], *, exit_status: int = 0, stopped: str = "") -> Run:
        """Return a copy of the run as it is now: workers may still send reports."""
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
            costs={program: dict(costs) for program, costs in list(self._run.costs.items())},
        )

    def _add_costs(self, report: pytest.TestReport, kernel: str) -> None:
        for program, cost in _costs(report):
            known = self._run.costs.setdefault(program, {})
            known[kernel] = max(known.get(kernel, cost), cost, key=lambda each: each.instructions)

    def _category(self, report: pytest.TestReport) -> str:
        status = self._config.hook.pytest_report_teststatus(report=report, config=self._config)
        if status:
            return str(status[0])
        # With -p no:terminal no plugin gives the category of ordinary outcomes.
        if report.failed:
            return "failed" if report.when == "call" else "error"
        return report.outcome if report.skipped or report.when == "call" else ""

    def _result(self, kernel: str, nodeid: str) -> Result:
        test = self._tests.get((kernel, nodeid), nodeid)
        return self._run.tests.setdefault(clean(test), {}).setdefault(kernel, Result(nodeid))


def _costs(report: pytest.TestReport) -> Iterator[tuple[Program, Cost]]:
    """Yield the costs of programs, as far as a guest may have sent them."""
    rows = getattr(report, ATTRIBUTE, ())
    for row in rows if isinstance(rows, list | tuple) else ():
        match row:
            case (str() as file, str() as name, *numbers) if len(numbers) == 4:
                instructions, size, stack, microseconds = map(_count, numbers)
                if instructions is not None and size is not None:
                    cost = Cost(instructions, size, stack, microseconds)
                    yield Program(line(clean(file)), line(clean(name))), cost


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 32 else None


def _is_subtest(report: pytest.TestReport) -> bool:
    return isinstance(report, pytest.SubtestReport)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return, in one line, the reason of any outcome but plain success; empty for that."""
    if hasattr(report, "wasxfail"):
        return line(report.wasxfail.removeprefix("reason: "))
    longrepr = report.longrepr
    if report.skipped:
        # A tuple is a path, a line number and "Skipped: REASON".
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
    """Yield the texts about a failure: the traceback, and the captured output."""
    if report.longrepr:
        what = "Failure in the call" if report.when == "call" else f"Error in the {_phase(report)}"
        yield Section(what, _text(report.longrepr))
    for title, text in report.sections:
        yield Section(line(title), _text(text))


def _text(content: object) -> str:
    # Not the report's longreprtext, which begins with the worker's name and Python.
    return cut(clean(str(content)).rstrip(), _TEXT_LIMIT)


def _phase(report: pytest.TestReport) -> str:
    return _PHASES.get(str(report.when), str(report.when))
