"""What the terminal shows of a run on several kernels: how it comes about, and what came of it.

Knows reports and pytest's terminal reporter. Which kernels there are, and which test an item is,
it is told.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from pytest_bpflink.matrix import MatrixKernel

# pytest's categories, the worst first: a test that passed and failed in teardown is an error.
_OUTCOMES = ("error", "failed", "xpassed", "skipped", "xfailed", "passed")
_COLUMNS = {"passed": "passed", "failed": "failed", "skipped": "skipped", "error": "errors"}
_RARE_COLUMNS = {"xfailed": "xfailed", "xpassed": "xpassed"}


class MatrixReport:
    """Collects outcomes, and shows them by kernel at the end of a run."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._tests: dict[str, str] = {}
        self._run_once: set[str] = set()
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._outcomes: dict[str, dict[str, str]] = defaultdict(dict)

    def collected(self, nodeid: str, test: str, *, parametrized: bool) -> None:
        """Note which test an item is of, and whether it is there for each kernel."""
        self._tests[nodeid] = test
        if not parametrized:
            self._run_once.add(nodeid)

    def add(self, report: pytest.TestReport, kernel: str, *, ran: bool) -> None:
        """Note an outcome, in pytest's own words for it; `ran` is False for a stand-in's."""
        category = self._config.hook.pytest_report_teststatus(report=report, config=self._config)[0]
        if category not in _OUTCOMES:
            return
        self._counts[kernel][category] += 1
        if not ran:
            return
        outcomes = self._outcomes[self._tests.get(report.nodeid, report.nodeid)]
        outcomes[kernel] = min(category, outcomes.get(kernel, category), key=_OUTCOMES.index)

    def write(self, terminal: pytest.TerminalReporter, kernels: Sequence[MatrixKernel]) -> None:
        """Write a line per kernel, and the tests whose outcome depends on the kernel."""
        if terminal.verbosity < 0 or not self._counts:
            return
        terminal.write_sep("=", "kernels")
        for line in _aligned(self._table(kernels)):
            terminal.write_line(line)
        for test, outcomes in self._outcomes.items():
            if len(set(outcomes.values())) > 1:
                terminal.write_line(f"differs: {test}: {_by_outcome(outcomes, kernels)}")
        if self._run_once:
            terminal.write_line(
                f"on {kernels[0].id} only, since they can't be parametrized:"
                f" {len(self._run_once)} (unittest, doctest or custom items)"
            )

    def _table(self, kernels: Sequence[MatrixKernel]) -> list[list[str]]:
        rare = {
            name: title
            for name, title in _RARE_COLUMNS.items()
            if any(counts[name] for counts in self._counts.values())
        }
        columns = _COLUMNS | rare
        rows = [["kernel", "release", "", *columns.values()]]
        for kernel in kernels:
            numbers = [str(self._counts[kernel.id][name]) for name in columns]
            libbpf = f", libbpf {kernel.libbpf_release}" if kernel.libbpf_release else ""
            rows.append([kernel.id, f"{kernel.release}{libbpf}", str(kernel.where), *numbers])
        return rows


class Progress:
    """Says on the terminal what takes time: in one line that changes, or in few lines."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._shown = ""

    def __call__(self, text: str) -> None:
        """Say what is being done now."""
        terminal = self._terminal
        if terminal is None or text == self._shown:
            return
        if terminal.isatty:
            terminal.rewrite(text, erase=True)
        else:
            terminal.write_line(text)
        self._shown = text

    def line(self, text: str) -> None:
        """Say what was done; what is being done stays in view."""
        terminal, shown = self._terminal, self._shown
        if terminal is None:
            return
        self.done()
        terminal.write_line(text)
        if shown and terminal.isatty:
            self(shown)

    def done(self) -> None:
        """Take back what is being done."""
        if self._terminal is not None and self._terminal.isatty and self._shown:
            self._terminal.rewrite("", erase=True)
            self._terminal.rewrite("")
        self._shown = ""

    @property
    def _terminal(self) -> pytest.TerminalReporter | None:
        if self._config.option.verbose < 0:
            return None
        terminal: pytest.TerminalReporter | None = self._config.pluginmanager.get_plugin(
            "terminalreporter"
        )
        return terminal


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            # Names to the left, numbers to the right.
            cell.ljust(width) if index < 3 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _by_outcome(outcomes: dict[str, str], kernels: Sequence[MatrixKernel]) -> str:
    by_outcome: dict[str, list[str]] = defaultdict(list)
    for kernel in kernels:
        if kernel.id in outcomes:
            by_outcome[outcomes[kernel.id]].append(kernel.id)
    return "; ".join(f"{outcome} on {', '.join(ids)}" for outcome, ids in by_outcome.items())
