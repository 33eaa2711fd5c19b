"""When a guest that boots is given up; the clock is a fake."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.machines import deadline
from pytest_bpflink.vm.machines.deadline import Deadline

if TYPE_CHECKING:
    from pathlib import Path


class Clock:
    """Stands for the module `time`."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Put a clock in place that only a test moves."""
    made = Clock()
    monkeypatch.setattr(deadline, "time", made)
    return made


@pytest.fixture
def console(tmp_path: Path) -> Path:
    """Make the file of an empty console."""
    file = tmp_path / "console"
    file.touch()
    return file


def test_time_is_over(clock: Clock, console: Path) -> None:
    limit = Deadline(60, console=console)
    assert limit.pause() == 60
    clock.now += 59.9
    assert not limit.missed()
    clock.now += 0.1
    assert limit.missed() == "was not up after 60 s"
    assert limit.pause() == 0


def test_silent_console(clock: Clock, console: Path) -> None:
    limit = Deadline(120, console=console, silence=20)
    clock.now += 19
    assert not limit.missed()
    clock.now += 1
    assert limit.missed() == "said nothing on its console for 20 s"


def test_console_that_grows(clock: Clock, console: Path) -> None:
    limit = Deadline(120, console=console, silence=20)
    for second in range(119):
        clock.now += 1
        if not second % 15:
            console.write_text(console.read_text() + "line\n")
        assert not limit.missed()


def test_time_is_over_for_a_console_that_grows(clock: Clock, console: Path) -> None:
    limit = Deadline(120, console=console, silence=20)
    clock.now += 120
    console.write_text("line\n")
    assert limit.missed() == "was not up after 120 s"


def test_console_is_looked_at_each_second(clock: Clock, console: Path) -> None:
    limit = Deadline(10, console=console, silence=20)
    assert limit.pause() == 1
    clock.now += 9.5
    assert limit.pause() == 0.5


def test_console_that_is_not_there_is_silent(clock: Clock, tmp_path: Path) -> None:
    limit = Deadline(math.inf, console=tmp_path / "none", silence=20)
    clock.now += 20
    assert limit.missed()
