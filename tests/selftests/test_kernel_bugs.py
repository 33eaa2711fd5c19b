"""The page on kernel bugs is what its rows say."""

from __future__ import annotations

from pytest_bpflink.selftests.bugs import page
from tests.support import ROOT


def test_page_is_as_the_rows_say() -> None:
    written = (ROOT / "docs/kernel-bugs.md").read_text()
    assert written == page.text(), "make kernel-bugs makes it anew"
