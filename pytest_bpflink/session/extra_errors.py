"""Errors of tests that were reported already, and errors that no mark `xfail` excuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.session.xdist_worker import reporting_another

if TYPE_CHECKING:
    from collections.abc import Callable


def add_error(
    item: pytest.Item, text: str, *, mark: Callable[[pytest.TestReport], None] | None = None
) -> None:
    """Report one more error in the teardown of a test that was reported already.

    The session fails by it. To be called while the session's items run, or right after. `mark` may
    change the report before it is sent.
    """
    report = pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome="failed",
        longrepr=text,
        when="teardown",
        user_properties=item.user_properties,
    )
    if mark:
        mark(report)
    with reporting_another(item):
        item.ihook.pytest_runtest_logreport(report=report)


def insist(report: pytest.TestReport) -> None:
    """Make a report a failure again if pytest has excused it by a mark `xfail`.

    The mark is about the test's own code; pytest 9.2 applies it to each phase.
    """
    if report.skipped and hasattr(report, "wasxfail"):
        report.outcome = "failed"
        del report.wasxfail
