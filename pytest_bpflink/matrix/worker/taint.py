"""Tests that taint their kernel: the other tests then need another guest.

Knows /proc/sys/kernel/tainted and how a worker ends early. Runs in workers; `controller` boots the
other guest.
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

_REASON = "the kernel is tainted"


def flags(bits: int) -> str:
    """Return the letters of taint flags, and what they mean: `W (it warned)`."""
    letters = [letter for bit, letter in enumerate(_FLAGS) if bits & 1 << bit]
    named = [
        f"{letter} ({_MEANINGS[letter]})" if letter in _MEANINGS else letter for letter in letters
    ]
    return ", ".join(named) or hex(bits)


class TaintWatch:
    """Ends a worker after a test that tainted its kernel; its items go to the next worker."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        # Kept open, since each phase of each test reads it, and opening takes longer than reading.
        self._fd = os.open(TAINTED, os.O_RDONLY | os.O_CLOEXEC)
        self._bits = self._read()
        self._seen: tuple[str, str] | None = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Say in a test's report that the test tainted the kernel."""
        report = yield
        bits = self._read()
        if new := bits & ~self._bits:
            self._bits, self._seen = bits, (item.nodeid, flags(new))
            report.sections.append(("Kernel", f"This test left the kernel tainted: {flags(new)}"))
            # JUnit reads the teardown's report, which may be this one, with a copy of the item's.
            tainted = ("kernel_tainted", flags(new))
            item.user_properties.append(tainted)
            report.user_properties.append(tainted)
        if self._seen and call.when == "teardown" and not item.session.shouldstop:
            item.session.shouldstop = _REASON
        return report

    # xdist's pytest_sessionfinish is a wrapper: it has stored `shouldstop` in workeroutput already
    # and sends it after this hook.
    def pytest_sessionfinish(self) -> None:
        """Tell the controller which test it was, and let other workers go on."""
        output = self._config.workeroutput  # type: ignore[attr-defined]
        if self._seen and output["shouldstop"] == _REASON:
            output["shouldstop"] = False
            output[messages.TAINTED] = self._seen

    def pytest_unconfigure(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _read(self) -> int:
        return int(os.pread(self._fd, 32, 0))
