"""The kernel's log in pytest's reports: the lines of a failed test's time, and splats as errors.

xdist's workers on this host share a kernel, and each reads all of its log. A splat names its
process, as a rule: if another worker or a child of it is named, that worker fails its test. If no
worker's process is named, each test that ran then fails, and its error says so.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.session import extra_errors
from pytest_bpflink.session.siblings import has_siblings, is_own, is_siblings
from pytest_bpflink.system.kernel_log import KernelLog, SplatWarning, splats

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from pytest_bpflink.system.kernel_log import Line, Splat

_MOST_LINES = 200
_SECTION = "Kernel log"


class DmesgCheck:
    """Reads the log after each phase of a test; its hook wrappers are the outermost."""

    def __init__(self, config: pytest.Config) -> None:
        """Begin. Raises `OSError` if this process may not read the log."""
        self._config = config
        self._errors = config.option.bpf_dmesg == "error"
        self._log = KernelLog()
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._siblings = has_siblings(config)
        self._item: pytest.Item | None = None
        self._allowed: list[re.Pattern[str]] = []
        self._lines: list[Line] = []
        self._latest = -1  # number of the last splat that was seen
        # Splats in a phase that failed by itself: the teardown reports them.
        self._held_back: list[Splat] = []
        self._raised: list[Splat] = []

    def pytest_unconfigure(self) -> None:
        """Stop."""
        self._log.close()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        """Begin with a test; a splat since the test before is still an error of that test."""
        __tracebackhide__ = True
        self._report_late()
        self._item, self._lines = item, []
        self._allowed = _allowed(item)
        yield from self._judged()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None, None, None]:
        """Fail the test for its splats."""
        __tracebackhide__ = True
        yield from self._judged()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, None, None]:
        """Fail the teardown for its splats, and for splats held back."""
        __tracebackhide__ = True
        try:
            yield
        except BaseException:
            self._raised = [*self._take_held_back(), *self._new_splats()]
            raise
        self._fail([*self._take_held_back(), *self._new_splats()])

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self,
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach the log to a failed report."""
        report = yield
        if self._raised:
            extra_errors.insist(report)
        if report.failed:
            shown = [splat for splat in self._raised if splat.head in report.longreprtext]
            known = {line for splat in shown for line in splat.lines}
            text = end_of([line for line in self._lines if line not in known])
            if text:
                report.sections.append((_SECTION, text))
            self._mark(report, self._raised)
        self._raised = []
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Look once more at the end, also after `-x` or Ctrl-C."""
        try:
            return (yield)
        finally:
            self._report_late()

    def _judged(self) -> Generator[None, None, None]:
        __tracebackhide__ = True
        try:
            yield
        except BaseException:
            self._held_back += self._new_splats()
            raise
        self._fail(self._new_splats())

    def _take_held_back(self) -> list[Splat]:
        held_back, self._held_back = self._held_back, []
        return held_back

    def _new_splats(self) -> list[Splat]:
        new = self._log.read()
        if not new:
            return []
        self._lines += new
        self._lines += self._log.read_rest(self._lines)
        return self._unseen(self._lines)

    def _unseen(self, lines: Sequence[Line]) -> list[Splat]:
        found = [splat for splat in splats(lines) if splat.number > self._latest]
        self._latest = max([self._latest, *(splat.number for splat in found)])
        return [
            splat
            for splat in found
            if not any(allow.search(line.text) for allow in self._allowed for line in splat.lines)
            and not (self._siblings and is_siblings(splat.pid))
        ]

    def _fail(self, found: Sequence[Splat]) -> None:
        if not found:
            return
        text = self._description(found, "while this test ran")
        if self._errors:
            self._raised = list(found)
            pytest.fail(text, pytrace=False)
        self._config.issue_config_time_warning(SplatWarning(text), stacklevel=2)

    def _report_late(self) -> None:
        lines = self._log.read()
        if lines:
            lines += self._log.read_rest(lines)
        # After Ctrl-C, no teardown has reported the splats held back.
        found = [*self._take_held_back(), *(self._unseen(lines) if self._item else [])]
        if not found or not self._item:
            return
        text = self._description(found, "after this test, before another")
        if self._errors:
            extra_errors.add_error(self._item, text, mark=lambda report: self._mark(report, found))
        else:
            self._config.issue_config_time_warning(SplatWarning(text), stacklevel=2)

    def _description(self, found: Sequence[Splat], when: str) -> str:
        texts = []
        for splat in found:
            process = "in an unnamed process" if splat.pid is None else f"in process {splat.pid}"
            if self._siblings and not is_own(splat.pid):
                process += "; any of the tests that ran then may have caused it, so each fails"
            texts += [splat.head, f"The kernel logged this {when}, {process}:", end_of(splat.lines)]
        return "\n".join(texts)

    def _mark(self, report: pytest.TestReport, found: Sequence[Splat]) -> None:
        # Plain data, which xdist carries to the controller.
        report.kernel_splats = [  # type: ignore[attr-defined]
            (f"{self._boot} {splat.number}", splat.head) for splat in found
        ]


class SplatSummary:
    """Lists at the end the tests that share a splat: any of them may have caused it."""

    def __init__(self) -> None:
        self._heads: dict[str, str] = {}
        self._tests: dict[str, list[str]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the splats of a report."""
        found: Sequence[tuple[str, str]] = getattr(report, "kernel_splats", ())
        for key, head in found:
            self._heads[key] = head
            self._tests[key].append(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the splats of more than one test."""
        shared = {key: tests for key, tests in self._tests.items() if len(set(tests)) > 1}
        if shared:
            terminalreporter.write_sep("=", "kernel log")
        for key, tests in shared.items():
            terminalreporter.write_line(f"{self._heads[key]}: these tests ran then:")
            for test in dict.fromkeys(tests):
                terminalreporter.write_line(f"  {test}")


def end_of(lines: Sequence[object]) -> str:
    """Return the last lines as a text for a report, and how many lines there are before."""
    dropped = len(lines) - _MOST_LINES
    head = [f"({dropped} lines before these)"] if dropped > 0 else []
    return "\n".join([*head, *map(str, lines[-_MOST_LINES:])])


def _allowed(item: pytest.Item) -> list[re.Pattern[str]]:
    patterns: list[re.Pattern[str]] = []
    for mark in item.iter_markers("allow_dmesg"):
        if not mark.args:
            pytest.fail(
                "allow_dmesg: give it a regular expression of what may be logged", pytrace=False
            )
        for regex in mark.args:
            try:
                patterns.append(re.compile(regex))
            except (re.error, TypeError) as error:
                pytest.fail(
                    f"allow_dmesg({regex!r}): no regular expression: {error}", pytrace=False
                )
    return patterns
