"""What tests leave behind, as pytest errors: the ledger in the places of pytest's protocol."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

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


class LeakCheck:
    """Tells the ledger whose time it is, and pytest what is left of it.

    All its wrappers are the outermost: the ledger looks when every fixture has cleaned up.
    """

    def __init__(self, config: pytest.Config) -> None:
        """Begin. Raises `BpfError` without privilege."""
        self._config = config
        self._errors = config.option.bpf_leaks == "error"
        temporary = temporary_directory(config)
        places = [] if temporary is None else [temporary]
        self.ledger = Ledger(alone=is_in_guest(config), places=places)
        self._test: Owner | None = None
        self._wider: dict[pytest.FixtureDef[Any], Owner] = {}
        self._settling: list[Owner] = []
        self._failed = False
        self._text = ""

    def pytest_unconfigure(self) -> None:
        """Stop."""
        self.ledger.close()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        """Begin a test's time."""
        __tracebackhide__ = True
        self.ledger.begin()
        self._test, self._failed = Owner("the test", item), False
        yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Put down to a wider fixture what appears while it is set up: it stays legitimately."""
        __tracebackhide__ = True
        if fixturedef.scope == "function" or self._test is None:
            return (yield)
        self.ledger.advance(self._test)
        outer, name = self._test, f"{fixturedef.scope} fixture {fixturedef.argname}"
        self._test = self._wider[fixturedef] = Owner(name, request.node)
        try:
            return (yield)
        finally:
            self.ledger.advance(self._test)
            self.ledger.wider_began()
            self._test = outer

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """Let a wider fixture's time end."""
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
            # pytest keeps the traceback, and what is in its frames, until another test is called.
            self._failed = True
            raise

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        """Judge what is left when the fixtures are done."""
        __tracebackhide__ = True
        assert self._test is not None
        self.ledger.look(self._test)
        try:
            yield
        except BaseException:
            # The fixtures' own error goes before; what is left of the test is told beside it.
            self._text = self._told(self._judge(item, self._test))
            raise
        self._text = self._told(self._judge(item, self._test))
        if self._text:
            pytest.fail(self._text, pytrace=False)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self,
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let no mark excuse leaks, and tell them beside another error of the teardown."""
        report = yield
        if self._text:
            extra_errors.insist(report)
            if self._text not in report.longreprtext:
                report.sections.append(("BPF leaks", self._text))
        self._text = ""
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Judge in the end what needed time, also where `-x` makes an end."""
        try:
            return (yield)
        finally:
            if self._test is None:
                self._tell_late(self.ledger.finish())

    # The innermost: in the others' hooks pytest ends the fixtures of a test that Ctrl-C ended, and
    # around them it shows what is told by then.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        """Judge a test that was interrupted, which has no teardown of its own."""
        test = self._test
        if test is None:
            return (yield)
        self.ledger.look(test)
        self._failed = True
        try:
            return (yield)
        finally:
            self._tell_late(self._judge(test.item, test))
            self._tell_late(self.ledger.finish())

    def _judge(self, item: pytest.Item, test: Owner) -> list[Leak]:
        self._tell_late(self.ledger.overdue())
        leaks = self.ledger.judge(test, forgive_self=self._failed)
        self._test = None
        owners, self._settling = self._settling, []
        for owner in owners:
            owner.item = item
            leaks += self.ledger.judge(owner)
        return [leak for leak in leaks if not _is_allowed(leak)]

    def _told(self, leaks: Iterable[Leak]) -> str:
        """Return the error's text; without errors warn of it instead."""
        lines = [*map(str, leaks)]
        text = "\n".join([*lines, _WAY_OUT]) if lines else ""
        if text and not self._errors:
            self._config.issue_config_time_warning(LeakWarning(text), stacklevel=2)
            return ""
        return text

    def _tell_late(self, leaks: Iterable[Leak]) -> None:
        by_item: dict[pytest.Item, list[Leak]] = defaultdict(list)
        for leak in leaks:
            if not _is_allowed(leak):
                by_item[leak.owner.item].append(leak)
        for item, left in by_item.items():
            text = self._told(left)
            if text:
                extra_errors.add_error(item, text)


def _is_allowed(leak: Leak) -> bool:
    return leak.owner.item.get_closest_marker("allow_leak") is not None
