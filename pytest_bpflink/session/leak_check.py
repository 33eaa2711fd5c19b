"""What tests leave behind, as pytest errors: pytest's hooks call the ledger, which finds leaks."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink.errors import BpfError
from pytest_bpflink.ledger.ledger import LeakWarning, Ledger, Owner
from pytest_bpflink.session import extra_errors
from pytest_bpflink.session.guest import is_in_guest
from pytest_bpflink.session.pytest_internals import temporary_directory

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from pytest_bpflink.ledger.ledger import Leak

_WAY_OUT = (
    "Destroy, unpin or detach it before the test ends, have a fixture do so (bpf_link, bpffs,"
    " cgroup), or mark the test allow_leak if it is meant to stay."
)

_MOST_SHOWN = 10
"""Leaks of one test that are described; the others are counted."""


class LeakCheck:
    """Tells the ledger which test or fixture is running, and reports what each left behind.

    Most of its hook wrappers are the outermost: the ledger looks when all fixtures have cleaned up.
    """

    def __init__(self, config: pytest.Config) -> None:
        """Begin. Raises `BpfError` without the privilege to enumerate objects."""
        self._config = config
        self._errors = config.option.bpf_leaks == "error"
        temporary = temporary_directory(config)
        places = [] if temporary is None else [temporary]
        self.ledger = Ledger(alone=is_in_guest(config), places=places)
        self._test: Owner | None = None
        self._wider: dict[pytest.FixtureDef[Any], Owner] = {}
        self._settling: list[Owner] = []
        self._before_end: list[Leak] = []
        self._failed = False
        self._ending = False
        self._text = ""

    def pytest_unconfigure(self) -> None:
        """Stop."""
        self.ledger.close()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        """Begin with a test."""
        __tracebackhide__ = True
        self.ledger.begin()
        self._test, self._failed, self._ending = Owner("the test", item), False, False
        yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Make a wider fixture the owner of objects that appear in its set-up: they may stay."""
        __tracebackhide__ = True
        if fixturedef.scope == "function" or self._test is None:
            return (yield)
        self.ledger.advance(self._test)
        outer, name = self._test, f"{fixturedef.scope} fixture {fixturedef.argname}"
        self._test = self._wider[fixturedef] = Owner(name, request.node)
        try:
            value = yield
        finally:
            self.ledger.advance(self._test)
            self.ledger.wider_began()
            self._test = outer
        request.addfinalizer(self._look_before_end)  # the last finalizer is the first to be called
        return value

    def _look_before_end(self) -> None:
        """Look for attachments to and pins in what a wider fixture has, which is about to end."""
        owners = list(self._settling)
        leaks: list[Leak] = []
        if self._ending and self._test:  # the fixtures of the test itself have ended
            owners.append(self._test)
            # Fixtures may leave their pins to a wider fixture that unmounts the file system.
            leaks += self.ledger.judge_pins(self._test)
        if owners:
            self.ledger.advance(owners[0])
        for owner in owners:
            failed = owner is self._test and self._failed
            leaks += self.ledger.judge_attachments(owner, forgive_self=failed)
        leaks += self.ledger.settle()
        self._before_end += [leak for leak in leaks if leak.owner in owners]
        self._report_late(leak for leak in leaks if leak.owner not in owners)

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """Have a wider fixture's objects judged at the end of this teardown."""
        owner = self._wider.pop(fixturedef, None)
        if owner:
            self._settling.append(owner)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None, None, None]:
        """Remember whether the test failed."""
        __tracebackhide__ = True
        try:
            yield
        except Exception:
            # pytest keeps the traceback, and the objects in the frames, until the next test's call.
            self._failed = True
            raise

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        """Fail the teardown for the objects that are left when the fixtures have cleaned up."""
        __tracebackhide__ = True
        assert self._test is not None
        with _excusing_refusal():
            self.ledger.look(self._test)
        self._ending = True
        try:
            yield
        except BaseException:
            # The fixtures' own error goes first; a section beside it shows the leaks.
            self._text = self._error_text(self._judge(item, self._test))
            raise
        self._text = self._error_text(self._judge(item, self._test))
        if self._text:
            pytest.fail(self._text, pytrace=False)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self,
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let no mark excuse leaks, and show them beside another error of the teardown."""
        report = yield
        if self._text:
            extra_errors.insist(report)
            if self._text not in report.longreprtext:
                report.sections.append(("BPF leaks", self._text))
        self._text = ""
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Judge at the end the objects that were given time, also after `-x`."""
        try:
            return (yield)
        finally:
            if self._test is None:
                self._report_late(self.ledger.finish())

    # The innermost wrapper: the hooks inside it end the fixtures of a test that Ctrl-C ended, and
    # the wrappers around it show the errors that were reported.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        """Judge a test that was interrupted before its teardown."""
        test = self._test
        if test is None:
            return (yield)
        self.ledger.look(test)
        self._failed = self._ending = True
        try:
            return (yield)
        finally:
            self._report_late(self._judge(test.item, test))
            self._report_late(self.ledger.finish())

    def _judge(self, item: pytest.Item, test: Owner) -> list[Leak]:
        self._test = None
        owners, self._settling = self._settling, []
        leaks, self._before_end = self._before_end, []
        with _excusing_refusal():
            self._report_late(self.ledger.overdue())
            leaks += self.ledger.judge(test, forgive_self=self._failed)
            for owner in owners:
                owner.item = item
                leaks += self.ledger.judge(owner)
        return [leak for leak in leaks if not _is_allowed(leak)]

    def _error_text(self, leaks: Iterable[Leak]) -> str:
        """Return the text of an error; if leaks are warnings, warn and return ""."""
        found = list(leaks)
        lines = [str(leak) for leak in found[:_MOST_SHOWN]]
        if len(found) > _MOST_SHOWN:
            lines.append(f"and {len(found) - _MOST_SHOWN} more: {_counted(found[_MOST_SHOWN:])}")
        text = "\n".join([*lines, _WAY_OUT]) if lines else ""
        if text and not self._errors:
            self._config.issue_config_time_warning(LeakWarning(text), stacklevel=2)
            return ""
        return text

    def _report_late(self, leaks: Iterable[Leak]) -> None:
        by_item: dict[pytest.Item, list[Leak]] = defaultdict(list)
        for leak in leaks:
            if not _is_allowed(leak):
                by_item[leak.owner.item].append(leak)
        for item, left in by_item.items():
            text = self._error_text(left)
            if text:
                extra_errors.add_error(item, text)


@contextlib.contextmanager
def _excusing_refusal() -> Generator[None, None, None]:
    """Excuse the EPERM of a test that has dropped root, which `process_watch` reports."""
    try:
        yield
    except BpfError as error:
        if error.errno != errno.EPERM or not os.geteuid():
            raise


def _counted(leaks: Iterable[Leak]) -> str:
    """Return how many objects of each kind there are: `3 links, 1 program`."""
    counts = Counter(leak.entry.kind for leak in leaks)
    return ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in counts.items())


def _is_allowed(leak: Leak) -> bool:
    return leak.owner.item.get_closest_marker("allow_leak") is not None
