"""The results of a run: kernels, tests, and the outcome of each test on each kernel.

Data only: it knows nothing of pytest, and nothing of files.
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

#: The attribute of pytest's reports with the costs of programs, a row each.
ATTRIBUTE: Final = "bpf_program_costs"

#: pytest's categories, the worst first, and `not_run` for an item that was collected and never
#: ended. An item has one outcome, so that counts add up: an item that passed and then failed in its
#: teardown is an error.
OUTCOMES: Final = ("error", "failed", "xpassed", "skipped", "xfailed", "passed", NOT_RUN)


class Section(NamedTuple):
    """A titled text: a traceback, the output of a test, the end of a console."""

    title: str
    text: str


@dataclass
class Result:
    """The result of one item: a test on a kernel.

    `reason` is one line, for a failure, a skip or an expected failure. `ran` is False if the kernel
    did not run the item, and a worker on the host reported the error instead.
    """

    nodeid: str
    outcome: str = NOT_RUN
    seconds: float = 0.0
    reason: str = ""
    sections: tuple[Section, ...] = ()
    ran: bool = True

    @property
    def cause(self) -> Cause | None:
        """The outcome with its reason and texts; None if it has neither."""
        if not self.reason and not self.sections:
            return None
        return Cause(self.outcome, self.reason, self.sections)


class Cause(NamedTuple):
    """An outcome with its reason and texts, which the items of an unbootable kernel share, say."""

    outcome: str
    reason: str
    sections: tuple[Section, ...]


class Place(NamedTuple):
    """The place of a result in the matrix."""

    test: str
    kernel: str


class Program(NamedTuple):
    """A program that tests loaded, by the path of its object's source and its name."""

    object: str
    name: str


class Cost(NamedTuple):
    """What it cost to verify a program; `stack` and `microseconds` are None where unknown."""

    instructions: int
    size: int
    stack: int | None
    microseconds: int | None


@dataclass(frozen=True)
class RunKernel:
    """A kernel of the run, with facts about its guests.

    `boot_seconds` is the boot time of the slowest guest; None without a guest, or when none booted.
    `problem` says why the kernel's items could not run, and is empty if they could.
    """

    kernel: MatrixKernel
    boot_seconds: float | None = None
    guests_lost: int = 0
    problem: str = ""

    @property
    def id(self) -> str:
        """The kernel's id, which test ids end with."""
        return self.kernel.id


@dataclass(frozen=True)
class Uncollected:
    """A file or package without known tests: it was skipped as a whole, or is broken."""

    nodeid: str
    outcome: str
    reason: str
    text: str
    #: The kernels on which it is so; empty if the run has one kernel, or they are unknown.
    kernels: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The kernels as text to follow the name: ` on 6.1, 6.12`."""
        return f" on {', '.join(self.kernels)}" if self.kernels else ""

    def __str__(self) -> str:
        return f"{self.nodeid}{self.where}: {self.reason}"


@dataclass(frozen=True)
class Difference:
    """A test whose outcome depends on the kernel; kernels are in the order of their releases."""

    by_outcome: Mapping[str, Sequence[str]]
    #: The first kernel with another outcome than the kernel before it.
    changes_at: str

    def __str__(self) -> str:
        outcomes = (f"{name} on {', '.join(ids)}" for name, ids in self.by_outcome.items())
        return f"{'; '.join(outcomes)}; changes at {self.changes_at}"


@dataclass
class Run:
    """A whole run. Results are by test, then by kernel, if the test has an item for the kernel."""

    project: str
    began: datetime
    seconds: float = 0.0
    exit_status: int = 0
    #: Why the run ended before all items ran; empty if it did not.
    stopped: str = ""
    kernels: Sequence[RunKernel] = ()
    tests: dict[str, dict[str, Result]] = field(default_factory=dict)
    #: Tests that can't be parametrized, and run on the first kernel only.
    run_once: set[str] = field(default_factory=set)
    uncollected: list[Uncollected] = field(default_factory=list)
    #: The costs of programs by kernel. Of several ways to load a program the most expensive counts.
    costs: dict[Program, dict[str, Cost]] = field(default_factory=dict)

    def counts(self, kernel: str) -> Counter[str]:
        """Return the number of a kernel's items by outcome; the sum is all its items."""
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
        """Return the causes of outcomes, the worst first, each with the places that share it."""
        places: dict[Cause, list[Place]] = {}
        for test, results in self.tests.items():
            for kernel, result in results.items():
                if result.cause:
                    places.setdefault(result.cause, []).append(Place(test, kernel))
        return dict(sorted(places.items(), key=lambda pair: OUTCOMES.index(pair[0].outcome)))


def _difference(results: Mapping[str, Result], order: Sequence[str]) -> Difference | None:
    by_outcome: dict[str, list[str]] = {}
    changes_at = before = ""
    for kernel in order:
        result = results.get(kernel)
        # An item that the kernel did not run says nothing about the test.
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
    """Return the sort key of a kernel; a release candidate comes before its release."""
    version = row.kernel.version or row.kernel.release or ""
    numbers = re.match(r"[\d.]*", version)
    assert numbers
    return [int(number) for number in numbers[0].split(".") if number], "rc" not in version
