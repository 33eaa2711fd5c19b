"""What the controller has seen of each item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pytest


Phase = Literal["setup", "call", "teardown"]


Location = tuple[str, int | None, str]


class ItemLog:
    """Notes for each item whether it started and finished, its phase, and its location."""

    def __init__(self) -> None:
        self._locations: dict[str, Location] = {}
        self._phases: dict[str, Phase] = {}
        self._finished: set[str] = set()
        self.reported: set[str] = set()

    def started(self, nodeid: str, location: Location) -> None:
        """Note that a worker began an item, perhaps again."""
        self._locations[nodeid] = location
        self._phases[nodeid] = "setup"
        self._finished.discard(nodeid)

    def phase_ended(self, report: pytest.TestReport) -> None:
        """Note a report, and the phase that follows it."""
        self.reported.add(report.nodeid)
        call_follows = report.when == "setup" and report.passed
        self._phases[report.nodeid] = "call" if call_follows else "teardown"

    def finished(self, nodeid: str) -> None:
        """Note that a worker has finished an item."""
        self._finished.add(nodeid)

    def is_running(self, nodeid: str) -> bool:
        """Whether an item was started and is not finished."""
        return nodeid in self._locations and nodeid not in self._finished

    def is_finished(self, nodeid: str) -> bool:
        """Whether a worker has finished an item."""
        return nodeid in self._finished

    def phase(self, nodeid: str) -> Phase:
        """Return the phase that an item was last seen in."""
        return self._phases.get(nodeid, "setup")

    def location(self, nodeid: str) -> Location:
        """Return an item's location for reports; before its start, a guess from the node id."""
        path = nodeid.partition("::")[0]
        return self._locations.get(nodeid, (path, None, nodeid))
