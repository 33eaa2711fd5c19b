"""The words that all reports for people use: for outcomes and kernels, and in the headline."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from pytest_bpflink.reports.results import NOT_RUN, OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_bpflink.reports.results import Cost, Run, RunKernel

#: Outcomes as people read them.
TITLES: Final = {
    "passed": "passed",
    "failed": "failed",
    "skipped": "skipped",
    "error": "errors",
    "xfailed": "xfailed",
    "xpassed": "xpassed",
    NOT_RUN: "not run",
}


#: The same words for one item.
SINGULAR: Final = TITLES | {"error": "error"}


#: What `cost_text` has, in this order.
COST_TITLE: Final = "instructions verified / bytes of machine code / bytes of stack / µs"


def headline(run: Run) -> str:
    """Return the outcome of a run in one line."""
    total = sum((run.counts(each.id) for each in run.kernels), Counter[str]())
    counts = [(name, total[name]) for name in OUTCOMES if total[name]]
    counted = ", ".join(f"{count} {title(name, count)}" for name, count in counts)
    return f"{run.project}: {counted or 'no tests'} on {counting(len(run.kernels), 'kernel')}"


def title(outcome: str, count: int) -> str:
    """Return the word for an outcome of so many items."""
    return (SINGULAR if count == 1 else TITLES)[outcome]


def counting(count: int, noun: str) -> str:
    """Return a number with its noun: `1 test`, `2 tests`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def shown_outcomes(counts: Iterable[Counter[str]]) -> list[str]:
    """Return the outcomes that a table of kernels has a column for.

    Always passed, failed, skipped, errors; the others only if they occurred.
    """
    rare = {name for each in counts for name in each}
    return [name for name in TITLES if name in {"passed", "failed", "skipped", "error"} | rare]


def kernel_facts(row: RunKernel) -> tuple[str, str, str]:
    """Return release, acceleration and boot time of a kernel as people read them."""
    kernel = row.kernel
    release = kernel.release or "-"
    if kernel.version not in {None, kernel.release}:
        release += f" ({kernel.version})"
    if kernel.libbpf_release:
        release += f", libbpf {kernel.libbpf_release}"
    boot = "-" if row.boot_seconds is None else duration(row.boot_seconds)
    return release, kernel.where or "-", boot


def cost_text(cost: Cost) -> str:
    """Return what it cost to verify a program, as `COST_TITLE` says."""
    numbers = ("-" if each is None else f"{each:,}" for each in cost)
    return " / ".join(numbers)


def duration(seconds: float) -> str:
    """Return a duration, with as few digits as are meaningful."""
    if seconds >= 60:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s"
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"
