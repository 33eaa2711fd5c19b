"""What came of a run: kernels, tests, and the outcome of each test on each kernel.

Data only. It knows nothing of pytest, and nothing of files.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from pytest_bpflink.session.kernel import MatrixKernel

NOT_RUN: Final = "not_run"

#: pytest's categories, the worst first, and an item that was collected and never ended. An item has
#: one outcome, so that they add up: one that passed and failed in its teardown is an error.
OUTCOMES: Final = ("error", "failed", "xpassed", "skipped", "xfailed", "passed", NOT_RUN)


class Section(NamedTuple):
    """A titled text: a traceback, what a test printed, the end of a console."""

    title: str
    text: str


@dataclass
class Result:
    """What came of one item: a test on a kernel.

    `reason` is one line: of a failure, a skip, an expected failure. `ran` is False where the kernel
    never got to it, and a worker on the host reports the error in its place.
    """

    nodeid: str
    outcome: str = NOT_RUN
    seconds: float = 0.0
    reason: str = ""
    sections: tuple[Section, ...] = ()
    ran: bool = True

    @property
    def cause(self) -> Cause | None:
        """Why it is what it is; None if there is nothing to say."""
        if not self.reason and not self.sections:
            return None
        return Cause(self.outcome, self.reason, self.sections)


class Cause(NamedTuple):
    """What the results of many items may have in common, as those of a kernel that did not boot."""

    outcome: str
    reason: str
    sections: tuple[Section, ...]


class Place(NamedTuple):
    """Where a result is in the matrix."""

    test: str
    kernel: str


@dataclass(frozen=True)
class RunKernel:
    """A kernel, and how its guests fared.

    `boot_seconds` is that of its slowest guest; None without a guest, or when none booted.
    `problem` says why its items could not run, if so.
    """

    kernel: MatrixKernel
    boot_seconds: float | None = None
    guests_lost: int = 0
    problem: str = ""

    @property
    def id(self) -> str:
        """What test ids end with."""
        return self.kernel.id


@dataclass(frozen=True)
class Uncollected:
    """A file or package whose tests are not known: skipped as a whole, or broken."""

    nodeid: str
    outcome: str
    reason: str
    text: str
    #: On which; none where there is one only, or it can't be known.
    kernels: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """On which kernels, to be put behind its name."""
        return f" on {', '.join(self.kernels)}" if self.kernels else ""

    def __str__(self) -> str:
        return f"{self.nodeid}{self.where}: {self.reason}"


@dataclass(frozen=True)
class Difference:
    """A test whose outcome depends on the kernel; kernels are in the order of their releases."""

    by_outcome: Mapping[str, Sequence[str]]
    #: The first kernel whose outcome is another than that of the kernel before.
    changes_at: str

    def __str__(self) -> str:
        outcomes = (f"{name} on {', '.join(ids)}" for name, ids in self.by_outcome.items())
        return f"{'; '.join(outcomes)}; changes at {self.changes_at}"


@dataclass
class Run:
    """A whole run. Results are by test, then by kernel; a test without an item there has none."""

    project: str
    began: datetime
    seconds: float = 0.0
    exit_status: int = 0
    #: Why it ended before all was run, if so.
    stopped: str = ""
    kernels: Sequence[RunKernel] = ()
    tests: dict[str, dict[str, Result]] = field(default_factory=dict)
    #: Tests that can't be parametrized, and run on the first kernel only.
    run_once: set[str] = field(default_factory=set)
    uncollected: list[Uncollected] = field(default_factory=list)

    def counts(self, kernel: str) -> Counter[str]:
        """Return how many items of a kernel have which outcome; their sum is all its items."""
        return Counter(
            results[kernel].outcome for results in self.tests.values() if kernel in results
        )

    def differences(self) -> dict[str, Difference]:
        """Return the tests whose outcome depends on the kernel, the worst first."""
        order = [each.id for each in sorted(self.kernels, key=_release)]
        found = {test: _difference(results, order) for test, results in self.tests.items()}
        differing = {test: each for test, each in found.items() if each}
        return dict(sorted(differing.items(), key=lambda pair: _worst(pair[1].by_outcome)))

    def causes(self) -> dict[Cause, list[Place]]:
        """Return why items are what they are, and which items each goes for."""
        places: dict[Cause, list[Place]] = {}
        for test, results in self.tests.items():
            for kernel, result in results.items():
                if result.cause:
                    places.setdefault(result.cause, []).append(Place(test, kernel))
        return places


def _difference(results: Mapping[str, Result], order: Sequence[str]) -> Difference | None:
    by_outcome: dict[str, list[str]] = {}
    changes_at = before = ""
    for kernel in order:
        result = results.get(kernel)
        # A kernel that is not up says nothing about a test.
        if result is None or result.outcome == NOT_RUN or not result.ran:
            continue
        if before and result.outcome != before and not changes_at:
            changes_at = kernel
        before = result.outcome
        by_outcome.setdefault(result.outcome, []).append(kernel)
    return Difference(by_outcome, changes_at) if changes_at else None


def _worst(outcomes: Mapping[str, object]) -> int:
    return min(map(OUTCOMES.index, outcomes))


def _release(row: RunKernel) -> tuple[list[int], bool]:
    """Return what kernels sort by; a release candidate comes before its release."""
    version = row.kernel.version or row.kernel.release or ""
    numbers = re.match(r"[\d.]*", version)
    assert numbers
    return [int(number) for number in numbers[0].split(".") if number], "rc" not in version
