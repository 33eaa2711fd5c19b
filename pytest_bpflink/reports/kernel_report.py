"""Reports the results of a run by kernel: on the terminal, and in the files of `--kernel-report`.

Knows pytest's terminal reporter, and when a session is over. The caller names the kernels, and the
test of each item. `files` writes the files.
"""

from __future__ import annotations

import sys
from traceback import format_exc
from typing import TYPE_CHECKING, Final

import pytest

from pytest_bpflink.reports.recorder import Recorder
from pytest_bpflink.reports.results import RunKernel
from pytest_bpflink.reports.words import TITLES, kernel_facts, shown_outcomes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pytest_bpflink.reports.results import Run
    from pytest_bpflink.session.kernel import MatrixKernel

# On the terminal. A suite may have hundreds, since kernels differ in features; files have all.
_MOST_DIFFERENCES: Final = 40


def files(config: pytest.Config) -> list[Path]:
    """Return the files of `--kernel-report`. Raises UsageError if one can't be written."""
    if not config.option.kernel_report:
        return []
    from pytest_bpflink.reports import files as reports

    try:
        return reports.checked(config.option.kernel_report, config.invocation_params.dir)
    except reports.Unwritable as error:
        raise pytest.UsageError(f"--kernel-report: {error}") from None


class KernelReport:
    """Collects outcomes; at the end of a run it shows them by kernel, and writes the files."""

    def __init__(
        self, config: pytest.Config, kernels: Callable[[], list[RunKernel]], *, table: bool
    ) -> None:
        self._config = config
        self._kernels = kernels
        self._table = table
        self._files = files(config)
        self._recorder = Recorder(config)
        self.collected = self._recorder.collected
        self.add = self._recorder.add
        self.uncollected = self._recorder.uncollected
        self._run: Run | None = None
        self._stopped = ""
        #: Lines about the files, which are not shown yet; True for errors.
        self._messages: list[tuple[str, bool]] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a file that could not be collected."""
        self._recorder.add_collection(report)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Record why a run is cut short: Ctrl-C, or pytest's own reason."""
        self._stopped = str(excinfo.value) or "interrupted"

    def pytest_internalerror(self, excrepr: object) -> None:
        """Record that pytest itself failed."""
        self._stopped = f"internal error: {str(excrepr).strip().splitlines()[-1]}"

    # After xdist's, which waits for the last reports of workers.
    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the files; the run fails if a file can't be written."""
        stopped = self._stopped or session.shouldfail or session.shouldstop or ""
        self._finish(int(exitstatus), str(stopped))
        if any(failed for _, failed in self._messages) and not session.exitstatus:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show a line per kernel, the tests that differ between kernels, and paths of files."""
        if self._table and self._run and terminalreporter.verbosity >= 0:
            _show(self._run, terminalreporter)
        self._show_messages()

    def pytest_unconfigure(self) -> None:
        """Write the files of a run that was cut short before it began; show messages about them."""
        if self._run is None and self._stopped:
            self._finish(pytest.ExitCode.INTERRUPTED, self._stopped)
        self._show_messages()

    def _finish(self, exit_status: int, stopped: str) -> None:
        self._run = self._recorder.run(self._kernels(), exit_status=exit_status, stopped=stopped)
        if not self._files:
            return
        from pytest_bpflink.reports import files as reports

        for path in self._files:
            try:
                reports.write(self._run, path)
            except reports.Unwritable as error:
                self._messages.append((f"ERROR: --kernel-report: {error}", True))
            except Exception:  # noqa: BLE001 - the summary matters more than this defect
                why = f"{path} was not written, which is a defect of pytest-bpflink"
                self._messages.append((f"ERROR: --kernel-report: {why}\n{format_exc()}", True))
            else:
                self._messages.append((f"kernel report: {path}", False))

    def _show_messages(self) -> None:
        terminal: pytest.TerminalReporter | None = self._config.pluginmanager.get_plugin(
            "terminalreporter"
        )
        for text, failed in self._messages:
            if terminal is None:
                sys.stderr.write(f"{text}\n" if failed else "")
            elif failed:
                terminal.write_line(text, red=True)
            elif terminal.verbosity >= 0:
                terminal.write_sep("-", text)
        self._messages.clear()


class NativeReport(KernelReport):
    """The report of a run without guests: on this kernel only, by plain pytest or xdist."""

    def __init__(self, config: pytest.Config, kernel: MatrixKernel) -> None:
        super().__init__(config, lambda: [RunKernel(kernel)], table=False)
        self._kernel = kernel.id
        #: Ids end with the kernel if it is a parameter.
        self._endings = (f"[{kernel.id}]", f"-{kernel.id}]") if config.option.kernel else ()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Record the items to run; under xdist there are none here, but in workers."""
        self._take([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Record the items that an xdist worker collected."""
        self._take(ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the outcome of an item."""
        self.add(report, self._kernel, ran=True)

    def _take(self, ids: Sequence[str]) -> None:
        for nodeid in ids:
            self.collected(self._kernel, nodeid, self._without_kernel(nodeid), parametrized=True)

    def _without_kernel(self, nodeid: str) -> str:
        for ending in self._endings:
            if nodeid.endswith(ending):
                return nodeid.removesuffix(ending) + ("]" if ending.startswith("-") else "")
        return nodeid


def _show(run: Run, terminal: pytest.TerminalReporter) -> None:
    counts = {each.id: run.counts(each.id) for each in run.kernels}
    if not any(counts.values()):
        return
    shown = shown_outcomes(counts.values())
    rows = [["kernel", "release", "", "boot", *(TITLES[name] for name in shown)]]
    for each in run.kernels:
        numbers = [str(counts[each.id][name]) for name in shown]
        rows.append([each.id, *kernel_facts(each), *numbers])
    terminal.write_sep("=", "kernels")
    for line in _aligned(rows):
        terminal.write_line(line)
    for broken in run.uncollected:
        if broken.kernels:
            terminal.write_line(f"not collected{broken.where}: {broken.nodeid}")
    for bug, ids in _known_bugs(run).items():
        terminal.write_line(f"{', '.join(ids)}: {bug}")
    differences = [f"differs: {test}: {each}" for test, each in run.differences().items()]
    most = len(differences) if terminal.verbosity > 0 else _MOST_DIFFERENCES
    for line in differences[:most]:
        terminal.write_line(line)
    if differences[most:]:
        terminal.write_line(
            f"and {len(differences) - most} more that differ: -v shows them, and so does"
            " --kernel-report FILE.html"
        )
    if run.run_once:
        terminal.write_line(
            f"on {run.kernels[0].id} only, since they can't be parametrized: {len(run.run_once)}"
            " (unittest, doctest or custom items)"
        )


def _known_bugs(run: Run) -> dict[str, list[str]]:
    """Return the known bugs that the run has shown, each with its kernels."""
    bugs: dict[str, list[str]] = {}
    for test, results in run.tests.items():
        for kernel, result in results.items():
            if result.outcome == "xfailed" and result.reason.startswith("known kernel bug"):
                bugs.setdefault(f"{test}: {result.reason}", []).append(kernel)
    return bugs


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
