"""Tests that taint their kernel: the other tests then need another guest.

Knows /proc/sys/kernel/tainted. Runs in workers; `early_end` ends them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

TAINTED = Path("/proc/sys/kernel/tainted")

# Documentation/admin-guide/tainted-kernels.rst: the flags from bit 0; tests may set the named ones.
_FLAGS = "PFSRMBUDAWCIOELKXTNJ"
_MEANINGS = {
    "F": "a module was loaded by force",
    "B": "a bad page",
    "D": "it oopsed",
    "W": "it warned",
    "C": "a staging driver",
    "O": "a module from outside its tree",
    "E": "an unsigned module",
    "L": "a soft lockup",
    "N": "a test module",
}


def flags(bits: int) -> str:
    """Return the letters of taint flags, and what they mean: `W (it warned)`."""
    letters = [letter for bit, letter in enumerate(_FLAGS) if bits & 1 << bit]
    named = [
        f"{letter} ({_MEANINGS[letter]})" if letter in _MEANINGS else letter for letter in letters
    ]
    return ", ".join(named) or hex(bits)


class TaintWatch:
    """Has a worker end after a test that tainted its kernel."""

    def __init__(self, end_after: Callable[[pytest.Item, str], None]) -> None:
        self._end_after = end_after
        # Kept open, since each phase of each test reads it, and opening takes longer than reading.
        self._fd = os.open(TAINTED, os.O_RDONLY | os.O_CLOEXEC)
        self._bits = self._read()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Say in a test's report that the test tainted the kernel."""
        report = yield
        bits = self._read()
        if new := bits & ~self._bits:
            self._bits = bits
            what = f"left the kernel tainted: {flags(new)}"
            self._end_after(item, what)
            report.sections.append(("Kernel", f"This test {what}"))
            # JUnit reads the teardown's report, which may be this one, with a copy of the item's.
            tainted = ("kernel_tainted", flags(new))
            item.user_properties.append(tainted)
            report.user_properties.append(tainted)
        return report

    def pytest_unconfigure(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _read(self) -> int:
        return int(os.pread(self._fd, 32, 0))
