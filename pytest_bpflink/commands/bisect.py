"""Find the first kernel on which a test's outcome changes.

    bpflink bisect test_tcx.py::test_attach --kernel 5.10..7.2
    bpflink bisect test_pin.py --kernel lts..newest -- -k raw_tp --bpf-libbpf newest
    bpflink bisect test_pin.py --kernel 6.12.90..6.12.117 --stored

The search takes one kernel of each series from A to B; if A and B are of one series, it takes each
release from A to B. It takes kernels from the store and from packages, and fetches them as needed;
with --stored it takes kernels from the store only. It tries A first, then halves the range with
each step. Words after -- are pytest's options.

A kernel that does not boot, or can't be fetched after all, is left out. Of N kernels at most
log2(N) + 2 are booted, plus those that are left out. If TEST means several tests, their outcomes
count together. If the search is interrupted, it prints the command that continues it.

exit status:
  0    the first kernel with another outcome was found
  1    the outcome is the same on all kernels that were tried, or no test could be run
  130  interrupted
"""

from __future__ import annotations

import argparse
import shlex
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink.commands.output import (
    FAILED,
    INTERRUPTED,
    CommandError,
    print_json,
    progress,
    say,
    write,
)
from pytest_bpflink.commands.specs import stored_specs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_bpflink.commands.trial import Outcome, Trial


@dataclass(frozen=True)
class Step:
    """A kernel that was tried, and the test's outcome on it."""

    spec: str
    release: str
    outcome: str
    reason: str
    seconds: float


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.usage = "bpflink bisect [options] TEST --kernel A..B [-- PYTEST-OPTION...]"
    parser.add_argument("test", metavar="TEST", help="The node id of a test, or a file of tests")
    kernels = parser.add_argument(
        "--kernel",
        required=True,
        type=_ends,
        metavar="A..B",
        help="The first and the last kernel: releases, lts, newest or oldest",
    )
    kernels.completer = _complete  # type: ignore[attr-defined]
    parser.add_argument(
        "--stored", action="store_true", help="Take kernels from the store only; fetch none"
    )
    parser.add_argument("--json", action="store_true", help="Write JSON")
    parser.set_defaults(takes_rest=True)


def run(arguments: argparse.Namespace) -> int:
    """Search; return 1 if the outcome is the same on all kernels that were tried."""
    from pytest_bpflink.commands.trial import Trial

    path = Path(arguments.test.partition("::")[0])
    if not path.exists() and "--pyargs" not in arguments.rest:
        raise CommandError(f"there is no {path} here to run")
    show = say if arguments.json else write
    _require_tools()
    specs = _specs(arguments)
    show(f"{len(specs)} kernels: {' '.join(specs)}")
    log = _Log(Trial(arguments.test, arguments.rest), show)
    try:
        found = search(specs, log.outcome)
    except KeyboardInterrupt:
        _tell_interrupted(arguments, specs, log)
        return INTERRUPTED
    if arguments.json:
        _print_json(log, *(found or (None, None)), interrupted=False)
    elif found:
        _show_found(log, specs, *found)
    else:
        show("\nthe outcome is the same on all kernels that were tried")
    return 0 if found else FAILED


def _require_tools() -> None:
    """Raise `CommandError` if guests can't be started here, before any kernel is fetched."""
    from pytest_bpflink.commands import checks

    missing = [check for check in checks.vm_tools() if check.state == "missing"]
    if missing:
        lines = [f"{check.name}: {check.found}: {check.advice}" for check in missing]
        raise CommandError("\n".join(["no test can be run on another kernel here", *lines]))


def _specs(arguments: argparse.Namespace) -> list[str]:
    from pytest_bpflink.commands.candidates import between
    from pytest_bpflink.vm.kernels import KernelError

    first, last = arguments.kernel
    with progress() as told:
        try:
            return between(first, last, stored=arguments.stored, progress=told)
        except KernelError as error:
            raise CommandError(str(error)) from None


class _Log:
    """Tries kernels, shows the outcome on each, and keeps it."""

    def __init__(self, trial: Trial, show: Callable[[str], None]) -> None:
        self._trial, self._show = trial, show
        self.steps: dict[str, Step] = {}
        self._outcomes: dict[str, Outcome] = {}

    def outcome(self, spec: str) -> Outcome | None:
        """Try a kernel; return None for one that can't be tried."""
        began = time.monotonic()
        with progress() as told:
            outcome = self._trial.outcome(spec, told)
        seconds = round(time.monotonic() - began, 1)
        step = Step(spec, outcome.release, outcome.summary, outcome.reason, seconds)
        self.steps[spec] = step
        self._show(_line(step))
        if not outcome.ran:
            return None
        self._outcomes[spec] = outcome
        return outcome

    def narrowed(self, specs: Sequence[str]) -> tuple[str | None, str | None]:
        """Return the last kernel known to have the first one's outcome, and the first with another.

        Each is None if no such kernel was tried.
        """
        tried = [spec for spec in specs if spec in self._outcomes]
        alike = [spec for spec in tried if self._outcomes[spec] == self._outcomes[tried[0]]]
        unlike = [spec for spec in tried if spec not in alike]
        return (alike[-1] if alike else None, unlike[0] if unlike else None)


def _show_found(log: _Log, specs: Sequence[str], last_before: str, first: str) -> None:
    show = write
    before, after = log.steps[last_before], log.steps[first]
    show(f"\nfirst on {after.spec} (Linux {after.release}): {after.outcome}")
    show(f"until {before.spec} (Linux {before.release}): {before.outcome}")
    between_them = specs[specs.index(before.spec) + 1 : specs.index(after.spec)]
    if between_them:
        show(f"between them, but could not be tried: {' '.join(between_them)}")


def _print_json(
    log: _Log, last_before: str | None, first: str | None, *, interrupted: bool
) -> None:
    known = {spec: asdict(step) for spec, step in log.steps.items()}
    print_json(
        {
            "last_before": last_before and known[last_before],
            "first": first and known[first],
            "interrupted": interrupted,
            "steps": list(known.values()),
        }
    )


def _tell_interrupted(arguments: argparse.Namespace, specs: Sequence[str], log: _Log) -> None:
    low, high = log.narrowed(specs)
    if arguments.json:
        _print_json(log, low, high, interrupted=True)
    if low is None:
        say("interrupted, and nothing is known yet")
        return
    again: list[Any] = ["bpflink", "bisect", arguments.test]
    again += ["--kernel", f"{low}..{high or specs[-1]}"]
    again += ["--stored"] if arguments.stored else []
    again += ["--", *arguments.rest] if arguments.rest else []
    say(f"interrupted; to go on from here: {shlex.join(again)}")


def search(
    specs: Sequence[str], outcome_of: Callable[[str], Outcome | None]
) -> tuple[str, str] | None:
    """Return two neighbours: a kernel with the first one's outcome, and the next, with another.

    Return None if all kernels that were tried have the same outcome. `outcome_of` returns None for
    a kernel that can't be tried. Raises `CommandError` if only one kernel could be tried, or none.
    """
    left, tried = list(specs), 0
    reference = None
    while left and reference is None:
        reference = outcome_of(left[0])
        if reference is None:
            del left[0]
    # The last kernel is not tried right away: that would take a guest, and decide nothing.
    low, high = 0, len(left)
    while high - low > 1:
        middle = (low + high) // 2
        outcome = outcome_of(left[middle])
        if outcome is None:
            del left[middle]
            high -= 1
            continue
        tried += 1
        low, high = (middle, high) if outcome == reference else (low, middle)
    if not tried:
        raise CommandError("the test could be run on one kernel at most: see the reasons above")
    return (left[low], left[high]) if high < len(left) else None


def _line(step: Step) -> str:
    reason = step.reason.strip().partition("\n")[0]
    return f"{step.spec:<10}{step.outcome:<10}{step.seconds:6.1f} s  {reason}".rstrip()


def _ends(text: str) -> tuple[str, str]:
    first, dots, last = text.partition("..")
    if not (first and dots and last) or last.startswith("."):
        raise argparse.ArgumentTypeError(f"{text!r} is no A..B, such as 5.10..7.2")
    return first, last


def _complete(prefix: str, **_: object) -> list[str]:
    first, dots, _last = prefix.partition("..")
    return [f"{first}..{spec}" if dots else f"{spec}.." for spec in stored_specs()]
