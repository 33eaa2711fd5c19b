"""The kernel's `perf_link`: a program on a perf event stops with its link, and the event goes on.

Ported from tools/testing/selftests/bpf/prog_tests/perf_link.c (Linux 5.15).

Beyond upstream, the event is seen to count after the link has gone, and takes another link then.
"""

from __future__ import annotations

import os
import sys
import time
from functools import cached_property
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import LinkType, PerfEvent, SoftwareEvent, eventually
from pytest_bpflink.selftests.conformance.checks import FIRST, NONE
from pytest_bpflink.selftests.conformance.event_stages import PageFaults

if TYPE_CHECKING:
    from pytest_bpflink import Link

pytestmark = pytest.mark.bpf_requires("link:perf_event", since="5.15")

_NANOSECONDS = 1_000_000  # between two runs of the program
_BURN_SECONDS = 0.005


class _Clock(PageFaults):
    """A software event that fires for each millisecond of this process's time."""

    @cached_property
    def target(self) -> PerfEvent:
        event = PerfEvent.software(SoftwareEvent.CPU_CLOCK, period=_NANOSECONDS)
        return self._undo.enter_context(event)

    def trigger(self) -> None:
        """Spend some time."""
        end = time.thread_time() + _BURN_SECONDS
        while time.thread_time() < end:
            pass


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> _Clock:
    return _Clock(request, "on_perf_event")


@pytest.fixture
def link(stage: _Clock) -> Link:
    return stage.attach()


def test_perf_link(stage: _Clock, link: Link) -> None:
    """Closing the link, not the event, stops the program."""
    info = link.info
    assert (info.type, info.id, info.prog_id) == (LinkType.PERF_EVENT, link.id, stage.prog_id)
    eventually(lambda: stage.ran() == FIRST, what="the program runs")

    link.destroy()

    assert stage.ran() == NONE
    before = _count(stage.target)
    stage.trigger()
    assert _count(stage.target) > before

    stage.attach()
    eventually(lambda: stage.ran() == FIRST, what="the program runs again")


def _count(event: PerfEvent) -> int:
    return int.from_bytes(os.read(event.fileno(), 8), sys.byteorder)
