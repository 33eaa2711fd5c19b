"""Tests that leave the process they run in other than it was: later tests run in it, too.

Knows the facts of a process that later tests depend on, and forked children that return to pytest.
`watching` registers it, or `matrix.worker`, which ends workers in guests after such a test.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

#: The name of the plugin.
NAME: Final = "bpflink-process"

# RLIMIT_OFILE is another name of RLIMIT_NOFILE.
_LIMITS = {
    name: getattr(resource, name)
    for name in dir(resource)
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
}

_USERS, _DIRECTORY = "user ids", "working directory"

State = dict[str, Any]


class ProcessWatch:
    """Says in a test's report what the test has changed, and ends children that return to pytest.

    Wider fixtures may change the process, for the tests that use them.
    """

    def __init__(
        self,
        config: pytest.Config,
        *,
        end_after: Callable[[pytest.Item, str], None] | None = None,
    ) -> None:
        """END_AFTER ends this process after a test; its arguments: the test, and what it has done.

        With it, the directory and limits are put back, and the process ends if more has changed.
        """
        self._config = config
        self._end_after = end_after
        self._pid = os.getpid()
        self._state: State = {}
        # The values that wider fixtures set or will restore.
        self._allowed: defaultdict[str, set[Any]] = defaultdict(set)
        self._recursion = ""
        self._dropped_root = ""
        # Shared with forked children: the id of a test whose child has returned.
        self._returned = mmap.mmap(-1, mmap.PAGESIZE)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, None, None]:
        """Look at the process before the first test."""
        __tracebackhide__ = True
        # A plugin may fork a child for each test, which returns to the plugin.
        self._pid = os.getpid()
        self._state = self._state or _state()
        yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        """Allow the changes of a wider fixture."""
        __tracebackhide__ = True
        if fixturedef.scope == "function" or not self._state:
            return (yield)
        before = _state()
        try:
            return (yield)
        finally:
            for fact, (old, new) in _changes(before, _state()).items():
                self._allowed[fact] |= {old, new}
                self._state[fact] = new

    # The innermost wrapper: the others could not run.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Undo a recursion limit that is too low for pytest."""
        __tracebackhide__ = True
        before = sys.getrecursionlimit()
        try:
            return (yield)
        finally:
            after = sys.getrecursionlimit()
            if after < before:
                sys.setrecursionlimit(before)
                self._recursion = f"recursion limit: {before} became {after}"

    # The outermost wrapper: a child must not report anything.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Say what this test has changed, and that an earlier one dropped root."""
        self._end_child(item.nodeid)
        report = yield
        if self._dropped_root:
            _append(report, self._dropped_root)
        if call.when == "teardown":
            told = (self._of_child(), self._of_changes(item))
            # The terminal shows, beside a call, the sections with `teardown` in their names.
            report.sections.extend(("Process after teardown", each) for each in told if each)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self) -> None:
        """End a child that pytest.exit or KeyboardInterrupt would end as if it were pytest."""
        self._end_child("a test")

    # The innermost wrapper: the terminal's, around it, writes the summary.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        """Let pytest leave root's temporary directories if a test has dropped root."""
        try:
            return (yield)
        except PermissionError:
            if not self._dropped_root:
                raise
            return None

    def pytest_unconfigure(self) -> None:
        """Unmap the memory that is shared with children."""
        self._returned.close()

    def _end_child(self, nodeid: str) -> None:
        if os.getpid() != self._pid:
            told = nodeid.encode(errors="replace")[: mmap.PAGESIZE]
            self._returned[: len(told)] = told
            os._exit(1)

    def _of_child(self) -> str:
        nodeid = self._returned[:].rstrip(b"\0").decode(errors="replace")
        if not nodeid:
            return ""
        self._returned[:] = bytes(mmap.PAGESIZE)
        return f"A child that {nodeid} forked returned to pytest: it was ended with status 1."

    def _of_changes(self, item: pytest.Item) -> str:
        changes = self._changes()
        told = [f"{fact}: {_text(old)} became {_text(new)}" for fact, (old, new) in changes.items()]
        if self._recursion:
            told.append(self._recursion)
            self._recursion = ""
        if not told:
            return ""
        what = f"left its process changed: {'; '.join(told)}"
        if self._end_after:
            for fact, (old, _) in changes.items():
                _put_back(fact, old)
            self._state = _state()
            if any(self._state[fact] != old for fact, (old, _) in changes.items()):
                self._end_after(item, what)
        effective = [users[1] for users in changes.get(_USERS, ())]
        if effective and effective[0] == 0 != effective[1]:
            self._dropped_root = f"{item.nodeid} had dropped root before"
            self._go_on_without_root(item.nodeid)
        return f"This test {what}"

    def _go_on_without_root(self, nodeid: str) -> None:
        """Look for no more leaks: only root may enumerate objects.

        Says so at once, since pytest (9.2) writes no summary if it may not return to its directory.
        """
        plugins = self._config.pluginmanager
        reporter = plugins.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            told = f"{nodeid} dropped root for good, so leaks are not looked for"
            reporter.write_line(f"bpflink: {told}", yellow=True)
        leaks: Any = plugins.unregister(name="bpflink-leaks")
        if leaks is not None:
            leaks.pytest_unconfigure()

    def _changes(self) -> dict[str, tuple[Any, Any]]:
        """Return the changes since the last call, without those of wider fixtures."""
        state = _state()
        # A plugin that failed the set-up of the first test did so before this one looked.
        before, self._state = self._state or state, state
        return {
            fact: (old, new)
            for fact, (old, new) in _changes(before, state).items()
            if new not in self._allowed[fact]
        }


def _state() -> State:
    return {
        _USERS: os.getresuid(),
        "group ids": os.getresgid(),
        "root directory": _file("/"),
        _DIRECTORY: _directory(),
        **{f"descriptor {number}": _file(number) for number in range(3)},
        **{name: resource.getrlimit(number) for name, number in _LIMITS.items()},
    }


def _changes(before: State, after: State) -> dict[str, tuple[Any, Any]]:
    return {fact: (before[fact], new) for fact, new in after.items() if new != before[fact]}


def _file(path: str | int) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return "none"
    return f"inode {status.st_ino} of device {status.st_dev}"


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "one that is gone"


def _put_back(fact: str, value: Any) -> None:
    with contextlib.suppress(OSError, ValueError):
        if fact == _DIRECTORY:
            os.chdir(value)
        elif fact in _LIMITS:
            resource.setrlimit(_LIMITS[fact], value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "/".join(map(str, value))


def _append(report: pytest.TestReport, told: str) -> None:
    """Say in a report that is no success why it may be none."""
    if report.skipped and isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = path, line, f"{reason} ({told})"
    elif report.failed:
        report.sections.append(("Process", f"{told}."))
