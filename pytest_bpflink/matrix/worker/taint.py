"""Tests that leave their kernel tainted, after which it is no kernel for other tests.

Knows /proc/sys/kernel/tainted and how a worker ends early. Runs in workers; another guest is
`controller`'s to give.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.matrix import messages

if TYPE_CHECKING:
    from collections.abc import Generator

TAINTED = Path("/proc/sys/kernel/tainted")

# Documentation/admin-guide/tainted-kernels.rst: the flags from bit 0, and what tests may set.
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

_REASON = "the kernel is tainted"


def flags(bits: int) -> str:
    """Return the letters of taint flags, and what they mean: `W (it warned)`."""
    letters = [letter for bit, letter in enumerate(_FLAGS) if bits & 1 << bit]
    named = [
        f"{letter} ({_MEANINGS[letter]})" if letter in _MEANINGS else letter for letter in letters
    ]
    return ", ".join(named) or hex(bits)


class TaintWatch:
    """Ends a worker after the test that tainted its kernel; what it was given goes to the next."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        # Read in each phase of each test, and opening it takes longer than reading.
        self._fd = os.open(TAINTED, os.O_RDONLY | os.O_CLOEXEC)
        self._bits = self._read()
        self._seen: tuple[str, str] | None = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Say in the report of a test that it did it."""
        report = yield
        bits = self._read()
        if new := bits & ~self._bits:
            self._bits, self._seen = bits, (item.nodeid, flags(new))
            report.sections.append(("Kernel", f"This test left it tainted: {flags(new)}"))
            # JUnit takes those of the teardown's report, which may have been made already.
            tainted = ("kernel_tainted", flags(new))
            item.user_properties.append(tainted)
            report.user_properties.append(tainted)
        if self._seen and call.when == "teardown" and not item.session.shouldstop:
            item.session.shouldstop = _REASON
        return report

    # xdist's own is a wrapper, which has noted by now why the session stops, and sends it later.
    def pytest_sessionfinish(self) -> None:
        """Tell the controller; this is no reason for other workers to stop."""
        output = self._config.workeroutput  # type: ignore[attr-defined]
        if self._seen and output["shouldstop"] == _REASON:
            output["shouldstop"] = False
            output[messages.TAINTED] = self._seen

    def pytest_unconfigure(self) -> None:
        """Stop."""
        os.close(self._fd)

    def _read(self) -> int:
        return int(os.pread(self._fd, 32, 0))
