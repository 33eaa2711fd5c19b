"""The host's end of a command's session. The test sends the guest's frames; no guest runs."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from pytest_bpflink.vm.guest.session import FRAME, NUMBER, STARTED, STATUS
from pytest_bpflink.vm.machines import gateway, session

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Pipes:
    """The part of a machine that a session uses."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory


def test_bell_is_there_until_it_has_rung_for_the_last_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception in the thread that rings would be a warning, and warnings are errors."""
    late(monkeypatch, "_ring", 0.1)
    # Meanwhile the thread reads the status, and rings for it.
    late(monkeypatch, "_answer_bell", 0.03)
    ends = []
    for name in (gateway.TO_GUEST, gateway.FROM_GUEST):
        os.mkfifo(tmp_path / name)
        ends.append(os.open(tmp_path / name, os.O_RDWR))
    status = NUMBER.pack(7)
    os.write(ends[1], FRAME.pack(STARTED, 0) + FRAME.pack(STATUS, len(status)) + status)
    machine: Any = Pipes(tmp_path)
    others = set(threading.enumerate())

    assert session.run(machine) == 7

    for thread in set(threading.enumerate()) - others:
        thread.join(10)
    for end in ends:
        os.close(end)


def late(monkeypatch: pytest.MonkeyPatch, name: str, seconds: float) -> None:
    """Delay a method of sessions."""
    method = getattr(session._Session, name)

    def wait_first(self: Any) -> None:
        time.sleep(seconds)
        method(self)

    monkeypatch.setattr(session._Session, name, wait_first)
