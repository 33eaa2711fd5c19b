"""The words that all reports for people use: for outcomes and kernels, and in the headline."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from pytest_bpflink.reports.results import NOT_RUN, OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_bpflink.reports.results import Run, RunKernel

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


def headline(run: Run) -> str:
    """Return the outcome of a run in one line."""
    total = sum((run.counts(each.id) for each in run.kernels), Counter[str]())
    counted = ", ".join(f"{total[name]} {TITLES[name]}" for name in OUTCOMES if total[name])
    kernels = f"{len(run.kernels)} kernel{'' if len(run.kernels) == 1 else 's'}"
    return f"{run.project}: {counted or 'no tests'} on {kernels}"


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


def duration(seconds: float) -> str:
    """Return a duration, with as few digits as are meaningful."""
    if seconds >= 60:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s"
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"
